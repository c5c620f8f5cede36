"""The builder of architecture tables: it trains architectures stand-alone, such as all of some depths.

Meng et al. trained 908 networks so (454 plain and 454 residual ones, 4 to 15 layers, CIFAR-100) to see how
good a search's winners are; their table was never released. A row depends on its architecture, the settings
and the data alone, not on which others are in the table, so a table can be resumed and extended to more
depths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from lasfast import costs
from lasfast.core.files import file_stem
from lasfast.data.training import as_training_images, describe_images
from lasfast.evaluation.images import Validation, checked_validation, image_size
from lasfast.evaluation.scoring import evaluate_network
from lasfast.measurements.journal import Journal
from lasfast.measurements.measurement import Measurement
from lasfast.runtime.distributed import World
from lasfast.spaces import Architecture, LayerAssignmentSpace
from lasfast.study.architecture_table import Row, save_table
from lasfast.study.checkpoints import CheckpointClock, train_with_checkpoints
from lasfast.study.files import CHECKPOINT, JOURNAL, TABLE, refuse_started
from lasfast.supernets import Supernet
from lasfast.train import (
    CheckpointError,
    Distillation,
    Progress,
    StandaloneTrainer,
    TrainSettings,
    checkpoint,
)
from lasfast.train.objective import Distill
from lasfast.train.presets import resolve
from lasfast.train.standalone import seed_of


class TableBuilder:
    """Trains architectures from scratch, one after another, and writes `directory/table.csv` row by row.

    Args:
        supernet: gives the networks (`extract(architecture, fresh=True)`); its own weights are not used.
        train: training images, as for `SupernetTrainer`.
        validation: (images [N, C, H, W], labels [N]) or a loader of such pairs; held out of `train`.
        architectures: what to train, e.g. `supernet.space.enumerate(depth=range(4, 16))`.
        directory: where the table, the journal and the checkpoint of the network at hand go.
        settings: TrainSettings or a preset's name; further keywords override single fields.
        keep_weights: whether to write the trained weights, too, for `network(architecture)`.
        checkpoint_seconds: how often to checkpoint the network at hand.
        distill: a teacher network whose soft targets all of them learn from, or a `Distillation` of one.

    Raises:
        TypeError, ValueError: an argument does not fit, which is named.
    """

    def __init__(
        self,
        supernet: Supernet,
        train: Any,
        validation: Validation,
        architectures: Iterable[Architecture],
        directory: str | os.PathLike[str],
        settings: TrainSettings | str = "small",
        *,
        keep_weights: bool = False,
        checkpoint_seconds: float = 60,
        distill: Distill = None,
        **overrides: Any,
    ) -> None:
        self._clock = CheckpointClock(checkpoint_seconds)
        self.supernet = supernet
        self.train = as_training_images(train)
        self.validation = validation
        self.architectures = list(dict.fromkeys(map(supernet.space.validate, architectures)))
        if not self.architectures:
            raise ValueError("architectures must have at least one to train, got none")
        self.directory = Path(directory)
        self.settings = resolve(settings, **overrides)
        self.keep_weights = keep_weights
        self.distill = Distillation.of(distill)
        self._images = checked_validation(validation, supernet.in_channels, supernet.num_classes)
        self.image_size = image_size(self._images)

    def seed(self, architecture: Architecture) -> int:
        """Return the seed of a network, which is derived from the settings' seed and the architecture."""
        return seed_of(self.settings, architecture)

    def run(
        self,
        resume: bool = False,
        *,
        on_progress: Callable[[Architecture, Progress], None] = lambda architecture, progress: None,
        on_row: Callable[[Row], None] = lambda row: None,
    ) -> list[Row]:
        """Train what is missing, and return the whole table, by depth and then by architecture.

        `on_progress` is called after every batch, and `on_row` for every network, those that are read from
        the journal included. If this is stopped or killed, `resume=True` goes on in mid-network, to the same
        table.

        Raises:
            FileExistsError: there is a table in `directory`, and `resume` is False.
            JournalError, CheckpointError: a file is damaged or has other settings; the text says which.
        """
        path = self.directory / JOURNAL
        if not resume:
            refuse_started(self.directory, "an architecture table")
        self.directory.mkdir(parents=True, exist_ok=True)
        description = self.describe()
        if path.exists():
            journal = Journal.open(path, header=description)
        else:
            journal = Journal.create(path, description)
        with closing(journal):
            known = {measurement.architecture: measurement for _, measurement in journal.entries}
            for architecture in self.architectures:
                if architecture not in known or self._lacks_weights(architecture):
                    measurement = self._train(architecture, description, on_progress)
                    if architecture not in known:
                        journal.append(len(journal.entries) + 1, [measurement])
                        known[architecture] = measurement
                        self._write(known.values())
                on_row(self.row(known[architecture]))
            rows = self._write(known.values())
        (self.directory / CHECKPOINT).unlink(missing_ok=True)
        return rows

    def network(self, architecture: Architecture) -> fx.GraphModule:
        """Return the trained network of an architecture, in evaluation mode.

        Raises:
            FileNotFoundError: its weights were not kept (`keep_weights`).
            CheckpointError: they are damaged.
        """
        network = self.supernet.extract(architecture)
        tensors, _ = checkpoint.load(self._weights_path(architecture))
        network.load_state_dict(tensors)
        if self.settings.channels_last:  # as it was measured: another layout rounds otherwise
            network.to(memory_format=torch.channels_last)
        return network.eval()

    def describe(self) -> dict[str, Any]:
        """Return what a row depends on besides its architecture, as JSON values: the journal's header."""
        dataset = {
            "supernet": self.supernet.describe(),
            "settings": self.settings.describe(),
            "train": _describe(self.train),
            "validation": _describe(self.validation),
        }
        if self.distill is not None:
            dataset["distill"] = self.distill.describe()
        return {"dataset": dataset}

    def row(self, measurement: Measurement) -> Row:
        """Return the row of a measurement."""
        architecture = measurement.architecture
        assigned = isinstance(self.supernet.space, LayerAssignmentSpace)
        return Row(
            architecture,
            sum(architecture) if assigned else len(self.supernet.path(architecture)),
            measurement.top1,
            measurement.top5,
            measurement.loss,
            costs.flops(self.supernet, architecture, self.image_size),
            costs.params(self.supernet, architecture),
            self.settings.standalone_epochs,
            self.seed(architecture),
        )

    def _train(
        self,
        architecture: Architecture,
        description: dict[str, Any],
        on_progress: Callable[[Architecture, Progress], None],
    ) -> Measurement:
        """Train and measure one network, from the checkpoint if that is of this network."""
        alone = World()  # after a search of several processes, one of them trains the winner
        trainer = StandaloneTrainer.of(
            self.supernet,
            architecture,
            self.train,
            self.settings,
            world=alone,
            distill=self.distill,
            validate=lambda network: self._evaluate(network, architecture).top1,
        )
        path = self.directory / CHECKPOINT
        identity = {**description, "architecture": list(architecture)}
        if path.exists():
            tensors, metadata = checkpoint.load(path)
            if metadata.get("dataset") != description["dataset"]:
                raise CheckpointError(
                    f"{path} is of another architecture table: delete it, and resuming trains its "
                    "network again"
                )
            if metadata["architecture"] == identity["architecture"]:
                trainer.load_state(tensors, metadata)

        def save() -> None:
            tensors, values = trainer.state()
            checkpoint.save(path, tensors, {**values, **identity})

        self._clock.restart()
        train_with_checkpoints(
            trainer.train(),
            self._clock,
            save,
            lambda progress: on_progress(architecture, progress),
            what=self.supernet.space.format(architecture),
            directory=self.directory,
            world=World(),
        )
        network = trainer.trained
        if self.keep_weights:
            weights = self._weights_path(architecture)
            weights.parent.mkdir(exist_ok=True)
            checkpoint.save(weights, network.state_dict(), identity)
        return self._evaluate(network, architecture)

    def _evaluate(self, network: nn.Module, architecture: Architecture) -> Measurement:
        return evaluate_network(network, self._images, architecture, precision=self.settings.precision)

    def _lacks_weights(self, architecture: Architecture) -> bool:
        """Return whether weights are wanted that an earlier run did not keep when it trained the network."""
        return self.keep_weights and not self._weights_path(architecture).exists()

    def _weights_path(self, architecture: Architecture) -> Path:
        return (
            self.directory / "weights" / f"{file_stem(self.supernet.space.format(architecture))}.safetensors"
        )

    def _write(self, measurements: Iterable[Measurement]) -> list[Row]:
        rows = sorted(map(self.row, measurements), key=lambda row: (row.depth, row.architecture))
        save_table(self.directory / TABLE, rows)
        return rows


def _describe(images: Any) -> Any:
    """Return what identifies images, as JSON values: their own description, or a digest of their content."""
    if isinstance(images, (tuple, list)):
        return checkpoint.digest({str(number): tensor for number, tensor in enumerate(images)})[:32]
    described = describe_images(images)
    return type(images).__name__ if described is None else described
