"""The command line: `lasfast search nir`, `lasfast evaluate 2-4-6`, ..."""

from __future__ import annotations

import os
import sys

import typer

from lasfast._version import __version__
from lasfast.cli import (
    architecture_table,
    check,
    evaluate,
    export,
    info,
    latency,
    predict,
    report,
    search,
    spaces,
    table,
    train,
)
from lasfast.cli.display import print_anything
from lasfast.cli.options import StoppedError
from lasfast.runtime import distributed

app = typer.Typer(
    name="lasfast",
    help="Fast one-shot search of convolutional networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(search.app, name="search")
app.add_typer(latency.app, name="latency")
for module in (evaluate, train, export, predict, architecture_table, report, spaces, table, info, check):
    module.register(app)


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
    if distributed.world().size > 1 and context.invoked_subcommand != "search":
        raise ValueError(
            f"lasfast {context.invoked_subcommand} runs in one process, a search alone in several; start it "
            "without torchrun"
        )


def main() -> None:
    """Run the command line; expected errors end in one line on standard error and status 2."""
    print_anything()
    try:
        with distributed.start():
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
