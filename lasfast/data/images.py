"""Training images that are held in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lasfast.core.checks import as_int
from lasfast.data import augment
from lasfast.data.augmentation import AS_LOADED, Augmentation
from lasfast.data.epochs import ShuffledImages
from lasfast.data.normalization import channel_scale, check_positive_stds, scale_and_shift
from lasfast.data.protocols import Rows, Shard
from lasfast.data.splits import derive_seed


class TensorImages(ShuffledImages):
    """Training images held in memory, which are augmented a whole batch at a time.

    The images stay raw (uint8, zero-padded once); a batch of random crops is one gather, on the device that
    holds them. About 100,000 images of 32x32 a second on one core.

    Args:
        images: [N, C, H, W]; uint8 (0 to 255, taken as 0 to 1) or floating point (as they are).
        labels: integers [N], from 0.
        mean: per channel, of the images' values.
        std: per channel, positive.
        pad: zeros added on each side of the raw image before a random crop of the original size; 0 leaves
            the crop out.
        flip: whether half of the images are mirrored, left to right.
        resized_crop: whether, instead of pad and crop, a random part of the image is enlarged to the whole
            size (torchvision's ``RandomResizedCrop`` with its default settings); needs ``pad=0``.
        augmentation: what else varies the images; its crop and flip are those above (see ``augmented``).

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
        augmentation: Augmentation = AS_LOADED,
    ) -> None:
        _check_images(images, labels, mean, std)
        self.pad = as_int("pad", pad)
        if self.pad < 0:
            raise ValueError(f"pad must be at least 0 pixels, got {pad}")
        if resized_crop and self.pad:
            raise ValueError(f"pad must be 0 with resized_crop=True (one kind of crop, not two), got {pad}")
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.flip = bool(flip)
        self.resized_crop = bool(resized_crop)
        if augmentation.colors and (images.dtype != torch.uint8 or images.shape[1] not in (1, 3)):
            raise ValueError(
                "images must be uint8 of 1 or 3 channels for color_jitter and auto_augment, got "
                f"{images.dtype} of {images.shape[1]}"
            )
        self.augmentation = augmentation
        self._labels = labels.to(torch.int64)
        self._windows = augment.crop_windows(images, self.pad)
        self._scale, self._shift = channel_scale(self.mean, self.std, images)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._labels)

    @property
    def images(self) -> Tensor:
        """The raw images as they were given, [N, C, H, W]: a view, without the padding."""
        return self._windows[:, self.pad, self.pad]

    @property
    def labels(self) -> Tensor:
        """The labels, int64 [N]."""
        return self._labels

    @property
    def device(self) -> torch.device:
        """The device of the images, and of their batches."""
        return self._labels.device

    def to(self, device: torch.device | str) -> TensorImages:
        """Return the same images on another device, where batches have the same crops and flips."""
        return self._with(self.images.to(device), self.labels.to(device))

    def subset(self, chosen: Tensor) -> TensorImages:
        """Return some of the images, by their numbers (int64, on the CPU), augmented in the same way."""
        there = chosen.to(self.device)
        return self._with(self.images[there], self.labels[there])

    def augmented(self, augmentation: Augmentation) -> TensorImages:
        """Return the same images, varied in another way; "data" and None stand for how they are now."""
        pad, resized = {
            "data": (self.pad, self.resized_crop),
            "pad": (self.pad or max(self.images.shape[-2:]) // 8, False),
            "resized": (0, True),
            "none": (0, False),
        }[augmentation.crop]
        return TensorImages(
            self.images,
            self.labels,
            self.mean,
            self.std,
            pad=pad,
            flip=self.flip if augmentation.flip is None else augmentation.flip,
            resized_crop=resized,
            augmentation=augmentation,
        )

    def _with(self, images: Tensor, labels: Tensor) -> TensorImages:
        return TensorImages(
            images,
            labels,
            self.mean,
            self.std,
            pad=self.pad,
            flip=self.flip,
            resized_crop=self.resized_crop,
            augmentation=self.augmentation,
        )

    def _shards(self, chosen: list[Tensor], seed: int, start: int, rows: Rows) -> Iterator[Shard]:
        for number, batch in enumerate(chosen, start):
            generator = torch.Generator().manual_seed(derive_seed("batch", seed, number))
            images, labels = self._augmented(batch, generator, rows(len(batch)), seed)
            yield images, labels, len(batch)

    def _augmented(
        self, chosen: Tensor, generator: torch.Generator, rows: slice, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Vary and normalize some rows of the batch of the images ``chosen`` (int64 [B], on the CPU).

        Random numbers are drawn for the whole batch, so that an image's do not depend on the ``rows``.

        Returns:
            images, float32 [rows, C, H, W], and labels.
        """
        count, numbers = len(chosen), chosen[rows].tolist()
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
        if self.augmentation.colors:
            raw = self.augmentation.recolored(_as_bytes(raw), seed, numbers)
        images = scale_and_shift(raw, self._scale, self._shift)
        return self.augmentation.erased(images, seed, numbers), self._labels[chosen]

    def _send(self, numbers: Tensor) -> Tensor:
        """Copy random numbers to the device of the images, without waiting for the work that it has."""
        return (
            numbers.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else numbers
        )

    def describe(self) -> dict[str, Any]:
        """Return what identifies these training images besides their contents, as JSON values."""
        more = self.augmentation.describe()
        return {
            "images": len(self),
            "pad": self.pad,
            "flip": self.flip,
            "resized_crop": self.resized_crop,
            "mean": list(self.mean),
            "std": list(self.std),
            **({"augmentation": more} if more else {}),
        }


def _as_bytes(raw: Tensor) -> Tensor:
    """Return raw images as uint8; enlarged ones are floats from 0 to 255."""
    return raw if raw.dtype == torch.uint8 else raw.round().clamp(0, 255).to(torch.uint8)


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
    check_positive_stds(std)
