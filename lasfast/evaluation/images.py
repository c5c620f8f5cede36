"""The images to calibrate and to validate on: tensors or loaders, checked and cut into batches."""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from typing import Any, TypeGuard

import torch
from torch import Tensor

from lasfast.data.loaders import FolderLoader
from lasfast.data.normalization import Normalization
from lasfast.data.splits import even_batches
from lasfast.data.training import describe_images
from lasfast.engine import CONVENTIONS
from lasfast.evaluation.loaders import kept, repeatable
from lasfast.ir.layers import Shape

Calibration = Tensor | Iterable[Any]
"""Images [N, C, H, W], or a loader of such batches (or of pairs that begin with one)."""
Validation = tuple[Tensor, Tensor] | Iterable[Any]
"""(images [N, C, H, W], labels [N]), or a loader of such pairs."""

logger = logging.getLogger("lasfast")


class Images:
    """The images that an evaluator measures on.

    Tensors are copied to the device that asks for them once, at their first use, or, where its memory is too
    little for them, batch by batch.

    Args:
        calibration: images [N, C, H, W], or a loader of such batches, which is read once and kept.
        validation: (images [N, C, H, W], labels [N] int64), or a loader of such pairs. Those of an iterator
            are kept; another loader is read each time, and must give the same batches.
        channels, num_classes: of the networks.
        normalization: what is to be made of the images, which are uint8; None where they are floating point.

    Attributes:
        shape: (channels, height, width) of a calibration image.
        order: the order in which validation images are predicted, int64 [N]; None for that of a loader.

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
        self.channels, self.normalization = channels, normalization
        self._copies: dict[tuple[str, torch.device], Tensor] = {}
        self.calibration = kept(calibration)
        shapes = [images.shape for images in self._looked_at()]
        if not shapes:
            raise ValueError("calibration must have at least one batch of images, got none")
        self._most = max(shape[0] for shape in shapes)
        self.shape: Shape = tuple(shapes[0][1:])
        self.validation = checked_validation(validation, channels, num_classes, normalization)
        self.order = random_order(len(validation[1])).numpy() if is_pair(validation) else None

    def _looked_at(self) -> Iterator[Tensor]:
        """Give the calibration batches that are looked at first: all that are in memory, else one."""
        if isinstance(self.calibration, Tensor):
            return self._parts([self.calibration])
        return islice(
            self._parts(self.calibration), 1 if isinstance(self.calibration, FolderLoader) else None
        )

    def most_calibrated(self, batch: int) -> int:
        """Return how many images the largest calibration batch has."""
        return min(batch, self._most) if isinstance(self.calibration, Tensor) else self._most

    def calibration_batches(self, batch: int, device: torch.device) -> Iterator[Tensor]:
        """Give batches on the device: a tensor's of nearly equal size, a loader's as they are."""
        parts = self.calibration
        if isinstance(parts, Tensor):
            whole = self._on("calibration", parts, device)
            parts = [whole[rows] for rows in even_batches(len(whole), batch)]
        for images in self._parts(parts):
            yield images.to(device, non_blocking=True)

    def _parts(self, parts: Iterable[Any]) -> Iterator[Tensor]:
        """Give the images of each calibration batch, which may be a pair that begins with them."""
        for part in parts:
            images = part if isinstance(part, Tensor) else part[0]
            check_images("calibration", images, self.channels, self.normalization)
            yield images

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
        """Return the one copy of a tensor on the device, or the tensor itself where it does not fit."""
        if (name, device) not in self._copies:
            try:
                self._copies[name, device] = tensor.to(device)
            except torch.OutOfMemoryError:
                logger.warning("not enough memory for the %s on %s: copying each batch", name, device)
                self._copies[name, device] = tensor
        return self._copies[name, device]


def watch_sizes(batches: Iterable[Tensor], statistics: str) -> Iterator[Tensor]:
    """Give the batches of a calibration; at their end, warn where one is below half as large as another.

    Every batch has the same weight, unless the convention ``statistics`` says otherwise: a last batch of one
    image, after one of 250, makes half of a mean.
    """
    sizes = set()
    for images in batches:
        sizes.add(len(images))
        yield images
    if sizes and 2 * min(sizes) < max(sizes) and not CONVENTIONS[statistics].weighs_by_images:
        warnings.warn(
            f"calibration batches must have nearly equal sizes, got {min(sizes)} to {max(sizes)} images: "
            f"with statistics={statistics!r} a batch has the same weight whatever its size. Leave a small "
            "last batch out (drop_last=True), choose a batch size that divides the images, or use "
            "statistics='batch_mean', which weighs batches by their images",
            stacklevel=2,
        )


def _rows(tensor: Tensor, device: torch.device, rows: Tensor) -> Tensor:
    """Return some rows, on the device."""
    return tensor[rows].to(device, non_blocking=True)


def batches(
    validation: Validation, batch: int, device: torch.device, first: int = 0, step: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Give batches of (images, labels) on the device, of a pair of tensors or a loader.

    Only those of number `first`, `first + step`, ... are given; of others, a folder's images are not read.
    """
    pairs: Iterable[Any] = validation
    if is_pair(validation):
        images, labels = validation
        pairs = zip(images.split(batch)[first::step], labels.split(batch)[first::step], strict=True)
    elif isinstance(validation, FolderLoader):
        pairs = validation.every(first, step)
    else:
        pairs = islice(validation, first, None, step)
    for images, labels in pairs:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


@lru_cache(maxsize=8)
def random_order(images: int) -> Tensor:
    """Return the order in which validation images are predicted: int64 [images], never changed in place."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(0))


def is_pair(validation: Any) -> TypeGuard[tuple[Tensor, Tensor]]:
    """Return whether this is (images, labels) rather than a loader."""
    return isinstance(validation, tuple | list) and any(isinstance(part, Tensor) for part in validation)


def check_images(
    name: str, images: object, channels: int, normalization: Normalization | None = None
) -> None:
    """Raise unless these are images [N, channels, H, W], N > 0, which are uint8 where they are normalized."""
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


def checked_validation(
    validation: Any, channels: int, num_classes: int, normalization: Normalization | None = None
) -> Any:
    """Return (images, labels) of the networks as they are, and a loader as one that gives them repeatedly.

    Raises:
        TypeError, ValueError: it is neither, or the images or labels are none of the networks'. Of a loader,
            the first batch is looked at.
    """
    if not isinstance(validation, Iterable):
        raise TypeError(
            f"validation must be (images, labels) or a loader of such pairs, got {type(validation).__name__}"
        )
    if is_pair(validation):
        _check_pair(validation, channels, num_classes, normalization)
        return validation
    return repeatable(validation, lambda *batch: _check_pair(batch, channels, num_classes, normalization))


def _check_pair(
    validation: Sequence[Any], channels: int, num_classes: int, normalization: Normalization | None
) -> None:
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


def fingerprint(images: Any, normalization: Normalization | None = None) -> Any:
    """Return what tells one set of images from another, as JSON values: a short text for tensors.

    uint8 images have that of what the normalization makes of them, since both give the same results. Loaders
    describe themselves, as those of lasfast.data do; of others the type alone is known.
    """
    if is_pair(images):
        return " ".join(fingerprint(part, normalization) for part in images)
    if not isinstance(images, Tensor):
        return describe_images(images) or type(images).__name__
    checksum = 0
    for part in images.detach().split(1000):
        seen = normalization(part) if normalization and part.dtype == torch.uint8 else part
        data = seen.cpu().contiguous()
        checksum = zlib.crc32(data.view(torch.uint8).numpy().data, checksum)
    return f"{tuple(images.shape)}:{checksum:08x}"
