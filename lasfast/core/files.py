"""Writes files so that a kill or a power cut leaves the old content or the new, never half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Give an error of the system that names no file, such as "No space left on device", that of `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file whose content replaces that of `path` when the block ends without an exception.

    It is written aside (`path` + ".tmp"), flushed to disk and renamed, and the rename is flushed, too. An
    exception leaves `path` as it was. What a kill leaves aside is overwritten by the next write, so there
    may be one writer of a path at a time.

    Args:
        path: the file to replace or create; its directory must exist.

    Yields:
        The binary file to write to.
    """
    path = Path(path)
    aside = path.with_name(path.name + ".tmp")
    try:
        with naming(path), open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the content of `path` by `text` (UTF-8) in one step; see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(text.encode())


def atomic_write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace the content of `path` by JSON in one step; NaN and infinity are refused (ValueError)."""
    atomic_write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Flush a directory's entries to disk, without which a rename in it may be lost."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
