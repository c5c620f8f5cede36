"""Images in tar archives, as the WebDataset package writes them: `KEY.jpg`, and `KEY.cls` with its class.

Images are read by their place in the archive, so that any of them can be read alone, in any order and from
any batch on. The places are found by the standard library's `tarfile`. Those of many images are kept in the
directory of `lasfast.core.cache`, by the inode, the size and the times of change of the archive.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import re
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lasfast.core import cache
from lasfast.data.decode import in_threads
from lasfast.data.errors import DataError
from lasfast.data.folder import IMAGE_SUFFIXES, FolderSource, ImageFiles
from lasfast.data.listing import MANY, stamp_of, tells
from lasfast.data.places import Member, Place

LABEL = ".cls"
BETWEEN = "::"  # between patterns, as in the WebDataset package
BLOCK = 512  # bytes of a tar archive's headers
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
FORMAT = 2

Sample = tuple[str, int, int, int]
"""The name of an image, its offset and its size in bytes, and its class."""


class Index(NamedTuple):
    """The samples of an archive, in its order; how many members are none; and the archive's stamp."""

    samples: list[Sample]
    ignored: int
    stamp: list[int]


def open_archives(
    pattern: str, validation: str | None, test: str | None, list_anew: bool = False
) -> FolderSource:
    """Find the images of the archives of a pattern, and those to validate and to test on.

    Args:
        pattern: paths with braces, as `train-{000000..000146}.tar`, or with `*`; several between `::`.
        validation: that of the validation images; without it they are held out of the training images.
        test: that of the test images.
        list_anew: whether archives are read through that were before, and did not change since.

    Raises:
        DataError: an archive is missing or damaged, or has images without a class.
    """
    train, kept = _files_of(pattern, list_anew)
    classes = tuple(str(label) for label in range(int(train.labels.max()) + 1))
    missing = np.setdiff1d(np.arange(len(classes)), train.labels)
    if len(classes) < 2 or len(missing):
        found = f"none of class {missing[0]}" if len(missing) else "one class"
        raise DataError(
            f"{pattern}: expected images of each class from 0 to {max(1, len(classes) - 1)}, found {found}"
        )
    pool, training = ImageFiles(classes, train.paths, train.labels, train.ignored), None
    where = "held out of them"
    if validation is not None:
        own, kept_too = _files_of(validation, list_anew)
        own, kept, training = _of_classes(own, classes, validation), kept + kept_too, len(train.paths)
        labels = np.concatenate([train.labels, own.labels])
        pool = ImageFiles(classes, train.paths + own.paths, labels, train.ignored + own.ignored)
        where = f"from {validation}"

    def read_test() -> ImageFiles:
        if test is None:
            raise DataError(f"{pattern} has no test images: test_archives must name theirs, got None")
        return _of_classes(_files_of(test, list_anew)[0], classes, test)

    tested = f"test images from {test}" if test else "no test images"
    parts = f"{pattern}: training images, validation images {where}, {tested}"
    if kept:
        parts += (
            f"; {kept} archives did not change since they were read through (list_anew=True, or "
            "--list-anew, does so again)"
        )
    return FolderSource(pool, read_test, parts, training)


def expand(pattern: str) -> list[str]:
    """Return the paths that a pattern stands for, in order, whether they exist or not.

    `{000..146}` stands for each number, with as many digits, `{000..146..2}` for every second one, `{a,b}`
    for each text, and `*` and `?` for what is there; `::` separates patterns.

    Raises:
        DataError: it is the address of a stream.
    """
    paths: list[str] = []
    for part in pattern.split(BETWEEN):
        if re.match(r"\w{2,}:", part):
            raise DataError(
                f"{part}: archives must be files, since images are read by their place; download them first"
            )
        for path in _braces(os.path.expanduser(part)):
            paths += sorted(glob.glob(path)) if "*" in path or "?" in path else [path]
    return paths


def _braces(pattern: str) -> Iterator[str]:
    """Expand the braces of a pattern as a shell does, the first of them slowest; `{a}` stays as it is."""
    begin = pattern.find("{")
    parts = _alternatives(pattern[begin + 1 :]) if begin >= 0 else None
    if parts is None:
        yield pattern
        return
    end = begin + 1 + sum(map(len, parts)) + len(parts)  # a comma, or at last a brace, behind each
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?", ",".join(parts)):
        parts = _numbers(*bounds.groups())
    elif len(parts) == 1:
        parts = ["{" + one + "}" for one in _braces(parts[0])]
    else:
        parts = [one for part in parts for one in _braces(part)]
    for one, rest in itertools.product(parts, _braces(pattern[end:])):
        yield pattern[:begin] + one + rest


def _alternatives(text: str) -> list[str] | None:
    """Return what is between commas up to the brace that closes; None where none does."""
    depth, start, parts = 0, 0, []
    for position, sign in enumerate(text):
        if depth == 0 and sign in ",}":
            parts.append(text[start:position])
            start = position + 1
            if sign == "}":
                return parts
        depth += (sign == "{") - (sign == "}")
    return None


def _numbers(first: str, last: str, step: str | None) -> list[str]:
    """Return the numbers of a range, with as many digits as the longer bound if one begins with a zero."""
    padded = any(one.startswith("0") and len(one) > 1 for one in (first, last))
    digits = max(len(first), len(last)) if padded else 0
    begin, end, stride = int(first), int(last), int(step or 1) or 1
    numbers = range(begin, end + 1, stride) if begin <= end else range(begin, end - 1, -stride)
    return [f"{number:0{digits}}" for number in numbers]


