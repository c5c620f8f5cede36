"""The command that runs: which options its line gives, and which others there are beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:  # they take torch to import
    from lasfast.searchers import Searcher
    from lasfast.study.result import StudyResult

CONTEXT = "context"
"""The argument of a command's function that typer gives its context."""
running: ContextVar[typer.Context] = ContextVar("running")
"""The context of the command that runs."""


@dataclass(frozen=True)
class Replay:
    """A search that was done again by the measurements of its journal.

    Attributes:
        result: what it found, without a comparison.
        searcher: has searched.
        baselines: with how many random architectures its command compares the winner; 0 for no comparison.
        weights: which weights are compared (`Comparison.weights`).
    """

    result: StudyResult
    searcher: Searcher
    baselines: int = 0
    weights: str = ""


replayed: ContextVar[list[Replay] | None] = ContextVar("replayed", default=None)
"""A search that is replayed leaves itself in this list, and shows and writes nothing."""


def given_options() -> set[str]:
    """Return the names of the options that the command line gives the command which runs."""
    context = running.get()
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def find_command(words: Sequence[str]) -> tuple[Any, list[str]]:
    """Return the command of this program that words begin with, and the words after its name."""
    context = running.get().find_root()
    command: Any = context.command
    rest = list(words)
    while isinstance(command, TyperGroup):
        _, command, rest = command.resolve_command(context, rest)
    return command, rest


def run_command(words: Sequence[str]) -> None:
    """Run a command of this program within another, which then is the one that runs again."""
    outer = running.get()
    command, rest = find_command(words)
    try:
        command.main(args=rest, prog_name="lasfast", standalone_mode=False)
    finally:
        running.set(outer)
