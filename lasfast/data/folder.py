"""Class folders on disk, and which files belong to which class; no image is opened here."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lasfast.data.errors import DataError
from lasfast.data.listing import Folders, identity
from lasfast.data.places import Place
from lasfast.data.splits import Indices, derive_seed, hold_out

IMAGE_SUFFIXES = (
    ".bmp",
    ".gif",
    ".jfif",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
TEST = "test"
VALIDATION = ("val", "valid", "validation")  # names of a folder's part to validate on
TEST_PART = 5  # where a folder has no test part of its own, a fifth is held out


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their labels.

    ``labels`` is int64 [files], indices into ``classes``; ``ignored`` counts the files that are not images by
    their suffix.
    """

    classes: tuple[str, ...]
    paths: tuple[Place, ...]
    labels: Indices
    ignored: int = 0

    def select(self, positions: Indices) -> ImageFiles:
        """Return the files at ``positions``."""
        return ImageFiles(self.classes, tuple(self.paths[i] for i in positions), self.labels[positions])

    def without(self, positions: Indices) -> ImageFiles:
        """Return the other files; those at ``positions`` count as ignored.

        Raises:
            DataError: a class has no other file.
        """
        kept = np.setdiff1d(np.arange(len(self.paths)), positions)
        lost = sorted({*self.labels.tolist()} - {*self.labels[kept].tolist()})
        if lost:
            raise DataError(f"class {self.classes[lost[0]]!r} has no image file that can be used")
        left = self.select(kept)
        return ImageFiles(left.classes, left.paths, left.labels, self.ignored + len(positions))


@dataclass(frozen=True)
class FolderSource:
    """The files of a folder, before they are split.

    Attributes:
        pool: the training files and, behind them, the validation files that a folder has of its own.
        test: a function that finds the test files, which nothing looks at before.
        training: how many files of the pool are training files; None where validation is held out of them.
        parts: a text that says where each part comes from.
    """

    pool: ImageFiles
    test: Callable[[], ImageFiles]
    parts: str
    training: int | None = None


