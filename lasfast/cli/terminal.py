"""Texts for every terminal, and the end of a command that is stopped; nothing here takes long to import."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_ASCII = {"±": "+-", "…": "...", "•": "*"}  # what lasfast and rich print; rich has ASCII boxes of its own


class StoppedError(Exception):
    """Ctrl-C was pressed; the text says what it stopped, which typer drops from a KeyboardInterrupt."""


@contextmanager
def resumable(directory: Path) -> Iterator[None]:
    """Let Ctrl-C say how the run in a directory goes on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        where = str(interrupt).partition(";")[0] or "stopped"
        raise KeyboardInterrupt(
            f"{where}; {directory} holds everything up to here: `lasfast resume {directory}` goes on"
        ) from interrupt


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Spell what an encoding lacks in ASCII: as in `IN_ASCII`, else by escapes, which keep names distinct."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(IN_ASCII.get(one) or ascii(one)[1:-1] for one in lacking), error.end


codecs.register_error("lasfast.spell", _spell)


def print_anything() -> None:
    """Let standard output and errors take every text, whatever their encodings are and names in it have."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="lasfast.spell")
