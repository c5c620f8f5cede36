"""Places of image files: a path, or the bytes of a member of a tar archive."""

from __future__ import annotations

import io
import os
import stat
from typing import BinaryIO, NamedTuple

from lasfast.data.errors import DataError


class Member(NamedTuple):
    """A file in a tar archive that is not compressed.

    Attributes:
        archive: the path of the archive.
        name: the name within it.
        offset: where its content begins in the archive, in bytes.
        size: the length of its content, in bytes.
    """

    archive: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        """Return archive and name, as errors show them."""
        return f"{self.archive}/{self.name}"


Place = str | Member
"""The path of a file, or a member of an archive."""


def path_of(place: Place) -> str:
    """Return the path of the file on disk, which may be an archive."""
    return place.archive if isinstance(place, Member) else place


def size_of(place: Place) -> int:
    """Return how many bytes a file has; OSError where it cannot be read."""
    return place.size if isinstance(place, Member) else os.path.getsize(place)


def stamped(place: Place) -> bytes:
    """Return the name and size of a file, which are the same wherever the file, or its archive, is moved."""
    name = place.name if isinstance(place, Member) else place
    return os.fsencode(os.path.basename(name)) + b" %d" % size_of(place)


def identified(place: Place) -> bytes:
    """Return what tells a file from others and from itself before a change; OSError where it is not there."""
    status = os.stat(path_of(place))
    text = f"{status.st_size} {status.st_mtime_ns} ".encode() + os.fsencode(os.path.abspath(path_of(place)))
    return text + os.fsencode(f" {place.offset} {place.name}") if isinstance(place, Member) else text


def opened(place: Place) -> str | BinaryIO:
    """Return what `PIL.Image.open` takes: the path of a file, or the bytes of a member.

    Raises:
        DataError: this is no regular file, or an archive that ends before the member does.
    """
    if not stat.S_ISREG(os.stat(path_of(place)).st_mode):  # reading a pipe would wait for ever
        raise DataError(f"{place}: this is no file; expected an image")
    if not isinstance(place, Member):
        return place
    with open(place.archive, "rb") as archive:
        archive.seek(place.offset)
        content = archive.read(place.size)
    if len(content) < place.size:
        raise DataError(f"{place}: the archive ends within this image; put it back as it was")
    return io.BytesIO(content)
