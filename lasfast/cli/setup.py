"""Set-up of commands: options become the images, supernet, settings and evaluator that they ask for."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from rich.console import Console

import lasfast
from lasfast import costs, supernets
from lasfast.cli.display import make_console
from lasfast.cli.functions import load_function
from lasfast.cli.options import (
    CalibrationOptions,
    CellOptions,
    DataOptions,
    DistillOptions,
    FamilyOptions,
    MachineOptions,
    SizeOptions,
    SupernetOptions,
    SupernetSearchOptions,
    ThreadOptions,
    TrainingCommandOptions,
    TrainOptions,
    names_of,
    refuse,
)
from lasfast.constraints import Bound, Constraint
from lasfast.core.checks import check_choice
from lasfast.data import Augmentation, Dataset, TensorImages, TrainingImages
from lasfast.runtime import compiled, distributed
from lasfast.runtime.seeds import torch_seed
from lasfast.spaces import CellSpace, ProductSpace
from lasfast.supernets import CellNet, ChoiceSupernet, LayerAssignmentSupernet, Supernet
from lasfast.supernets.mobilenet_designs import DESIGNS
from lasfast.train import Distillation, PathSampler, SandwichSampler, UniformCostSampler, UniformSampler
from lasfast.train.objective import FULL
from lasfast.train.presets import resolve
from lasfast.train.settings import BALANCED, TrainSettings

FAMILIES: dict[str, type[LayerAssignmentSupernet]] = {
    "residual": supernets.ResidualNet,
    "plain": supernets.PlainNet,
    "mobilenet-v1": supernets.MobileNetV1,
    "resnet50": supernets.ResNet50,
}
GROUPS = {"residual": 3, "plain": 3, "mobilenet-v1": 4, "resnet50": 4}
ChoicesNet: TypeAlias = ChoiceSupernet | CellNet
"""Supernets over a `ChoiceSpace`."""
MOBILENETS = {f"mobilenet-{design.lower()}": partial(supernets.MobileNet, design) for design in DESIGNS}
CHOICE_FAMILIES: dict[str, Callable[..., ChoicesNet]] = {
    "shufflenet-v2": partial(supernets.ShuffleNetV2, search="blocks"),
    "shufflenet-v2-channels": partial(supernets.ShuffleNetV2, search="channels"),
    "shufflenet-v2-both": partial(supernets.ShuffleNetV2, search="both"),
    "proxyless": supernets.ProxylessNAS,
    "macro": supernets.MacroNet,
    "quant-resnet18": partial(supernets.QuantResNet, depth=18),
    "quant-resnet34": partial(supernets.QuantResNet, depth=34),
    **MOBILENETS,
    "cells": CellNet,
}
OWN_OPTIONS = {
    "cells": ("cells",),
    "cell_channels": ("cells",),
    "cell_nodes": ("cells",),
    "blocks": ("shufflenet-v2-channels",),
    "squeeze_excite": tuple(MOBILENETS),
    "activation": tuple(MOBILENETS),
}
"""The supernets of choices that alone take an option."""
OWN_ARGUMENTS = {"stem", "dropout", "max_layers", "width", *OWN_OPTIONS}
"""Options that a supernet of the user's own may take as arguments."""
OTHERS = "the name of a supernet (see `lasfast spaces`), "
"""The names that --supernet takes beside classes and functions, for its errors."""
SAMPLERS = ("uniform", "uniform-cost", "sandwich")


@dataclass(frozen=True)
class TrainingSetup:
    """The data, settings and device of a command that trains.

    Attributes:
        console: prints what is not the result.
        device: where networks are trained and measured.
        settings: how they are trained.
        data: the dataset.
        images: the dataset's training images, on the device if they are in memory.
    """

    console: Console
    device: torch.device
    settings: TrainSettings
    data: Dataset
    images: TrainingImages

    @classmethod
    def of(cls, options: TrainingCommandOptions, split_seed: int | None = None) -> TrainingSetup:
        """Set up what the options ask for; images are split by their seed, unless another is given."""
        console, device = make_console(options.quiet), make_device(options)
        settings = make_settings(options)
        say_if_slow(console, device, settings.precision)
        data = load_data(options, options.seed if split_seed is None else split_seed, console)
        images = data.train.to(device) if isinstance(data.train, TensorImages) else data.train
        return cls(console, device, settings, data, images)


def set_threads(options: ThreadOptions) -> None:
    """Set the number of threads; ValueError where that is none."""
    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"--threads must be 1 or more, got {options.threads}")
        torch.set_num_threads(options.threads)


def make_device(options: MachineOptions) -> torch.device:
    """Set the number of threads and return the device; ValueError where there is no such device."""
    set_threads(options)
    check_choice("--device", options.device, ("auto", "cpu", "cuda"))
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no usable NVIDIA GPU here; use --device cpu")
    use_cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    return distributed.world().device("cuda" if use_cuda else "cpu")


