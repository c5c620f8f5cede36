"""The files that studies and tables of trained networks leave in their directories."""

from __future__ import annotations

from pathlib import Path

JOURNAL = "journal.jsonl"
"""Every measurement."""
CHECKPOINT = "checkpoint.safetensors"
"""The weights, the momentum and the position of the training at hand."""
RESULT = "result.json"
"""The result of a study, when it has finished."""
LOG = "log.jsonl"
"""Times and losses of a study, for information: it is not read again."""
CLOCK = "seconds.json"
"""The seconds that a study has taken so far, of one that may take so many and no more."""
TABLE = "table.csv"
"""The table of trained networks."""


def refuse_started(directory: Path, what: str) -> None:
    """Raise FileExistsError where a journal says that `what` was started in the directory."""
    if (directory / JOURNAL).exists():
        raise FileExistsError(
            f"{directory} holds {what} already; resume it (resume=True; --resume on the command line), or "
            "choose another directory"
        )
