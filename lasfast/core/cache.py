"""The directory in which lasfast remembers what it found out, so that later processes need not do it again.

``LASFAST_CACHE`` names it; by default it is ``lasfast`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from lasfast.core.files import atomic_write

logger = logging.getLogger("lasfast")


def directory() -> Path:
    """Return the directory, which need not exist."""
    wanted = os.environ.get("LASFAST_CACHE")
    if not wanted:
        home = os.environ.get("XDG_CACHE_HOME")
        wanted = os.path.join(home or Path.home() / ".cache", "lasfast")
    return Path(wanted)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Let one process at a time run the block for files of a directory; several where none can lock it."""
    with ExitStack() as stack:
        with suppress(ImportError, OSError):
            import fcntl  # not on Windows

            file.parent.mkdir(parents=True, exist_ok=True)
            directory = os.open(file.parent, os.O_RDONLY)
            stack.callback(os.close, directory)  # which ends the lock
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield


def save(file: Path, content: bytes) -> None:
    """Replace a file of the directory in one step; a warning says so where it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_name(f"{file.name}.{os.getpid()}")  # other processes may be writing, too
        with atomic_write(own) as written:
            written.write(content)
        os.replace(own, file)
    except OSError as error:
        logger.warning("%s cannot be written (%s): the next process does it again", file, error)


def save_json(file: Path, value: Any) -> None:
    """Replace a file of the directory by JSON; NaN and infinity are refused (ValueError)."""
    save(file, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
