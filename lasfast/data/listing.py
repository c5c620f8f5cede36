"""Lists folders. The lists of large trees are kept, so that a million files are listed once.

They are kept in the directory of `lasfast.core.cache`, so the images may be read-only. A list counts while
its folder has the inode, the size and both times of change that it had: each file that comes, goes or gets
another name changes them, whatever `tar` or `rsync` set the time of modification to. A folder that changed is
listed again, the others are not.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lasfast.core import cache
from lasfast.data.errors import DataError

MANY = 20_000  # names of files below a folder; fewer are listed in less time than it takes to explain
SETTLED = 2_000_000_000  # ns: two changes within a tick of the clock, at most 2 s, have the same time
EARLIEST = 365 * 11 * 86_400 * 10**9  # ns, about 1981: read-only images have times of 1970 or 1980 throughout
FORMAT = 2


class Listed(NamedTuple):
    """The names in a folder that are not hidden, and what tells whether they still are in it.

    Attributes:
        folders, files: sorted names. A link counts as what it leads to.
        links: those of them that are links, which may lead to something else one day.
        stamp: inode, size in bytes, times of modification and of change in ns; empty where it cannot tell.
    """

    folders: list[str]
    files: list[str]
    links: list[str]
    stamp: list[int]

    def holds(self, folder: str, stamp: list[int]) -> bool:
        """Return whether a folder with this stamp has the same names."""
        if self.stamp != stamp:
            return False
        folders = set(self.folders)
        return all(os.path.isdir(os.path.join(folder, one)) == (one in folders) for one in self.links)


class Folders:
    """Lists the folders below a root, and keeps the lists.

    Args:
        root: the folder whose lists are kept together; None keeps none.
        anew: whether all are listed, whatever was kept.
    """

    def __init__(self, root: Path | None = None, *, anew: bool = False) -> None:
        self._file = None if root is None else _file_of(root)
        self._before = {} if self._file is None or anew else self._kept(self._file)
        self._seen: dict[str, Listed] = {}
        self.kept = 0
        """The number of folders that were not listed, since they are as they were."""

    @staticmethod
    def _kept(file: Path) -> dict[str, Listed]:
        """Return the lists that a file has, by the absolute path of their folder."""
        return cache.load_entries(
            file, FORMAT, lambda parts: Listed(*map(list, parts)), "listing the folders again"
        )

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the files in a folder that are not hidden, each sorted.

        Raises:
            DataError: the folder cannot be read.
        """
        try:
            stamp = stamp_of(folder)
            key = os.path.abspath(folder)
            before = self._before.get(key)
            if before is not None and before.holds(folder, stamp):
                self.kept += key not in self._seen
                found = before
            else:
                found = _list(folder, stamp)
        except OSError as error:
            raise DataError(
                f"{folder}: this folder cannot be read ({error.strerror}); change its permissions"
            ) from error
        self._seen[key] = found
        return found.folders, found.files

    def files_below(self, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        """Give the paths of all files below a folder, except through a link back to a folder `above`."""
        own = identity(folder)
        if own in above:
            return
        folders, files = self.entries(folder)
        for name in files:
            yield os.path.join(folder, name)
        for name in folders:
            yield from self.files_below(os.path.join(folder, name), above | {own})

    def keep(self) -> str:
        """Keep the lists, if they are long; return what to say about those that were taken from earlier."""
        if self._file is not None and sum(len(one.files) for one in self._seen.values()) >= MANY:
            known = {key: one for key, one in self._seen.items() if one.stamp}
            if any(self._before.get(key) != one for key, one in known.items()):
                cache.save_entries(self._file, FORMAT, self._kept(self._file) | known)
        if not self.kept:
            return ""
        return (
            f"; {self.kept} of {len(self._seen)} folders did not change since they were listed "
            "(list_anew=True, or --list-anew, lists them again)"
        )


def identity(folder: str | Path) -> tuple[int, int]:
    """Return what tells a folder from all others, by whatever links it is reached."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _list(folder: str, stamp: list[int]) -> Listed:
    """List a folder that has had this stamp."""
    now = time.time_ns()
    folders: list[str] = []
    files: list[str] = []
    links: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            (folders if _is_folder(entry) else files).append(entry.name)
            if entry.is_symlink():
                links.append(entry.name)
    return Listed(sorted(folders), sorted(files), links, stamp if tells(stamp, now) else [])


def stamp_of(path: str) -> list[int]:
    """Return what changes with a folder or a file: inode, size, times of modification and of change in ns."""
    status = os.stat(path)
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def tells(stamp: list[int], now: int) -> bool:
    """Return whether a later change of what was read `now`, in ns, would change its stamp."""
    times = stamp[2:]
    return min(times) > EARLIEST and max(times) < now - SETTLED


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether this is a folder or a link to one; one that leads nowhere is taken for a file."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _file_of(root: Path) -> Path:
    key = hashlib.blake2b(os.fsencode(os.path.abspath(root)), digest_size=6).hexdigest()
    return cache.directory() / f"folders-{key}.json"
