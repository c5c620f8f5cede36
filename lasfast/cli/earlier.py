"""Earlier runs: the options that a search was started with, and the supernet that it trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from torch import Tensor

from lasfast.cli import setup
from lasfast.cli.config import read_config
from lasfast.cli.model import make_model_supernet
from lasfast.cli.options import (
    ChoiceOptions,
    DataOptions,
    ModelSearchOptions,
    SearchOptions,
    SizeOptions,
    SupernetOptions,
    SupernetSearchOptions,
    names_of,
)
from lasfast.data import Dataset
from lasfast.evaluation.evaluator import Evaluator
from lasfast.measurements.evaluation import Evaluation
from lasfast.study.files import CHECKPOINT
from lasfast.supernets import Supernet
from lasfast.train import CheckpointError, checkpoint

T = TypeVar("T", bound=SupernetSearchOptions)

PLACES = {"data", "data_root", "download", "workers", "fast_decode", "list_anew"}
PLACES |= {"validation_archives", "test_archives"}
"""Options that say where images are and how they are read: they may be others, if the images are the same."""
ADOPTED = names_of(DataOptions, SupernetOptions, SizeOptions, ModelSearchOptions)
ADOPTED -= {"weights", "adapt_epochs", "tune_epochs"}
"""Options that say which images and which supernet a search has."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(SearchOptions, ChoiceOptions):
    """Options of any search of a supernet, which a run was started with."""


@dataclass(frozen=True)
class SavedWeights:
    """The weights that a search has trained its supernet to.

    Attributes:
        path: their file.
        tensors: the checkpoint's.
        metadata: its JSON values, with the description of the study.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> SavedWeights:
        """Read a checkpoint; FileNotFoundError where there is none, CheckpointError where it is damaged."""
        return cls(path, *checkpoint.load(path))

    @property
    def step(self) -> int:
        """The step of the search that they are of."""
        step: int = self.metadata["position"][0]
        return step

    @property
    def were_measured(self) -> bool:
        """True where the search has measured something with them, which it does not before it has trained."""
        return bool(self.metadata.get("journal_entries"))

    def load_into(self, supernet: Supernet) -> None:
        """Give them to a supernet; CheckpointError where it is not the one that they are of."""
        study = self.metadata.get("study", {})  # other commands have checkpoints, too
        if study.get("supernet") != json.loads(json.dumps(supernet.describe())):
            raise CheckpointError(
                f"{self.path} is of another supernet than the options beside it build: use the version of "
                "lasfast, and of the --model, that it was trained with"
            )
        prefix = "weights."
        named = self.tensors.items()
        supernet.load_state_dict(
            {key.removeprefix(prefix): one for key, one in named if key.startswith(prefix)}
        )

    def check_images(self, evaluator: Evaluation) -> None:
        """Raise a ValueError where an evaluator has other images than the search had."""
        before = self.metadata["study"]["evaluator"]
        now = json.loads(json.dumps(evaluator.describe()))
        for part in ("calibration", "validation"):
            if before[part] != now[part]:
                raise ValueError(
                    f"--data must have the images of {self.path.parent}, got other {part} images: the "
                    "supernet may have been trained on some of these"
                )


@dataclass(frozen=True)
class EarlierRun:
    """A search, ended or not, whose supernet another command takes.

    Attributes:
        directory: where its files are.
        options: what it was started with.
    """

    directory: Path
    options: RunOptions

    @classmethod
    def read(cls, directory: Path) -> EarlierRun:
        """Return the search in a directory, or the one whose supernet that search has taken.

        Raises:
            FileNotFoundError: there is no search, or no longer the one whose supernet it has taken.
            ValueError: its configuration is damaged.
        """
        options = read_config(directory, RunOptions)
        if names_run(options):
            return cls.read(Path(str(options.weights)))
        if options.weights is not None and options.model is None:
            raise FileNotFoundError(f"{directory} took the supernet of {options.weights}, which is not there")
        return cls(directory, options)

    @property
    def checkpoint(self) -> Path:
        """The file of its weights, if it has trained any."""
        return self.directory / CHECKPOINT

    def adopt(self, options: T) -> T:
        """Return the options of a new search with those of this one that say which supernet and images.

        Raises:
            ValueError: one of them was given, and is another here.
        """
        adopted: dict[str, Any] = {}
        for field in dataclasses.fields(options):
            if field.name not in ADOPTED:
                continue
            given, own = getattr(options, field.name), getattr(self.options, field.name)
            if given == field.default:
                adopted[field.name] = own
            elif given != own and field.name not in PLACES:
                option = f"--{field.name.replace('_', '-')}"
                raise ValueError(
                    f"{option} must be that of --weights {self.directory}, {own}, got {given}; leave it out"
                )
        return dataclasses.replace(options, **adopted)

    def make_supernet(self, data: Dataset) -> Supernet:
        """Return the supernet as the search began with it."""
        options = self.options
        if options.model is not None:
            return make_model_supernet(options, data, options.vary, options.seed)
        return setup.make_any_supernet(options, data, depth=options.depth, size=options, seed=options.seed)


def open_run(
    directory: Path, device: torch.device, console: Console, **changes: Any
) -> tuple[Evaluator, EarlierRun, SavedWeights | None]:
    """Return what measures as a search did at its end, the run of its supernet, and that run's weights.

    Args:
        directory: the search's.
        device: where to measure.
        console: where to say what is loaded.
        changes: options to take in place of the search's.

    Raises:
        FileNotFoundError: there is no search, or it has no weights that can be taken again.
    """
    config = read_config(directory, RunOptions)
    trained = EarlierRun.read(directory)  # this run, or the one whose supernet it has taken
    saved = SavedWeights.read(trained.checkpoint) if trained.checkpoint.exists() else None
    if saved is None and (config.model is None or trained.options.adapt_epochs):
        raise FileNotFoundError(
            f"{directory} has no weights: there is no {CHECKPOINT}. A search writes it as it trains; one in "
            "a table, or of networks trained from scratch, has none"
        )
    data = setup.load_data(config, trained.options.seed, console)
    supernet = trained.make_supernet(data).to(device)
    if saved is not None:
        saved.load_into(supernet)
        console.print(f"weights of {trained.directory} as of step {saved.step}")
    return setup.make_evaluator(dataclasses.replace(config, **changes), supernet, data), trained, saved


def names_run(options: ModelSearchOptions) -> bool:
    """Return whether `--weights` names the directory of an earlier search, rather than a file."""
    return options.weights is not None and Path(options.weights).is_dir()
