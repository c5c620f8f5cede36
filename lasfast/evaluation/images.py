"""Images to calibrate and to validate on: tensors or loaders, checked, cut into batches, on the device."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, TypeGuard

import torch
from torch import Tensor

from lasfast.data.normalization import Normalization

Calibration = Tensor | Iterable[Any]
"""Images [N, C, H, W], or a loader of such batches (or of pairs that begin with one)."""
Validation = tuple[Tensor, Tensor] | Iterable[Any]
"""(images [N, C, H, W], labels [N]), or a loader of such pairs."""

logger = logging.getLogger("lasfast")


class Images:
    """What an evaluator measures on.

    Tensors are copied to the device that asks for them once, at their first use, or, where its memory is too
    little for them, batch by batch.

    Args:
        calibration: images [N, C, H, W], or a loader of such batches.
        validation: (images [N, C, H, W], labels [N] int64), or a loader of such pairs.
        channels, num_classes: of the networks.
        normalization: of all images, which are uint8; None: they are floating point.

    Raises:
        ValueError, TypeError: an argument has the wrong type, shape or range.
    """

    def __init__(
        self,
        calibration: Calibration,
        validation: Validation,
        channels: int,
        num_classes: int,
        normalization: Normalization | None,
    ) -> None:
        self.calibration, self.validation = calibration, validation
        self.channels, self.normalization = channels, normalization
        self._copies: dict[tuple[str, torch.device], Tensor] = {}
        if isinstance(calibration, Tensor):
            check_images("calibration", calibration, channels, normalization)
        check_validation(validation, channels, num_classes, normalization)

    def calibration_batches(self, batch: int, device: torch.device) -> Iterator[Tensor]:
        """Give batches on the device: a tensor's of nearly equal size, a loader's as they are."""
        if isinstance(self.calibration, Tensor):
            count = -(-len(self.calibration) // batch)
            parts: Iterable[Any] = self._on("calibration", self.calibration, device).tensor_split(count)
        else:
            parts = self.calibration
        for part in parts:
            images = part if isinstance(part, Tensor) else part[0]
            check_images("calibration", images, self.channels, self.normalization)
            yield images.to(device, non_blocking=True)

    def validation_batches(
        self, batch: int, device: torch.device, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Give batches on the device: all of a loader, or images `start` to `stop` of the random order."""
        if not is_pair(self.validation):
            for images, labels in batches(self.validation, batch, device):
                check_images("validation images", images, self.channels, self.normalization)
                yield images, labels
            return
        names = ("validation images", "validation labels")
        chosen = []
        for name, whole in zip(names, self.validation, strict=True):
            tensor = self._on(name, whole, device)
            order = self._on("order of images", random_order(len(tensor)), tensor.device)
            parts = order[start:stop].split(batch)
            chosen.append(map(partial(_rows, tensor, device), parts))
        yield from zip(*chosen, strict=True)

    def _on(self, name: str, tensor: Tensor, device: torch.device) -> Tensor:
        """Return the tensor on the device, always the same copy; itself where it does not fit."""
        if (name, device) not in self._copies:
            try:
                self._copies[name, device] = tensor.to(device)
            except torch.OutOfMemoryError:
                logger.warning("not enough memory for the %s on %s: copying each batch", name, device)
                self._copies[name, device] = tensor
        return self._copies[name, device]


def _rows(tensor: Tensor, device: torch.device, rows: Tensor) -> Tensor:
    """Return some rows, on the device."""
    return tensor[rows].to(device, non_blocking=True)


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


def check_images(
    name: str, images: object, channels: int, normalization: Normalization | None = None
) -> None:
    """Raise unless these are images [N, channels, H, W], N > 0: uint8 with a normalization, else floats."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a tensor of images or a loader of them, got {type(images).__name__}")
    if images.dim() != 4 or images.shape[1] != channels or not len(images):
        raise ValueError(
            f"{name} must be images [N, {channels}, H, W], N > 0, got shape {tuple(images.shape)}"
        )
    if normalization is not None and images.dtype != torch.uint8:
        raise TypeError(f"{name} must be uint8 images where normalize is given, got {images.dtype}")
    if normalization is None and not images.is_floating_point():
        raise TypeError(
            f"{name} must be normalized floating-point images, or uint8 ones together with "
            f"normalize=(mean, std), got {images.dtype}"
        )


def check_validation(
    validation: Any, channels: int, num_classes: int, normalization: Normalization | None = None
) -> None:
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
    check_images("validation images", images, channels, normalization)
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


def fingerprint(images: Any, normalization: Normalization | None = None) -> str:
    """Return a short text that tells one set of images from another.

    Of uint8 images it is that of what the normalization makes of them, which gives the same results.
    """
    if is_pair(images):
        return " ".join(fingerprint(part, normalization) for part in images)
    if not isinstance(images, Tensor):
        return type(images).__name__
    checksum = 0
    for part in images.detach().split(1000):
        seen = normalization(part) if normalization and part.dtype == torch.uint8 else part
        data = seen.cpu().contiguous()
        checksum = zlib.crc32(data.view(torch.uint8).numpy().data, checksum)
    return f"{tuple(images.shape)}:{checksum:08x}"
