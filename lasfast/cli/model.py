"""`--model`: a network of the user's own, or of timm or torchvision, whose supernet is searched."""

from __future__ import annotations

import importlib
import inspect
import pickle
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lasfast.cli.functions import load_function
from lasfast.cli.options import (
    DataOptions,
    ModelOptions,
    ModelSearchOptions,
    OneShotOptions,
    StepOptions,
    SupernetOptions,
    names_of,
    refuse,
)
from lasfast.data import Dataset
from lasfast.runtime.seeds import torch_seed
from lasfast.supernets import ModelSupernet, from_model
from lasfast.supernets.importance import TAYLOR

TAYLOR_BATCHES, TAYLOR_BATCH = 8, 64
"""`--importance taylor` takes gradients on so many training images: batches, and images of each."""


def make_model_supernet(options: ModelSearchOptions, data: Dataset, vary: str, seed: int) -> ModelSupernet:
    """Return the supernet of the network that the options name, for the images.

    Raises:
        ValueError: there is no such network, it does not fit the images, or its weights are missing.
    """
    if begins_untrained(options) and not options.adapt_epochs:
        raise ValueError(
            f"--model {options.model} begins with random weights: give --weights FILE, or --adapt-epochs N "
            "to train it"
        )
    shape = (data.channels, *data.image_size)
    try:
        images = islice(data.train.batches(TAYLOR_BATCH, seed), TAYLOR_BATCHES)
        batches = images if options.importance == TAYLOR else None
        supernet = read_supernet(
            options, shape, data.num_classes, vary, seed, importance=options.importance, batches=batches
        )
    except ValueError as error:
        if options.weights is None or data.name != DataOptions.data:
            raise
        raise ValueError(f"{error}; without --data, the images are those of {data!r}") from error
    if supernet.num_classes != data.num_classes:
        raise ValueError(
            f"--model {options.model} has {supernet.num_classes} classes, but the images have "
            f"{data.num_classes}"
        )
    return supernet


def check_for_model(options: ModelOptions) -> None:
    """Raise a ValueError if an option says how to build or train a supernet other than that of `--model`."""
    of_families = names_of(SupernetOptions, OneShotOptions, StepOptions) - SHARED
    refuse(options, of_families, "is not for the search of a --model")


def check_without_model(options: Any) -> None:
    """Raise a ValueError if an option says something of a network, and there is no `--model`."""
    if options.weights is not None and isinstance(options, ModelSearchOptions):
        raise ValueError(
            "--weights must be the directory of an earlier search where no --model is given, got "
            f"{options.weights}, which is none"
        )
    refuse(
        options, names_of(ModelSearchOptions) - {"model"}, "says something of a --model, and none is given"
    )


SHARED = {"supernet_schedule", "supernet_ramp_epochs"}
"""The options of a supernet of choices that adaptation takes, too."""


def begins_untrained(options: ModelOptions) -> bool:
    """Return whether the network begins with random weights: a library's has, unless they are given."""
    assert options.model is not None
    return options.model.partition(":")[0] in LIBRARIES and options.weights is None


def read_supernet(
    options: ModelOptions,
    image_shape: tuple[int, ...],
    num_classes: int,
    vary: str,
    seed: int,
    **arguments: Any,
) -> ModelSupernet:
    """Return the supernet of the network that the options name, for images of a shape.

    Further arguments are those of `from_model`.
    """
    assert options.model is not None
    with torch_seed(seed):
        model = make_model(options.model, num_classes=num_classes, in_channels=image_shape[0])
    if options.weights is not None:
        load_weights(model, Path(options.weights))  # a run's configuration has it as text
    frozen = [] if options.freeze is None else [name.strip() for name in options.freeze.split(",")]
    return from_model(
        model,
        image_shape,
        vary=vary,  # type: ignore[arg-type]
        freeze=frozen,
        **arguments,
    )


def make_model(text: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """Return the network that `--model` names.

    Raises:
        ValueError: malformed, or there is no such network.
        ImportError: a package is not installed.
        FileNotFoundError: there is no such file.
    """
    source, _, name = text.rpartition(":")
    if source in LIBRARIES and name:
        return LIBRARIES[source](name, num_classes, in_channels)
    function = load_function("--model", text, "timm:NAME, torchvision:NAME, ")
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    wanted = inspect.signature(function).parameters
    model = function(**{name: size for name, size in sizes.items() if name in wanted})
    if not isinstance(model, nn.Module):
        raise ValueError(f"--model {text} must give a torch.nn.Module, got {type(model).__name__}")
    return model


def _of_timm(name: str, num_classes: int, in_channels: int) -> nn.Module:
    timm = _library("timm")
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:5])
        raise ValueError(f"--model timm:{name}: timm has no such network{f'; it has {near}' if near else ''}")
    model: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels)
    return model


def _of_torchvision(name: str, num_classes: int, in_channels: int) -> nn.Module:
    models = _library("torchvision").models
    if name not in models.list_models(module=models):
        raise ValueError(f"--model torchvision:{name}: torchvision.models has no such network")
    if in_channels != 3:
        raise ValueError(f"--model torchvision:{name} takes images of 3 channels, got {in_channels}")
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    return model


LIBRARIES: Mapping[str, Callable[[str, int, int], nn.Module]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
}


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"--model {name}:NAME needs {name}, which cannot be imported: {error}") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict from a file into a network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no state dict, or not this network's; the text says what does not fit.
    """
    found, wanted = _read_weights(path), model.state_dict()
    problems = {
        "lacks": sorted(wanted.keys() - found.keys()),
        "has, but the network has not,": sorted(found.keys() - wanted.keys()),
        "has in other shapes": [
            f"{name} {tuple(found[name].shape)} for {tuple(one.shape)}"
            for name, one in wanted.items()
            if name in found and found[name].shape != one.shape
        ],
    }
    told = [f"it {what} {_few(names)}" for what, names in problems.items() if names]
    if told:
        raise ValueError(f"--weights {path} does not fit the network: {'; '.join(told)}")
    model.load_state_dict(found)


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"--weights: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"--weights {path} must hold a state dict, as torch.save(model.state_dict(), FILE) writes it, "
            "got another file, such as a whole module"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error) or "it ends too early"  # an EOFError has no text
        raise ValueError(f"--weights {path} cannot be read as a state dict: {reason}") from error
    if not isinstance(state, dict):
        raise ValueError(f"--weights {path} must hold a state dict, got {type(state).__name__}")
    if not all(isinstance(one, Tensor) for one in state.values()):
        keys = _few([str(key) for key in state])
        raise ValueError(f"--weights {path} must hold a state dict, names with tensors, got a dict of {keys}")
    return state


def _few(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
