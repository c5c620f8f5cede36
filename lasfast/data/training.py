"""Adapters that make `TrainingImages` of tensors and DataLoaders, and what trainers do with images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from lasfast.data.augmentation import AS_LOADED, Augmentation
from lasfast.data.protocols import (
    AugmentableImages,
    Batch,
    DivisibleImages,
    MovableImages,
    Shard,
    ShardedImages,
    TrainingImages,
)
from lasfast.runtime.distributed import World
from lasfast.runtime.seeds import torch_seed


def describe_images(data: Any) -> Any:
    """Return what identifies training images, as JSON values; None where they do not say."""
    describe = getattr(data, "describe", None)
    return describe() if describe else None


def shards(data: TrainingImages, batch_size: int, seed: int, start: int, world: World) -> Iterator[Shard]:
    """Yield this process's images and labels of each batch, and how many images the whole batch has."""
    if isinstance(data, ShardedImages):
        yield from data.shards(batch_size, seed, start, world.rows)
        return
    for images, labels in data.batches(batch_size, seed, start):
        rows = world.rows(len(labels))
        yield images[rows], labels[rows], len(labels)


def as_training_images(data: Any) -> TrainingImages:
    """Return `data` as TrainingImages; a pair (images, labels) and a DataLoader of such pairs are adapted.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(data, TrainingImages):
        return data
    if isinstance(data, DataLoader):
        return LoaderImages(data)
    if isinstance(data, Sequence) and len(data) == 2 and all(isinstance(part, torch.Tensor) for part in data):
        return PairImages(*data)
    raise TypeError(
        "data must be training images with num_batches() and batches() as in lasfast.data, a pair of tensors "
        f"(images, labels), or a torch DataLoader, got a {type(data).__name__}"
    )


def augmented(data: TrainingImages, augmentation: Augmentation) -> TrainingImages:
    """Return training images that are varied as `augmentation` says; as they are where it says nothing.

    Raises:
        ValueError: they cannot be, such as those of a DataLoader or of a pair of tensors.
    """
    if augmentation == AS_LOADED:
        return data
    if not isinstance(data, AugmentableImages):
        raise ValueError(
            "augmentation must be Augmentation() for images that lasfast.data did not load (nor "
            f"lasfast.data.TensorImages holds), got {augmentation} for a {type(data).__name__}"
        )
    return data.augmented(augmentation)


def first_image(data: TrainingImages, batch_size: int) -> torch.Tensor:
    """Return an image [1, C, H, W] as training gives it, to see its shape."""
    if isinstance(data, ShardedImages):
        images, _, _ = next(iter(data.shards(batch_size, 0, 0, lambda count: slice(0, 1))))
    else:
        images, _ = next(iter(data.batches(batch_size, 0)))
    return images[:1]


def on_device(data: TrainingImages, device: torch.device) -> TrainingImages:
    """Return images whose batches are on the GPU that trains on them; as they are where it has no room."""
    if device.type != "cuda" or not isinstance(data, MovableImages) or data.device == device:
        return data
    try:
        return data.to(device)
    except torch.OutOfMemoryError:
        return data


def halves(data: TrainingImages, seed: int) -> tuple[TrainingImages, TrainingImages]:
    """Divide training images at random into halves that both have each class.

    Of an odd number, the first half has one more.

    Raises:
        TypeError: the images cannot be divided, such as those of a DataLoader.
        ValueError: there are fewer than two images.
    """
    if not isinstance(data, DivisibleImages):
        raise TypeError(
            "data must be training images with labels and subset() as in lasfast.data, or a pair of tensors, "
            f"to be divided into halves, got a {type(data).__name__}"
        )
    labels = data.labels.cpu()
    if len(labels) < 2:
        raise ValueError(f"data must have two images or more, to be divided into halves, got {len(labels)}")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(labels[order], stable=True)]
    one, other = (data.subset(order[first::2].sort().values) for first in (0, 1))
    return one, other


class PairImages:
    """Training images of a pair of tensors, shuffled anew each epoch and not augmented."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        if images.ndim != 4 or not images.is_floating_point() or not len(images):
            raise ValueError(
                f"images must be floating point [N, C, H, W], N > 0, got {images.dtype} {tuple(images.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != (len(images),):
            raise ValueError(
                f"labels must be int64 [{len(images)}], got {labels.dtype} {tuple(labels.shape)}"
            )
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """The device of the images."""
        return self.images.device

    def to(self, device: torch.device) -> PairImages:
        """Return the same images, which give the same batches, on another device."""
        return PairImages(self.images.to(device), self.labels.to(device))

    def subset(self, chosen: torch.Tensor) -> PairImages:
        """Return some of the images, by their numbers (int64, on the CPU)."""
        return PairImages(self.images[chosen.to(self.device)], self.labels[chosen.to(self.labels.device)])

    def num_batches(self, batch_size: int) -> int:
        """Return the number of full batches of an epoch; 1, of a smaller one, where there is none."""
        return max(1, len(self) // batch_size)

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield batches of the images shuffled by `seed`; an incomplete last one is left out."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        order, of_labels = order.to(self.images.device), order.to(self.labels.device)
        for batch in range(start, self.num_batches(batch_size)):
            rows = slice(batch * batch_size, (batch + 1) * batch_size)
            yield self.images[order[rows]], self.labels[of_labels[rows]]

    def describe(self) -> dict[str, Any]:
        """Return what identifies the images, as JSON values."""
        return {"images": list(self.images.shape)}


class LoaderImages:
    """Training images of a DataLoader, in its own batches and order; torch's randomness repeats by seed.

    A transform that draws from Python's or NumPy's global generator does not repeat: use torch's, or the
    images of `lasfast.data`. To start in mid-epoch, the batches before are read and dropped.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        try:
            self.length = len(loader)
        except TypeError as error:
            raise TypeError(
                "data must have a length, so that training knows its batches, got a DataLoader without one"
            ) from error
        if not self.length:
            raise ValueError("data must have a batch, got a DataLoader without any")
        if isinstance(loader.sampler, DistributedSampler):
            raise ValueError(
                "data must give whole batches, the same on all ranks, of which the trainer takes each rank's "
                "images; got a DataLoader with a DistributedSampler"
            )
        self.loader = loader

    def num_batches(self, batch_size: int) -> int:
        """Return the loader's own number of batches, whatever `batch_size` is."""
        return self.length

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Yield the loader's batches, torch's generators (global and the loader's own) seeded by `seed`."""
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
        """Return what identifies the loader, as JSON values."""
        return {"loader_batches": self.length, "batch_size": self.loader.batch_size}