def say_if_slow(console: Console, device: torch.device, precision: str) -> None:
    """Say that a precision takes longer than fp32 here, where it does."""
    if precision == "bf16" and device.type == "cpu" and compiled.bf16_is_slow():
        console.print(
            f"[yellow]--precision bf16 is slower than fp32 here[/]: the processor ({compiled.isa()}) has no "
            "instructions for it"
        )


def describe_machine(device: torch.device) -> str:
    """Return what a command runs on, as text."""
    processes = f", {distributed.world().size} processes" if distributed.world().size > 1 else ""
    threads = torch.get_num_threads()
    return f"{device.type} ({threads} thread{'s' if threads > 1 else ''}{processes})"


def load_data(options: DataOptions, seed: int, console: Console) -> Dataset:
    """Load and split the images.

    One process of each machine goes first, which may download them, and checks files of images.
    """
    calibration = CalibrationOptions.calibration
    if isinstance(options, CalibrationOptions):
        calibration = options.calibration
    with distributed.world().first_here():
        return lasfast.data.load(
            options.data,
            root=options.data_root,
            download=options.download,
            limit=options.limit,
            validation=options.validation,
            calibration=calibration,
            image_size=options.image_size,
            validation_archives=options.validation_archives,
            test_archives=options.test_archives,
            list_anew=options.list_anew,
            fast_decode=options.fast_decode,
            skip_broken=options.skip_broken,
            workers=options.workers,
            seed=seed,
            report=console.print,
        )


def is_own(options: FamilyOptions) -> bool:
    """Return whether --supernet names a class or a function of the user's own."""
    return ":" in options.supernet


def is_of_assignments(options: FamilyOptions) -> bool:
    """Return whether --supernet names a supernet of layer assignments, as far as name or class say it."""
    if not is_own(options):
        return options.supernet in FAMILIES
    found: object = load_function("--supernet", options.supernet, OTHERS)
    return isinstance(found, type) and issubclass(found, LayerAssignmentSupernet)


def check_family(options: FamilyOptions) -> None:
    """Raise ValueError where there is no such family of layer assignments."""
    if not is_own(options):
        check_choice("--supernet", options.supernet, tuple(FAMILIES))


def check_any_family(options: FamilyOptions) -> None:
    """Raise ValueError where there is no such family, or where options are of families of the other kind."""
    if is_own(options):
        return
    check_choice("--supernet", options.supernet, (*FAMILIES, *CHOICE_FAMILIES))
    if options.supernet in CHOICE_FAMILIES:
        refuse(options, ["max_layers"], "is for supernets of layer assignments")
    else:
        refuse(options, names_of(SizeOptions), "is for supernets of choices")


def parse_counts(name: str, text: str, family: str) -> tuple[int, ...]:
    """Return a positive count for each group of a family, written as 2-4-6 or 2,4,6."""
    groups = GROUPS[family]
    try:
        counts = tuple(int(part) for part in text.replace("-", ",").split(","))
    except ValueError:
        counts = ()
    if len(counts) != groups or min(counts) < 1:
        example = "-".join(["6"] * groups)
        raise ValueError(
            f"{name} must be one positive number for each of the {groups} groups of {family}, "
            f"as {example}, got {text!r}"
        )
    return counts


def parse_max_layers(options: SupernetOptions, depth: int) -> tuple[int, ...]:
    """Return the most layers of each group.

    By default these are two more than an even share of `depth`, or as many as the assignments of this depth,
    or a lesser one, have that the network's authors chose or the NIR paper found.
    """
    check_family(options)
    groups, family = GROUPS[options.supernet], FAMILIES[options.supernet]
    if options.max_layers is None:
        published = (*family.handcrafted_assignments, *family.found_assignments)
        shares = [(math.ceil(depth / groups) + 2,) * groups]
        return tuple(map(max, zip(*shares, *(one for one in published if sum(one) <= depth), strict=True)))
    if options.max_layers.isdigit():
        return parse_counts("--max-layers", "-".join([options.max_layers] * groups), options.supernet)
    return parse_counts("--max-layers", options.max_layers, options.supernet)


def parse_image_size(text: str) -> tuple[int, int]:
    """Return (height, width), which --image-size gives as one number for both, or as HEIGHTxWIDTH."""
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise ValueError(f"--image-size must be a number of pixels, or HEIGHTxWIDTH as 64x48, got {text!r}")
    return int(sides[0]), int(sides[-1])


@dataclass(frozen=True)
class ImageKind:
    """The classes and sizes of images, for a supernet that is built without a dataset."""

    num_classes: int
    channels: int
    image_size: tuple[int, int]


