"""`lasfast evaluate ARCHITECTURE...`: measure architectures with the weights of a search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lasfast.cli import setup
from lasfast.cli.config import CONFIG
from lasfast.cli.display import make_console
from lasfast.cli.earlier import PLACES, RunOptions, open_run
from lasfast.cli.names import NAMES, parse_architecture
from lasfast.cli.options import (
    CalibrationOptions,
    MachineOptions,
    SizeOptions,
    SupernetOptions,
    command,
    names_of,
    panel,
    precision_option,
    refuse,
)
from lasfast.report import candidates_of, ranking_table


@dataclass(frozen=True, kw_only=True)
class EvaluateCommandOptions(MachineOptions, CalibrationOptions, SizeOptions, SupernetOptions):
    """Options of `lasfast evaluate`.

    Those of images and supernet are for runs made from Python.
    """

    seed: Annotated[int, panel("Data", "Seed of the split of the images.")] = 0

    architectures: Annotated[
        list[str],
        typer.Argument(help=f"{NAMES}.", metavar="ARCHITECTURE..."),
    ]
    run: Annotated[
        Path, typer.Option("--run", help="Directory of the study whose weights are taken.", metavar="RUN")
    ]
    statistics: Annotated[
        str | None,
        typer.Option(help="BatchNorm convention: cumulative, ema or batch_mean (default: the study's)."),
    ] = None
    precision: Annotated[str | None, precision_option(" (default: the study's)")] = None


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "evaluate", EvaluateCommandOptions)
    def evaluate(options: EvaluateCommandOptions) -> None:
        """Measure architectures with the weights they inherit from a study's supernet.

        Of a run made from Python, options of the images say which it had, and --supernet FILE.py:FUNCTION how
        its supernet is made, unless it is one of layer assignments. Both are compared with the run.

        **Examples**

        lasfast evaluate 2-4-3 3-3-3 --run runs/nir-digits

        lasfast evaluate best highest rank3 --run runs/evolution-digits

        lasfast evaluate 2-4-3 --run runs/nir-digits --statistics batch_mean

        lasfast evaluate 2-4-3 --run runs/from-python --data cifar10 --limit 6000
        """
        console = make_console(options.quiet)
        device = setup.make_device(options)
        given = {"precision": options.precision, "statistics": options.statistics}
        changes = {name: value for name, value in given.items() if value is not None}
        own = names_of(CalibrationOptions, SizeOptions, SupernetOptions) | {"seed"}
        if (options.run / CONFIG).exists():
            refuse(options, own - PLACES, f"is known of {options.run}")
        told = RunOptions(**{name: getattr(options, name) for name in own})
        evaluator = open_run(options.run, device, console, told, **changes).evaluator
        space = evaluator.space
        architectures = [parse_architecture(text, space, options.run) for text in options.architectures]
        candidates = candidates_of(evaluator(architectures), evaluator.costs, space.format)
        make_console().print(ranking_table("", candidates))
