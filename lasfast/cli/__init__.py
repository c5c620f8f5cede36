"""The command line: `lasfast search nir`, `lasfast evaluate 2-4-6`, ..."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
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
        "Replay a search, measure candidates again, and compare every bit; exit status 1 if any is wrong.",
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
GROUPS = {
    "search": {
        "auto": "Search with what fits the number of evaluations: a predictor, or evolution.",
        "nir": "Grow the best assignment one layer at a time (Meng et al., AAAI 2020).",
        "evolution": "Evolve a population by crossover and mutation (Single Path One-Shot, Algorithm 1).",
        "predictor": "Measure what a Gaussian process expects most of; the best choice for few measurements.",
        "layernas": "Search layer by layer within a cost (LayerNAS).",
        "pareto": "Improve the whole front of accuracy and a cost, by neighbours of what is on it.",
        "itnas": "Learn which operations the edges of a normal and a reduction cell take (ITNAS, Ma et "
        "al. 2020).",
        "random": "Try random architectures, as a baseline: assignments of one depth, choices, or those of a "
        "table.",
        "local": "Climb from random architectures to better neighbours, as a baseline.",
        "regularized": "Evolve a population in which the oldest makes room (Real et al., AAAI 2019).",
    },
    "latency": {
        "build": "Time each distinct layer, and write a table for constraints such as latency<=12ms@cpu.",
        "check": "Time whole random networks, and compare them with the sums of their layers.",
    },
}
"""By the names of commands with others below them, these with the first sentence of their help."""
IN_SEVERAL_PROCESSES = ("search", "train", "dataset", "resume")
"""The commands that torchrun may start."""


def _lazy(load: Callable[[str], Any]) -> type[TyperGroup]:
    """Return the class of a group that loads a command when it runs: to list its commands needs no torch."""

    class LazyGroup(TyperGroup):
        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if args[0] in self.commands:
                self.commands[args[0]] = load(args[0])
            return super().resolve_command(ctx, args)

    return LazyGroup


def _command(name: str) -> Any:
    """Return a command; of one with others below it, only their list is made."""
    if name not in GROUPS:
        return typer.main.get_command(_app_of(name))

    def below(other: str) -> Any:
        whole: Any = typer.main.get_command(_app_of(name))
        return whole.commands[other]

    several = " `torchrun --nproc-per-node 2 -m lasfast search ...` runs one in several processes."
    listed = typer.Typer(
        cls=_lazy(below),
        help=COMMANDS[name][1] + (several if name == "search" else ""),
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
    )
    for other, text in GROUPS[name].items():
        listed.command(other, help=text)(lambda: None)
    return typer.main.get_command(listed)


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
    cls=_lazy(_command),
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


def _let_idle_threads_sleep() -> None:
    """Let OpenMP's threads sleep where they wait for each other, unless the environment says otherwise.

    GNU's runtime, which torch loads, lets them spin for 3 ms by default. Then two processes, of a thread for
    each processor each, take most of their time from each other.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def main() -> None:
    """Run the command line; expected errors end in one line on standard error and status 2."""
    print_anything()
    _let_idle_threads_sleep()
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
