"""The options of the commands, as dataclasses whose fields are options, with their defaults and help."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from lasfast.cli.config import blocks_of_run
from lasfast.cli.context import CONTEXT, running
from lasfast.cli.terminal import StoppedError
from lasfast.ir.precision import PRECISIONS
from lasfast.train.presets import PRESETS

T = TypeVar("T")
PANELS = (
    "Search",
    "Table",
    "Supernet",
    "Model",
    "Data",
    "Training",
    "Optimizer",
    "Loss",
    "Augmentation",
    "Training from scratch",
    "Evaluation",
    "Output",
    "Machine",
)
"""The headings of help pages, in their order; others come after them."""


EPOCHS = ("--standalone-epochs", "--epochs")
"""The names of the option for the epochs of a command that trains networks from scratch, and nothing else."""


def panel(name: str, text: str, *flags: str) -> Any:
    """Return an option with its help text under a heading of the help page."""
    return typer.Option(*flags, help=text, rich_help_panel=name, show_default=True)


def precision_option(default: str = "") -> Any:
    """Return the option `--precision`, which all commands share; `default` says what its absence means."""
    return panel("Machine", f"Precision of training and evaluation: {' or '.join(PRECISIONS)}{default}.")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options that say which images are used, and how they are split."""

    data: Annotated[
        str,
        panel(
            "Data",
            "Dataset: digits, cifar10, cifar100, cinic10, svhn, tiny-imagenet, fashion-mnist, "
            "imagefolder:PATH with PATH/train/CLASS/IMAGE, csv:FILE with the columns file and label, or "
            "webdataset:PATTERN, as train-{000..146}.tar.",
        ),
    ] = "digits"
    data_root: Annotated[
        Path | None, panel("Data", "Folder of the named sets (default: $LASFAST_DATA, or data).")
    ] = None
    download: Annotated[bool, panel("Data", "Download a named set that is not there.", "--download")] = False
    limit: Annotated[int | None, panel("Data", "Train on this many images, class-balanced.")] = None
    validation: Annotated[int | None, panel("Data", "Training images held out for validation.")] = None
    image_size: Annotated[int | None, panel("Data", "Resize image folders to this size.")] = None
    validation_archives: Annotated[
        str | None, panel("Data", "Archives of webdataset:PATTERN that have validation images.")
    ] = None
    test_archives: Annotated[str | None, panel("Data", "Its archives that have test images.")] = None
    list_anew: Annotated[
        bool,
        panel("Data", "List folders again that did not change since they were listed.", "--list-anew"),
    ] = False
    fast_decode: Annotated[
        bool,
        panel(
            "Data",
            "Decode large JPEG files for training no larger than needed; faster, with other roundings.",
            "--fast-decode",
        ),
    ] = False
    skip_broken: Annotated[
        bool,
        panel("Data", "Leave out image files that cannot be decoded, and name them.", "--skip-broken"),
    ] = False
    workers: Annotated[
        int | None,
        panel("Machine", "Processes that decode large images (default: one for each core, at most 8)."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(DataOptions):
    """Options that say which images are used by commands that measure with inherited weights."""

    calibration: Annotated[int, panel("Data", "Training images that BatchNorm is recalibrated on.")] = 1000


@dataclass(frozen=True, kw_only=True)
class FamilyOptions:
    """Options that say which supernet is built, of layer assignments or of choices."""

    supernet: Annotated[
        str,
        panel(
            "Supernet",
            "residual, plain, mobilenet-v1, resnet50 or another in `lasfast spaces`; or one of your own, "
            "FILE.py:CLASS or PACKAGE.MODULE:CLASS.",
        ),
    ] = "residual"
    stem: Annotated[
        str | None,
        panel("Supernet", "cifar or imagenet, which halves more often (default: what fits the images)."),
    ] = None
    dropout: Annotated[
        float | None, panel("Supernet", "Dropout before the classifier (default: the preset's, or 0).")
    ] = None


@dataclass(frozen=True, kw_only=True)
class SupernetOptions(FamilyOptions):
    """Options that say which supernet of layer assignments is built."""

    max_layers: Annotated[
        str | None,
        panel(
            "Supernet",
            "Most layers of each group, such as 6,6,6 (default: two more than an even share of the depth, "
            "and as many as published networks have).",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CellOptions:
    """Options that say how large a supernet of choices is, such as a stack of cells."""

    width: Annotated[float, panel("Supernet", "Factor of all channels of a supernet of choices.")] = 1.0
    cells: Annotated[int | None, panel("Supernet", "Cells of --supernet cells (default: 8).")] = None
    cell_channels: Annotated[
        int | None, panel("Supernet", "Channels of the first cells' nodes (default: 16).")
    ] = None
    cell_nodes: Annotated[int | None, panel("Supernet", "Intermediate nodes of a cell (default: 4).")] = None


@dataclass(frozen=True, kw_only=True)
class SizeOptions(CellOptions):
    """Options that say how large a supernet of choices is, and what all of its architectures have."""

    blocks: Annotated[
        str | None,
        panel(
            "Supernet",
            "Kinds of the blocks of shufflenet-v2-channels: one for all, those of each as "
            "5x5-xception-3x3-..., or RUN, a search of shufflenet-v2 whose best has them (default: 3x3).",
        ),
    ] = None
    squeeze_excite: Annotated[
        bool,
        panel(
            "Supernet", "Give the bottlenecks of mobilenet-... squeeze-and-excitation.", "--squeeze-excite"
        ),
    ] = False
    activation: Annotated[
        str | None,
        panel("Supernet", "Activation of mobilenet-...: relu, relu6, hardswish or swish (default: relu)."),
    ] = None

    def __post_init__(self) -> None:
        # Read now, so that the configuration of a run has the blocks, whatever becomes of the other run.
        if self.blocks is not None and Path(self.blocks).is_dir():
            object.__setattr__(self, "blocks", blocks_of_run(Path(self.blocks)))


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options that say of which network the supernet is made, in place of --supernet."""

    model: Annotated[
        str | None,
        panel(
            "Model",
            "Search narrower and shallower versions of this network: timm:NAME, torchvision:NAME, "
            "FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, whose result is the network.",
        ),
    ] = None
    weights: Annotated[
        Path | None,
        panel("Model", "The network's weights: a state dict, as safetensors or as torch.save writes it."),
    ] = None
    freeze: Annotated[
        str | None, panel("Model", "Modules that stay as they are, such as conv1,layer1.0 (names by commas).")
    ] = None
    vary: Annotated[
        str, panel("Model", "What varies: widths, depth or both (NIR, which searches depths: depth).")
    ] = "both"


@dataclass(frozen=True, kw_only=True)
class ModelSearchOptions(ModelOptions):
    """Options that say how versions of a network are searched, and trained before and after."""

    weights: Annotated[
        Path | None,
        panel(
            "Model",
            "The weights of --model: a state dict, as safetensors or as torch.save writes it. Or the "
            "directory of an earlier search, whose supernet and images are taken, and not trained again.",
        ),
    ] = None
    importance: Annotated[
        str,
        panel(
            "Model",
            "Which channels are kept first: by magnitude, readers, l1, batch_norm, order, or taylor, which "
            "takes gradients on some training images.",
        ),
    ] = "magnitude"
    adapt_epochs: Annotated[
        int,
        panel("Model", "Epochs of training the network together with smaller versions, before the search."),
    ] = 0
    tune_epochs: Annotated[
        int, panel("Model", "Epochs of training the winner on from the weights it inherits, at the end.")
    ] = 0


@dataclass(frozen=True, kw_only=True)
class OneShotOptions(SizeOptions):
    """Options that say how a supernet of choices is built and trained."""

    standalone: Annotated[
        bool,
        panel(
            "Training",
            "Train each candidate from scratch, for --standalone-epochs, rather than a supernet beforehand "
            "(LayerNAS).",
            "--standalone",
        ),
    ] = False
    supernet_epochs: Annotated[
        int | None,
        panel(
            "Training",
            "Epochs of training the supernet, before the search.",
            "--supernet-epochs",
            "--epochs",
        ),
    ] = None
    supernet_schedule: Annotated[
        str | None,
        panel(
            "Training",
            "Learning rate of a supernet of choices: linear or cosine, both to zero, exponential or constant "
            "(default: linear).",
        ),
    ] = None
    supernet_ramp_epochs: Annotated[
        float | None,
        panel(
            "Training", "First epochs of a supernet of choices, in which the learning rate rises from zero."
        ),
    ] = None
    sampling: Annotated[
        str,
        panel(
            "Training",
            "Which paths of a supernet of choices a batch trains: uniform, uniform-cost or sandwich.",
        ),
    ] = "uniform"
    sampling_range: Annotated[
        str | None,
        panel(
            "Training",
            "Costs that --sampling uniform-cost trains, as 200M<=flops<=400M (default: those within the "
            "first bound of --constraint).",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Options that say for how long a supernet of layer assignments is trained."""

    warm_up_epochs: Annotated[
        int | None, panel("Training", "Epochs of the deepest sub-network before the search.")
    ] = None
    epochs_per_step: Annotated[int | None, panel("Training", "Epochs of each search step.")] = None


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """Options that say which sub-networks learn from others."""

    distill: Annotated[
        str | None,
        panel(
            "Training",
            "full: the largest sub-network of each batch teaches the others. A supernet of choices needs "
            "--sampling sandwich for it.",
        ),
    ] = None
    teacher: Annotated[
        str | None,
        panel(
            "Training",
            "Network that the winner learns from in --retrain or --tune-epochs: model, that of --model, or "
            "FILE.pt2, a torch.export program.",
        ),
    ] = None
    distill_temperature: Annotated[
        float | None,
        panel("Training", "Temperature that logits are divided by in distillation (default: 1)."),
    ] = None
    distill_weight: Annotated[
        float | None, panel("Training", "The teacher's share of the loss; labels have the rest (default: 1).")
    ] = None


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Options that say how gradients become updates."""

    optimizer: Annotated[str | None, panel("Optimizer", "sgd, adamw or rmsprop (default: the preset's).")] = (
        None
    )
    learning_rate: Annotated[float | None, panel("Optimizer", "Base learning rate.")] = None
    momentum: Annotated[
        float | None, panel("Optimizer", "Momentum of sgd and rmsprop; the first beta of adamw.")
    ] = None
    nesterov: Annotated[
        bool | None, panel("Optimizer", "Nesterov's momentum, of sgd.", "--nesterov/--no-nesterov")
    ] = None
    beta2: Annotated[
        float | None,
        panel("Optimizer", "Decay of the mean squared gradients of adamw (0.999) and rmsprop (0.99)."),
    ] = None
    eps: Annotated[
        float | None, panel("Optimizer", "Added to the root of the mean squares (default: 1e-8).")
    ] = None
    exponential_end: Annotated[
        float | None,
        panel("Optimizer", "The share of the rate that exponential schedules end with (default: 0.01)."),
    ] = None
    weight_decay: Annotated[float | None, panel("Optimizer", "Weight decay.")] = None
    bias_decay: Annotated[
        bool | None,
        panel("Optimizer", "Let biases and scales of norms decay, too.", "--bias-decay/--no-bias-decay"),
    ] = None
    clip_norm: Annotated[
        float | None, panel("Optimizer", "Largest norm of an update's gradient (default: no bound).")
    ] = None


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions:
    """Options that say how training images are varied (`lasfast.data.Augmentation`)."""

    crop: Annotated[
        str | None,
        panel(
            "Augmentation",
            "data (as the set has it), pad (a crop of the padded image), resized (an enlarged part) or none.",
        ),
    ] = None
    flip: Annotated[
        bool | None,
        panel("Augmentation", "Mirror half of the images (default: as the set has it).", "--flip/--no-flip"),
    ] = None
    color_jitter: Annotated[
        str | None,
        panel(
            "Augmentation",
            "Changes of brightness, contrast, saturation and hue at most, such as 0.4,0.4,0.4,0.2.",
        ),
    ] = None
    auto_augment: Annotated[str | None, panel("Augmentation", "randaugment, trivialaugment or none.")] = None
    randaugment_layers: Annotated[
        int | None, panel("Augmentation", "Operations of randaugment on an image (default: 2).")
    ] = None
    randaugment_magnitude: Annotated[
        int | None, panel("Augmentation", "Their magnitude, from 0 to 30 (default: 9).")
    ] = None
    random_erasing: Annotated[
        float | None, panel("Augmentation", "Probability that a random box becomes zeros.")
    ] = None
    cutout: Annotated[
        int | None, panel("Augmentation", "Pixels of the side of a random square that becomes zeros.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Options that say what is minimised."""

    label_smoothing: Annotated[
        float | None, panel("Loss", "Share of each label that is spread over all classes.")
    ] = None
    mixup: Annotated[
        float | None, panel("Loss", "Alpha of MixUp, by which images and labels of a batch are mixed.")
    ] = None
    cutmix: Annotated[float | None, panel("Loss", "Alpha of CutMix; of both, a batch takes one.")] = None
    class_weights: Annotated[
        str | None,
        panel("Loss", "balanced, or factors of the classes' losses, with commas between them."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class StandaloneOptions:
    """Options that say how networks are trained from scratch."""

    standalone_epochs: Annotated[
        int | None, panel("Training from scratch", "Epochs of training from scratch.")
    ] = None
    standalone_schedule: Annotated[
        str | None,
        panel(
            "Training from scratch",
            "Learning rate: milestones, linear or cosine, both to zero, exponential or constant (default: "
            "the preset's).",
        ),
    ] = None
    milestones: Annotated[
        str | None,
        panel(
            "Training from scratch",
            "Epochs at which the rate of --standalone-schedule milestones falls, such as 15,22.5 (default: "
            "the preset's, in proportion).",
        ),
    ] = None
    milestone_factor: Annotated[
        float | None, panel("Training from scratch", "What the rate is multiplied by there.")
    ] = None
    standalone_ramp_epochs: Annotated[
        float | None,
        panel("Training from scratch", "First epochs, in which the learning rate rises from zero."),
    ] = None
    standalone_ema: Annotated[
        float | None,
        panel(
            "Training from scratch", "Decay of an average of the weights that training ends with, as 0.99."
        ),
    ] = None
    standalone_drop_path: Annotated[
        float | None, panel("Training from scratch", "Probability that an image skips a residual branch.")
    ] = None
    standalone_drop_path_rule: Annotated[
        str | None, panel("Training from scratch", "That rises with depth (the default) or with epochs.")
    ] = None
    standalone_auxiliary: Annotated[
        float | None,
        panel("Training from scratch", "Weight of the loss of an auxiliary head at two thirds of the depth."),
    ] = None
    standalone_early_stopping: Annotated[
        int | None,
        panel("Training from scratch", "Stop after so many epochs without a better validation accuracy."),
    ] = None
    standalone_keep_best: Annotated[
        bool | None,
        panel(
            "Training from scratch",
            "End with the network of the epoch with the best validation accuracy.",
            "--standalone-keep-best",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TrainOptions(OptimizerOptions, LossOptions, AugmentationOptions, StandaloneOptions):
    """Options that say how to train; what is not given comes from the preset."""

    preset: Annotated[str, panel("Training", f"Settings: {', '.join(PRESETS)}.")] = "small"
    batch_size: Annotated[int | None, panel("Training", "Images in a batch.")] = None
    batch_norm: Annotated[
        str | None,
        panel(
            "Training",
            "Statistics of several processes: global, of the whole batch, or local, of each one's images.",
        ),
    ] = None
    precision: Annotated[str, precision_option()] = "fp32"
    channels_last: Annotated[
        bool | None,
        panel(
            "Machine", "Keep weights and images in this memory layout.", "--channels-last/--no-channels-last"
        ),
    ] = None
    operators: Annotated[
        str,
        panel(
            "Machine",
            "What runs training: auto, native (lasfast's fused operators) or torch (PyTorch's own).",
        ),
    ] = "auto"
    seed: Annotated[int, panel("Training", "Seed of weights, split, order, augmentation and search.")] = 0


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(CalibrationOptions):
    """Options that say how candidates are measured."""

    statistics: Annotated[
        str, panel("Evaluation", "BatchNorm convention: cumulative, ema or batch_mean.")
    ] = "cumulative"
    backend: Annotated[str, panel("Evaluation", "What runs candidates: auto, native or torch (PyTorch).")] = (
        "auto"
    )
    memory_budget: Annotated[int | None, panel("Evaluation", "Bytes of activations to stay within.")] = None


@dataclass(frozen=True, kw_only=True)
class ThreadOptions:
    """Options that say how many threads run, and how much to print."""

    threads: Annotated[int | None, panel("Machine", "CPU threads (default: as many as torch takes).")] = None
    quiet: Annotated[bool, panel("Machine", "Print the result only.", "--quiet", "-q")] = False


@dataclass(frozen=True, kw_only=True)
class MachineOptions(ThreadOptions):
    """Options that say where to run, too."""

    device: Annotated[str, panel("Machine", "auto, cpu or cuda.")] = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainingCommandOptions(MachineOptions, TrainOptions, DataOptions):
    """Options of every command that trains."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Options of every search, of a supernet or of a table."""

    constraint: Annotated[
        str | None,
        panel(
            "Search",
            "Bounds on costs, such as flops<=30M,params<=2M, or flops<=50% of the largest network's.",
        ),
    ] = None
    directory: Annotated[
        Path | None, panel("Search", "Where to write (default: runs/SEARCHER-DATA).", "--directory", "-o")
    ] = None
    resume: Annotated[
        bool, panel("Search", "Go on with the study in the directory, if there is one.", "--resume")
    ] = False
    quiet: Annotated[bool, panel("Machine", "Print the result only.", "--quiet", "-q")] = False


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(StudyOptions):
    """Options of every search that measures many architectures."""

    evaluations: Annotated[int | None, panel("Search", "Architectures to measure at most.")] = None
    seconds: Annotated[
        float | None,
        panel(
            "Search",
            "Seconds that the search may take, training its supernet included; in a --table, that training "
            "what is measured may take, by the --time-column.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SupernetSearchOptions(StudyOptions, EvaluateOptions, FamilyOptions, TrainingCommandOptions):
    """Options of every search of a supernet."""

    latency_table: Annotated[
        Path | None,
        panel(
            "Search",
            "The file that bounds such as latency<=12ms@cpu are read from (see lasfast latency build).",
        ),
    ] = None
    retrain: Annotated[
        bool,
        panel(
            "Search",
            "At the end, train the winner from scratch, and beside it a handcrafted assignment or a random "
            "architecture of the same cost.",
            "--retrain",
        ),
    ] = False
    retrain_preset: Annotated[
        str | None,
        panel("Search", "The preset of --retrain, as spos-retrain (default: that of the search)."),
    ] = None
    retrain_random: Annotated[
        int | None,
        panel(
            "Search",
            "In --retrain, train so many random architectures of the winner's cost from scratch, too; 19 can "
            "show that the winner is better than chance (default: 0 for layer assignments, else 1).",
        ),
    ] = None
    test: Annotated[
        bool, panel("Search", "At the end, measure the winner on the test split, too.", "--test")
    ] = False
    track: Annotated[
        str | None,
        panel(
            "Search",
            "Write the course of the search for tensorboard (to RUN/tensorboard), mlflow (to RUN/mlflow.db), "
            "or both, with a comma between them.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FinalistOptions:
    """Options that say which architectures are measured or trained at the end of a search."""

    baselines: Annotated[
        int | None,
        panel(
            "Search",
            "At the end, measure so many random architectures of the winner's cost beside it, the whole "
            "network, and one that is scaled alike everywhere; 0 compares with nothing (default: 20, and 0 "
            "with --standalone).",
        ),
    ] = None
    retrain_best: Annotated[
        int,
        panel(
            "Search",
            "In --retrain, train so many of the best candidates from scratch, and export the one that is "
            "best then, on the validation images.",
        ),
    ] = 1


@dataclass(frozen=True, kw_only=True)
class SearchOptions(
    BudgetOptions,
    ModelSearchOptions,
    StepOptions,
    SupernetSearchOptions,
    SupernetOptions,
    DistillOptions,
    FinalistOptions,
):
    """Options of every search of layer assignments."""

    depth: Annotated[
        int,
        panel(
            "Search", "Layers of the assignments that the search ends with; of a table, as many as it has."
        ),
    ] = 9


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions(
    BudgetOptions,
    ModelSearchOptions,
    OneShotOptions,
    SupernetSearchOptions,
    SupernetOptions,
    DistillOptions,
    FinalistOptions,
):
    """Options of every search of a supernet of choices."""


def names_of(*groups: type) -> set[str]:
    """Return the names of the options that dataclasses have."""
    return {field.name for group in groups for field in dataclasses.fields(group)}


def refuse(options: Any, names: Iterable[str], why: str) -> None:
    """Raise a ValueError if any of these options was given, since nothing would read it.

    Args:
        options: what the command was given.
        names: fields of options dataclasses; those that the command does not have are passed over.
        why: the end of the error's sentence, such as "belongs to --model".
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in names and value != field.default:
            raise ValueError(f"--{field.name.replace('_', '-')} {value} {why}; leave it out")


ARGUMENTS = {
    "bounds": "--constraint",
    "depth": "--depths",
    "name": "--data",
    "settings": "--preset",
    "target": "--constraint",
    "text": "ARCHITECTURE",
}
"""The command line has other names for these arguments of functions."""


def by_option(error: str, options: Container[str]) -> str:
    """Return the text of an error that begins with an argument's name with that of the option instead.

    Args:
        error: such as "freeze must name modules of the model, got 'x'".
        options: the names of the command's options, as its dataclass has them.
    """
    match = re.match(r"([a-z_]+)(?= must | ['\"]|=[^ ]+: )", error)
    if match is None:
        return error
    name = match[1]
    option = f"--{name.replace('_', '-')}" if name in options else ARGUMENTS.get(name, name)
    rest = error[match.end() :]
    return option + (f" {rest[1:]}" if rest[0] == "=" else rest)


def command(app: typer.Typer, name: str, options: type[T]) -> Callable[[Callable[[T], None]], None]:
    """Register `function(options)` as a command whose options are the dataclass's fields.

    The function's docstring is the help page.
    """
    hints = get_type_hints(options, include_extras=True)

    def place(field: dataclasses.Field[Any]) -> int:
        heading = getattr(hints[field.name].__metadata__[0], "rich_help_panel", None)
        return PANELS.index(heading) if heading in PANELS else len(PANELS)

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(CONTEXT, kind, annotation=typer.Context)]
    parameters += [
        inspect.Parameter(
            field.name,
            kind,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in sorted(dataclasses.fields(options), key=place)  # type: ignore[arg-type]
    ]

    def register(function: Callable[[T], None]) -> None:
        def run(**values: Any) -> None:
            running.set(values.pop(CONTEXT))
            try:
                function(options(**values))
            except KeyboardInterrupt as interrupt:
                more = "; --resume goes on from what is written" if "resume" in values else ""
                raise StoppedError(str(interrupt) or f"stopped{more}") from interrupt
            except (ValueError, TypeError) as error:
                text = by_option(str(error), values)
                if text != str(error):
                    error.args = (text,)
                raise

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = hints | {CONTEXT: typer.Context}
        run.__doc__ = function.__doc__
        app.command(name)(run)

    return register
