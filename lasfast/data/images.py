"""Training images: the protocol that trainers read, and the implementation for images held in memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lasfast.data import augment
from lasfast.data.normalization import channel_scale, scale_and_shift
from lasfast.data.splits import derive_seed


@runtime_checkable
class TrainingImages(Protocol):
    """Images that come in random order, augmented and normalized, one epoch at a time.

    Batch k of an epoch is a pure function of (seed, k, batch_size): reading from ``start=k`` gives the
    identical bits as reading from 0. Resuming a killed training stands on it.
    """

    def __len__(self) -> int:
        """The number of images."""
        ...

    def num_batches(self, batch_size: int) -> int:
        """The number of batches of an epoch; the incomplete last one is dropped unless it is the only one."""
        ...

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches ``start``, ``start + 1``, ... of the epoch that ``seed`` stands for.

        Yields:
            images, float32 [B, C, H, W], augmented and normalized; labels, int64 [B].
        """
        ...


def count_batches(images: int, batch_size: int) -> int:
    """Full batches in ``images``; one incomplete batch where there is no full one."""
    size = _integer("batch_size", batch_size)
    if size < 1:
        raise ValueError(f"batch_size must be at least 1, got {size}")
    return max(1, images // size)


def epoch_order(images: int, seed: int) -> Tensor:
    """The order in which an epoch visits the images, int64 [images]."""
    generator = torch.Generator().manual_seed(derive_seed("order", seed))
    return torch.randperm(images, generator=generator)


def check_position(images: int, batch_size: int, seed: int, start: int) -> tuple[int, int, int]:
    """(batch_size, seed, start) as plain ints, or a ValueError or TypeError that says what is wrong."""
    batches = count_batches(images, batch_size)
    first = _integer("start", start)
    if not 0 <= first <= batches:
        raise ValueError(f"start must be a batch number from 0 to {batches}, got {first}")
    return operator.index(batch_size), _integer("seed", seed), first


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return operator.index(value)


class TensorImages:
    """Images held in memory, augmented a whole batch at a time.

    The images stay raw (uint8, zero-padded once); a batch of random crops is one gather, on the device that
    holds them. About 100,000 images of 32x32 a second on one core.

    Args:
        images: [N, C, H, W]; uint8 (0 to 255, taken as 0 to 1) or floating point (as they are).
        labels: integers [N], from 0.
        mean: per channel, of the images' values.
        std: per channel, positive.
        pad: zeros added on each side of the raw image before a random crop of the original size; 0: no crop.
        flip: mirror half of the images, left to right.
        resized_crop: instead of pad and crop, a random part of the image enlarged to the whole size
            (torchvision's ``RandomResizedCrop`` with its default settings); needs ``pad=0``.

    Raises:
        TypeError, ValueError: naming the argument that is wrong.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        pad: int = 4,
        flip: bool = True,
        resized_crop: bool = False,
    ) -> None:
        _check_images(images, labels, mean, std)
        self.pad = _integer("pad", pad)
        if self.pad < 0:
            raise ValueError(f"pad must be at least 0 pixels, got {pad}")
        if resized_crop and self.pad:
            raise ValueError(f"pad must be 0 with resized_crop=True (one kind of crop, not two), got {pad}")
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.flip = bool(flip)
        self.resized_crop = bool(resized_crop)
        self._labels = labels.to(torch.int64)
        self._windows = augment.crop_windows(images, self.pad)
        self._scale, self._shift = channel_scale(self.mean, self.std, images)

    def __len__(self) -> int:
        """The number of images."""
        return len(self._labels)

    @property
    def images(self) -> Tensor:
        """The raw images as given, [N, C, H, W]; a view, without the padding."""
        return self._windows[:, self.pad, self.pad]

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""
        return self._labels

    @property
    def device(self) -> torch.device:
        """Where the images are, and where batches come out."""
        return self._labels.device

    def to(self, device: torch.device | str) -> TensorImages:
        """The same images on another device; batches have the same crops and flips there."""
        return self._with(self.images.to(device), self.labels.to(device))

    def subset(self, chosen: Tensor) -> TensorImages:
        """Some of the images, by their numbers (int64, on the CPU), augmented in the same way."""
        there = chosen.to(self.device)
        return self._with(self.images[there], self.labels[there])

    def _with(self, images: Tensor, labels: Tensor) -> TensorImages:
        return TensorImages(
            images,
            labels,
            self.mean,
            self.std,
            pad=self.pad,
            flip=self.flip,
            resized_crop=self.resized_crop,
        )

    def num_batches(self, batch_size: int) -> int:
        """The number of batches of an epoch; the incomplete last one is dropped unless it is the only one."""
        return count_batches(len(self), batch_size)

    def batches(self, batch_size: int, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches ``start``, ``start + 1``, ... of the epoch that ``seed`` stands for.

        Batch k is a pure function of (seed, k, batch_size).

        Yields:
            images, float32 [B, C, H, W], augmented and normalized; labels, int64 [B].
        """
        parts = self.shards(batch_size, seed, start, slice)
        return ((images, labels) for images, labels, _ in parts)

    def shards(
        self, batch_size: int, seed: int, start: int, rows: Callable[[int], slice]
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield some rows of each batch, and how many images the whole batch has.

        ``rows`` says which, for a batch of so many images. They are as in the whole batch, the rest of which
        is not made.
        """
        return self._shards(*check_position(len(self), batch_size, seed, start), rows)

    def _shards(
        self, batch_size: int, seed: int, start: int, rows: Callable[[int], slice]
    ) -> Iterator[tuple[Tensor, Tensor, int]]:
        order = epoch_order(len(self), seed)
        for k in range(start, self.num_batches(batch_size)):
            chosen = order[k * batch_size : (k + 1) * batch_size]
            wanted = rows(len(chosen))
            generator = torch.Generator().manual_seed(derive_seed("batch", seed, k))
            images, labels = self._augmented(chosen, generator, wanted)
            yield images, labels, len(chosen)

    def _augmented(self, chosen: Tensor, generator: torch.Generator, rows: slice) -> tuple[Tensor, Tensor]:
        """Crop, flip and normalize some of the images ``chosen`` (int64 [B], on the CPU).

        Random numbers are drawn for all, so that an image has its own whatever the ``rows``. float32
        [rows, C, H, W], and labels.
        """
        count = len(chosen)
        flips = augment.draw_flips(count, generator) & self.flip
        if self.resized_crop:
            height, width = self._windows.shape[-2:]
            crops = augment.draw_boxes(count, height, width, generator).T
        else:
            crops = augment.draw_offsets(count, self.pad, generator)
        chosen, flips, *crop = self._send(torch.cat([torch.stack([chosen, flips.long()]), crops])[:, rows])
        flips = flips.bool()
        if self.resized_crop:
            raw = augment.resize_boxes(self._windows[chosen, 0, 0], torch.stack(crop, 1), flips)
        else:
            top, left = crop
            raw = self._windows[chosen, top, left]
            if self.flip:
                raw = augment.flip_some(raw, flips)
        return scale_and_shift(raw, self._scale, self._shift), self._labels[chosen]

    def _send(self, numbers: Tensor) -> Tensor:
        """Random numbers on the device of the images, without waiting for what that is at."""
        return (
            numbers.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else numbers
        )

    def describe(self) -> dict[str, Any]:
        """What identifies these training images beside their contents, for JSON."""
        return {
            "images": len(self),
            "pad": self.pad,
            "flip": self.flip,
            "resized_crop": self.resized_crop,
            "mean": list(self.mean),
            "std": list(self.std),
        }


def _check_images(images: Tensor, labels: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        raise TypeError(
            f"images and labels must be tensors, got {type(images).__name__}, {type(labels).__name__}"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point, got {images.dtype}")
    if images.dim() != 4 or 0 in images.shape:
        raise ValueError(
            f"images must be [N, C, H, W] with no empty dimension, got shape {tuple(images.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must be [N] with N = {len(images)} as in images, got shape {tuple(labels.shape)}"
        )
    if labels.min() < 0:
        raise ValueError(f"labels must be at least 0, got {int(labels.min())}")
    if labels.device != images.device:
        raise ValueError(f"labels must be on {images.device} as images are, got {labels.device}")
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"mean and std must have {channels} values, one per channel, got {mean!r} and {std!r}"
        )
    if not all(value > 0 for value in std):
        raise ValueError(f"std must be positive, got {std!r}")
