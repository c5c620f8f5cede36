"""`lasfast evaluate ARCHITECTURE...`: measure architectures with the weights a search left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lasfast import costs
from lasfast.cli import setup
from lasfast.cli.config import read_config
from lasfast.cli.display import make_console
from lasfast.cli.options import ChoiceOptions, MachineOptions, SearchOptions, command
from lasfast.report import candidates_of, ranking_table
from lasfast.study.study import CHECKPOINT
from lasfast.train import checkpoint


@dataclass(frozen=True, kw_only=True)
class EvaluateCommandOptions(MachineOptions):
    """What to measure."""

    architectures: Annotated[
        list[str],
        typer.Argument(help="Layers of each group, as 2-4-6, or choices.", metavar="ARCHITECTURE..."),
    ]
    run: Annotated[Path, typer.Option("--run", help="The study whose weights are taken.", metavar="RUN")]
    statistics: Annotated[
        str | None, typer.Option(help="Another BatchNorm convention: cumulative, ema or batch_mean.")
    ] = None
    precision: Annotated[str | None, typer.Option(help="Another precision: fp32 or bf16.")] = None


@dataclass(frozen=True, kw_only=True)
class RunOptions(SearchOptions, ChoiceOptions):
    """What a search of either kind of supernet was run with."""


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
        if not (options.run / CHECKPOINT).exists():
            raise FileNotFoundError(
                f"{options.run} has no weights: there is no {CHECKPOINT}. A search writes it as it "
                "trains; one in a table has none"
            )
        data = setup.load_data(config, config.seed)
        supernet = setup.make_any_supernet(
            config, data, depth=config.depth, size=config, seed=config.seed
        ).to(device)
        architectures = [supernet.space.parse(text) for text in options.architectures]
        tensors, metadata = checkpoint.load(options.run / CHECKPOINT)
        prefix = "weights."
        weights = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
        supernet.load_state_dict(weights)
        precision = options.precision or config.precision
        evaluator = setup.make_evaluator(config, supernet, data, precision, options.statistics)
        step = metadata["position"][0]
        console.print(f"weights of {options.run} as of step {step}")
        candidates = candidates_of(
            evaluator(architectures),
            lambda one: (costs.flops(supernet, one, data.image_size), costs.params(supernet, one)),
            supernet.space.format,
        )
        make_console().print(ranking_table("", candidates))
