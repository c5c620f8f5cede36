"""The command line: `lasfast search nir`, `lasfast evaluate 2-4-6`, ..."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from lasfast._version import __version__
from lasfast.cli.terminal import StoppedError, print_anything

COMMANDS = {
    "search": ("search", "Search for the best architecture."),
    "evaluate": ("evaluate", "Measure architectures with the weights they inherit from a study's supernet."),
    "verify": (
        "verify",
        "Measure candidates of a search again, and compare every bit; exit status 1 if any is wrong.",
    ),
    "train": (
        "train",
        "Train one architecture from scratch, measure it and write it as a torch.export program.",
    ),
    "resume": ("resume", "Go on with a run that was stopped, whatever it was, by its own recorded command."),
    "predict": (
        "predict",
        "Classify images with an exported network, resized as the images that it was evaluated on.",
    ),
    "export": (
        "export",
        "Write a run's network in another format, checked against PyTorch before it is there.",
    ),
    "report": (
        "report",
        "Show the winner of each depth of a study, or its Pareto front, and draw its picture.",
    ),
    "dataset": (
        "architecture_table",
        "Train every assignment of a depth range from scratch, and write the table of their accuracies.",
    ),
    "table": (
        "table",
        "Make a table to search in of NAS-Bench-101, NAS-Bench-201 or NATS-Bench, as they are downloaded.",
    ),
    "latency": ("latency", "Time a supernet's layers on this machine."),
    "spaces": (
        "spaces",
        "List the supernets that `--supernet` takes, or show the decisions of a supernet of choices.",
    ),
    "info": ("info", "Say what is installed, what was compiled and what this machine has."),
    "check": (
        "check",
        "Check lasfast's kernels against PyTorch on this machine; exit status 1 if any is wrong.",
    ),
}
"""By the name of each command its module, which registers it, and the first sentence of its help."""
IN_SEVERAL_PROCESSES = ("search", "train", "dataset", "resume")
"""The commands that torchrun may start."""


class _LazyGroup(TyperGroup):
    """Imports the module of a command when that runs: the list of commands and the version need no torch."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name in COMMANDS:
            self.commands[name] = typer.main.get_command(_app_of(name))
        return super().resolve_command(ctx, args)


def _app_of(name: str) -> typer.Typer:
    module = import_module(f"lasfast.cli.{COMMANDS[name][0]}")
    if hasattr(module, "app"):  # of several commands
        app: typer.Typer = module.app
        return app
    alone = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    module.register(alone)
    return alone


app = typer.Typer(
    name="lasfast",
    cls=_LazyGroup,
    help="Fast one-shot search of convolutional networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for _name, (_, _text) in COMMANDS.items():
    app.command(_name, help=_text)(lambda: None)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    if _are_several() and context.invoked_subcommand not in IN_SEVERAL_PROCESSES:
        raise ValueError(
            f"lasfast {context.invoked_subcommand} runs in one process; start it without torchrun"
        )


def _are_several() -> bool:
    """Return whether torchrun started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _together() -> AbstractContextManager[Any]:
    """Return the block in which the processes that torchrun started work together."""
    if not _are_several():
        return nullcontext()
    from lasfast.runtime import distributed  # which imports torch

    return distributed.start()


def main() -> None:
    """Run the command line; expected errors end in one line on standard error and status 2."""
    print_anything()
    try:
        with _together():
            app()
    except StoppedError as stopped:
        print(f"\n{stopped}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, TypeError, OSError, ArithmeticError, ImportError) as error:
        if os.environ.get("LASFAST_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        print("(LASFAST_TRACEBACK=1 shows where it came from)", file=sys.stderr)
        sys.exit(2)
