"""Says how certain the order is in which a search has ranked what it measured."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lasfast.measurements.measurement import Measurement, paired_difference
from lasfast.measurements.ranking import kendall_tau
from lasfast.study.comparison import errors_of_a_lead


@dataclasses.dataclass(frozen=True)
class Certainty:
    """The winner of a search beside all else that it measured, on the same validation images.

    Two are told apart where they differ by more than as many architectures as were measured would by chance,
    all of them (`errors_of_a_lead`), with the standard error of a difference on the same images.

    Attributes:
        winner: the winner's text form.
        measured: how many architectures there are, the winner included.
        alike: how many of the others cannot be told from the winner.
        rival: the text form of the best of the others.
        difference: the winner's top-1 less the rival's.
        error: the standard error of that difference.
        images: the number of validation images.
        images_needed: on how many images like these that difference would be told from noise; None where it
            is already, or is none.
        tau: Kendall's rank correlation of all of them by one half of the images with that by the other; None
            where a half ranks nothing.
    """

    winner: str
    measured: int
    alike: int
    rival: str
    difference: float
    error: float
    images: int
    images_needed: int | None
    tau: float | None

    @property
    def rival_is_alike(self) -> bool:
        """True if the winner cannot be told from the best of the others."""
        return abs(self.difference) <= errors_of_a_lead(self.measured) * self.error

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Certainty:
        """Read what `to_json` gave."""
        return cls(**values)


def certainty_of(
    winner: tuple[str, Measurement], others: Sequence[tuple[str, Measurement]]
) -> Certainty | None:
    """Return how certain the order of a search is; None where nothing says which images were right.

    Args:
        winner: its text form and measurement.
        others: those of the other architectures that might have won.
    """
    measurements = [winner[1], *(one for _, one in others)]
    if not others or not all(one.correct for one in measurements):
        return None
    text, best = winner
    errors = errors_of_a_lead(len(measurements))
    differences = [paired_difference(best, one) for _, one in others]
    (rival, _), (difference, error) = max(
        zip(others, differences, strict=True), key=lambda pair: pair[0][1].top1
    )
    needed, images = None, len(best.right())
    if 0 < abs(difference) <= errors * error:
        needed = math.ceil(images * (errors * error / difference) ** 2)
    tau = _tau_of_halves(measurements)
    return Certainty(
        winner=text,
        measured=len(measurements),
        alike=sum(abs(one) <= errors * of for one, of in differences),
        rival=rival,
        difference=difference,
        error=error,
        images=images,
        images_needed=needed,
        tau=None if math.isnan(tau) else tau,
    )


def _tau_of_halves(measurements: Sequence[Measurement]) -> float:
    """Return the rank correlation by two halves of the images, drawn at random, always the same ones."""
    images = len(measurements[0].right())
    half = np.zeros(images, bool)
    half[random.Random("halves").sample(range(images), images // 2)] = True
    rights = [(one.right()[half].mean(), one.right()[~half].mean()) for one in measurements]
    first, second = zip(*rights, strict=True)
    return kendall_tau(first, second)
