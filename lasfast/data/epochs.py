"""Epochs of shuffled batches, which the images in memory and those in files have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from lasfast.core.checks import as_int
from lasfast.data.protocols import Batch, Rows, Shard
from lasfast.data.splits import derive_seed


def count_batches(images: int, batch_size: int) -> int:
    """Return the number of full batches in `images`; 1, of an incomplete one, where there is none."""
    return max(1, images // as_int("batch_size", batch_size, minimum=1))


class ShuffledImages(ABC):
    """Training images (`TrainingImages`, `ShardedImages`) whose order is shuffled anew by each seed."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    def num_batches(self, batch_size: int) -> int:
        """Return the number of batches of an epoch, which leaves out an incomplete one unless it is alone."""
        return count_batches(len(self), batch_size)

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches `start`, `start + 1`, ... of the epoch that `seed` stands for.

        Batch k is a pure function of (seed, k, batch_size).

        Yields:
            images, float32 [B, C, H, W], augmented and normalized; labels, int64 [B].

        Raises:
            DataError: naming an image that cannot be decoded.
            TypeError, ValueError: naming the argument that is wrong.
        """
        return ((images, labels) for images, labels, _ in self.shards(batch_size, seed, start, slice))

    def shards(self, batch_size: int, seed: int, start: int, rows: Rows) -> Iterator[Shard]:
        """Yield some rows of each batch, and how many images the whole batch has.

        `rows` says which, for a batch of so many images. They are as in the whole batch, the rest of which is
        not made.
        """
        batches = self.num_batches(batch_size)
        if not 0 <= as_int("start", start) <= batches:
            raise ValueError(f"start must be a batch number from 0 to {batches}, got {start}")
        seed = as_int("seed", seed)
        generator = torch.Generator().manual_seed(derive_seed("order", seed))
        order = torch.randperm(len(self), generator=generator)
        chosen = [order[k * batch_size : (k + 1) * batch_size] for k in range(start, batches)]
        return self._shards(chosen, seed, start, rows)

    @abstractmethod
    def _shards(self, chosen: list[Tensor], seed: int, start: int, rows: Rows) -> Iterator[Shard]:
        """Yield the wanted rows of batches `start`, `start + 1`, ..., whose images are in `chosen`."""
