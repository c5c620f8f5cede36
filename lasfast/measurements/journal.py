"""The journal of a study, which only grows: a JSON line for the study, then one for each measurement.

A line is on disk before anything is built on it. Each ends in a checksum of itself and of all lines before
it, so that a changed, lost, repeated or swapped line is found. Nothing in it depends on the clock: a study
that was killed and resumed leaves the same bytes as one that never was.
"""

from __future__ import annotations

import fcntl
import json
import os
import weakref
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lasfast._version import __version__
from lasfast.core.checks import as_int
from lasfast.core.files import atomic_write, naming, sync_directory
from lasfast.measurements.measurement import Measurement

FORMAT = 1
_CHECKSUM = b',"crc":'
_OWN_KEYS = ("format", "lasfast", "crc")
_WHAT_TO_DO = "restore the file from a copy, or start the study again in another directory"
_open_journals: weakref.WeakSet[Journal] = weakref.WeakSet()

Entry = tuple[int, Measurement]


class JournalError(ValueError):
    """A journal cannot be used; the text names the file, what is wrong and what to do."""


class Journal:
    """A study's journal, open for appending and locked against other processes.

    Use `Journal.create` or `Journal.open`, and close it (or use it as a context manager).

    Attributes:
        path: the file.
        header: the study's description, as it was given to `create` (tuples come back as lists).
        version: the lasfast version that created the journal.
        entries: (step, measurement) of each line, in order.
    """

    path: Path
    header: dict[str, Any]
    version: str
    entries: list[Entry]

    def __init__(self, path: Path, descriptor: int, content: _Content) -> None:
        self.path = path
        self.header, self.version, self.entries = content.header, content.version, content.entries
        self._descriptor: int | None = descriptor
        self._size, self._checksum = content.size, content.checksum
        _open_journals.add(self)

    @classmethod
    def create(cls, path: str | os.PathLike[str], header: Mapping[str, Any]) -> Journal:
        """Start a journal with the given description of its study.

        The file appears with its header in it, whenever the process is killed.

        Raises:
            JournalError: the file exists, or another process is creating it.
            ValueError, TypeError: the header has values that JSON has not, or names that the journal needs.
        """
        path = Path(path)
        taken = [key for key in _OWN_KEYS if key in header]
        if taken:
            raise ValueError(f"header must not have {taken}: the journal writes these itself")
        line, _ = _encode({"format": FORMAT, "lasfast": __version__, **header}, 0)
        aside = path.with_name(path.name + ".tmp")
        _refuse_existing(path)
        # Opened without truncating: until the lock is held, the file may be another process's.
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, path)
            _refuse_existing(path)
            os.ftruncate(descriptor, 0)
            with naming(aside):
                _write_all(descriptor, line)
                os.fsync(descriptor)
            os.rename(aside, path)
            sync_directory(path.parent)
            return cls(path, descriptor, _read(path, line, committed=0))
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], committed: int = 0, header: Mapping[str, Any] | None = None
    ) -> Journal:
        """Open a journal to continue its study.

        A last line without its line feed is what a kill in the middle of a write leaves. It is cut off the
        file, and its measurement has to be made again, unless it is among the first `committed` entries:
        those were on disk in full once, so a cut there is damage.

        Args:
            path: the file.
            committed: how many entries are known to have been written (a checkpoint's count).
            header: the description of the study that is to continue; None takes whatever is there.

        Raises:
            FileNotFoundError: there is no such file.
            JournalError: the journal is damaged, held by another process, or of another study.
        """
        path = Path(path)
        descriptor = os.open(path, os.O_RDWR)
        try:
            _lock(descriptor, path)
            data = path.read_bytes()
            content = _read(path, data, committed)
            if header is not None:
                _compare_headers(path, content.header, header)
            if content.size < len(data):
                os.ftruncate(descriptor, content.size)
                os.fsync(descriptor)
            return cls(path, descriptor, content)
        except BaseException:
            os.close(descriptor)
            raise

    @staticmethod
    def read(
        path: str | os.PathLike[str], header: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], list[Entry]]:
        """Return header and entries of a journal, even while a study writes it; nothing is locked.

        Raises:
            JournalError: the journal is damaged, or its header is not the one that is given.
        """
        content = _read(Path(path), Path(path).read_bytes(), committed=0)
        if header is not None:
            _compare_headers(Path(path), content.header, header)
        return content.header, content.entries

    @staticmethod
    def rewrite_header(path: str | os.PathLike[str], header: Mapping[str, Any]) -> None:
        """Give a journal another description of its study, which its measurements are of, too, in one step.

        Raises:
            JournalError: the journal is damaged, or another process holds it.
        """
        path = Path(path)
        with Journal.open(path) as journal:
            content, checksum = _encode({"format": FORMAT, "lasfast": journal.version, **header}, 0)
            for step, measurement in journal.entries:
                line, checksum = _encode({"step": step, **measurement.to_json()}, checksum)
                content += line
            with atomic_write(path) as file:
                file.write(content)

    def append(self, step: int, measurements: Sequence[Measurement]) -> None:
        """Write the measurements of a step, all at once; they are on disk when this returns.

        Raises:
            ValueError: the step is below that of the last entry, or the journal is closed.
            OSError: they could not be written; the journal is as it was before.
        """
        if self._descriptor is None:
            raise ValueError(f"{self.path} is closed; open the journal to append to it")
        least = self.entries[-1][0] if self.entries else 0
        step = as_int("step", step, minimum=least)
        lines, checksum = bytearray(), self._checksum
        for measurement in measurements:
            line, checksum = _encode({"step": step, **measurement.to_json()}, checksum)
            lines += line
        os.lseek(self._descriptor, self._size, os.SEEK_SET)
        try:
            with naming(self.path):
                _write_all(self._descriptor, bytes(lines))
                os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size, self._checksum = self._size + len(lines), checksum
        self.entries.extend((step, measurement) for measurement in measurements)

    def close(self) -> None:
        """Release the journal for other processes; closing it twice is fine."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Content:
    """The content of a journal's bytes, and how many of them are whole lines."""

    def __init__(self, header: dict[str, Any], version: str) -> None:
        self.header, self.version = header, version
        self.entries: list[Entry] = []
        self.size = 0
        self.checksum = 0


