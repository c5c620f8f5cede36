"""Training a supernet once, all of it before a search asks for the first candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lasfast.train.path_trainer import PathTrainer
from lasfast.train.progress import Progress


class BeforehandTrainer(PathTrainer):
    """Trains in step 0 alone, for `supernet_epochs` of the settings; a study's steps train nothing."""

    _repeats = False

    def epochs(self, step: int) -> int:
        """Epochs of a step."""
        return 0 if step else self.settings.supernet_epochs

    def train(
        self, step: int, candidates: Sequence[Sequence[int]] = (), start: int = 0
    ) -> Iterator[Progress]:
        """Train from batch `start`, a Progress after every batch; `step` is 0, and there are no candidates.

        The bits of the weights depend on their state before, the trainer's arguments and its seed, not on
        where the work was cut into calls. Raises NonFiniteLossError when training diverges.
        """
        if step or candidates:
            raise ValueError(
                f"step is {step} with {len(candidates)} candidates; expected step 0 without: such a supernet "
                "is trained before the search"
            )
        return self._run(step, self.epochs(step), start, (), slice(None))

    def finished(self, step: int) -> bool:
        """Whether there is nothing left to train for a step: always, once step 0 is done."""
        return super().finished(0)