def make_supernet(
    options: FamilyOptions, data: Dataset | ImageKind, max_layers: tuple[int, ...], seed: int
) -> LayerAssignmentSupernet:
    """Build the supernet for the images, its initial weights a function of the seed."""
    arguments: dict[str, Any] = {"dropout": options.dropout or 0.0}
    if options.supernet == "plain":
        if options.stem is not None:
            raise ValueError("--stem: the plain network has none; leave the option out")
        height, width = data.image_size
        if height != width:
            raise ValueError(f"--supernet plain needs square images, got {height}x{width}")
        arguments["image_size"] = height
    elif options.stem is not None:
        arguments["stem"] = options.stem
    elif max(data.image_size) <= 32:
        arguments["stem"] = "cifar"
    with torch_seed(seed):
        make: Callable[..., LayerAssignmentSupernet] = FAMILIES[options.supernet]
        return make(max_layers, data.num_classes, data.channels, **arguments)


def make_choice_supernet(
    options: FamilyOptions, data: Dataset | ImageKind, size: CellOptions, seed: int
) -> ChoicesNet:
    """Build the supernet of choices for the images, its initial weights a function of the seed.

    Raises:
        ValueError: no such family, or options that it does not take.
    """
    check_choice("--supernet", options.supernet, tuple(CHOICE_FAMILIES))
    arguments = _own_arguments(options.supernet, size)
    with torch_seed(seed):
        return CHOICE_FAMILIES[options.supernet](
            data.num_classes,
            data.channels,
            stem=options.stem or _fitting_stem(max(data.image_size)),
            width=size.width,
            dropout=options.dropout or 0.0,
            **arguments,
        )


def _own_arguments(family: str, size: CellOptions) -> dict[str, Any]:
    """Return the arguments that a family has of its own; ValueError where it is given those of others."""
    fields = {field.name: field.default for field in dataclasses.fields(size)}
    given = {name: getattr(size, name) for name in OWN_OPTIONS if name in fields}
    given = {name: value for name, value in given.items() if value != fields[name]}
    for name in given:
        if family not in OWN_OPTIONS[name]:
            option, owners = f"--{name.replace('_', '-')}", ", ".join(OWN_OPTIONS[name])
            raise ValueError(f"{option} is of --supernet {owners} alone; leave it out for {family}")
    if "cell_channels" in given:
        given["channels"] = given.pop("cell_channels")
    if "cell_nodes" in given:
        given["space"] = CellSpace(given.pop("cell_nodes"))
    if "-" in given.get("blocks", ""):
        given["blocks"] = given["blocks"].split("-")
    return given


def make_own_supernet(
    options: SupernetOptions, data: Dataset | ImageKind, size: CellOptions | None, seed: int
) -> Supernet:
    """Build the supernet that a class or a function of the user's own gives for the images.

    It is called with those of `num_classes`, `in_channels` and `image_size` (height, width) that it takes,
    and with the options that are given, by their names: `max_layers`, `dropout`, `width`, ...

    Raises:
        ValueError: there is no such class, it does not take an option, or gives no supernet for the images.
    """
    made_by = load_function("--supernet", options.supernet, OTHERS)
    wanted = inspect.signature(made_by).parameters
    known = {
        "num_classes": data.num_classes,
        "in_channels": data.channels,
        "image_size": tuple(data.image_size),
    }
    arguments: dict[str, Any] = {name: value for name, value in known.items() if name in wanted}
    for group in (options, size):
        for field in () if group is None else dataclasses.fields(group):
            value = getattr(group, field.name)
            if field.name not in OWN_ARGUMENTS or value == field.default:
                continue
            if field.name not in wanted:
                option = f"--{field.name.replace('_', '-')}"
                raise ValueError(f"{option} is no argument of --supernet {options.supernet}; leave it out")
            arguments[field.name] = value
    if "max_layers" in arguments:
        arguments["max_layers"] = _layers_of_groups(arguments["max_layers"])
    try:
        inspect.signature(made_by).bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"--supernet {options.supernet} must take no other arguments than {', '.join(known)} and what "
            f"options such as --max-layers give, got: {error}"
        ) from error
    with torch_seed(seed):
        supernet = made_by(**arguments)
    if not isinstance(supernet, Supernet):
        raise ValueError(
            f"--supernet {options.supernet} must give a lasfast.supernets.Supernet, got "
            f"{type(supernet).__name__}"
        )
    own, images = (supernet.num_classes, supernet.in_channels), (data.num_classes, data.channels)
    if own != images:
        raise ValueError(
            f"--supernet {options.supernet} must be of {images[0]} classes and {images[1]} channels, as the "
            f"images are, got {own[0]} and {own[1]}; its arguments num_classes and in_channels say it"
        )
    return supernet


