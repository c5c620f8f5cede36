"""Callbacks that write the course of a study for TensorBoard or MLflow, to local files."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lasfast.measurements.measurement import Measurement
from lasfast.study.result import Measured, StudyResult
from lasfast.study.study import Callback, Study
from lasfast.train import PathTrainer, Progress


class Tracker(Callback):
    """A callback that writes numbers by name: of each epoch of training, and of each step of the search.

    Of an epoch, these are `train/loss`, `train/accuracy` (0 to 1), `train/learning_rate` and
    `train/images_per_second`, by the number of epochs so far. Of a step, these are `search/top1_of_step` and
    `search/top1`, the highest of the step and of all steps (0 to 1), by the number of architectures measured.
    At the end come accuracy and costs of the best, as `best/top1`, `best/flops`, ...

    A subclass has `write`, and `begin` and `end` where it opens and closes something.
    """

    @abstractmethod
    def write(self, name: str, value: float, at: int) -> None:
        """Write a number, `at` so many epochs or architectures."""

    def begin(self, study: Study) -> None:
        """Do what has to be done before the first number."""

    def end(self, best: Measured | None) -> None:
        """Do what has to be done after the last number; `best` is None where the study was stopped."""

    def on_start(self, study: Study) -> None:
        """Begin, with nothing measured."""
        self._study, self._measured, self._highest = study, 0, 0.0
        self.begin(study)

    def on_progress(self, progress: Progress) -> None:
        """Write how an epoch ended."""
        trainer = self._study.trainer
        if not progress.last_of_epoch or not isinstance(trainer, PathTrainer):
            return
        epochs = sum(map(trainer.epochs, range(progress.step))) + progress.epoch + 1
        for name in ("loss", "accuracy", "learning_rate", "images_per_second"):
            self.write(f"train/{name}", getattr(progress, name), epochs)

    def on_step(self, step: int, measurements: Sequence[Measurement]) -> None:
        """Write the highest accuracies, also of steps that were resumed from the journal."""
        self._measured += len(measurements)
        highest = max(one.top1 for one in measurements)
        self._highest = max(self._highest, highest)
        self.write("search/top1_of_step", highest, self._measured)
        self.write("search/top1", self._highest, self._measured)

    def on_finish(self, result: StudyResult) -> None:
        """Write accuracy and costs of the best."""
        for name, value in {"top1": result.best.top1, **result.best.costs}.items():
            self.write(f"best/{name}", value, self._measured)
        self.end(result.best)

    def on_stop(self) -> None:
        """End without a best."""
        self.end(None)


class TensorBoard(Tracker):
    """Writes for TensorBoard: `tensorboard --logdir DIRECTORY` shows it.

    Args:
        directory: where the files go.

    Raises:
        ImportError: the package tensorboard is not installed; the text says how to get it.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._module = _import("torch.utils.tensorboard", "tensorboard")

    def begin(self, study: Study) -> None:
        """Open the file."""
        self._writer = self._module.SummaryWriter(str(self.directory))

    def write(self, name: str, value: float, at: int) -> None:
        """Write a number."""
        self._writer.add_scalar(name, value, at)

    def end(self, best: Measured | None) -> None:
        """Write the best as text, and close the file."""
        if best is not None:
            self._writer.add_text("best", str(best))
        self._writer.close()


class MLflow(Tracker):
    """Writes a run of MLflow, to local files or to a server: `mlflow ui --backend-store-uri URI` shows it.

    Args:
        uri: the tracking URI, such as `sqlite:///mlflow.db` or `http://host:5000`, or a folder.
        experiment: the name of the experiment, which is made where there is none.
        run_name: the name of the run; None takes that of the study's directory.

    Raises:
        ImportError: the package mlflow is not installed; the text says how to get it.
    """

    def __init__(
        self, uri: str | os.PathLike[str], experiment: str = "lasfast", run_name: str | None = None
    ) -> None:
        self.uri, self.experiment, self.run_name = uri, experiment, run_name
        self._module = _import("mlflow", "mlflow")

    def begin(self, study: Study) -> None:
        """Start the run, with the searcher's hyper-parameters for its parameters."""
        uri = self.uri if isinstance(self.uri, str) else Path(self.uri).absolute().as_uri()
        self._client = self._module.MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(self.experiment)
        number = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        name = self.run_name or (study.directory.name if study.directory else None)
        self._run = self._client.create_run(number, run_name=name).info.run_id
        for key, value in study.searcher.describe().items():
            if key != "space":  # which has hundreds of options
                self._client.log_param(self._run, key, value)

    def write(self, name: str, value: float, at: int) -> None:
        """Write a number."""
        self._client.log_metric(self._run, name, value, step=at)

    def end(self, best: Measured | None) -> None:
        """Write the best as a tag, and end the run."""
        if best is not None:
            self._client.set_tag(self._run, "best", str(best))
        self._client.set_terminated(self._run, "KILLED" if best is None else "FINISHED")


def _import(module: str, package: str) -> Any:
    """Return a module of a package that lasfast does not need; ImportError where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{package} is not installed ({error}); pip install 'lasfast[{package}]' installs it"
        ) from error
