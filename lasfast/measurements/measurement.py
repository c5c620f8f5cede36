"""The measurement of one architecture."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lasfast.core.checks import as_finite, as_int, as_ints, as_real
from lasfast.spaces.base import Architecture


@dataclass(frozen=True, slots=True)
class Measurement:
    """The accuracy of one architecture on a validation set, and its loss.

    Attributes:
        architecture: the architecture; () for a network that has none.
        top1: the share of images whose class was ranked first, from 0 to 1.
        top5: the share of images whose class was among the first five, from 0 to 1; NaN where it is not
            known.
        loss: mean cross-entropy; may be infinite or NaN where training diverged, NaN where it is not known.
        images: the number of validation images.
        correct: which images were right, `np.packbits` of a bool per image (image 0 is the highest bit of the
            first byte, the last byte is filled with zeros); b"" where it is not known.

    Raises:
        TypeError, ValueError: a field has the wrong type or is out of range, or `correct` disagrees with
            `images` or `top1`.
    """

    architecture: Architecture
    top1: float
    top5: float
    loss: float
    images: int
    correct: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        # Plain Python numbers, whatever came in (numpy scalars, lists), so that records serialize.
        set_field = object.__setattr__
        set_field(self, "architecture", as_ints("architecture", self.architecture))
        set_field(self, "images", as_int("images", self.images, minimum=1))
        for name in ("top1", "top5", "loss"):
            set_field(self, name, as_real(name, getattr(self, name)))
        for name in ("top1", "top5"):
            unknown = name == "top5" and math.isnan(self.top5)
            if not unknown and not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, got {getattr(self, name)}")
        if not isinstance(self.correct, bytes):
            raise TypeError(f"correct must be bytes, got {type(self.correct).__name__}")
        if self.correct:
            self._check_correct()

    def _check_correct(self) -> None:
        expected = (self.images + 7) // 8
        if len(self.correct) != expected:
            raise ValueError(
                f"correct must hold {expected} bytes for {self.images} images, got {len(self.correct)}"
            )
        right = self.right()
        if np.packbits(right).tobytes() != self.correct:
            raise ValueError(f"correct must be filled with zero bits after the {self.images} images")
        if abs(int(right.sum()) - self.top1 * self.images) > 0.5:
            raise ValueError(
                f"correct has {int(right.sum())} of {self.images} images right, but top1 is {self.top1}"
            )

    @property
    def value(self) -> float:
        """The value that searchers maximize: `top1`."""
        return self.top1

    @property
    def standard_error(self) -> float:
        """The binomial standard error of `top1`."""
        return math.sqrt(self.top1 * (1 - self.top1) / self.images)

    def right(self) -> np.ndarray:
        """Return which images were classified right, bool [images].

        Raises:
            ValueError: the measurement does not say.
        """
        if not self.correct:
            raise ValueError(f"this measurement of {self.architecture} does not say which images were right")
        return np.unpackbits(np.frombuffer(self.correct, np.uint8), count=self.images).astype(bool)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, `correct` as base64, and a loss or top5 that is not finite as a string."""
        return {
            "architecture": list(self.architecture),
            "top1": self.top1,
            "top5": _to_json(self.top5),
            "loss": _to_json(self.loss),
            "images": self.images,
            "correct": base64.b64encode(self.correct).decode("ascii"),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Measurement:
        """Read what `to_json` gave; raise ValueError or TypeError naming what is wrong with it."""
        names = ("architecture", "top1", "top5", "loss", "images", "correct")
        if not isinstance(record, Mapping) or set(record) != set(names):
            raise ValueError(f"a measurement must have exactly {', '.join(names)}, got {record!r}")
        top5, loss = (_from_json(record[name]) for name in ("top5", "loss"))
        try:
            correct = base64.b64decode(record["correct"], validate=True)
        except (TypeError, binascii.Error) as error:
            raise ValueError(f"correct must be base64 text, got {record['correct']!r}") from error
        return cls(record["architecture"], record["top1"], top5, loss, record["images"], correct)


def paired_difference(a: Measurement, b: Measurement) -> tuple[float, float]:
    """Return how much better `a` is than `b` on the same images.

    Images that both get right or both get wrong say nothing about the difference, so its standard error is
    smaller than that of two separate samples.

    Returns:
        The difference in top-1 (a - b) and its standard error.

    Raises:
        ValueError: one does not say which images were right, or they have different numbers of images.
    """
    if a.images != b.images:
        raise ValueError(f"a and b must be measured on the same images, got {a.images} and {b.images} images")
    difference = a.right().astype(np.float64) - b.right().astype(np.float64)
    return float(difference.mean()), float(difference.std() / math.sqrt(a.images))


def _to_json(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)


def _from_json(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def as_value(value: Measurement | float, name: str = "value") -> float:
    """Return a measurement's `value`, or a finite real number, as a float."""
    if isinstance(value, Measurement):
        return value.value
    return as_finite(name, value)