def _layers_of_groups(text: str) -> int | tuple[int, ...]:
    """Return the most layers of all groups, or of each, as --max-layers gives them for an own supernet."""
    try:
        counts = tuple(int(part) for part in text.replace("-", ",").split(","))
    except ValueError:
        raise ValueError(
            f"--max-layers must be a number, or one for each group as 6,6,6, got {text!r}"
        ) from None
    return counts if len(counts) > 1 else counts[0]


def make_any_supernet(
    options: SupernetOptions, data: Dataset | ImageKind, *, depth: int, size: CellOptions | None, seed: int
) -> Supernet:
    """Build the supernet of any family; `depth` is for layer assignments, `size` for choices.

    Raises:
        ValueError: no such family, or options that it does not take.
    """
    check_any_family(options)
    if is_own(options):
        return make_own_supernet(options, data, size, seed)
    if options.supernet in CHOICE_FAMILIES:
        assert size is not None
        return make_choice_supernet(options, data, size, seed)
    return make_supernet(options, data, parse_max_layers(options, depth), seed)


def _fitting_stem(image_size: int) -> str:
    """Return which stem of a supernet of choices fits images of this size: 32, 64 or 224."""
    return "cifar" if image_size <= 32 else "tiny-imagenet" if image_size <= 64 else "imagenet"


def make_sampler(
    name: str, supernet: Supernet, constraint: Constraint | None, image_size: tuple[int, int]
) -> PathSampler:
    """Return the path sampler of a name. Its cost, if it needs one, is the constraint's first, or FLOPs.

    Raises:
        ValueError: no such sampler, or no architecture within the constraint.
    """
    check_choice("--sampling", name, SAMPLERS)
    if name == "uniform":
        return UniformSampler(supernet.space)
    if not isinstance(supernet.space, ProductSpace):
        raise ValueError(f"--sampling must be uniform for {supernet.space}, got {name!r}")
    if constraint is None:
        bound, cost = Bound("flops"), costs.functions(supernet, image_size)["flops"]
    else:
        bound = constraint.bounds[0]
        cost = constraint.costs[bound.cost]
    if name == "sandwich":
        return SandwichSampler(supernet.space, cost)
    low, high = (limit if math.isfinite(limit) else None for limit in (bound.low, bound.high))
    try:
        return UniformCostSampler(supernet.space, cost, low, high)
    except ValueError as error:
        raise ValueError(f"--sampling uniform-cost within {bound.readable()}: {error}") from error


def make_settings(options: TrainOptions) -> TrainSettings:
    """Return the preset's settings, with those that the options give in their place."""
    given = _given(options, TrainSettings)
    if "dropout" in given:
        given["dropout"] = None  # the network is made with it
    if "milestones" in given:
        given["milestones"] = parse_numbers("--milestones", given["milestones"])
    if given.get("class_weights", BALANCED) != BALANCED:
        given["class_weights"] = parse_numbers("--class-weights", given["class_weights"])
    varied = _given(options, Augmentation)
    if "color_jitter" in varied:
        varied["color_jitter"] = parse_numbers("--color-jitter", varied["color_jitter"])
    if varied:
        given["augmentation"] = dataclasses.replace(resolve(options.preset).augmentation, **varied)
    return resolve(options.preset, **given)


def _given(options: TrainOptions, kind: type[Any]) -> dict[str, Any]:
    """Return the options that were given among the fields of a dataclass."""
    values = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """Return numbers that are written with commas between them."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise ValueError(f"{name} must be numbers with commas between them, got {text!r}") from None


def make_distillation(options: DistillOptions) -> Distillation | None:
    """Return what the options say of distillation, if anything; ValueError where they do not fit together."""
    given = distillation_values(options)
    if options.distill is None:
        if given and options.teacher is None:
            raise ValueError(
                "--distill-temperature and --distill-weight are of --distill or --teacher: give that, too"
            )
        return None
    check_choice("--distill", options.distill, (FULL,))
    return Distillation(FULL, **given)


def distillation_values(options: DistillOptions) -> dict[str, float]:
    """Return what the options say of how a network learns from another."""
    values = {"temperature": options.distill_temperature, "weight": options.distill_weight}
    return {name: value for name, value in values.items() if value is not None}


def make_evaluator(options: SupernetSearchOptions, supernet: Supernet, data: Dataset) -> lasfast.Evaluator:
    """Build the evaluator on the images' calibration and validation parts."""
    return lasfast.Evaluator(
        supernet,
        data.raw_calibration,
        data.raw_validation,
        backend=options.backend,
        precision=options.precision,
        statistics=options.statistics,
        memory_budget=options.memory_budget,
        normalize=(data.mean, data.std),
    )
