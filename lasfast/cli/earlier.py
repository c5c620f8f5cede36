"""Earlier runs: the options that a search was started with, and the supernet that it trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from rich.console import Console
from torch import Tensor

from lasfast.cli import setup
from lasfast.cli.config import CONFIG, absolute, read_config
from lasfast.cli.model import make_model_supernet
from lasfast.cli.options import (
    CalibrationOptions,
    ChoiceOptions,
    ModelSearchOptions,
    SearchOptions,
    SizeOptions,
    SupernetOptions,
    TrainingCommandOptions,
    names_of,
)
from lasfast.data import Dataset
from lasfast.evaluation.evaluator import Evaluator
from lasfast.measurements.evaluation import Evaluation
from lasfast.measurements.journal import Journal
from lasfast.study.files import CHECKPOINT, JOURNAL
from lasfast.supernets import Supernet
from lasfast.train import CheckpointError, checkpoint

T = TypeVar("T", bound=TrainingCommandOptions)

PLACES = {"data", "data_root", "download", "workers", "fast_decode", "list_anew"}
PLACES |= {"validation_archives", "test_archives"}
"""Options that say where images are and how they are read: they may be others, if the images are the same."""
ADOPTED = names_of(CalibrationOptions, SupernetOptions, SizeOptions, ModelSearchOptions)
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

    @property
    def favor_candidates(self) -> bool:
        """True where the search trained them for its own candidates, as those of layer assignments do."""
        return "paths" in (self.metadata["study"]["trainer"] or {})

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

    def check_images(self, *evaluators: Evaluation) -> None:
        """Raise a ValueError where none of the evaluators has the images that the search had."""
        before = self.metadata["study"]["evaluator"]
        now = [json.loads(json.dumps(evaluator.describe())) for evaluator in evaluators]
        for part in ("calibration", "validation"):
            if before[part] not in [one[part] for one in now]:
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

    def adopt(self, options: T, by: str = "--weights") -> T:
        """Return the options of a command with those of this search that say which supernet and images.

        `by` is the option that names the search.

        Raises:
            ValueError: one of them was given, and is another here.
        """
        adopted: dict[str, Any] = {}
        for field in dataclasses.fields(options):
            if field.name not in ADOPTED:
                continue
            given, own = absolute(field.name, getattr(options, field.name)), getattr(self.options, field.name)
            if given == field.default:
                adopted[field.name] = own
            elif given != own and field.name not in PLACES:
                option = f"--{field.name.replace('_', '-')}"
                raise ValueError(
                    f"{option} must be that of {by} {self.directory}, {own}, got {given}; leave it out"
                )
        return dataclasses.replace(options, **adopted)

    def make_supernet(self, data: Dataset) -> Supernet:
        """Return the supernet as the search began with it."""
        options = self.options
        if options.model is not None:
            return make_model_supernet(options, data, options.vary, options.seed)
        return setup.make_any_supernet(options, data, depth=options.depth, size=options, seed=options.seed)


class OpenedRun(NamedTuple):
    """A search whose supernet is built and has its weights.

    Attributes:
        evaluator: measures as the search did at its end.
        trained: the run of the supernet, which is this search or the one whose supernet it has taken.
        data: the search's images.
        step: the step of `trained` that the weights are of; None where nothing was trained.
    """

    evaluator: Evaluator
    trained: EarlierRun
    data: Dataset
    step: int | None


def open_run(
    directory: Path,
    device: torch.device,
    console: Console,
    told: RunOptions | None = None,
    **changes: Any,
) -> OpenedRun:
    """Return a search with what measures as it did at its end.

    Args:
        directory: the search's.
        device: where to measure.
        console: where to say what is loaded.
        told: the options that say which supernet and images a run has that was made from Python. Of other
            runs, they say where the images are now.
        changes: options to take in place of the search's.

    Raises:
        FileNotFoundError: there is no search, or it has no weights that can be taken again.
    """
    if (directory / CONFIG).exists() or not (directory / JOURNAL).exists():
        config = _elsewhere(read_config(directory, RunOptions), told)
        trained = EarlierRun.read(directory)  # this run, or the one whose supernet it has taken
    else:
        config = options_of_python(directory, RunOptions() if told is None else told)
        trained = EarlierRun(directory, config)
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
    evaluator = setup.make_evaluator(dataclasses.replace(config, **changes), supernet, data)
    if saved is not None and not (directory / CONFIG).exists():
        # In Python, images may have been given as numbers, which are other bits than the bytes.
        normalized = Evaluator(supernet, data.calibration, data.validation)
        saved.check_images(evaluator, normalized)
    return OpenedRun(evaluator, trained, data, None if saved is None else saved.step)


def _elsewhere(config: RunOptions, told: RunOptions | None) -> RunOptions:
    """Return the options of a run, with those that were told now of where its images are."""
    fields = [field for field in dataclasses.fields(RunOptions) if field.name in PLACES]
    given: dict[str, Any] = {field.name: getattr(told, field.name, field.default) for field in fields}
    return dataclasses.replace(
        config, **{field.name: given[field.name] for field in fields if given[field.name] != field.default}
    )


def options_of_python(directory: Path, told: RunOptions) -> RunOptions:
    """Return the options by which the supernet of a run made from Python is built again.

    Its family and its most layers are in the journal, if it is a family of layer assignments; `told` has the
    rest, or a class or a function of the user's own.

    Raises:
        ValueError: the family is not known.
    """
    header, _ = Journal.read(directory / JOURNAL)
    supernet = header.get("supernet") or {}
    if setup.is_own(told) or told.model is not None:
        return told
    kind = supernet.get("supernet", "supernet")
    family = next((name for name, one in setup.FAMILIES.items() if one.__name__ == kind), "")
    if not family:
        raise ValueError(
            f"--supernet must be FILE.py:FUNCTION, which makes the {kind} of {directory}: that run was made "
            "from Python, and does not say how"
        )
    most = "-".join(map(str, supernet["space"]["max_layers"]))
    return dataclasses.replace(told, supernet=family, max_layers=most)


def names_run(options: ModelSearchOptions) -> bool:
    """Return whether `--weights` names the directory of an earlier search, rather than a file."""
    return options.weights is not None and Path(options.weights).is_dir()
