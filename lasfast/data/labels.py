"""Image files with labels from a csv file, where folders do not name the classes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lasfast.core.csv_rows import read_rows
from lasfast.data.errors import DataError
from lasfast.data.folder import TEST, VALIDATION, FolderSource, ImageFiles, hold_test_out

FILE = ("file", "filename", "path", "image")
LABEL = ("label", "class")
PART = ("split", "set")
TRAIN = "train"


def open_csv(path: Path) -> FolderSource:
    """Find the images that the lines of a csv file name, each with its label.

    The first line has the names of the columns: `file` (or `filename`, `path`, `image`), `label` (or
    `class`), and optionally `split` (or `set`), which is `train`, `val` (or `valid`, `validation`) or `test`.
    Other columns are ignored. Paths are relative to the csv file's folder. Classes are the labels of the
    training images, in the order of numbers where all are numbers. Without `split`, and without lines of a
    part, parts come from where `folder.open_image_folder` has them from.

    Raises:
        DataError: the file is missing or not of this form; the text names the line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a csv file with the columns file and label")
    try:
        for columns in itertools.product(FILE, LABEL):
            names, rows = read_rows(path, columns)
            if {*columns} <= {*names}:
                break
        places = [names.index(_column(names, known)) for known in (FILE, LABEL)]
    except ValueError as error:  # of what cannot be decoded, too
        raise DataError(f"{path}: {error}") from error
    part_place = next((names.index(column) for column in PART if column in names), None)
    lines: dict[str, dict[str, str]] = {}  # by part, the label of each file
    seen: dict[str, int] = {}
    for number, fields in rows:
        file, label = (fields[place] for place in places)
        part = TRAIN if part_place is None else _part(path, number, fields[part_place])
        if not file or not label:
            raise DataError(f"{path}, line {number}: expected a file and a label, found {fields}")
        file = os.path.join(path.parent, file)
        if file in seen:
            raise DataError(
                f"{path}, line {number}: {file} is in line {seen[file]}, too; leave one of them out"
            )
        seen[file] = number
        lines.setdefault(part, {})[file] = label
    if not lines.get(TRAIN):
        raise DataError(f"{path}: expected lines with the split {TRAIN!r}, found only {', '.join(lines)}")
    classes = _in_order({*lines[TRAIN].values()})
    if len(classes) < 2:
        raise DataError(f"{path}: expected at least two labels of training images, found only {classes[0]!r}")
    files = {part: _files(path, part, labels, classes) for part, labels in lines.items()}
    return hold_test_out(files[TRAIN]) if part_place is None else _source(path, files)


def _source(path: Path, files: Mapping[str, ImageFiles]) -> FolderSource:
    """Return the source of parts: as of folders, `val` is the test part where there is no `test`."""
    train, own = files[TRAIN], files.get(VALIDATION[0])
    where = f"{path}: training images from {TRAIN}"
    if own is not None and TEST in files:
        pool = ImageFiles(
            train.classes, train.paths + own.paths, np.concatenate([train.labels, own.labels]), train.ignored
        )
        parts = f"{where}, validation images from {VALIDATION[0]}, test images from {TEST}"
        return FolderSource(pool, lambda: files[TEST], parts, len(train.paths))
    of_test = next((part for part in (TEST, VALIDATION[0]) if part in files), "")

    def test() -> ImageFiles:
        if not of_test:
            raise DataError(
                f"{path} has no test images: expected lines with the split {TEST} or {VALIDATION[0]}"
            )
        return files[of_test]

    told = f"test images from {of_test}" if of_test else "no test images"
    return FolderSource(train, test, f"{where}, validation images held out of them, {told}")


def _column(names: Sequence[str], known: Sequence[str]) -> str:
    """Return the first of the known names that the file has; ValueError where it has none."""
    found = next((name for name in known if name in names), None)
    if found is None:
        raise ValueError(
            f"expected a column {known[0]} (or {', '.join(known[1:])}), found {', '.join(names)}"
        )
    return found


def _part(path: Path, number: int, text: str) -> str:
    """Return the part of a line: `train`, `val` or `test`."""
    part = text.lower()
    if part not in (TRAIN, TEST, *VALIDATION):
        raise DataError(f"{path}, line {number}: the split must be train, val or test, got {text!r}")
    return VALIDATION[0] if part in VALIDATION else part


def _in_order(labels: set[str]) -> tuple[str, ...]:
    """Return labels in the order of numbers where all are numbers, else in that of text."""
    return tuple(sorted(labels, key=int if all(one.isdecimal() for one in labels) else None))


def _files(path: Path, part: str, labels: dict[str, str], classes: tuple[str, ...]) -> ImageFiles:
    """Return the files of a part, sorted by class and path as those of a folder are."""
    unknown = sorted({*labels.values()} - {*classes})
    if unknown:
        raise DataError(
            f"{path}: label {unknown[0]!r} of {part} images is not among the {len(classes)} classes of the "
            "training images"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    ordered = sorted((numbers[label], file) for file, label in labels.items())
    return ImageFiles(
        classes,
        tuple(file for _, file in ordered),
        np.array([number for number, _ in ordered], dtype=np.int64),
    )
