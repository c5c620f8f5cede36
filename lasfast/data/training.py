"""Whatever holds training images, as batches that are a pure function of (seed, batch number).

The data sets of `lasfast.data` already are; a pair of tensors or a DataLoader is adapted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from lasfast.runtime.distributed import World
from lasfast.runtime.seeds import torch_seed

Batch = tuple[torch.Tensor, torch.Tensor]
Rows = Callable[[int], slice]
"""Which rows of a batch of so many images."""


@runtime_checkable
class TrainingImages(Protocol):
    """Images for training, in batches that repeat: batch k depends on (seed, k, batch_size) alone."""

    def num_batches(self, batch_size: int) -> int:
        """Batches in an epoch."""

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """An epoch from batch `start` on: images float [B, C, H, W], labels int64 [B]."""


@runtime_checkable
class ShardedImages(Protocol):
    """Training images that need not make a whole batch where some of its rows are wanted."""

    def shards(
        self, batch_size: int, seed: int, start: int, rows: Rows
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """Those rows of the batches of an epoch, bit for bit, and how many images the whole batch has."""


def shards(
    data: TrainingImages, batch_size: int, seed: int, start: int, world: World
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """A rank's images and labels of each batch of an epoch, and how many images the whole batch has."""
    if isinstance(data, ShardedImages):
        yield from data.shards(batch_size, seed, start, world.rows)
        return
    for images, labels in data.batches(batch_size, seed, start):
        rows = world.rows(len(labels))
        yield images[rows], labels[rows], len(labels)


def as_training_images(data: Any) -> TrainingImages:
    """`data` as TrainingImages: itself, a pair of tensors (images, labels), or a DataLoader of such pairs."""
    if isinstance(data, TrainingImages):
        return data
    if isinstance(data, DataLoader):
        return LoaderImages(data)
    if isinstance(data, Sequence) and len(data) == 2 and all(isinstance(part, torch.Tensor) for part in data):
        return PairImages(*data)
    raise TypeError(
        f"data is a {type(data).__name__}; expected training images with num_batches() and batches() as in "
        "lasfast.data, a pair of tensors (images, labels), or a torch DataLoader"
    )


@runtime_checkable
class MovableImages(TrainingImages, Protocol):
    """Training images in memory, which can go to where they are used."""

    device: torch.device

    def to(self, device: torch.device) -> TrainingImages:
        """The same images and batches on another device."""


def on_device(data: TrainingImages, device: torch.device) -> TrainingImages:
    """`data` in the memory of a GPU that trains on them, if they are in memory at all and it has room."""
    if device.type != "cuda" or not isinstance(data, MovableImages) or data.device == device:
        return data
    try:
        return data.to(device)
    except torch.OutOfMemoryError:
        return data


@runtime_checkable
class DivisibleImages(TrainingImages, Protocol):
    """Training images of which some can be taken."""

    labels: torch.Tensor

    def subset(self, chosen: torch.Tensor) -> TrainingImages:
        """Some of the images, by their numbers (int64, on the CPU)."""


def halves(data: TrainingImages, seed: int) -> tuple[TrainingImages, TrainingImages]:
    """Two halves of training images at random, each class in both; the first has one more of an odd number.

    Raises:
        TypeError: images that cannot be divided, such as a DataLoader's.
        ValueError: fewer than two images.
    """
    if not isinstance(data, DivisibleImages):
        raise TypeError(
            f"data is a {type(data).__name__}, which cannot be divided into halves; expected training images "
            "with labels and subset() as in lasfast.data, or a pair of tensors"
        )
    labels = data.labels.cpu()
    if len(labels) < 2:
        raise ValueError(f"data has {len(labels)} image; expected two or more, to divide into halves")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(labels[order], stable=True)]
    one, other = (data.subset(order[first::2].sort().values) for first in (0, 1))
    return one, other


class PairImages:
    """A pair of tensors as they are, shuffled anew each epoch; no augmentation."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        if images.ndim != 4 or not images.is_floating_point() or not len(images):
            raise ValueError(
                f"images is {images.dtype} {tuple(images.shape)}; expected floating point [N, C, H, W], N > 0"
            )
        if labels.dtype != torch.int64 or labels.shape != (len(images),):
            raise ValueError(
                f"labels is {labels.dtype} {tuple(labels.shape)}; expected int64 [{len(images)}]"
            )
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    def to(self, device: torch.device) -> PairImages:
        """The same images and batches on another device."""
        return PairImages(self.images.to(device), self.labels.to(device))

    def subset(self, chosen: torch.Tensor) -> PairImages:
        """Some of the images, by their numbers (int64, on the CPU)."""
        return PairImages(self.images[chosen.to(self.device)], self.labels[chosen.to(self.labels.device)])

    def num_batches(self, batch_size: int) -> int:
        """Full batches in an epoch; one smaller batch where there are fewer images than that."""
        return max(1, len(self) // batch_size)

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Shuffled by `seed`; the last incomplete batch is left out."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        order, of_labels = order.to(self.images.device), order.to(self.labels.device)
        for batch in range(start, self.num_batches(batch_size)):
            rows = slice(batch * batch_size, (batch + 1) * batch_size)
            yield self.images[order[rows]], self.labels[of_labels[rows]]

    def describe(self) -> dict[str, Any]:
        """What identifies the images, as JSON values."""
        return {"images": list(self.images.shape)}


class LoaderImages:
    """A DataLoader, whose own batch size and order hold. Its randomness, if torch's, repeats with the seed.

    A transform that draws from Python's or NumPy's global generator does not repeat; use torch's, or the data
    sets of `lasfast.data`. Starting in mid-epoch reads and drops the batches before.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        try:
            self.length = len(loader)
        except TypeError as error:
            raise TypeError(
                "data is a DataLoader without a length; training needs to know its batches"
            ) from error
        if not self.length:
            raise ValueError("data is a DataLoader without any batch")
        if isinstance(loader.sampler, DistributedSampler):
            raise ValueError(
                "data is a DataLoader with a DistributedSampler; expected whole batches, the same on all "
                "ranks: the trainer takes each rank's images of them"
            )
        self.loader = loader

    def num_batches(self, batch_size: int) -> int:
        """The loader's own number of batches, whatever `batch_size`."""
        return self.length

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """The loader's batches, with torch's generators (global and the loader's own) seeded by `seed`."""
        for holder in (self.loader, self.loader.sampler):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
        with torch_seed(seed):
            batches = iter(self.loader)
            state = torch.get_rng_state()
        position = 0
        while True:
            with torch_seed(seed):
                torch.set_rng_state(state)
                batch = next(batches, None)
                state = torch.get_rng_state()
            if batch is None:
                return
            if position >= start:
                images, labels = batch
                yield images, labels
            position += 1

    def describe(self) -> dict[str, Any]:
        """What identifies the loader, as JSON values."""
        return {"loader_batches": self.length, "batch_size": self.loader.batch_size}
