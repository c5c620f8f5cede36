"""The directory in which lasfast remembers what it found out, so that later processes need not do it again.

``LASFAST_CACHE`` names it; by default it is ``lasfast`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from lasfast.core.files import atomic_write

logger = logging.getLogger("lasfast")
T = TypeVar("T")


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


def save_entries(file: Path, version: int, entries: Mapping[str, Any]) -> None:
    """Replace a file of the directory by JSON values by key, which `load_entries` reads."""
    save(file, json.dumps({"format": version, "entries": entries}).encode())


def load_entries(file: Path, version: int, read: Callable[[Any], T], again: str) -> dict[str, T]:
    """Return the entries of a file by key; none where there is no file, or one of another version.

    Args:
        file: what `save_entries` wrote.
        version: the version of the entries' format.
        read: makes an entry of its JSON value.
        again: what a damaged file leads to, as a warning says it: "listing the folders again".
    """
    try:
        content: Any = json.loads(file.read_bytes())
        if content["format"] != version:
            return {}
        return {key: read(value) for key, value in content["entries"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.warning("%s cannot be read (%s): %s", file, error, again)
        return {}


def save_json(file: Path, value: Any) -> None:
    """Replace a file of the directory by JSON; NaN and infinity are refused (ValueError)."""
    save(file, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
