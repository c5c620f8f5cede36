"""What ``load`` gives: the parts of a labelled image set, ready for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from lasfast.data.images import TrainingImages
from lasfast.data.loaders import FolderLoader

LabeledImages = tuple[Tensor, Tensor] | FolderLoader


@dataclass(frozen=True, repr=False, eq=False)
class Dataset:
    """A labelled image set, split, with every image normalized by the training images' mean and std.

    Attributes:
        name: as given to ``load``.
        classes: names, in the order of the labels.
        channels: 1 (gray) or 3 (RGB).
        image_size: (height, width) in pixels.
        train: training images, augmented.
        calibration: float32 [N, C, H, W], a class-balanced part of the training images, not augmented; for
            sets that are read while they are used, a re-iterable loader of such batches.
        validation: (images float32 [N, C, H, W], labels int64 [N]), or a re-iterable loader of such pairs.
            Disjoint from ``train``.
        mean: per channel, of values from 0 to 1.
        std: per channel.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    train: TrainingImages
    calibration: Tensor | FolderLoader
    validation: LabeledImages
    mean: tuple[float, ...]
    std: tuple[float, ...]
    description: dict[str, Any]
    read_test: Callable[[], LabeledImages] = field(repr=False)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

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
