"""The command that runs: which options its line gives, and which others there are beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import typer
from typer.core import TyperGroup

CONTEXT = "context"
"""The argument of a command's function that typer gives its context."""
running: ContextVar[typer.Context] = ContextVar("running")
"""The context of the command that runs."""


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
