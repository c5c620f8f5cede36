"""The parts of an architecture table, which processes or jobs train side by side.

Each part is a folder of the table's directory, with a journal that one process writes. Jobs have parts of
their own (`shard_directory`), which are tables themselves; the ranks of one run have parts for the time of
the run.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from lasfast.measurements.journal import Journal
from lasfast.measurements.measurement import Measurement
from lasfast.spaces import Architecture
from lasfast.spaces.names import short_name
from lasfast.study.files import JOURNAL

PARTS = "parts"
"""The folder of a table's directory that has its parts."""


def shard_directory(directory: Path, number: int, shards: int) -> Path:
    """Return where job `number`, from 1, of so many writes its part of the table in `directory`."""
    return directory / PARTS / f"{number}-of-{shards}"


class TableParts:
    """The parts of the table in a directory.

    Args:
        directory: of the table.
        header: describes the table; its parts' journals have to have the same.
    """

    def __init__(self, directory: Path, header: dict[str, Any]) -> None:
        self._folder, self.header = directory / PARTS, header

    def measurements(self) -> dict[Architecture, Measurement]:
        """Return what the parts have, those that are still written included.

        Raises:
            JournalError: the journal of a part is damaged, or of another table.
        """
        found: dict[Architecture, Measurement] = {}
        for path in sorted(self._folder.rglob(JOURNAL)):
            _, entries = Journal.read(path, header=self.header)
            found |= {measurement.architecture: measurement for _, measurement in entries}
        return found

    def open(self, rank: int) -> Journal:
        """Return the journal of a rank's part, which an earlier run may have begun.

        Raises:
            JournalError: it is damaged, held by another process, or of another table.
        """
        path = self._folder / f"rank-{rank}" / JOURNAL
        path.parent.mkdir(parents=True, exist_ok=True)
        return Journal.open(path, header=self.header) if path.exists() else Journal.create(path, self.header)

    def checkpoint(self, architecture: str) -> Path:
        """Return where a rank checkpoints the network that it trains, for whichever goes on with it."""
        return self._folder / f"{short_name(architecture)}.safetensors"

    def remove_ranks(self) -> None:
        """Remove the parts of ranks, once the table has what is in them; several ranks may call this."""
        for part in self._folder.glob("rank-*"):
            shutil.rmtree(part, ignore_errors=True)
        for checkpoint in self._folder.glob("*.safetensors"):
            checkpoint.unlink(missing_ok=True)
        with suppress(OSError):  # jobs have parts in it, or there is none
            self._folder.rmdir()