def _encode(record: Mapping[str, Any], checksum: int) -> tuple[bytes, int]:
    """Return a line with its checksum, which continues that of the lines before."""
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
    checksum = zlib.crc32(body, checksum)
    return body[:-1] + _CHECKSUM + b"%d}\n" % checksum, checksum


def _decode(line: bytes, checksum: int) -> tuple[dict[str, Any], int]:
    """Return the record of a line (without its line feed); ValueError if a byte up to here was changed."""
    body, _, tail = line.rpartition(_CHECKSUM)
    body += b"}"
    checksum = zlib.crc32(body, checksum)
    if tail != b"%d}" % checksum:
        raise ValueError("its checksum does not match: bytes were changed, or lines before it lost")
    return json.loads(body), checksum


def _read(path: Path, data: bytes, committed: int) -> _Content:
    """Verify and decode a journal's bytes; an unfinished last line beyond `committed` entries is left out."""
    *lines, torn = data.split(b"\n")
    if not lines:
        raise JournalError(f"{path} is damaged at line 1: its last line is cut off; {_WHAT_TO_DO}")
    header, checksum = _checked(path, 1, _decode, lines[0], 0)
    if header.get("format") != FORMAT:
        raise JournalError(
            f"{path} has journal format {header.get('format')!r}, but this lasfast ({__version__}) reads "
            f"format {FORMAT}; continue it with lasfast {header.get('lasfast')}, or start again elsewhere"
        )
    version = header["lasfast"]
    content = _Content({key: value for key, value in header.items() if key not in _OWN_KEYS}, version)
    for number, line in enumerate(lines[1:], start=2):
        record, checksum = _checked(path, number, _decode, line, checksum)
        content.entries.append(_checked(path, number, _entry, record))
    if len(content.entries) < committed:
        reason = "its last line is cut off" if torn else "the rest is missing"
        raise JournalError(
            f"{path} is damaged at line {len(lines) + 1}: {committed} measurements were written, but it "
            f"holds only {len(content.entries)} ({reason}); {_WHAT_TO_DO}"
        )
    content.size, content.checksum = len(data) - len(torn), checksum
    return content


def _checked(path: Path, number: int, decode: Any, *arguments: Any) -> Any:
    try:
        return decode(*arguments)
    except (TypeError, ValueError) as error:
        raise JournalError(f"{path} is damaged at line {number}: {error}; {_WHAT_TO_DO}") from error


def _entry(record: dict[str, Any]) -> Entry:
    step = record.pop("step", None)
    if not isinstance(step, int):
        raise ValueError(f"it must have a step, got {step!r}")
    return step, Measurement.from_json(record)


def _compare_headers(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    expected = json.loads(json.dumps(expected, allow_nan=False))
    differences = "; ".join(_differences(found, expected))
    if differences:
        raise JournalError(
            f"{path} belongs to a study with other settings: {differences}; to continue it, use its settings "
            "and put the images back as they were (one that was removed or changed since makes another "
            "study); or use another directory"
        )


def _differences(found: Any, expected: Any, name: str = "") -> list[str]:
    """Return the places where two JSON values differ, as texts with the dotted name of each."""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        return [
            text
            for key in [*found, *(key for key in expected if key not in found)]
            for text in _differences(
                found.get(key, "nothing"), expected.get(key, "nothing"), f"{name}.{key}".lstrip(".")
            )
        ]
    return [] if found == expected else [f"{name} is {found!r} there and {expected!r} here"]


def _write_all(descriptor: int, data: bytes) -> None:
    """Write data, in one call unless the system takes only a part of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise JournalError(f"{path} exists already; open it to continue its study, or choose another path")


def _lock(descriptor: int, path: Path) -> None:
    """Lock the file until it is closed; raise JournalError where another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(
            f"{path} is in use by another process: a study runs in one process at a time; wait for it "
            f"or end it"
        ) from None


def _close_after_fork() -> None:
    # A forked data-loading worker that outlives a killed study would otherwise keep its lock.
    for journal in list(_open_journals):
        journal.close()


os.register_at_fork(after_in_child=_close_after_fork)
