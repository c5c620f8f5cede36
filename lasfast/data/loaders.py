"""Images that are decoded each time they are read, for sets that are too large for memory or of many sizes.

Both classes read through torch's ``DataLoader``. Their batches do not depend on the number of workers, and
torch's global random state is neither read nor changed.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Items

from lasfast.core.checks import as_bool, as_int
from lasfast.data import augment, decode
from lasfast.data.augmentation import AS_LOADED, Augmentation
from lasfast.data.decode import Size
from lasfast.data.epochs import ShuffledImages, count_batches
from lasfast.data.errors import DataError
from lasfast.data.normalization import check_positive_stds, normalize
from lasfast.data.places import Place, stamped
from lasfast.data.protocols import Rows, Shard
from lasfast.data.splits import derive_seed, even_batches, spread
from lasfast.data.statistics import digest_of

Item = tuple["Tensor | DataError", int]


class FolderImages(ShuffledImages):
    """Training images in files. Each is randomly cropped, resized and flipped, by a seed of its own.

    The crop has the distribution of torchvision's ``RandomResizedCrop`` with default settings, the paper's
    augmentation for Tiny-ImageNet and ImageNet (NIR, Experiments on Tiny-ImageNet, Training Details).

    Args:
        paths: image files.
        labels: int64 [len(paths)].
        size: (height, width) of the crops.
        mean: per channel, of values from 0 to 1; its length (1 or 3) is the number of channels.
        std: per channel, positive.
        flip: whether half of the images are mirrored, left to right.
        workers: how many processes decode; None is one per core, at most 8, and 0 decodes in this process.
        augmentation: what else varies the images; its flip is the one above (see ``augmented``).
        fast_decode: whether large JPEG files are decoded at a part of their size, and torch resizes, which
            takes less time and rounds otherwise (see ``decode.open_box``).
        digest: that of the files (``digest_of_files``), where it is known.
    """

    def __init__(
        self,
        paths: Sequence[Place],
        labels: Tensor,
        size: Size,
        mean: Sequence[float],
        std: Sequence[float],
        flip: bool = True,
        workers: int | None = None,
        augmentation: Augmentation = AS_LOADED,
        fast_decode: bool = False,
        digest: str | None = None,
    ) -> None:
        _check_files(paths, labels, mean, std)
        if augmentation.crop not in ("data", "resized"):
            raise ValueError(
                "crop must be 'data' or 'resized' for images that are read from files each time, got "
                f"{augmentation.crop!r}"
            )
        self.augmentation = augmentation
        self.size = size
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.flip = bool(flip)
        self.fast_decode = as_bool("fast_decode", fast_decode)
        self.workers = _workers(workers)
        self.device = torch.device("cpu")
        """The device of the batches."""
        self._paths = tuple(paths)
        self._labels = labels.to(torch.int64)
        self._known_digest = digest

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._paths)

    def to(self, device: torch.device | str) -> FolderImages:
        """Return the same images, whose batches go to a device as bytes and are normalized there.

        A GPU gets them from pinned memory, while it works on the batch before.
        """
        moved = copy.copy(self)
        moved.device = torch.device(device)
        return moved

    @property
    def labels(self) -> Tensor:
        """The labels, int64 [N]."""
        return self._labels

    def subset(self, chosen: Tensor) -> FolderImages:
        """Return some of the images, by their numbers (int64), augmented in the same way."""
        paths = [self._paths[number] for number in chosen.tolist()]
        return self._with(paths, self._labels[chosen], self.flip, self.augmentation)

    def augmented(self, augmentation: Augmentation) -> FolderImages:
        """Return the same images, varied in another way; a flip of None stands for how they are now."""
        flip = self.flip if augmentation.flip is None else augmentation.flip
        return self._with(self._paths, self._labels, flip, augmentation)

    def _with(
        self, paths: Sequence[Place], labels: Tensor, flip: bool, augmentation: Augmentation
    ) -> FolderImages:
        sizes = self.size, self.mean, self.std
        images = FolderImages(paths, labels, *sizes, flip, self.workers, augmentation, self.fast_decode)
        return images.to(self.device)

    def _shards(self, chosen: list[Tensor], seed: int, start: int, rows: Rows) -> Iterator[Shard]:
        channels, vary = len(self.mean), self.augmentation
        kind = _FastTrainingFiles if self.fast_decode else _TrainingFiles
        items = kind(self._paths, self._labels, self.size, channels, self.flip, seed, vary)
        wanted = [batch[rows(len(batch))].tolist() for batch in chosen]
        read = _read(items, wanted, self.workers, pinned=self.device.type == "cuda")
        for batch, numbers, pair in zip(chosen, wanted, read, strict=True):
            images, labels = (one.to(self.device, non_blocking=True) for one in pair)
            normalized = normalize(images, self.mean, self.std)
            yield vary.erased(normalized, seed, numbers), labels, len(batch)

    @cached_property
    def _digest(self) -> str:
        """The digest of the files, whose sizes are asked for once: a million take minutes on some disks."""
        return self._known_digest or digest_of_files(self._paths, self._labels)

    def describe(self) -> dict[str, Any]:
        """Return what identifies these training images, as JSON values; the files by name, size and label."""
        more = self.augmentation.describe()
        return {
            "images": len(self),
            "size": list(self.size),
            "flip": self.flip,
            "resized_crop": True,
            "mean": list(self.mean),
            "std": list(self.std),
            "digest": self._digest,
            **({"augmentation": more} if more else {}),
            **({"fast_decode": True} if self.fast_decode else {}),
        }


class FolderLoader:
    """Batches of images in files, in fixed order, resized and center-cropped; each iteration reads them anew.

    Batches have nearly equal sizes, at most ``batch_size``, so that each has its share in calibration.
    With labels, iterate by ``for images, labels in loader``, without by ``for images in loader``. Images are
    float32 [B, C, H, W], normalized, or uint8 with ``raw``; labels are int64 [B].
    """

    def __init__(
        self,
        paths: Sequence[Place],
        labels: Tensor | None,
        size: Size,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int = 250,
        workers: int | None = None,
        *,
        raw: bool = False,
    ) -> None:
        _check_files(paths, labels, mean, std)
        count_batches(len(paths), batch_size)
        self.size = size
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.batch_size = batch_size
        self.workers = _workers(workers)
        self.raw = raw
        self.num_images = len(paths)
        self.labels = labels
        self._paths = tuple(paths)

    def __len__(self) -> int:
        """Return the number of batches."""
        return math.ceil(self.num_images / self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        """Read the files from the beginning."""
        return self.every(0, 1)

    def every(self, first: int, step: int) -> Iterator[Any]:
        """Read the files of batches `first`, `first + step`, ... alone."""
        labels = torch.zeros(self.num_images, dtype=torch.int64) if self.labels is None else self.labels
        items = _PlainFiles(self._paths, labels, self.size, len(self.mean))
        order = range(self.num_images)
        wanted = [list(order[batch]) for batch in even_batches(self.num_images, self.batch_size)[first::step]]
        if not wanted:
            return
        for images, of_images in _read(items, wanted, self.workers):
            batch = images if self.raw else normalize(images, self.mean, self.std)
            yield batch if self.labels is None else (batch, of_images)

    @cached_property
    def _digest(self) -> str:
        return digest_of_files(self._paths, self.labels)

    def describe(self) -> dict[str, Any]:
        """Return what identifies the batches, normalized or not, as JSON values."""
        return {
            "images": self.num_images,
            "size": list(self.size),
            "batch_size": self.batch_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "digest": self._digest,
        }

    def samples(self, count: int) -> Tensor:
        """Return raw images, evenly spread over all, uint8 [at most `count`, C, H, W]."""
        paths = [self._paths[number] for number in spread(self.num_images, count)]
        return decode.decode_cropped(paths, len(self.mean), self.size)

    def normalized(self) -> FolderLoader:
        """Return a loader of the same files whose images are normalized."""
        other = copy.copy(self)
        other.raw = False
        return other


def digest_of_files(paths: Sequence[Place], labels: Tensor | None) -> str:
    """Return a digest of the files' names, sizes and labels: it is the same wherever a folder is moved.

    Raises:
        DataError: a file is not there any more.
    """
    return digest_of_stamps(stamps_of_files(paths), labels)


def stamps_of_files(paths: Sequence[Place]) -> list[bytes]:
    """Return the name and size of each file; DataError where one is not there any more."""
    try:
        return [stamped(path) for path in paths]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); put the file back") from error


def digest_of_stamps(stamps: Sequence[bytes], labels: Tensor | None) -> str:
    """Return the digest of the files that have these names and sizes."""
    names = np.frombuffer(b"\n".join(stamps), dtype=np.uint8)
    return digest_of(names) if labels is None else digest_of(names, labels.cpu().numpy())


class _PlainFiles(Items[Item]):
    """Center crops of image files, uint8 [C, H, W], with their labels.

    In place of a broken file comes its error, since one that a worker raises is wrapped in another.
    """

    def __init__(self, paths: tuple[Place, ...], labels: Tensor, size: Size, channels: int) -> None:
        self.paths = paths
        self.labels = labels
        self.size = size
        self.channels = channels

    def __getitem__(self, index: int) -> Item:
        label = int(self.labels[index])
        try:
            return self.read(index), label
        except DataError as error:
            return error, label

    def read(self, index: int) -> Tensor:
        return decode.to_tensor(
            decode.center_crop(decode.open_image(self.paths[index], self.channels), self.size)
        )


class _TrainingFiles(_PlainFiles):
    """Random resized crops of image files; image i of an epoch has its own generator, seeded by (seed, i)."""

    def __init__(
        self,
        paths: tuple[Place, ...],
        labels: Tensor,
        size: Size,
        channels: int,
        flip: bool,
        seed: int,
        augmentation: Augmentation,
    ) -> None:
        super().__init__(paths, labels, size, channels)
        self.flip = flip
        self.seed = seed
        self.augmentation = augmentation

    def read(self, index: int) -> Tensor:
        cut = self.cut(self.paths[index], random.Random(derive_seed("item", self.seed, index)))
        return self.augmentation.recolored(cut.unsqueeze(0), self.seed, [index])[0]

    def cut(self, path: Place, rng: random.Random) -> Tensor:
        image = decode.open_image(path, self.channels)
        top, left, height, width = random_box(image.height, image.width, rng)
        part = image.crop((left, top, left + width, top + height))
        part = part.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR)
        if self.flip and rng.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return decode.to_tensor(part)


class _FastTrainingFiles(_TrainingFiles):
    """The same crops, for which a JPEG file is decoded no larger than they need."""

    def cut(self, path: Place, rng: random.Random) -> Tensor:
        part = decode.open_box(path, self.channels, partial(random_box, rng=rng), self.size)
        return part.flip(2) if self.flip and rng.random() < 0.5 else part


def random_box(height: int, width: int, rng: random.Random) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a random resized crop of one image; see ``augment.draw_boxes``."""
    for _ in range(augment.ATTEMPTS):
        area = height * width * rng.uniform(*augment.SCALE)
        ratio = math.exp(rng.uniform(math.log(augment.RATIO[0]), math.log(augment.RATIO[1])))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = rng.randrange(height - box_height + 1), rng.randrange(width - box_width + 1)
            return top, left, box_height, box_width
    return augment.central_box(height, width)


