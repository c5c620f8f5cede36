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
from lasfast.cli.model import make_model_supernet
from lasfast.cli.options import ChoiceOptions, MachineOptions, SearchOptions, command, precision_option
from lasfast.report import candidates_of, ranking_table
from lasfast.study.files import CHECKPOINT
from lasfast.supernets import Supernet
from lasfast.train import checkpoint


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


@dataclass(frozen=True, kw_only=True)
class RunOptions(SearchOptions, ChoiceOptions):
    """Options of any search of a supernet, which the run was started with."""


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
        has_checkpoint = (options.run / CHECKPOINT).exists()
        if not has_checkpoint and (config.model is None or config.adapt_epochs):
            raise FileNotFoundError(
                f"{options.run} has no weights: there is no {CHECKPOINT}. A search writes it as it "
                "trains; one in a table has none"
            )
        data = setup.load_data(config, config.seed, console)
        supernet: Supernet
        if config.model is not None:
            supernet = make_model_supernet(config, data, config.vary, config.seed)
        else:
            supernet = setup.make_any_supernet(
                config, data, depth=config.depth, size=config, seed=config.seed
            )
        supernet.to(device)
        architectures = [supernet.space.parse(text) for text in options.architectures]
        if has_checkpoint:
            step = _load_weights(supernet, options.run / CHECKPOINT)
            console.print(f"weights of {options.run} as of step {step}")
        config = dataclasses.replace(
            config,
            precision=options.precision or config.precision,
            statistics=options.statistics or config.statistics,
        )
        evaluator = setup.make_evaluator(config, supernet, data)
        candidates = candidates_of(evaluator(architectures), evaluator.costs, supernet.space.format)
        make_console().print(ranking_table("", candidates))


def _load_weights(supernet: Supernet, path: Path) -> int:
    """Load the weights of a study's checkpoint; return the step that they are of."""
    tensors, metadata = checkpoint.load(path)
    prefix = "weights."
    weights = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
    supernet.load_state_dict(weights)
    step: int = metadata["position"][0]
    return step
