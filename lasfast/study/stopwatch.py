"""The stopwatch of a search that may take so many seconds, over all its runs."""

from __future__ import annotations

import time


class Stopwatch:
    """Counts the wall-clock seconds that a search has taken, from where an earlier run of it stopped.

    Args:
        most: how many it may take; None bounds nothing.
    """

    def __init__(self, most: float | None) -> None:
        self.most = most
        self._before = 0.0
        self._began: float | None = None

    def start(self, before: float) -> None:
        """Begin to count, from the seconds that were spent before."""
        self._before, self._began = before, time.monotonic()

    def stop(self) -> None:
        """Count no further."""
        self._before, self._began = self.spent, None

    @property
    def spent(self) -> float:
        """The seconds so far, those of earlier runs among them."""
        return self._before + (0.0 if self._began is None else time.monotonic() - self._began)

    @property
    def over(self) -> bool:
        """Return whether all seconds are spent."""
        return self.most is not None and self.spent >= self.most

    def room(self, each: float | None) -> int | None:
        """Return how many works of `each` seconds fit in what is left, 1 at least; None where all do.

        Where `each` is not known yet, that is one, which tells.
        """
        if self.most is None:
            return None
        return 1 if each is None else max(1, int((self.most - self.spent) / max(each, 1e-9)))
