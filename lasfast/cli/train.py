"""`lasfast train ARCHITECTURE`: train one architecture from scratch and export it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lasfast.cli import setup
from lasfast.cli.display import make_console
from lasfast.cli.from_scratch import export_trained, show_rows, train_from_scratch
from lasfast.cli.options import (
    DataOptions,
    MachineOptions,
    SizeOptions,
    SupernetOptions,
    TrainOptions,
    command,
    panel,
)
from lasfast.core.files import file_stem
from lasfast.evaluation.scoring import evaluate_network
from lasfast.supernets import Supernet


@dataclass(frozen=True, kw_only=True)
class TrainCommandOptions(MachineOptions, TrainOptions, SupernetOptions, SizeOptions, DataOptions):
    """What to train, and where to write."""

    architecture: Annotated[
        str, typer.Argument(help="Layers of each group, as 2-4-6, or choices.", metavar="ARCHITECTURE")
    ]
    directory: Annotated[
        Path | None,
        panel("Output", "Where to write (default: runs/train-ARCHITECTURE).", "--directory", "-o"),
    ] = None
    resume: Annotated[
        bool, panel("Output", "Go on with what is in the directory, if there is anything.", "--resume")
    ] = False
    test: Annotated[bool, panel("Output", "At the end measure on the test split too.", "--test")] = False


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "train", TrainCommandOptions)
    def train(options: TrainCommandOptions) -> None:
        """Train one architecture from scratch, measure it and write it as a torch.export program.

        **Examples**

        lasfast train 2-4-3 --data digits

        lasfast train 2-2-6-2 --supernet mobilenet-v1 --data cifar10 --preset cifar100 --test
        """
        console = make_console(options.quiet)
        device = setup.make_device(options)
        settings = setup.make_settings(options)
        setup.check_any_family(options)
        supernet: Supernet
        if options.supernet in setup.CHOICE_FAMILIES:
            data = setup.load_data(options, options.seed)
            supernet = setup.make_choice_supernet(options, data, options, options.seed)
            architecture = supernet.space.parse(options.architecture)
        else:
            architecture = setup.parse_counts("ARCHITECTURE", options.architecture, options.supernet)
            max_layers = architecture
            if options.max_layers is not None:
                max_layers = setup.parse_max_layers(options, len(architecture))
            data = setup.load_data(options, options.seed)
            supernet = setup.make_supernet(options, data, max_layers, options.seed)
        supernet.to(device)
        images = setup.training_images(data, device)
        text = supernet.space.format(architecture)
        directory = options.directory or Path("runs") / f"train-{file_stem(text)}"
        console.print(f"training {type(supernet).__name__} {text} from scratch in {directory}")
        console.print(f"{data!r}")
        dataset, rows = train_from_scratch(
            console,
            supernet,
            [architecture],
            data,
            images,
            settings,
            directory,
            keep_weights=True,
            resume=options.resume,
        )
        path = directory / f"{file_stem(text)}.pt2"
        export_trained(dataset, architecture, data, path)
        results = make_console()
        show_rows(results, supernet.space, "validation", rows, {})
        if options.test:
            network = dataset.network(architecture).to(device)
            tested = evaluate_network(network, data.test, architecture, precision=settings.precision)
            error = 100 * tested.standard_error
            results.print(f"test: top-1 {100 * tested.top1:.1f} ± {error:.1f} %, {tested.images} images")
        results.print(f"network: {path} (torch.export.load needs torch alone)")