def _read(
    items: _PlainFiles, batches: list[list[int]], workers: int, pinned: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read batches of items as uint8, so that workers send a quarter of the bytes that floats have."""
    loader: DataLoader[Item] = DataLoader(
        items,
        batch_sampler=batches,
        num_workers=min(workers, len(batches)),
        collate_fn=_collate,
        pin_memory=pinned,
        generator=torch.Generator(),  # without it, the loader draws a seed from the global generator
    )
    for images, labels in loader:
        if isinstance(images, DataError):
            raise DataError(
                f"{images}; put the file back as it was when the images were loaded, and go on from there"
            )
        yield images, labels


def _collate(items: list[Item]) -> tuple[Tensor | DataError, Tensor]:
    labels = torch.tensor([label for _, label in items], dtype=torch.int64)
    images = []
    for image, _ in items:
        if isinstance(image, DataError):
            return image, labels
        images.append(image)
    return torch.stack(images), labels


def _workers(workers: int | None) -> int:
    if workers is None:
        return min(8, decode.available_cores())
    return as_int("workers", workers, minimum=0)


def _check_files(
    paths: Sequence[Place], labels: Tensor | None, mean: Sequence[float], std: Sequence[float]
) -> None:
    if len(paths) == 0:
        raise ValueError("paths must name at least one image file, got none")
    if labels is not None and labels.shape != (len(paths),):
        raise ValueError(f"labels must be [{len(paths)}], one per file, got shape {tuple(labels.shape)}")
    if len(mean) not in (1, 3) or len(std) != len(mean):
        raise ValueError(f"mean and std must have 1 or 3 values each, got {mean!r} and {std!r}")
    check_positive_stds(std)
