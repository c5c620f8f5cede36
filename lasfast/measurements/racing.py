"""Racing: candidates are dropped once the images they were right on say that they are not among the best.

Candidates predict the same validation images in growing parts, in random order. One that is beaten is
dropped, so that the images left are predicted for the others alone. The idea is that of Hoeffding races
(Maron and Moore, 1994), with a test for paired answers that are right or wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lasfast.core.checks import as_finite, as_int
from lasfast.measurements.measurement import Measurement

GROWTH = 1.5
"""The ratio of the images seen at a look to those at the look before."""


@dataclass(frozen=True)
class RaceResult:
    """The result of a race.

    Attributes:
        kept: the best candidates, measured on all images, the best first; of equal ones the first that was
            asked for.
        dropped: the others, in the order in which they were asked for. `images` says how many each saw, in
            random order; which of them were right is left out unless it saw all.
        predicted: how many images were predicted, those of all candidates together.
        full: how many would have been, if every candidate had predicted every image.
    """

    kept: list[Measurement]
    dropped: list[Measurement]
    predicted: int
    full: int

    @property
    def saved(self) -> float:
        """The share of the images that was not predicted."""
        return 1 - self.predicted / self.full


class Race:
    """Counts which candidate beats which, and drops those that `keep` others beat.

    One candidate beats another if the images on which it alone was right are so many that

    - the images left cannot make up for it (equal ones rank in the order in which they were asked for), or
    - McNemar's test, one-sided and of a finite set, rejects that the other is as good on the whole set.

    The certainty is as follows, where images come in random order. If one of the true best is dropped, `keep`
    others beat it, hence also one that is not among the true best: some pair (one of the best, one of the
    others) was decided wrongly. There are keep * (candidates - keep) such pairs, each tested once a look, so
    tests at the level error / (pairs * looks) go wrong anywhere with a probability of at most `error`. The
    first rule is never wrong.

    The test is as follows. The images that only one of two candidates got right so far are drawn without
    replacement from those of the whole set, of which at most half are the worse one's. How many those are is
    bounded from above at a tenth of the level (Serfling, 1974; Berger and Boos, 1994, test at such a bound).
    The tail of the hypergeometric distribution for so many has the rest of the level, since more of them only
    make a long lead likelier.

    Args:
        candidates: how many candidates there are.
        images: how many images the whole set has.
        keep: how many of the best are wanted.
        error: the greatest probability that one of them is dropped; 0 leaves the rule that is never wrong.
        step: how many images are predicted at a time; a look comes after a multiple of it.

    Attributes:
        alive: the numbers of the candidates in the race, in order.
        seen: how many images were seen so far.
    """

    def __init__(self, candidates: int, images: int, *, keep: int, error: float, step: int) -> None:
        candidates = as_int("candidates", candidates, minimum=1)
        self.images = as_int("images", images, minimum=1)
        self.keep = as_int("keep", keep, minimum=1)
        step = as_int("step", step, minimum=1)
        if keep > candidates:
            raise ValueError(f"keep must be at most the {candidates} candidates, got {keep}")
        if not 0 <= as_finite("error", error) < 0.5:
            raise ValueError(f"error must be a probability below 0.5, got {error}")
        self.alive = list(range(candidates))
        self.seen = 0
        self._looks = _looks(self.images, step)
        tests = keep * (candidates - keep) * (len(self._looks) - 1)
        self._level = error / max(1, tests)
        self._wins = np.zeros((candidates, candidates), dtype=np.int64)  # [one, other]: only one was right

    def parts(self) -> Iterator[tuple[int, int]]:
        """Give the first image of each part to predict, and the one after its last.

        Each part must be seen (`see`) before the next is asked for.
        """
        for look in self._looks:
            if look == self.images or len(self.alive) > self.keep:
                yield self.seen, look

    def see(self, right: np.ndarray) -> None:
        """Take in which answers were right, bool [alive, images of the part], and drop those beaten."""
        numbers = right.astype(np.float64)
        self._wins[np.ix_(self.alive, self.alive)] += np.rint(numbers @ (1 - numbers).T).astype(np.int64)
        self.seen += right.shape[1]
        beaten_by = self._beats().sum(axis=0)
        self.alive = [one for one, count in zip(self.alive, beaten_by, strict=True) if count < self.keep]

    def _beats(self) -> np.ndarray:
        """Return whether one beats another, bool [one, other], of those alive."""
        wins = self._wins[np.ix_(self.alive, self.alive)]
        lead = wins - wins.T
        left = self.images - self.seen
        earlier = np.triu(np.ones_like(lead), 1)
        certain = lead + earlier > left
        if not self._level or not left:
            return certain
        return certain | (wins >= _critical(wins + wins.T, self.seen, self.images, self._level))


def _looks(images: int, step: int) -> list[int]:
    """Return how many images are seen at each look; the last look sees all."""
    looks = [min(step, images)]
    while looks[-1] < images:
        steps = max(looks[-1] // step + 1, round(GROWTH * looks[-1] / step))
        looks.append(min(steps * step, images))
    return looks


def _critical(split: np.ndarray, seen: int, images: int, level: float) -> np.ndarray:
    """Return on how many of the `split` images that only one of two got right the better one has to be right.

    `seen` of all `images` were seen. Where no number is enough, one more than `split` is returned.
    """
    from scipy.special import gammaln

    drawn, places = np.unique(split, return_inverse=True)
    slack = np.sqrt(np.log(10 / level) * (1 - (seen - 1) / images) / (2 * seen))
    whole = np.minimum(np.floor(images * (drawn / seen + slack)), drawn + images - seen)
    half = (whole + whole % 2) / 2

    def log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
        return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)

    def enough(own: np.ndarray) -> np.ndarray:
        ratio = (half - own) * (drawn - own) / ((own + 1) * (half - drawn + own + 1))
        first = log_choose(half, own) + log_choose(half, drawn - own) - log_choose(2 * half, drawn)
        # The terms of the tail fall faster and faster: a geometric series bounds them.
        falls = ratio < 1
        return falls & (first - np.log1p(-np.where(falls, ratio, 0)) <= np.log(0.9 * level))

    low, high = drawn // 2 + 1, drawn + 1
    while (low < high).any():
        middle = (low + high) // 2
        yes = (low == high) | enough(middle)
        low, high = np.where(yes, low, middle + 1), np.where(yes, middle, high)
    return low[places.reshape(split.shape)]
