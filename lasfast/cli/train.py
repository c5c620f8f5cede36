"""`lasfast train ARCHITECTURE`: train one architecture from scratch and export it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lasfast.cli import setup
from lasfast.cli.config import write_config
from lasfast.cli.display import make_console
from lasfast.cli.from_scratch import show_rows, train_from_scratch
from lasfast.cli.options import (
    SizeOptions,
    SupernetOptions,
    TrainingCommandOptions,
    command,
    panel,
)
from lasfast.cli.setup import TrainingSetup
from lasfast.cli.winner import Winner
from lasfast.core.files import file_stem
from lasfast.evaluation.scoring import evaluate_network
from lasfast.runtime import distributed
from lasfast.supernets import Supernet


@dataclass(frozen=True, kw_only=True)
class TrainCommandOptions(TrainingCommandOptions, SizeOptions, SupernetOptions):
    """Options of `lasfast train`."""

    architecture: Annotated[
        str, typer.Argument(help="Layers of each group, such as 2-4-6, or choices.", metavar="ARCHITECTURE")
    ]
    directory: Annotated[
        Path | None,
        panel("Output", "Where to write (default: runs/train-ARCHITECTURE).", "--directory", "-o"),
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

        lasfast train 2-2-6-2 --supernet mobilenet-v1 --data cifar10 --preset nir-cifar100 --test

        lasfast train 3-3-3 --data cifar10 --preset modern-small-images --standalone-epochs 30

        lasfast train 3-3-3 --optimizer adamw --learning-rate 0.002 --weight-decay 0.05 --standalone-keep-best

        lasfast train "sep3.0+sep3.1-..." --supernet cells --cells 20 --data cifar10 --preset darts-retrain

        torchrun --nproc-per-node 2 -m lasfast train 3-3-3 --data cifar10
        """
        setup.check_any_family(options)
        supernet: Supernet
        if options.supernet in setup.CHOICE_FAMILIES:
            given = TrainingSetup.of(options)
            supernet = setup.make_choice_supernet(options, given.data, options, options.seed)
            architecture = supernet.space.parse(options.architecture)
        else:
            architecture = setup.parse_counts("ARCHITECTURE", options.architecture, options.supernet)
            max_layers = architecture
            if options.max_layers is not None:
                max_layers = setup.parse_max_layers(options, len(architecture))
            given = TrainingSetup.of(options)
            supernet = setup.make_supernet(options, given.data, max_layers, options.seed)
        supernet.to(given.device)
        console, data = given.console, given.data
        text = supernet.space.format(architecture)
        directory = options.directory or Path("runs") / f"train-{file_stem(text)}"
        console.print(
            f"training {type(supernet).__name__} {text} from scratch in {directory}, on "
            f"{setup.describe_machine(given.device)}"
        )
        console.print(f"{data!r}")
        if options.test:
            _ = data.test  # read now, so that what is missing or broken is found before the training
        builder, rows = train_from_scratch(
            given, supernet, [architecture], directory, keep_weights=True, resume=options.resume
        )
        if not distributed.world().main:
            return
        write_config(directory, options)  # says which images `lasfast export` may compare it on
        winner = Winner.trained(builder, rows, architecture, data)
        path = winner.write(directory, data)
        results = make_console()
        show_rows(results, supernet.space, "validation", rows, {})
        if options.test:
            network = builder.network(architecture).to(given.device)
            tested = evaluate_network(network, data.test, architecture, precision=options.precision)
            error = 100 * tested.standard_error
            results.print(f"test: top-1 {100 * tested.top1:.1f} ± {error:.1f} %, {tested.images} images")
        results.print(f"network: {path} (`lasfast predict` and `lasfast export` take it)")
