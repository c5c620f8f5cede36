"""Checks image files when a set is loaded, so that a broken one is found before hours of training, not after.

Every file is decoded once, since a truncated one has a good beginning: some 700 images of 500x375 a second on
each core. What was found is remembered in the directory of `lasfast.core.cache`, by path, size and time of
change, so that later loads decode only what is new.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL

from lasfast._version import __version__
from lasfast.core import cache
from lasfast.data.decode import SHOWN, ImageKind, in_threads, raise_together, read_kind
from lasfast.data.errors import DataError
from lasfast.data.folder import ImageFiles
from lasfast.data.places import Place, identified, path_of

logger = logging.getLogger("lasfast")

Known = dict[int, ImageKind]

CHUNK = 1000  # files between looks at the clock
SECONDS = 10.0  # between reports of progress


def check_files(paths: Sequence[Place], report: Callable[[str], None] = logger.info) -> list[ImageKind]:
    """Return the kinds of all images, in order.

    Args:
        paths: image files, sorted.
        report: is called with a line about the progress, every ten seconds.

    Raises:
        DataError: files cannot be used: they are counted, and the first of them named.
    """
    found = _inspect(paths, report)
    raise_together(found)
    return [kind for kind in found if isinstance(kind, ImageKind)]


def without_broken(files: ImageFiles, report: Callable[[str], None] = logger.info) -> ImageFiles:
    """Return the files that can be used; ``report`` is told how many others there are, and the first of them.

    Raises:
        DataError: a class has no file that can be used.
    """
    found = _inspect(files.paths, report)
    broken = [position for position, kind in enumerate(found) if isinstance(kind, DataError)]
    if not broken:
        return files
    shown = "".join(f"\n  {found[position]}" for position in broken[:SHOWN])
    more = f"\n  and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
    report(f"{len(broken)} of {len(found)} image files cannot be used, and are left out:{shown}{more}")
    return files.without(np.array(broken, dtype=np.int64))


def _inspect(paths: Sequence[Place], report: Callable[[str], None]) -> list[ImageKind | DataError]:
    """Return the kind of each image, or what is wrong with it, in order; what was found is remembered."""
    file = _file(paths)
    known = _load(file)
    keys = [_key(path) for path in paths]
    found: list[ImageKind | DataError | None] = [None if key is None else known.get(key) for key in keys]
    unknown = [position for position, kind in enumerate(found) if kind is None]
    try:
        _check(paths, unknown, found, report)
    finally:  # what was checked is kept, where this is interrupted, too
        new = {
            key: kind
            for key, kind in zip(keys, found, strict=True)
            if key is not None and isinstance(kind, ImageKind)
        }
        if not new.keys() <= known.keys():
            cache.save(file, _to_bytes(known | new))
    return [kind for kind in found if kind is not None]


def _check(
    paths: Sequence[Place],
    unknown: Sequence[int],
    found: list[ImageKind | DataError | None],
    report: Callable[[str], None],
) -> None:
    """Find what is unknown, reporting the progress."""
    began = reported = time.monotonic()
    for start in range(0, len(unknown), CHUNK):
        chunk = unknown[start : start + CHUNK]
        for position, kind in zip(chunk, in_threads(read_kind, [paths[one] for one in chunk]), strict=True):
            found[position] = kind
        now, done = time.monotonic(), start + len(chunk)
        if now - reported > SECONDS:
            left = (now - began) / done * (len(unknown) - done)
            report(f"checking image files, once: {done} of {len(unknown)}, {left / 60:.0f} minutes left")
            reported = now


def _key(path: Place) -> int | None:
    """Return a number for what tells a file from others, and from itself before a change; None without it."""
    try:
        text = identified(path)
    except OSError:
        return None
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def _file(paths: Sequence[Place]) -> Path:
    """Return the file in which the kinds of a folder's images are kept, by this lasfast and Pillow."""
    folder = os.path.commonpath([os.path.abspath(path_of(paths[number])) for number in (0, -1)])
    text = f"lasfast {__version__} Pillow {PIL.__version__} ".encode() + os.fsencode(folder)
    return cache.directory() / f"images-{hashlib.blake2b(text, digest_size=6).hexdigest()}.npy"


def _load(file: Path) -> Known:
    """Return the kinds that a file has: int64 [images, 4], of key, height, width and whether it is gray."""
    try:
        rows = np.load(file, allow_pickle=False).tolist()
        return {key: ImageKind((height, width), bool(gray)) for key, height, width, gray in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, EOFError) as error:
        logger.warning("%s cannot be read (%s): checking the images anew", file, error)
        return {}


def _to_bytes(known: Known) -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([(key, *kind.size, kind.gray) for key, kind in known.items()], dtype=np.int64))
    return content.getvalue()