def _files_of(pattern: str, list_anew: bool) -> tuple[ImageFiles, int]:
    """Return the images of all archives of a pattern, and of how many the places were known."""
    archives = expand(pattern)
    if not archives:
        raise DataError(f"{pattern}: no such archive")
    if len(set(archives)) < len(archives):
        twice = next(one for one in archives if archives.count(one) > 1)
        raise DataError(f"{pattern}: {twice} is named more than once, so its images would be, too")
    file = _file_of(archives)
    again = "reading the archives through again"
    before = {} if list_anew else cache.load_entries(file, FORMAT, _index, again)

    def index(archive: str) -> tuple[Index, bool]:
        known = before.get(os.path.abspath(archive))
        if known is not None and os.path.exists(archive) and known.stamp == stamp_of(archive):
            return known, True
        return read_through(archive), False

    indices: list[Index] = []
    kept = 0
    for found in in_threads(index, archives):
        if isinstance(found, DataError):
            raise found
        indices.append(found[0])
        kept += found[1]
    named = dict(zip(archives, indices, strict=True))
    if kept < len(archives) and sum(len(one.samples) for one in indices) >= MANY:
        content = {os.path.abspath(archive): one for archive, one in named.items() if one.stamp}
        cache.save_entries(file, FORMAT, content)
    places: list[Place] = []
    labels: list[int] = []
    for archive, one in named.items():
        places += [Member(archive, name, offset, size) for name, offset, size, _ in one.samples]
        labels += [label for *_, label in one.samples]
    if not places:
        raise DataError(
            f"{pattern}: no image in {len(archives)} archives; expected KEY.jpg beside KEY{LABEL}"
        )
    ignored = sum(one.ignored for one in indices)
    return ImageFiles((), tuple(places), np.array(labels, dtype=np.int64), ignored), kept


def read_through(archive: str) -> Index:
    """Return the samples of an archive, of which the headers and the classes are read.

    Raises:
        DataError: it is missing, compressed or cut off, or its images and classes do not belong together.
    """
    began = time.time_ns()
    try:
        stamp = stamp_of(archive)
        with open(archive, "rb") as file:
            kind = COMPRESSED.get(file.read(2))
        if kind is not None:
            raise DataError(f"{archive}: compressed by {kind}; expected a plain tar archive: decompress it")
        with tarfile.open(archive, "r:") as tar:
            images, labels, ignored = _members(archive, tar)
            _check_end(archive, tar.offset)
    except OSError as error:
        raise DataError(f"{archive}: cannot be read ({error.strerror or error})") from error
    except tarfile.TarError as error:
        raise DataError(f"{archive}: not a tar archive, or damaged ({error}); get it again") from error
    lonely = images.keys() ^ labels.keys()
    if lonely:
        key = min(lonely)
        lacks = f"an image but no {LABEL}" if key in images else f"{LABEL} but no image"
        raise DataError(f"{archive}: {key} has {lacks}, as {len(lonely) - 1} others lack one of both")
    samples = [(*place, labels[key]) for key, place in images.items()]
    return Index(samples, ignored, stamp if tells(stamp, began) else [])


def _members(
    archive: str, tar: tarfile.TarFile
) -> tuple[dict[str, tuple[str, int, int]], dict[str, int], int]:
    """Return places of images and classes by key, in order, and how many members are neither."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    ignored = 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # which would hold all of them
        folder, slash, base = member.name.rpartition("/")
        start, dot, rest = base.partition(".")
        key, suffix = folder + slash + start, (dot + rest).lower()
        if not member.isfile() or not start:
            continue
        if suffix not in (LABEL, *IMAGE_SUFFIXES):
            ignored += 1
            continue
        if key in (labels if suffix == LABEL else images):
            kind = f"{LABEL} files" if suffix == LABEL else "images"
            raise DataError(f"{archive}: {key} has two {kind}; expected one of each key")
        if suffix == LABEL:
            labels[key] = _label(archive, tar, member)
        elif member.issparse():
            raise DataError(f"{archive}: {member.name} is a sparse file; write the archive without (-S)")
        else:
            images[key] = member.name, member.offset_data, member.size
    return images, labels, ignored


def _label(archive: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    content = tar.extractfile(member)
    text = content.read(100) if content else b""
    if not text.strip().isdigit():
        raise DataError(
            f"{archive}: {member.name} must have the number of a class, from 0, as text, got {text[:40]!r}"
        )
    return int(text)


def _check_end(archive: str, end: int) -> None:
    """Raise DataError unless zeros alone follow the last member: `tarfile` stops at what it cannot read."""
    with open(archive, "rb") as file:
        file.seek(end)
        if len(file.read(BLOCK)) < BLOCK:
            raise DataError(f"{archive}: the archive is cut off: it has no end; get it again")
        file.seek(end)
        while part := file.read(1 << 20):
            if part.strip(b"\0"):
                raise DataError(
                    f"{archive}: something follows byte {end}, where its members end; get it again, and name "
                    "archives each rather than joined"
                )


def _of_classes(files: ImageFiles, classes: Sequence[str], pattern: str) -> ImageFiles:
    """Return images of the classes of the training images; DataError where one is of another."""
    last = int(files.labels.max())
    if last >= len(classes):
        raise DataError(f"{pattern}: class {last} is not among the {len(classes)} of the training images")
    return ImageFiles(tuple(classes), files.paths, files.labels, files.ignored)


def _file_of(archives: Sequence[str]) -> Path:
    text = b"\0".join(os.fsencode(os.path.abspath(archive)) for archive in archives)
    return cache.directory() / f"archives-{hashlib.blake2b(text, digest_size=6).hexdigest()}.json"


def _index(parts: Sequence[Any]) -> Index:
    """Return an index as it was kept."""
    samples, *rest = parts
    return Index([(str(name), int(at), int(size), int(label)) for name, at, size, label in samples], *rest)
