"""The architecture dataset: architectures trained stand-alone, such as all of some depths, as a table.

Meng et al. trained 908 networks so (454 plain and 454 residual ones, 4 to 15 layers, CIFAR-100) to see how
good a search's winners are; their table was never released. A row depends on its architecture, the settings
and the data alone, not on which others are in the table, so a table can be resumed and extended to more
depths.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import fx

from lasfast import costs
from lasfast.core.files import atomic_write_text, file_stem
from lasfast.core.interrupt import deferred_interrupt
from lasfast.data.training import as_training_images
from lasfast.evaluation.images import Validation, image_size
from lasfast.evaluation.scoring import evaluate_network
from lasfast.measurements import ranking
from lasfast.measurements.journal import Journal
from lasfast.measurements.measurement import Measurement
from lasfast.runtime.distributed import World
from lasfast.spaces import Architecture, LayerAssignmentSpace
from lasfast.supernets import Supernet
from lasfast.train import CheckpointError, Progress, StandaloneTrainer, TrainSettings, checkpoint
from lasfast.train.settings import resolve
from lasfast.train.standalone import seed_of

JOURNAL, CHECKPOINT, TABLE = "journal.jsonl", "checkpoint.safetensors", "table.csv"


@dataclasses.dataclass(frozen=True)
class Row:
    """One network of the table: its validation accuracy (0 to 1) and loss, costs, and how it was trained.

    `depth` is that of an assignment, of other architectures how many layers they run. `flops` are
    multiply-adds, `params` include those of BatchNorm. `seed` gave the initial weights and the
    order, augmentation and dropout of the training.
    """

    architecture: Architecture
    depth: int
    top1: float
    top5: float
    loss: float
    flops: int
    params: int
    epochs: int
    seed: int


class TableBuilder:
    """Trains architectures from scratch, one after another, and writes `directory/table.csv` row by row.

    Args:
        supernet: gives the networks (`extract(architecture, fresh=True)`); its own weights are not used.
        train: training images, as for SupernetTrainer.
        validation: (images [N, C, H, W], labels [N]) or a loader of such pairs; held out of `train`.
        architectures: what to train, e.g. `supernet.space.enumerate(depth=range(4, 16))`.
        directory: where the table, the journal and the checkpoint of the network at hand go.
        settings: TrainSettings or a preset's name; further keywords override single fields.
        keep_weights: write the trained weights too, for `network(architecture)`.
        checkpoint_seconds: how often to checkpoint the network at hand.

    Raises:
        TypeError, ValueError: naming what does not fit.
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
        **overrides: Any,
    ) -> None:
        if not checkpoint_seconds >= 0:
            raise ValueError(f"checkpoint_seconds is {checkpoint_seconds!r}; expected 0 or more")
        self.supernet = supernet
        self.train = as_training_images(train)
        self.validation = validation
        self.architectures = list(dict.fromkeys(map(supernet.space.validate, architectures)))
        if not self.architectures:
            raise ValueError("architectures is empty; expected at least one to train")
        self.directory = Path(directory)
        self.settings = resolve(settings, **overrides)
        self.keep_weights = keep_weights
        self.checkpoint_seconds = checkpoint_seconds
        self.image_size = image_size(validation)

    def seed(self, architecture: Architecture) -> int:
        """The seed of one network, derived from the settings' seed and the architecture."""
        return seed_of(self.settings, architecture)

    def run(
        self,
        resume: bool = False,
        *,
        on_progress: Callable[[Architecture, Progress], None] = lambda architecture, progress: None,
        on_row: Callable[[Row], None] = lambda row: None,
    ) -> list[Row]:
        """Train what is missing, and return the whole table, by depth and then by architecture.

        `on_progress` is called after every batch, `on_row` for every network of this call, those read from
        the journal included. Stopped or killed, it goes on with `resume=True` in mid-network, to the same
        table.

        Raises:
            FileExistsError: there is a table in `directory`, and `resume` is False.
            JournalError, CheckpointError: a damaged file, or one of other settings; the text says which.
        """
        path = self.directory / JOURNAL
        if path.exists() and not resume:
            raise FileExistsError(
                f"{self.directory} holds an architecture dataset already; resume it (resume=True; --resume "
                "on the command line), or choose another directory"
            )
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
        """A trained network, in evaluation mode, of those trained with `keep_weights`.

        Raises FileNotFoundError where its weights were not kept, CheckpointError where they are damaged.
        """
        network = self.supernet.extract(architecture)
        tensors, _ = checkpoint.load(self._weights_path(architecture))
        network.load_state_dict(tensors)
        if self.settings.channels_last:  # as it was measured: another layout rounds otherwise
            network.to(memory_format=torch.channels_last)
        return network.eval()

    def describe(self) -> dict[str, Any]:
        """What a row depends on besides its architecture, as JSON values: the journal's header."""
        return {
            "dataset": {
                "supernet": self.supernet.describe(),
                "settings": self.settings.describe(),
                "train": _describe(self.train),
                "validation": _describe(self.validation),
            }
        }

    def row(self, measurement: Measurement) -> Row:
        """The table's row of a measurement."""
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
        """Train and measure one network, from its checkpoint if that is the one on disk."""
        alone = World()  # after a search of several processes, one of them trains the winner
        trainer = StandaloneTrainer.of(self.supernet, architecture, self.train, self.settings, world=alone)
        network = trainer.module
        path = self.directory / CHECKPOINT
        identity = {**description, "architecture": list(architecture)}
        if path.exists():
            tensors, metadata = checkpoint.load(path)
            if metadata.get("dataset") != description["dataset"]:
                raise CheckpointError(
                    f"{path} is of another architecture dataset: delete it, and resuming trains its "
                    "network again"
                )
            if metadata["architecture"] == identity["architecture"]:
                trainer.load_state(tensors, metadata)
        saved_at = time.monotonic()
        with deferred_interrupt() as interrupted:
            for progress in trainer.train():
                on_progress(architecture, progress)
                if interrupted() or time.monotonic() - saved_at >= self.checkpoint_seconds:
                    tensors, values = trainer.state()
                    checkpoint.save(path, tensors, {**values, **identity})
                    saved_at = time.monotonic()
                if interrupted():
                    text = self.supernet.space.format(architecture)
                    raise KeyboardInterrupt(
                        f"stopped in {text}, after batch {progress.done} of {progress.total}; "
                        f"{self.directory} holds everything up to here: resume it to go on"
                    )
        if self.keep_weights:
            weights = self._weights_path(architecture)
            weights.parent.mkdir(exist_ok=True)
            checkpoint.save(weights, network.state_dict(), identity)
        return evaluate_network(network, self.validation, architecture, precision=self.settings.precision)

    def _lacks_weights(self, architecture: Architecture) -> bool:
        """Whether weights are wanted of a network that an earlier run trained without keeping them."""
        return self.keep_weights and not self._weights_path(architecture).exists()

    def _weights_path(self, architecture: Architecture) -> Path:
        return (
            self.directory / "weights" / f"{file_stem(self.supernet.space.format(architecture))}.safetensors"
        )

    def _write(self, measurements: Iterable[Measurement]) -> list[Row]:
        rows = sorted(map(self.row, measurements), key=lambda row: (row.depth, row.architecture))
        save_table(self.directory / TABLE, rows)
        return rows


