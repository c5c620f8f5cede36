"""The protocols of training images: batches that repeat, and what some images can do besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lasfast.data.augmentation import Augmentation

Batch = tuple[Tensor, Tensor]
"""Images, floating point [B, C, H, W], augmented and normalized; labels, int64 [B]."""
Shard = tuple[Tensor, Tensor, int]
"""Some images of a batch, their labels, and how many images the whole batch has."""
Rows = Callable[[int], slice]
"""Says which rows are wanted of a batch of so many images."""


@runtime_checkable
class TrainingImages(Protocol):
    """Images for training that come in random order, one epoch at a time.

    Batch k of an epoch is a pure function of (seed, k, batch_size): reading from `start=k` gives the
    identical bits as reading from 0. A killed training is resumed by that.
    """

    def num_batches(self, batch_size: int) -> int:
        """Return the number of batches of an epoch."""
        ...

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches `start`, `start + 1`, ... of the epoch that `seed` stands for."""
        ...


@runtime_checkable
class ShardedImages(TrainingImages, Protocol):
    """Training images that can make some rows of a batch without the rest of it."""

    def shards(self, batch_size: int, seed: int, start: int, rows: Rows) -> Iterator[Shard]:
        """Yield the wanted rows of each batch from `start` on, bit for bit as in the whole batch."""
        ...


@runtime_checkable
class MovableImages(TrainingImages, Protocol):
    """Training images whose batches can be made on another device."""

    device: torch.device

    def to(self, device: torch.device) -> TrainingImages:
        """Return the same images, which give the same batches, on another device."""
        ...


@runtime_checkable
class DivisibleImages(TrainingImages, Protocol):
    """Training images of which a part can be taken."""

    labels: Tensor

    def subset(self, chosen: Tensor) -> TrainingImages:
        """Return some of the images, by their numbers (int64, on the CPU)."""
        ...


@runtime_checkable
class AugmentableImages(TrainingImages, Protocol):
    """Training images whose augmentation can be replaced."""

    def augmented(self, augmentation: Augmentation) -> TrainingImages:
        """Return the same images, varied as `augmentation` says."""
        ...
