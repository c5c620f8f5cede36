"""The dataset that ``load`` gives: the parts of a labelled image set, ready for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from lasfast.data.decode import CROP_PCT
from lasfast.data.loaders import FolderLoader
from lasfast.data.normalization import normalize
from lasfast.data.protocols import TrainingImages
from lasfast.data.splits import spread

LabeledImages = tuple[Tensor, Tensor] | FolderLoader


@dataclass(frozen=True, repr=False, eq=False)
class Dataset:
    """A labelled image set, split into parts, and normalized by the training images' mean and std.

    An `Evaluator` also takes the raw images, which are a quarter of the bytes, and gives the same bits:
    ``Evaluator(supernet, data.raw_calibration, data.raw_validation, normalize=(data.mean, data.std))``.

    Attributes:
        name: the name that was given to ``load``.
        classes: the names of the classes, in the order of the labels.
        channels: 1 (gray) or 3 (RGB).
        image_size: (height, width) in pixels.
        train: training images, augmented.
        raw_calibration: uint8 [N, C, H, W], a class-balanced part of the training images, not augmented; a
            re-iterable loader of such batches for sets that are read from files each time.
        raw_validation: (images uint8 [N, C, H, W], labels int64 [N]), or a re-iterable loader of such pairs.
            Disjoint from ``train``.
        mean: the mean of each channel, of values from 0 to 1.
        std: the standard deviation of each channel.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    train: TrainingImages
    raw_calibration: Tensor | FolderLoader
    raw_validation: LabeledImages
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: dict[str, Any]
    read_test: Callable[[], LabeledImages] = field(repr=False)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def crop_pct(self) -> float:
        """The share of an image's shorter side that evaluation looks at; 1 where images come in one size."""
        return CROP_PCT if isinstance(self.raw_validation, FolderLoader) else 1.0

    def samples(self, count: int) -> Tensor:
        """Return raw validation images, evenly spread over all, uint8 [at most `count`, C, H, W]."""
        images = self.raw_validation
        if isinstance(images, FolderLoader):
            return images.samples(count)
        return images[0][spread(len(images[0]), count)]

    @cached_property
    def calibration(self) -> Tensor | FolderLoader:
        """``raw_calibration``, normalized: float32."""
        if isinstance(self.raw_calibration, FolderLoader):
            return self.raw_calibration.normalized()
        return normalize(self.raw_calibration, self.mean, self.std)

    @cached_property
    def validation(self) -> LabeledImages:
        """``raw_validation``, its images normalized: float32."""
        if isinstance(self.raw_validation, FolderLoader):
            return self.raw_validation.normalized()
        images, labels = self.raw_validation
        return normalize(images, self.mean, self.std), labels

    @cached_property
    def test(self) -> LabeledImages:
        """The test split, in the form of ``validation``. The first access reads it; ``load`` never does.

        Raises:
            DataError: it is missing or broken.
        """
        return self.read_test()

    def describe(self) -> dict[str, Any]:
        """Return what identifies this set and its split, as JSON values; ``digest`` is of the images."""
        return dict(self.description)

    def __repr__(self) -> str:
        """Return a line that says what the set is and how many images each part has."""
        return self.summary("train", "calibration", "validation")

    def summary(self, *parts: str) -> str:
        """Return a line that says what the set is and how many images these parts have."""
        counts = ", ".join(f"{part} {self.description[part]}" for part in parts)
        height, width = self.image_size
        return (
            f"Dataset({self.name!r}: {self.num_classes} classes, {self.channels}x{height}x{width}; {counts})"
        )
