"""`lasfast evaluate ARCHITECTURE...`: measure architectures with the weights of a search."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lasfast.cli import setup
from lasfast.cli.config import read_config
from lasfast.cli.display import make_console
from lasfast.cli.earlier import EarlierRun, RunOptions, SavedWeights
from lasfast.cli.options import MachineOptions, command, precision_option
from lasfast.report import candidates_of, ranking_table
from lasfast.study.files import CHECKPOINT


@dataclass(frozen=True, kw_only=True)
class EvaluateCommandOptions(MachineOptions):
    """Options of `lasfast evaluate`."""

    architectures: Annotated[
        list[str],
        typer.Argument(help="Layers of each group, such as 2-4-6, or choices.", metavar="ARCHITECTURE..."),
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

        **Examples**

        lasfast evaluate 2-4-3 3-3-3 --run runs/nir-digits

        lasfast evaluate 2-4-3 --run runs/nir-digits --statistics batch_mean
        """
        console = make_console(options.quiet)
        device = setup.make_device(options)
        config = read_config(options.run, RunOptions)
        trained = EarlierRun.read(options.run)  # this run, or the one whose supernet it has taken
        saved = SavedWeights.read(trained.checkpoint) if trained.checkpoint.exists() else None
        if saved is None and (config.model is None or trained.options.adapt_epochs):
            raise FileNotFoundError(
                f"{options.run} has no weights: there is no {CHECKPOINT}. A search writes it as it "
                "trains; one in a table, or of networks trained from scratch, has none"
            )
        data = setup.load_data(config, trained.options.seed, console)
        supernet = trained.make_supernet(data).to(device)
        architectures = [supernet.space.parse(text) for text in options.architectures]
        if saved is not None:
            saved.load_into(supernet)
            console.print(f"weights of {trained.directory} as of step {saved.step}")
        config = dataclasses.replace(
            config,
            precision=options.precision or config.precision,
            statistics=options.statistics or config.statistics,
        )
        evaluator = setup.make_evaluator(config, supernet, data)
        candidates = candidates_of(evaluator(architectures), evaluator.costs, supernet.space.format)
        make_console().print(ranking_table("", candidates))
