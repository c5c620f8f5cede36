"""What ``load`` gives: the parts of a labelled image set, ready for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from lasfast.data.images import TrainingImages
from lasfast.data.loaders import FolderLoader
from lasfast.data.normalization import normalize

LabeledImages = tuple[Tensor, Tensor] | FolderLoader


@dataclass(frozen=True, repr=False, eq=False)
class Dataset:
    """A labelled image set, split; images are normalized by the training images' mean and std.

    An `Evaluator` takes the raw images, too, a quarter of the bytes, and gives the same results to the bit:
    ``Evaluator(supernet, data.raw_calibration, data.raw_validation, normalize=(data.mean, data.std))``.

    Attributes:
        name: as given to ``load``.
        classes: names, in the order of the labels.
        channels: 1 (gray) or 3 (RGB).
        image_size: (height, width) in pixels.
        train: training images, augmented.
        raw_calibration: uint8 [N, C, H, W], a class-balanced part of the training images, not augmented; for
            sets that are read while they are used, a re-iterable loader of such batches.
        raw_validation: (images uint8 [N, C, H, W], labels int64 [N]), or a re-iterable loader of such pairs.
            Disjoint from ``train``.
        mean: per channel, of values from 0 to 1.
        std: per channel.
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
        """The test split, like ``validation``. It is read here, on first access, and never by ``load``.

        Raises:
            DataError: if it is missing or broken.
        """
        return self.read_test()

    def describe(self) -> dict[str, Any]:
        """What identifies this set and its split, for JSON; ``digest`` changes with the images."""
        return dict(self.description)

    def __repr__(self) -> str:
        """One line: what it is and how many images are where."""
        counts = ", ".join(
            f"{part} {self.description[part]}" for part in ("train", "calibration", "validation")
        )
        height, width = self.image_size
        return (
            f"Dataset({self.name!r}: {self.num_classes} classes, {self.channels}x{height}x{width}; {counts})"
        )
