"""``load``, which makes a ``Dataset`` of the name of a set."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lasfast.core.checks import as_bool, as_int
from lasfast.data import decode
from lasfast.data.check import check_files, without_broken
from lasfast.data.dataset import Dataset
from lasfast.data.decode import Size
from lasfast.data.errors import DataError
from lasfast.data.folder import FolderSource, ImageFiles, open_image_folder
from lasfast.data.images import TensorImages
from lasfast.data.labels import open_csv
from lasfast.data.loaders import FolderImages, FolderLoader, digest_of_stamps, stamps_of_files
from lasfast.data.normalization import normalize
from lasfast.data.sources import (
    RECIPES,
    ArraySource,
    Recipe,
    open_cinic10,
    open_digits,
    open_tiny_imagenet,
    open_torchvision,
)
from lasfast.data.splits import Indices, Split, balanced_subset, split_pool
from lasfast.data.statistics import channel_statistics, digest_of
from lasfast.data.webdataset import open_archives

logger = logging.getLogger("lasfast")

IN_MEMORY_SIZE = 96  # images of one size up to this many pixels a side are decoded once, to memory
STATISTICS_IMAGES = 10_000
STATISTICS_LARGE_IMAGES = 1_000  # a large image has as many pixels as dozens of small ones
MAX_VALIDATION = 10_000
ROOT_VARIABLE = "LASFAST_DATA"


class Options(NamedTuple):
    """The checked arguments of ``load`` that say how a set is split and read."""

    calibration: int
    validation: int | float | None
    limit: int | None
    seed: int
    image_size: Size | None
    batch_size: int
    pad: int | None
    flip: bool | None
    workers: int | None
    fast_decode: bool
    skip_broken: bool
    report: Callable[[str], None]


class Files(NamedTuple):
    """The checked arguments of ``load`` that say which files a set is made of."""

    root: str | os.PathLike[str] | None
    download: bool
    list_anew: bool
    validation_archives: str | None
    test_archives: str | None


PLACEHOLDERS = {"imagefolder": "imagefolder:PATH", "csv": "csv:FILE", "webdataset": "webdataset:PATTERN"}
"""Names of sets whose images the name itself says where to find."""
LISTED = ("imagefolder", "webdataset", "cinic10", "tiny-imagenet")
"""Sets whose files are listed."""


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    calibration: int = 1000,
    validation: int | float | None = None,
    limit: int | None = None,
    seed: int = 0,
    image_size: int | tuple[int, int] | None = None,
    batch_size: int = 250,
    pad: int | None = None,
    flip: bool | None = None,
    workers: int | None = None,
    fast_decode: bool = False,
    skip_broken: bool = False,
    list_anew: bool = False,
    validation_archives: str | None = None,
    test_archives: str | None = None,
    report: Callable[[str], None] = logger.info,
) -> Dataset:
    """Load a labelled image set and split it into train, calibration and validation.

    Images of one size, up to 96 pixels a side, are held in memory as bytes and augmented by batches:
    zero-padded and cropped, and flipped where a mirrored image means the same (``sources.RECIPES``). Larger
    images, and all where ``image_size`` asks for another size, are read from their files each time: randomly
    cropped, resized and flipped for training, otherwise resized and center-cropped.

    Every file that is used is decoded once, so that broken ones are found now; what was found is remembered
    (see ``lasfast.data.check``). Images are turned as their EXIF orientation says, transparency is dropped,
    and of an animation the first image is taken. Hidden files and folders, such as macOS's ``._name.jpg``,
    and links to a folder that they lie in are passed over.

    Args:
        name: ``digits``, ``cifar10``, ``cifar100``, ``cinic10``, ``svhn``, ``fashion-mnist``,
            ``tiny-imagenet``, or ``imagefolder:PATH`` with ``PATH/train/<class>/<image>``, and optionally
            ``PATH/test`` as the test split and ``PATH/val`` as validation images (as the test split where
            there is no ``PATH/test``); or with ``PATH/<class>/<image>``, of which a fifth becomes the test
            split. Files that are not images by their suffix are ignored (and counted in ``describe``). Or
            ``webdataset:PATTERN``, tar archives as ``webdataset:train-{000..146}.tar`` (see
            ``lasfast.data.webdataset``). Or ``csv:FILE``, whose lines have a file and its label (see
            ``labels.open_csv``).
        root: the folder of the named sets; the default is the environment's ``LASFAST_DATA``, or else
            ``data``.
        download: whether to download a set that is not there, which otherwise is an error.
        calibration: on how many training images, class-balanced, BatchNorm statistics are recomputed (1,000
            in the paper); fewer where there are fewer.
        validation: how many training images (an int) or which part of them (a float) to hold out, in
            proportion to the classes, whatever the ``limit``; the default is a tenth, of digits a quarter,
            at most 10,000. Where a folder has validation images of its own, how many or which part of these
            to take; the default is all, at most 10,000.
        limit: on how many images to train at most, class-balanced.
        seed: the seed of the split. The test split does not depend on it.
        image_size: pixels, (height, width) or one number for both.
        batch_size: images in a batch of the calibration and validation loaders, where the set is not held in
            memory.
        pad: zeros added on each side before the random crop, instead of as many as the set's recipe has; 0
            leaves the crop out.
        flip: whether training images are flipped, instead of what the set's recipe says.
        workers: how many processes decode images that are read from files each time; the default is one per
            core, at most 8.
        fast_decode: whether JPEG files that are read each time for training are decoded at a part of their
            size where the crop allows it, and resized by torch: faster, but other roundings.
        skip_broken: whether image files that cannot be decoded are left out, and reported, rather than an
            error. Then all files are decoded once, whatever the ``limit``.
        list_anew: whether folders are listed, and archives read through, that were before and seem not to
            have changed since (see ``lasfast.data.listing``).
        validation_archives: the pattern of archives that have validation images, of a ``webdataset``; by
            default these are held out of the training images.
        test_archives: the pattern of archives that have its test split.
        report: is called with a line that says where the parts of a folder come from, and with one about the
            progress, every ten seconds that the check of files takes.

    Raises:
        DataError: (a ValueError) data are missing, broken or of the wrong shape; it names the file and what
            to do.
        TypeError, ValueError: an argument is wrong, which is named.
    """
    options = _checked(
        Options(
            calibration,
            validation,
            limit,
            seed,
            _check_size(image_size),
            batch_size,
            pad,
            flip,
            workers,
            fast_decode,
            skip_broken,
            report,
        )
    )
    files = _check_files(root, download, list_anew, validation_archives, test_archives)
    kind, source = _open(name, files)
    recipe = RECIPES[kind]
    if isinstance(source, ArraySource):
        if options.skip_broken:
            raise ValueError(f"skip_broken must be False for {name}, which has no image files, got True")
        split = _split(source.labels, len(source.classes), recipe, options, None)
        return _from_arrays(name, source, split, recipe, options)
    report(source.parts)
    if options.skip_broken:
        source = _without_broken(source, report)
    split = _split(source.pool.labels, len(source.pool.classes), recipe, options, source.training)
    return _from_files(name, source, split, recipe, options)


def _open(name: str, files: Files) -> tuple[str, ArraySource | FolderSource]:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}")
    root = files.root if files.root is not None else os.environ.get(ROOT_VARIABLE, "data")
    place = Path(root).expanduser()
    kind, _, path = name.partition(":")
    if not path:
        kind = name
    if kind not in RECIPES or (kind in PLACEHOLDERS) != bool(path):
        known = ", ".join(PLACEHOLDERS.get(one, one) for one in RECIPES)
        raise ValueError(f"name must be one of {known}; got {name!r}{_meant(name)}")
    if files.list_anew and kind not in LISTED:
        raise ValueError(f"list_anew must be False for {name}, whose files are not listed, got True")
    if kind != "webdataset":
        for option in ("validation_archives", "test_archives"):
            if (given := getattr(files, option)) is not None:
                raise ValueError(
                    f"{option} must be None for {name}, and is for webdataset:PATTERN alone, got {given!r}"
                )
    if kind == "imagefolder":
        return kind, open_image_folder(Path(path).expanduser(), files.list_anew)
    if kind == "csv":
        return kind, open_csv(Path(path).expanduser())
    if kind == "webdataset":
        return kind, open_archives(path, files.validation_archives, files.test_archives, files.list_anew)
    if kind == "digits":
        return kind, open_digits()
    if kind == "tiny-imagenet":
        return kind, open_tiny_imagenet(place, files.download, files.list_anew)
    if kind == "cinic10":
        return kind, open_cinic10(place, files.download, files.list_anew)
    return kind, open_torchvision(kind, place, files.download)


def _without_broken(source: FolderSource, report: Callable[[str], None]) -> FolderSource:
    """Return a source without the files that cannot be decoded; test files are tried when they are read."""
    pool = without_broken(source.pool, report)
    training = source.training
    if training is not None:
        training = len({*source.pool.paths[:training]} & {*pool.paths})
    return dataclasses.replace(
        source, pool=pool, training=training, test=lambda: without_broken(source.test(), report)
    )


def _meant(name: str) -> str:
    """Return what may be meant by a name that is a path, as the end of an error."""
    if Path(name).expanduser().is_dir():
        return f"; for the images in this folder, write imagefolder:{name}"
    if Path(name).expanduser().is_file():
        return f"; for a csv file that names images and their labels, write csv:{name}"
    return ""


def _split(
    labels: Indices, num_classes: int, recipe: Recipe, options: Options, training: int | None
) -> Split:
    """Split the pool; only its first ``training`` images are to train on, unless that is None."""
    wanted, apart = options.validation, 0 if training is None else len(labels) - training
    if wanted is None:
        wanted = min(MAX_VALIDATION, apart or max(1, round(recipe.validation * len(labels))))
    elif isinstance(wanted, float):
        wanted = max(1, round(wanted * (apart or len(labels))))
    if apart and wanted > apart:
        raise DataError(f"validation must be at most {apart}, the validation images there are, got {wanted}")
    if options.limit is not None and options.limit < num_classes:
        raise ValueError(f"limit must be at least {num_classes}, one image per class, got {options.limit}")
    try:
        return split_pool(
            labels,
            num_classes,
            validation=wanted,
            limit=options.limit,
            calibration=options.calibration,
            seed=options.seed,
            training=training,
        )
    except DataError as error:
        raise DataError(f"validation={wanted}: {error}") from error


def _from_arrays(name: str, source: ArraySource, split: Split, recipe: Recipe, options: Options) -> Dataset:
    size = (int(source.images.shape[2]), int(source.images.shape[3]))
    if options.image_size not in (None, size):
        raise ValueError(
            f"image_size must be None or {size}, the size of {name} (only image files are resized), "
            f"got {options.image_size}"
        )

    def read(positions: Indices) -> Tensor:
        return source.images[torch.from_numpy(positions)]

    return _in_memory(name, source.classes, source.labels, split, read, source.test, recipe, options, 0)


def _from_files(name: str, source: FolderSource, split: Split, recipe: Recipe, options: Options) -> Dataset:
    pool = source.pool
    used = pool.select(np.union1d(split.train, split.validation))
    kinds = check_files(used.paths, options.report)
    channels = 1 if all(kind.gray for kind in kinds) else 3
    same = len({kind.size for kind in kinds}) == 1
    size = options.image_size
    if size is None or (same and kinds[0].size == size):
        size = decode.common_size(used.paths, kinds)
        if max(size) <= IN_MEMORY_SIZE:

            def read(positions: Indices) -> Tensor:
                return decode.decode_exact(pool.select(positions).paths, channels, size)

            def read_test() -> tuple[Tensor, Indices]:
                files = source.test()
                return decode.decode_exact(files.paths, channels, size), files.labels

            return _in_memory(
                name, pool.classes, pool.labels, split, read, read_test, recipe, options, pool.ignored
            )
    return _while_used(name, source, split, size, channels, recipe, options)


def _in_memory(
    name: str,
    classes: tuple[str, ...],
    labels: Indices,
    split: Split,
    read: Callable[[Indices], Tensor],
    read_test: Callable[[], tuple[Tensor, Indices]],
    recipe: Recipe,
    options: Options,
    ignored: int,
) -> Dataset:
    if options.fast_decode:
        raise ValueError(
            f"fast_decode must be False for {name}, whose images are decoded once, to memory, got True"
        )
    images = read(split.train)
    validation = read(split.validation)
    train_labels, validation_labels = (
        torch.from_numpy(labels[split.train]),
        torch.from_numpy(labels[split.validation]),
    )
    sample = balanced_subset(labels[split.train], len(classes), STATISTICS_IMAGES, seed=0)
    mean, std = channel_statistics(images[torch.from_numpy(sample)])
    size = (int(images.shape[2]), int(images.shape[3]))
    pad = recipe.pad if recipe.pad is not None else max(size) // 8
    train = TensorImages(
        images,
        train_labels,
        mean,
        std,
        pad=pad if options.pad is None else options.pad,
        flip=recipe.flip if options.flip is None else options.flip,
        resized_crop=recipe.resized_crop and options.pad is None,
    )
    calibration = images[torch.from_numpy(np.searchsorted(split.train, split.calibration))]

    def test() -> tuple[Tensor, Tensor]:
        test_images, test_labels = read_test()
        return normalize(test_images, mean, std), torch.from_numpy(test_labels)

    digest = digest_of(images.numpy(), train_labels.numpy(), validation.numpy(), validation_labels.numpy())
    return Dataset(
        name=name,
        classes=classes,
        channels=int(images.shape[1]),
        image_size=size,
        train=train,
        raw_calibration=calibration,
        raw_validation=(validation, validation_labels),
        mean=mean,
        std=std,
        description=_describe(name, classes, split, options.seed, train.describe(), digest, ignored),
        read_test=test,
    )


def _while_used(
    name: str, source: FolderSource, split: Split, size: Size, channels: int, recipe: Recipe, options: Options
) -> Dataset:
    if options.pad is not None:
        raise ValueError(
            "pad must be None where images are read while they are used (random resized crops), "
            f"got {options.pad}"
        )
    pool = source.pool
    train, calibration, validation = (
        pool.select(positions) for positions in (split.train, split.calibration, split.validation)
    )
    sample = train.select(balanced_subset(train.labels, len(pool.classes), STATISTICS_LARGE_IMAGES, seed=0))
    mean, std = channel_statistics(decode.decode_cropped(sample.paths, channels, size))

    def loader(files: ImageFiles, labelled: bool = True) -> FolderLoader:
        labels = torch.from_numpy(files.labels) if labelled else None
        workers = options.workers
        return FolderLoader(files.paths, labels, size, mean, std, options.batch_size, workers, raw=True)

    def read_test() -> FolderLoader:
        files = source.test()
        check_files(files.paths, options.report)
        return loader(files).normalized()

    flip = recipe.flip if options.flip is None else options.flip
    labels = torch.from_numpy(np.concatenate([train.labels, validation.labels]))
    stamps = stamps_of_files((*train.paths, *validation.paths))  # once, since it may take minutes
    of_train = len(train.paths)
    images = FolderImages(
        train.paths,
        labels[:of_train],
        size,
        mean,
        std,
        flip,
        options.workers,
        fast_decode=options.fast_decode,
        digest=digest_of_stamps(stamps[:of_train], labels[:of_train]),
    )
    digest = digest_of_stamps(stamps, labels)
    description = _describe(name, pool.classes, split, options.seed, images.describe(), digest, pool.ignored)
    return Dataset(
        name=name,
        classes=pool.classes,
        channels=channels,
        image_size=size,
        train=images,
        raw_calibration=loader(calibration, labelled=False),
        raw_validation=loader(validation),
        mean=mean,
        std=std,
        description={**description, "batch_size": options.batch_size},
        read_test=read_test,
    )


def _describe(
    name: str,
    classes: Sequence[str],
    split: Split,
    seed: int,
    training: dict[str, Any],
    digest: str,
    ignored: int,
) -> dict[str, Any]:
    # Of a folder only its last part: the same images are the same set wherever they are moved.
    kind, _, path = name.partition(":")
    return {
        "name": f"{kind}:{Path(path).name}" if path else name,
        "classes": len(classes),
        "train": len(split.train),
        "calibration": len(split.calibration),
        "validation": len(split.validation),
        "seed": seed,
        "training_images": training,
        "ignored_files": ignored,
        "digest": digest,
    }


def _check_files(
    root: str | os.PathLike[str] | None,
    download: bool,
    list_anew: bool,
    validation_archives: str | None,
    test_archives: str | None,
) -> Files:
    for name, pattern in (("validation_archives", validation_archives), ("test_archives", test_archives)):
        if pattern is not None and not (isinstance(pattern, str) and pattern):
            raise TypeError(f"{name} must be a pattern of archives or None, got {pattern!r}")
    return Files(root, download, as_bool("list_anew", list_anew), validation_archives, test_archives)


def _checked(options: Options) -> Options:
    """Return the options with plain booleans; ValueError or TypeError where one is out of range."""
    validation = options.validation
    as_int("calibration", options.calibration, minimum=1)
    as_int("batch_size", options.batch_size, minimum=1)
    as_int("seed", options.seed)
    for name, least in (("limit", 1), ("pad", 0), ("workers", 0)):
        if (value := getattr(options, name)) is not None:
            as_int(name, value, minimum=least)
    if isinstance(validation, float):
        if not 0 < validation < 1:
            raise ValueError(f"validation must be a count, or a part between 0 and 1, got {validation}")
    elif validation is not None:
        as_int("validation", validation, minimum=1)
    if options.flip is not None and not isinstance(options.flip, bool):
        raise TypeError(f"flip must be True, False or None, got {options.flip!r}")
    return options._replace(
        fast_decode=as_bool("fast_decode", options.fast_decode),
        skip_broken=as_bool("skip_broken", options.skip_broken),
    )


def _check_size(image_size: int | tuple[int, int] | None) -> Size | None:
    if image_size is None:
        return None
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    if not isinstance(image_size, tuple) or len(image_size) != 2:
        raise TypeError(f"image_size must be an int or a (height, width) tuple, got {image_size!r}")
    for value in image_size:
        as_int("image_size", value, minimum=1)
    return image_size
