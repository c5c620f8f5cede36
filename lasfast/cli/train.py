"""`lasfast train ARCHITECTURE`: train one architecture from scratch and export it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lasfast.cli import setup
from lasfast.cli.config import read_options, write_config
from lasfast.cli.context import given_options
from lasfast.cli.display import make_console
from lasfast.cli.earlier import EarlierRun
from lasfast.cli.from_scratch import show_rows, train_from_scratch
from lasfast.cli.names import BEST, NAMES, parse_architecture
from lasfast.cli.options import (
    EPOCHS,
    SizeOptions,
    SupernetOptions,
    TrainingCommandOptions,
    TrainOptions,
    command,
    names_of,
    panel,
)
from lasfast.cli.setup import TrainingSetup
from lasfast.cli.terminal import resumable
from lasfast.cli.winner import Winner, measure_on_test
from lasfast.runtime import distributed
from lasfast.spaces import Architecture
from lasfast.supernets import Supernet


@dataclass(frozen=True, kw_only=True)
class TrainCommandOptions(TrainingCommandOptions, SizeOptions, SupernetOptions):
    """Options of `lasfast train`."""

    architecture: Annotated[
        str | None, typer.Argument(help=f"{NAMES} (default with --run: best).", metavar="ARCHITECTURE")
    ] = None
    run: Annotated[
        Path | None,
        panel(
            "Training",
            "A search, of which the images, the supernet and the settings are taken that are not given.",
            "--run",
        ),
    ] = None
    standalone_epochs: Annotated[
        int | None, panel("Training from scratch", "Epochs of training from scratch.", *EPOCHS)
    ] = None
    directory: Annotated[
        Path | None,
        panel(
            "Output",
            "Where to write (default: runs/train-ARCHITECTURE, or RUN/train-ARCHITECTURE).",
            "--directory",
            "-o",
        ),
    ] = None
    resume: Annotated[
        bool, panel("Output", "Go on with what is in the directory, if there is anything.", "--resume")
    ] = False
    test: Annotated[bool, panel("Output", "At the end, measure on the test split, too.", "--test")] = False


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "train", TrainCommandOptions)
    def train(options: TrainCommandOptions) -> None:
        """Train one architecture from scratch, measure it and write it as a torch.export program.

        **Examples**

        lasfast train 2-4-3 --data digits

        lasfast train --run runs/nir-photos --test

        lasfast train highest --run runs/evolution-photos --epochs 100

        lasfast train 2-2-6-2 --supernet mobilenet-v1 --data cifar10 --preset nir-cifar100 --test

        lasfast train 3-3-3 --data cifar10 --preset modern-small-images --epochs 30

        lasfast train 3-3-3 --optimizer adamw --learning-rate 0.002 --weight-decay 0.05 --standalone-keep-best

        lasfast train "sep3.0+sep3.1-..." --supernet cells --cells 20 --data cifar10 --preset darts-retrain

        torchrun --nproc-per-node 2 -m lasfast train 3-3-3 --data cifar10
        """
        options, given, supernet, architecture = _set_up(options)
        console, data = given.console, given.data
        name = supernet.space.name(architecture)
        directory = options.directory or (options.run or Path("runs")) / f"train-{name}"
        console.print(
            f"training {type(supernet).__name__} {name} from scratch in {directory}, on "
            f"{setup.describe_machine(given.device)}"
        )
        console.print(data.summary("train", "validation"))
        if options.test:
            _ = data.test  # read now, so that what is missing or broken is found before the training
        if distributed.world().main:
            text = supernet.space.format(architecture)
            more = {"architecture": text, "given": sorted(given_options())}
            write_config(directory, options, ("train",), more)
        with resumable(directory):
            builder, rows = train_from_scratch(
                given, supernet, [architecture], directory, keep_weights=True, resume=options.resume
            )
        winner = Winner.trained(builder, rows, architecture, data)
        results = make_console()
        show_rows(results, supernet.space, "validation", rows, {})
        if options.test:
            winner = measure_on_test(results, given, winner)
        if not distributed.world().main:
            return
        path = winner.write(directory, data)
        results.print(f"network: {path} (`lasfast predict` and `lasfast export` take it)", soft_wrap=True)


def _set_up(
    options: TrainCommandOptions,
) -> tuple[TrainCommandOptions, TrainingSetup, Supernet, Architecture]:
    """Return the options with those of the run, if one is named, and what they ask for."""
    if options.run is not None:
        return _of_run(options, options.run)
    if options.architecture is None:
        raise ValueError("ARCHITECTURE must be given, such as 2-4-3; or --run RUN, whose best is taken then")
    setup.check_any_family(options)
    if options.supernet not in setup.FAMILIES:
        given = TrainingSetup.of(options)
        supernet = setup.make_any_supernet(options, given.data, depth=0, size=options, seed=options.seed)
        architecture = parse_architecture(options.architecture, supernet.space, None)
    else:
        architecture = setup.parse_counts("ARCHITECTURE", options.architecture, options.supernet)
        max_layers = architecture
        if options.max_layers is not None:
            max_layers = setup.parse_max_layers(options, len(architecture))
        given = TrainingSetup.of(options)
        supernet = setup.make_supernet(options, given.data, max_layers, options.seed)
    return options, given, supernet.to(given.device), architecture


def _of_run(
    options: TrainCommandOptions, directory: Path
) -> tuple[TrainCommandOptions, TrainingSetup, Supernet, Architecture]:
    """Return what the options ask for in the supernet of a run, on its images and by its settings."""
    if read_options(directory).get("table") is not None:
        raise ValueError(f"--run {directory} searched a table, and has no networks to train")
    earlier = EarlierRun.read(directory)
    options = earlier.adopt(options, "--run")
    own, given_names = earlier.options, given_options()
    settings = {name: getattr(own, name) for name in names_of(TrainOptions) - {"seed"} - given_names}
    if own.retrain_preset is not None and "preset" in settings:
        settings["preset"] = own.retrain_preset
    options = dataclasses.replace(options, **settings)
    given = TrainingSetup.of(options, split_seed=own.seed)
    supernet = earlier.make_supernet(given.data)
    architecture = parse_architecture(options.architecture or BEST, supernet.space, directory)
    given.console.print(f"images, supernet and settings are those of {directory} (preset {options.preset})")
    return options, given, supernet.to(given.device), architecture