def save_table(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write rows as CSV, in one step. Numbers are written in full: reading gives the same ones."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Row))
    for row in rows:
        values = dataclasses.asdict(row) | {"architecture": "-".join(map(str, row.architecture))}
        writer.writerow(values.values())
    atomic_write_text(path, text.getvalue())


def load_table(path: str | os.PathLike[str]) -> list[Row]:
    """Read a table that `save_table` wrote, or that of an architecture dataset's directory.

    Raises FileNotFoundError, or ValueError naming file, line and what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        path = path / TABLE
    names = [field.name for field in dataclasses.fields(Row)]
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if not lines or lines[0] != names:
        raise ValueError(f"{path} is no table of architectures: its first line has to be {','.join(names)}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            architecture, depth, top1, top5, loss, *counts = line
            flops, params, epochs, seed = map(int, counts)
            layers = tuple(int(layer) for layer in architecture.split("-"))
            row = Row(layers, int(depth), float(top1), float(top5), float(loss), flops, params, epochs, seed)
            if row.depth < 1 or not 0 <= row.top1 <= 1:
                raise ValueError(f"depth {depth} or top1 {top1} is out of range")
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged at line {number}: {error}; restore it, or make it again"
            ) from error
        rows.append(row)
    return rows


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How well accuracies with inherited weights stand for stand-alone ones.

    Over `count` architectures: Eq. 7's accuracy gap (0 to 1), Kendall's tau and Spearman's rho; these two are
    NaN where there is only one architecture, or all are equally good.
    """

    count: int
    gap: float
    tau: float
    rho: float


def compare(
    table: Iterable[Row], one_shot: Iterable[Measurement]
) -> tuple[Comparison, dict[int, Comparison]]:
    """Compare a table with a study's measurements, over the architectures that are in both.

    Returns the comparison over all of them, and one for each depth. `one_shot` is `StudyResult.measurements`,
    or `[m for _, m in Journal.read(path)[1]]`. ValueError where they have no architecture in common.
    """
    stand_alone = {row.architecture: row.top1 for row in table}
    shared = [m for m in one_shot if m.architecture in stand_alone]
    if not shared:
        raise ValueError("table and one_shot have no architecture in common; nothing can be compared")
    by_depth: dict[int, list[Measurement]] = defaultdict(list)
    for measurement in shared:
        by_depth[sum(measurement.architecture)].append(measurement)
    return _compare(stand_alone, shared), {
        depth: _compare(stand_alone, measurements) for depth, measurements in sorted(by_depth.items())
    }


def _compare(stand_alone: Mapping[Architecture, float], measurements: Sequence[Measurement]) -> Comparison:
    one_shot = {m.architecture: m.top1 for m in measurements}
    pairs = {architecture: stand_alone[architecture] for architecture in one_shot}, one_shot
    if len(one_shot) < 2:
        return Comparison(1, ranking.accuracy_gap(*pairs), math.nan, math.nan)
    return Comparison(
        len(one_shot), ranking.accuracy_gap(*pairs), ranking.kendall_tau(*pairs), ranking.spearman_rho(*pairs)
    )


def _describe(images: Any) -> Any:
    """What identifies images, as JSON values: their own description, or a digest of their content."""
    if isinstance(images, (tuple, list)):
        return checkpoint.digest({str(number): tensor for number, tensor in enumerate(images)})[:32]
    describe = getattr(images, "describe", None)
    return describe() if describe else type(images).__name__
