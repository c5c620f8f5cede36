"""Makes loaders give the same batches each time, so that all architectures are measured on the same."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lasfast.data.loaders import FolderLoader

FIXED = (Tensor, list, tuple, FolderLoader)
"""These types give the same batches each time they are read."""

Check: TypeAlias = Callable[[Tensor, Tensor], None]
"""Raises an error where a batch of images and labels is malformed."""


def kept(calibration: Iterable[Any]) -> Iterable[Any]:
    """Return calibration batches that stay the same: a loader is read once, and its images are kept.

    For a loader may shuffle or augment, or be an iterator, which can be read only once.

    Args:
        calibration: images, or a list or a loader of batches, which may be pairs that begin with images.
    """
    if isinstance(calibration, FIXED):
        return calibration
    images = (part if isinstance(part, Tensor) else part[0] for part in calibration)
    return [one.clone() if isinstance(one, Tensor) else one for one in images]  # loaders may reuse memory


def repeatable(validation: Iterable[Any], check: Check) -> Iterable[Any]:
    """Return validation batches that stay the same: those of an iterator are kept, other loaders watched.

    Args:
        validation: a list or a loader of batches (images, labels).
        check: is called with the first batch.

    Raises:
        TypeError, ValueError: there is no batch, the first is malformed or no pair, or it is another when it
            is read again.
    """
    if isinstance(validation, Iterator):
        validation = [tuple(part.clone() for part in _pair(batch)) for batch in validation]
    if isinstance(validation, FolderLoader):
        return validation
    loader = validation if isinstance(validation, FIXED) else Repeatable(validation)
    batches = list(islice(loader, 1))
    if not batches:
        raise ValueError("validation must have at least one batch of images and labels, got none")
    check(*_pair(batches[0]))
    if isinstance(loader, Repeatable):
        next(iter(loader), None)
    return loader


class Repeatable:
    """Gives the batches of a loader, and raises a ValueError where they are not those of an earlier time.

    The shape, the labels and the first image of each batch are compared.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self._loader = loader
        self._marks: list[object] = []
        self._whole = False  # whether the marks are those of all batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Read the loader from the beginning."""
        count = 0
        for images, labels in map(_pair, self._loader):
            mark = tuple(images.shape), _checksum(labels), _checksum(images[:1])
            if count == len(self._marks) and not self._whole:
                self._marks.append(mark)
            if self._marks[count : count + 1] != [mark]:
                raise self._error(f"other images or labels in batch {count}")
            count += 1
            yield images, labels
        if count < len(self._marks):
            raise self._error(f"{count} batches after {len(self._marks)}")
        self._whole = True

    def _error(self, got: str) -> ValueError:
        return ValueError(
            f"validation must give the same batches each time it is read, got {got}: turn shuffling and "
            f"augmentation off, or pass list(loader), which keeps the batches in memory"
        )


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, tuple | list) and [isinstance(part, Tensor) for part in batch] == [True, True]:
        images, labels = batch
        return images, labels
    raise TypeError(f"validation must give pairs (images, labels), got {type(batch).__name__}")


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
