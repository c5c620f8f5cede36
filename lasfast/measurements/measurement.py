"""The measurement of one architecture."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lasfast.core.checks import as_finite, as_int, as_ints, as_number, as_real
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
        images: the number of validation images; None where it is not known.
        correct: which images were right, `np.packbits` of a bool per image (image 0 is the highest bit of the
            first byte, the last byte is filled with zeros); b"" where it is not known.
        error_of_runs: the standard error of `top1` over training runs, where that is the mean of several;
            None elsewhere.

    Raises:
        TypeError, ValueError: a field has the wrong type or is out of range, or `correct` disagrees with
            `images` or `top1`.
    """

    architecture: Architecture
    top1: float
    top5: float
    loss: float
    images: int | None
    correct: bytes = field(default=b"", repr=False)
    error_of_runs: float | None = None

    def __post_init__(self) -> None:
        # Plain Python numbers, whatever came in (numpy scalars, lists), so that records serialize.
        set_field = object.__setattr__
        set_field(self, "architecture", as_ints("architecture", self.architecture))
        if self.images is not None:
            set_field(self, "images", as_int("images", self.images, minimum=1))
        for name in ("top1", "top5", "loss"):
            set_field(self, name, as_real(name, getattr(self, name)))
        for name in ("top1", "top5"):
            unknown = name == "top5" and math.isnan(self.top5)
            if not unknown and not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a share from 0 to 1, got {getattr(self, name)}")
        if self.error_of_runs is not None:
            set_field(self, "error_of_runs", float(as_number("error_of_runs", self.error_of_runs, minimum=0)))
        if not isinstance(self.correct, bytes):
            raise TypeError(f"correct must be bytes, got {type(self.correct).__name__}")
        if self.correct:
            self._check_correct(as_int("images", self.images, minimum=1))

    def _check_correct(self, images: int) -> None:
        expected = (images + 7) // 8
        if len(self.correct) != expected:
            raise ValueError(
                f"correct must hold {expected} bytes for {images} images, got {len(self.correct)}"
            )
        right = self.right()
        if np.packbits(right).tobytes() != self.correct:
            raise ValueError(f"correct must be filled with zero bits after the {images} images")
        if abs(int(right.sum()) - self.top1 * images) > 0.5:
            raise ValueError(
                f"correct has {int(right.sum())} of {images} images right, but top1 is {self.top1}"
            )

    @property
    def value(self) -> float:
        """The value that searchers maximize: `top1`."""
        return self.top1

    @property
    def standard_error(self) -> float:
        """The standard error of `top1`; NaN where nothing tells it.

        That is the one over training runs, where it is known, or else the binomial one over the images.
        """
        if self.error_of_runs is not None:
            return self.error_of_runs
        if self.images is None:
            return math.nan
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
        runs = {} if self.error_of_runs is None else {"error_of_runs": self.error_of_runs}
        return {
            "architecture": list(self.architecture),
            "top1": self.top1,
            "top5": json_of_number(self.top5),
            "loss": json_of_number(self.loss),
            "images": self.images,
            "correct": base64.b64encode(self.correct).decode("ascii"),
            **runs,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Measurement:
        """Read what `to_json` gave; raise ValueError or TypeError naming what is wrong with it."""
        names = ("architecture", "top1", "top5", "loss", "images", "correct")
        if not isinstance(record, Mapping) or {*record} - {"error_of_runs"} != {*names}:
            raise ValueError(f"a measurement must have exactly {', '.join(names)}, got {record!r}")
        top5, loss = (number_of_json(record[name]) for name in ("top5", "loss"))
        try:
            correct = base64.b64decode(record["correct"], validate=True)
        except (TypeError, binascii.Error) as error:
            raise ValueError(f"correct must be base64 text, got {record['correct']!r}") from error
        runs = record.get("error_of_runs")
        return cls(record["architecture"], record["top1"], top5, loss, record["images"], correct, runs)


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
    return float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))


def json_of_number(number: float) -> float | str:
    """Return a number as a JSON value, which is a string where it is not finite."""
    return number if math.isfinite(number) else str(number)


def number_of_json(value: Any) -> Any:
    """Return the number that `json_of_number` gave a value for."""
    return float(value) if value in ("nan", "inf", "-inf") else value


def as_value(value: Measurement | float, name: str = "value") -> float:
    """Return a measurement's `value`, or a finite real number, as a float."""
    if isinstance(value, Measurement):
        return value.value
    return as_finite(name, value)
