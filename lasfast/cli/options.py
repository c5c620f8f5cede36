"""The options of the commands, as dataclasses: each field is an option, with its default and help."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

T = TypeVar("T")


class StoppedError(Exception):
    """Ctrl-C, with what it stopped: of a KeyboardInterrupt, typer does not keep the text."""


def panel(name: str, text: str, *flags: str) -> Any:
    """Return an option with its help text under a heading of the help page."""
    return typer.Option(*flags, help=text, rich_help_panel=name, show_default=True)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images, and how they are split."""

    data: Annotated[
        str,
        panel(
            "Data",
            "digits, cifar10, cifar100, tiny-imagenet, fashion-mnist, or imagefolder:PATH with "
            "PATH/train/CLASS/IMAGE.",
        ),
    ] = "digits"
    data_root: Annotated[
        Path | None, panel("Data", "Folder of the named sets (default: $LASFAST_DATA, or data).")
    ] = None
    download: Annotated[bool, panel("Data", "Download a named set that is not there.", "--download")] = False
    limit: Annotated[int | None, panel("Data", "Train on this many images, class-balanced.")] = None
    validation: Annotated[int | None, panel("Data", "Training images held out for validation.")] = None
    calibration: Annotated[int, panel("Data", "Training images that BatchNorm is recalibrated on.")] = 1000
    image_size: Annotated[int | None, panel("Data", "Resize image folders to this size.")] = None


@dataclass(frozen=True, kw_only=True)
class FamilyOptions:
    """Which supernet, of either kind."""

    supernet: Annotated[
        str, panel("Supernet", "residual, plain, mobilenet-v1 or resnet50; more in `lasfast spaces`.")
    ] = "residual"
    stem: Annotated[
        str | None,
        panel("Supernet", "cifar or imagenet, which halves more often (default: what fits the images)."),
    ] = None
    dropout: Annotated[float, panel("Supernet", "Dropout before the classifier.")] = 0.0


@dataclass(frozen=True, kw_only=True)
class SupernetOptions(FamilyOptions):
    """Which supernet of layer assignments."""

    max_layers: Annotated[
        str | None,
        panel("Supernet", "Most layers of each group, as 6,6,6 (default: enough for the depth)."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """How large a supernet of choices is."""

    width: Annotated[float, panel("Supernet", "Multiplies all channels of a supernet of choices.")] = 1.0
    cells: Annotated[int | None, panel("Supernet", "Cells of --supernet cells (default: 8).")] = None
    cell_channels: Annotated[
        int | None, panel("Supernet", "Channels of its first cells' nodes (default: 16).")
    ] = None
    cell_nodes: Annotated[int | None, panel("Supernet", "Intermediate nodes of its cells (default: 4).")] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class OneShotOptions(SizeOptions):
    """How a supernet of choices is made and trained."""

    supernet_epochs: Annotated[
        int | None, panel("Training", "Epochs of training a supernet of choices, before the search.")
    ] = None
    sampling: Annotated[
        str, panel("Training", "What a batch of them trains: uniform, uniform-cost or sandwich.")
    ] = "uniform"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How to train; what is not given comes from the preset."""

    preset: Annotated[
        str, panel("Training", "small, cifar100, tiny-imagenet, tiny-imagenet-resnet50 or imagenet.")
    ] = "small"
    batch_size: Annotated[int | None, panel("Training", "Images in a batch.")] = None
    learning_rate: Annotated[float | None, panel("Training", "Base learning rate.")] = None
    weight_decay: Annotated[float | None, panel("Training", "Weight decay.")] = None
    warm_up_epochs: Annotated[
        int | None, panel("Training", "Epochs of the deepest sub-network before the search.")
    ] = None
    epochs_per_step: Annotated[int | None, panel("Training", "Epochs of each search step.")] = None
    standalone_epochs: Annotated[int | None, panel("Training", "Epochs of stand-alone training.")] = None
    precision: Annotated[str, panel("Training", "fp32, or bf16 (autocast).")] = "fp32"
    channels_last: Annotated[
        bool | None,
        panel("Training", "Keep weights and images in that layout.", "--channels-last/--no-channels-last"),
    ] = None
    clip_norm: Annotated[
        float | None, panel("Training", "Bound on the norm of an update's gradient (default: none).")
    ] = None
    operators: Annotated[
        str, panel("Training", "auto, native (lasfast's fused operators) or torch (PyTorch's own).")
    ] = "auto"
    seed: Annotated[int, panel("Training", "Of weights, split, order, augmentation and search.")] = 0


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How candidates are measured."""

    statistics: Annotated[
        str, panel("Evaluation", "BatchNorm convention: cumulative, ema or batch_mean.")
    ] = "cumulative"
    backend: Annotated[str, panel("Evaluation", "auto, native or torch.")] = "auto"
    memory_budget: Annotated[int | None, panel("Evaluation", "Bytes of activations to stay within.")] = None


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Where to run, and what to say."""

    device: Annotated[str, panel("Machine", "auto, cpu or cuda.")] = "auto"
    threads: Annotated[int | None, panel("Machine", "CPU threads (default: as many as torch takes).")] = None
    quiet: Annotated[bool, panel("Machine", "Print the result only.", "--quiet", "-q")] = False


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What every search takes, of a supernet or of a table."""

    constraint: Annotated[str | None, panel("Search", "Bounds on costs, as flops<=30M,params<=2M.")] = None
    directory: Annotated[
        Path | None, panel("Search", "Where to write (default: runs/SEARCHER-DATA).", "--directory", "-o")
    ] = None
    resume: Annotated[
        bool, panel("Search", "Go on with the study in the directory, if there is one.", "--resume")
    ] = False
    quiet: Annotated[bool, panel("Machine", "Print the result only.", "--quiet", "-q")] = False


@dataclass(frozen=True, kw_only=True)
class SupernetSearchOptions(
    StudyOptions, MachineOptions, EvaluateOptions, TrainOptions, FamilyOptions, DataOptions
):
    """What every search of a supernet takes."""

    latency_table: Annotated[
        Path | None,
        panel("Search", "The file of latency<=12ms@cpu in a constraint (lasfast latency build)."),
    ] = None
    retrain: Annotated[
        bool,
        panel(
            "Search",
            "At the end train from scratch the winner, and a handcrafted assignment or a random architecture "
            "that costs as much.",
            "--retrain",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SupernetSearchOptions, SupernetOptions):
    """What every search of layer assignments takes."""

    depth: Annotated[int, panel("Search", "Layers of the assignments to end with.")] = 9


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions(SupernetSearchOptions, OneShotOptions):
    """What every search of a supernet of choices takes."""


def command(app: typer.Typer, name: str, options: type[T]) -> Callable[[Callable[[T], None]], None]:
    """Register `function(options)` as a command whose options are the dataclass's fields.

    The docstring is the help page; paragraphs that begin with a backslash-b keep their lines.
    """
    hints = get_type_hints(options, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(options)  # type: ignore[arg-type]
    ]

    def register(function: Callable[[T], None]) -> None:
        def run(**values: Any) -> None:
            try:
                function(options(**values))
            except KeyboardInterrupt as interrupt:
                more = "; --resume goes on from what is written" if "resume" in values else ""
                raise StoppedError(str(interrupt) or f"stopped{more}") from interrupt

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = hints
        run.__doc__ = function.__doc__
        app.command(name)(run)

    return register
