"""Images to calibrate and to validate on: tensors or loaders, checked, and cut into batches."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, TypeGuard

import torch
from torch import Tensor

Calibration = Tensor | Iterable[Any]
"""Images [N, C, H, W], or a loader of such batches (or of pairs that begin with one)."""
Validation = tuple[Tensor, Tensor] | Iterable[Any]
"""(images [N, C, H, W], labels [N]), or a loader of such pairs."""


def batches(validation: Validation, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Give batches of (images, labels) on the device, of a pair of tensors or a loader."""
    pairs: Iterable[Any] = validation
    if is_pair(validation):
        images, labels = validation
        pairs = zip(images.split(batch), labels.split(batch), strict=True)
    for images, labels in pairs:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


@lru_cache(maxsize=8)
def random_order(images: int) -> Tensor:
    """The order in which validation images are predicted, int64 [images]; not to be changed in place."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(0))


def is_pair(validation: Any) -> TypeGuard[tuple[Tensor, Tensor]]:
    """Whether this is (images, labels), not a loader."""
    return isinstance(validation, tuple | list) and any(isinstance(part, Tensor) for part in validation)


def check_images(name: str, images: object, channels: int) -> None:
    """Raise unless these are images [N, channels, H, W], normalized, N > 0."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a tensor of images or a loader of them, got {type(images).__name__}")
    if images.dim() != 4 or images.shape[1] != channels or not len(images):
        raise ValueError(
            f"{name} must be images [N, {channels}, H, W], N > 0, got shape {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise TypeError(f"{name} must be normalized floating-point images, got {images.dtype}")


def check_validation(validation: Any, channels: int, num_classes: int) -> None:
    """Check a pair of tensors; a loader is checked by what it gives."""
    if not is_pair(validation):
        if not isinstance(validation, Iterable):
            raise TypeError(
                "validation must be (images, labels) or a loader of such pairs, "
                f"got {type(validation).__name__}"
            )
        return
    if len(validation) != 2:
        raise ValueError(f"validation must be a pair (images, labels), got {len(validation)} parts")
    images, labels = validation
    check_images("validation images", images, channels)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(
            f"validation labels must be an int64 tensor, got {getattr(labels, 'dtype', type(labels))}"
        )
    if labels.shape != (len(images),):
        raise ValueError(
            f"validation labels must have one entry per image, shape ({len(images)},), "
            f"got {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"validation labels must lie in 0 to {num_classes - 1}, got {low} to {high}")


def image_size(validation: Validation) -> tuple[int, int]:
    """Return height and width of the images."""
    images, _ = next(batches(validation, 1, torch.device("cpu")))
    height, width = images.shape[2:]
    return height, width


def fingerprint(images: Any) -> str:
    """Return a short text that tells one set of images from another."""
    if is_pair(images):
        return " ".join(fingerprint(part) for part in images)
    if not isinstance(images, Tensor):
        return type(images).__name__
    data = images.detach().cpu().contiguous()
    checksum = zlib.crc32(data.view(torch.uint8).numpy().data)
    return f"{tuple(data.shape)}:{checksum:08x}"