def scan(folder: Path, folders: Folders | None = None) -> ImageFiles:
    """Return the images of every class folder of ``folder``, at any depth, sorted by class and path.

    ``folders`` lists them, and may know some from earlier.

    Files with other suffixes are ignored. Hidden files and folders, such as the ``._name.jpg`` that macOS
    leaves beside an image, and links to a folder that they lie in, are passed over.

    Raises:
        DataError: there are fewer than two class folders, one without an image, two whose names look the
            same, or a folder that cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    folders = folders or Folders()
    above = frozenset(map(identity, (folder, *folder.resolve().parents)))
    names, others = folders.entries(str(folder))
    classes = [name for name in names if identity(folder / name) not in above]
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"{folder}: expected at least two class folders with images in them, found {found}")
    _check_names_differ(folder, classes)
    paths: list[str] = []
    labels: list[int] = []
    ignored = len(others)
    for label, name in enumerate(classes):
        files = list(folders.files_below(os.path.join(folder, name), above))
        images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
        ignored += len(files) - len(images)
        if not images:
            raise DataError(
                f"{folder / name}: no image in this class folder ({len(files)} other files); expected files "
                f"ending in {', '.join(IMAGE_SUFFIXES)}. Add images, or remove the folder"
            )
        paths += images
        labels += [label] * len(images)
    return ImageFiles(tuple(classes), tuple(paths), np.array(labels, dtype=np.int64), ignored)


def labelled_files(folder: Path, classes: Sequence[str]) -> list[tuple[str, int | None]]:
    """Return the images below a folder, at any depth, each with the class that its folder names.

    That is the topmost folder below ``folder``; the label is None where there is none, or it is no class.
    Hidden files, other suffixes and links are passed over as by ``scan``.

    Raises:
        DataError: a folder cannot be read.
    """
    labels = {_composed(name): label for label, name in enumerate(classes)}
    above = frozenset(map(identity, folder.resolve().parents))
    files = Folders().files_below(str(folder), above)
    images = [file for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    tops = [os.path.relpath(file, folder).split(os.sep)[0] for file in images]
    return [(file, labels.get(_composed(top))) for file, top in zip(images, tops, strict=True)]


def _check_names_differ(folder: Path, classes: Iterable[str]) -> None:
    """Raise DataError where two class folders have one name in two forms of Unicode."""
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(_composed(name), name)
        if other != name:
            raise DataError(
                f"{folder}: the class folders {other!a} and {name!a} have the same name, in two forms of "
                "Unicode; merge them, or rename one"
            )


def _composed(name: str) -> str:
    """Return the form of Unicode in which names are compared; macOS writes an accent as two characters."""
    return unicodedata.normalize("NFC", name)


def open_image_folder(path: Path, list_anew: bool = False) -> FolderSource:
    """Find the training images of ``path``, and where its test images are.

    Lists of many files are kept, and taken where the folders did not change, unless ``list_anew`` is True
    (see ``listing``).

    With ``path/train``, the class folders are in it. The test images are in ``path/test``, and the validation
    images in ``path/val`` or ``path/valid``, or else held out of the training images. Where there is no
    ``path/test``, the test images are those in ``path/val``. Without ``path/train``, the class folders are in
    ``path`` itself, and a fifth of every class, the same whatever the seed of the search, is held out as the
    test part.

    Raises:
        DataError: the folder is missing or not laid out so.
    """
    if not path.is_dir():
        raise DataError(
            f"{path}: no such folder; expected {path}/train/<class>/<image>, or {path}/<class>/<image>"
        )
    folders = Folders(path, anew=list_anew)
    if not _has_folders(path / "train"):
        files = scan(path, folders)
        return hold_test_out(files, folders.keep())
    train = scan(path / "train", folders)

    def test() -> ImageFiles:
        later = Folders(path, anew=list_anew)  # the first may have a million names, which need not be held
        files = _scan_test(path, train.classes, later)
        later.keep()
        return files

    of_test, *others = [name for name in (TEST, *VALIDATION) if _has_folders(path / name)] or [""]
    where = f"test images from {of_test}" if of_test else "no test images"
    if of_test != TEST or not others:
        parts = f"{path}: training images from train, validation images held out of them, {where}"
        return FolderSource(train, test, parts + folders.keep())
    own = relabel(scan(path / others[0], folders), train.classes, path / others[0])
    pool = ImageFiles(
        train.classes,
        train.paths + own.paths,
        np.concatenate([train.labels, own.labels]),
        train.ignored + own.ignored,
    )
    parts = f"{path}: training images from train, validation images from {others[0]}, {where}"
    return FolderSource(pool, test, parts + folders.keep(), len(train.paths))


def hold_test_out(files: ImageFiles, listed: str = "") -> FolderSource:
    """Return the source of images that have no parts: a fifth of every class becomes the test part."""
    count = len(files.paths) // TEST_PART
    seed = derive_seed("test part of an image folder")
    kept, held = hold_out(files.labels, len(files.classes), count, seed)
    pool = ImageFiles(files.classes, files.select(kept).paths, files.labels[kept], files.ignored)
    parts = f"validation and test images held out of the training images{listed}"
    return FolderSource(pool, lambda: files.select(held), parts)


def _scan_test(path: Path, classes: tuple[str, ...], folders: Folders) -> ImageFiles:
    parts = [path / name for name in (TEST, *VALIDATION) if _has_folders(path / name)]
    if not parts:
        raise DataError(
            f"{path} has no test images: expected class folders in {path / 'test'} or {path / 'val'}"
        )
    return relabel(scan(parts[0], folders), classes, parts[0])


def relabel(files: ImageFiles, classes: tuple[str, ...], folder: Path) -> ImageFiles:
    """Return the same files with labels that index ``classes``, the classes of the training images."""
    label_of = {_composed(name): label for label, name in enumerate(classes)}
    unknown = sorted(name for name in files.classes if _composed(name) not in label_of)
    if unknown:
        raise DataError(
            f"{folder}: class {unknown[0]!r} is not among the {len(classes)} classes of the training images"
        )
    table = np.array([label_of[_composed(name)] for name in files.classes], dtype=np.int64)
    return ImageFiles(classes, files.paths, table[files.labels], files.ignored)


def _has_folders(path: Path) -> bool:
    return path.is_dir() and bool(Folders().entries(str(path))[0])
