"""Class folders on disk, and which files belong to which class; no image is opened here."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lasfast.data.errors import DataError
from lasfast.data.splits import Indices, derive_seed, hold_out

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_PART = 5  # where a folder has no test part of its own, a fifth is held out


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their labels.

    ``labels`` is int64 [files], indices into ``classes``; ``ignored`` counts the files that are not images by
    their suffix.
    """

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: Indices
    ignored: int = 0

    def select(self, positions: Indices) -> ImageFiles:
        """Return the files at ``positions``."""
        return ImageFiles(self.classes, tuple(self.paths[i] for i in positions), self.labels[positions])


@dataclass(frozen=True)
class FolderSource:
    """A pool of training files, and a function that finds the test files, which nothing looks at before."""

    pool: ImageFiles
    test: Callable[[], ImageFiles]


def scan(folder: Path) -> ImageFiles:
    """Return the images of every class folder of ``folder``, at any depth, sorted by class and path.

    Files with other suffixes and hidden folders are ignored.

    Raises:
        DataError: there are fewer than two class folders, or one without an image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"{folder}: expected at least two class folders with images in them, found {found}")
    paths: list[str] = []
    labels: list[int] = []
    ignored = 0
    for label, name in enumerate(classes):
        images, others = _images_below(folder / name)
        if not images:
            raise DataError(
                f"{folder / name}: no image in this class folder ({others} other files); expected files "
                f"ending in {', '.join(IMAGE_SUFFIXES)}. Add images, or remove the folder"
            )
        paths += images
        labels += [label] * len(images)
        ignored += others
    return ImageFiles(tuple(classes), tuple(paths), np.array(labels, dtype=np.int64), ignored)


def _images_below(folder: Path) -> tuple[list[str], int]:
    images, others = [], 0
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES):
                images.append(os.path.join(place, name))
            else:
                others += 1
    return images, others


def open_image_folder(path: Path) -> FolderSource:
    """Find the training images of ``path``, and where its test images are.

    With ``path/train``, the class folders are in it and the test images in ``path/test``, or else in
    ``path/val``. Otherwise the class folders are in ``path`` itself, and a fifth of every class, the same
    whatever the seed of the search, is held out as the test part.

    Raises:
        DataError: the folder is missing or not laid out so.
    """
    if not path.is_dir():
        raise DataError(
            f"{path}: no such folder; expected {path}/train/<class>/<image>, or {path}/<class>/<image>"
        )
    if not _has_folders(path / "train"):
        return _hold_test_out(scan(path))
    pool = scan(path / "train")
    return FolderSource(pool, lambda: _scan_test(path, pool.classes))


def _hold_test_out(files: ImageFiles) -> FolderSource:
    count = len(files.paths) // TEST_PART
    seed = derive_seed("test part of an image folder")
    kept, held = hold_out(files.labels, len(files.classes), count, seed)
    pool = ImageFiles(files.classes, files.select(kept).paths, files.labels[kept], files.ignored)
    return FolderSource(pool, lambda: files.select(held))


def _scan_test(path: Path, classes: tuple[str, ...]) -> ImageFiles:
    folders = [path / name for name in ("test", "val") if _has_folders(path / name)]
    if not folders:
        raise DataError(
            f"{path} has no test images: expected class folders in {path / 'test'} or {path / 'val'}"
        )
    files = scan(folders[0])
    return relabel(files, classes, folders[0])


def relabel(files: ImageFiles, classes: tuple[str, ...], folder: Path) -> ImageFiles:
    """Return the same files with labels that index ``classes``, the classes of the training images."""
    unknown = sorted(set(files.classes) - set(classes))
    if unknown:
        raise DataError(
            f"{folder}: class {unknown[0]!r} is not among the {len(classes)} classes of the training images"
        )
    table = np.array([classes.index(name) for name in files.classes], dtype=np.int64)
    return ImageFiles(classes, files.paths, table[files.labels], files.ignored)


def _has_folders(path: Path) -> bool:
    return path.is_dir() and any(entry.is_dir() and entry.name[0] != "." for entry in path.iterdir())
