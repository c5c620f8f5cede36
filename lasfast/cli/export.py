"""`lasfast export RUN`: write the network of a run in the format that its place of use reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from lasfast import deploy
from lasfast.cli import setup
from lasfast.cli.config import CONFIG, read_config
from lasfast.cli.display import make_console
from lasfast.cli.earlier import open_run
from lasfast.cli.names import NAMES, parse_architecture
from lasfast.cli.options import ThreadOptions, TrainingCommandOptions, command, panel
from lasfast.core.checks import check_choice
from lasfast.data.splits import spread
from lasfast.deploy.classify import find_images, read_image
from lasfast.deploy.formats import load_program
from lasfast.evaluation.scoring import evaluate_network
from lasfast.report.leave import write_network
from lasfast.study.result import Measured

COMPARED = 32
"""On so many images a file is compared with PyTorch."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ThreadOptions):
    """Options of `lasfast export`."""

    source: Annotated[
        Path, typer.Argument(help="A run's directory, or a .pt2 file that one wrote.", metavar="RUN")
    ]
    to: Annotated[str, typer.Option("--to", help=f"The format: {', '.join(deploy.FORMATS)}.")]
    architecture: Annotated[
        str | None,
        panel(
            "Network",
            f"Another architecture than the run's winner, with the weights that it inherits: {NAMES}.",
            "--architecture",
        ),
    ] = None
    output: Annotated[
        Path | None, panel("Output", "The file to write (default: beside the .pt2 file).", "--output", "-o")
    ] = None
    images: Annotated[
        Path | None,
        panel(
            "Check",
            "An image, or a folder of some, on which the new file is compared with PyTorch (default: "
            "validation images of the run).",
        ),
    ] = None


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "export", ExportOptions)
    def export(options: ExportOptions) -> None:
        """Write a run's network in another format, checked against PyTorch before it is there.

        All formats take images as bytes and give logits: the normalization is inside, and so is a description
        with the names of the classes.

        **Examples**

        lasfast export runs/nir-digits --to onnx

        lasfast export runs/evolution-digits --to onnx --architecture highest

        lasfast export runs/nir-digits/2-4-3.pt2 --to openvino --images photos/test -o models/digits.xml
        """
        check_choice("--to", options.to, tuple(deploy.FORMATS))
        wanted = deploy.FORMATS[options.to]
        wanted.check_installed(f"--to {options.to}")
        setup.set_threads(options)
        console = make_console(options.quiet)
        if options.architecture is None:
            source = _program_of(options.source)
        else:
            source = _write_inherited(options.source, options.architecture, console)
        path = options.output or source.with_suffix(wanted.suffix)
        if path.suffix != wanted.suffix:
            raise ValueError(f"--output must end in {wanted.suffix} for --to {options.to}, got {path}")
        images = _images(options, source, console)
        exported = deploy.convert(source, path, images)
        seconds = deploy.measure_latency(deploy.load(path), images[:1])
        threads = torch.get_num_threads()
        make_console().print(
            f"{path}: {exported.bytes / 1e6:.2f} MB, {1e3 * seconds:.2f} ms for one image "
            f"({threads} thread{'s' if threads > 1 else ''}); logits differ from PyTorch's by "
            f"{exported.difference:.1g} of their norm, on {exported.images} images",
            soft_wrap=True,
        )


def _write_inherited(run: Path, text: str, console: Console) -> Path:
    """Write the network of an architecture with the weights that it inherits; return the .pt2 file."""
    if not run.is_dir():
        raise ValueError(f"--architecture is of a run's directory, got the file {run}")
    evaluator, _, data, _ = open_run(run, torch.device("cpu"), console)
    architecture = parse_architecture(text, evaluator.space, run)
    network = evaluator.extract(architecture)
    found = evaluate_network(network, data.validation, architecture)
    measured = Measured(found, evaluator.space.format(architecture), evaluator.costs(architecture))
    console.print(f"{measured}, with inherited weights", soft_wrap=True)
    supernet = evaluator.supernet
    return write_network(network, measured, supernet, data, run, weights="with inherited weights")


def _program_of(source: Path) -> Path:
    """Return the .pt2 file that is meant: itself, or the one of a run."""
    if not source.is_dir():
        if not source.is_file():
            raise FileNotFoundError(f"{source}: there is no such run or file")
        return source
    found = sorted(source.glob("*.pt2"))
    if not found:
        raise FileNotFoundError(f"{source} holds no network: there is no .pt2 file, as a search ends with")
    if len(found) > 1:
        raise ValueError(f"{source} holds {len(found)} networks; name one of {', '.join(map(str, found))}")
    return found[0]


def _images(options: ExportOptions, source: Path, console: Console) -> Tensor:
    """Return real images to compare on, as the network takes them."""
    if options.images is not None:
        _, card = load_program(source)
        found = find_images([options.images], card.classes)
        return torch.stack([read_image(found[one][0], card) for one in spread(len(found), COMPARED)])
    if not (source.parent / CONFIG).exists():
        raise ValueError(
            f"--images must be given: there is no run beside {source}, whose validation images the new file "
            "would be compared with PyTorch on"
        )
    config = read_config(source.parent, TrainingCommandOptions)
    return setup.load_data(config, config.seed, console).samples(COMPARED)
