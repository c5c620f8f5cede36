"""The builder of architecture tables: it trains architectures stand-alone, such as all of some depths.

Meng et al. trained 908 networks so (454 plain and 454 residual ones, 4 to 15 layers, CIFAR-100) to see how
good a search's winners are; their table was never released. A row depends on its architecture, the settings
and the data alone, not on which others are in the table, so a table can be resumed and extended to more
depths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from lasfast import costs
from lasfast.data.training import as_training_images, describe_images
from lasfast.evaluation.images import Validation, checked_validation, image_size
from lasfast.evaluation.scoring import evaluate_network
from lasfast.measurements.journal import Journal
from lasfast.measurements.measurement import Measurement
from lasfast.runtime import distributed
from lasfast.runtime.distributed import World
from lasfast.spaces import Architecture, LayerAssignmentSpace
from lasfast.spaces.names import short_name
from lasfast.study.architecture_table import Row, save_table
from lasfast.study.checkpoints import CheckpointClock, train_with_checkpoints
from lasfast.study.files import CHECKPOINT, JOURNAL, TABLE, refuse_started
from lasfast.study.table_parts import TableParts
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

OnProgress = Callable[[Architecture, Progress], None]
"""Is called after every batch of the training of an architecture."""


class TableBuilder:
    """Trains architectures from scratch, one after another, and writes `directory/table.csv` row by row.

    Within `lasfast.distributed.start`, each process trains some of the networks, or all train every one
    together (`data_parallel`). The files are those of one process: the same bytes where processes train
    networks alone, and measurements that differ by rounding where they train together. Rank 0 alone writes
    them, in the end; until then, each process keeps what it has trained in a part of its own.

    What jobs have trained as parts of the table (`lasfast.study.table_parts.shard_directory`) is taken.

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
        data_parallel: whether several processes train each network together, which suits few networks, or
            large ones. Else each network is trained by one process; `keep_weights` then needs a directory
            that all of them reach.

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
        data_parallel: bool = False,
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
        self.data_parallel = data_parallel
        self._world = distributed.world()
        self._journal: Journal | None = None

    def seed(self, architecture: Architecture) -> int:
        """Return the seed of a network, which is derived from the settings' seed and the architecture."""
        return seed_of(self.settings, architecture)

    def run(
        self,
        resume: bool = False,
        *,
        on_progress: OnProgress = lambda architecture, progress: None,
        on_row: Callable[[Row], None] = lambda row: None,
    ) -> list[Row]:
        """Train what is missing, and return the whole table, by depth and then by architecture.

        `on_progress` is called after every batch, and `on_row` for every network, those that were trained
        before included; of several processes, by the first alone, and for what others train in the end. If
        this is stopped or killed, `resume=True` goes on in mid-network, to the same table.

        Raises:
            FileExistsError: there is a table in `directory`, and `resume` is False.
            JournalError, CheckpointError: a file is damaged or has other settings; the text says which.
        """
        world, header = self._world, self.describe()
        world.check_same("architecture table", header["dataset"])
        if not world.main:
            on_progress, on_row = _ignore, _ignore
        told: set[Architecture] = set()

        def tell(measurement: Measurement) -> None:
            if measurement.architecture not in told:
                told.add(measurement.architecture)
                on_row(self.row(measurement))

        parts = TableParts(self.directory, header)
        trained: dict[Architecture, Measurement] = {}
        for found in world.gather(parts.measurements()):
            trained |= found
        with ExitStack() as files:
            known = world.share(lambda: self._open(resume, header, files))
            trained |= known
            missing = world.share(lambda: [one for one in self.architectures if self._misses(one, trained)])
            if world.size > 1 and not self.data_parallel:
                trained = self._share_out(missing, parts, on_progress, tell) | trained
                missing = []
            for architecture in self.architectures:
                if architecture in missing:
                    begun = parts.checkpoint(self.supernet.space.format(architecture))
                    path = begun if begun.exists() else self.directory / CHECKPOINT
                    measurement = self._train(architecture, world, path, header, on_progress)
                    trained.setdefault(architecture, measurement)
                if architecture not in known:
                    known[architecture] = trained[architecture]
                    self._note(known)
                tell(known[architecture])
            rows = world.share(lambda: self._write(known.values()))
        if world.main:
            (self.directory / CHECKPOINT).unlink(missing_ok=True)
        parts.remove_ranks()
        return rows

    def network(self, architecture: Architecture) -> fx.GraphModule:
        """Return the trained network of an architecture, in evaluation mode.

        Within `lasfast.distributed.start`, all processes call this, and rank 0 alone reads the file.

        Raises:
            FileNotFoundError: its weights were not kept (`keep_weights`).
            CheckpointError: they are damaged.
        """
        network = self.supernet.extract(architecture)
        tensors, _ = self._world.share(lambda: checkpoint.load(self._weights_path(architecture)))
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
        if self.settings.batch_norm == "local":
            dataset["processes"] = self._world.size if self.data_parallel else 1
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

    def _open(
        self, resume: bool, header: dict[str, Any], files: ExitStack
    ) -> dict[Architecture, Measurement]:
        """Start the journal or go on with it; return what it has."""
        path = self.directory / JOURNAL
        if not resume:
            refuse_started(self.directory, "an architecture table")
        self.directory.mkdir(parents=True, exist_ok=True)
        journal = Journal.open(path, header=header) if path.exists() else Journal.create(path, header)
        self._journal = files.enter_context(journal)
        files.callback(setattr, self, "_journal", None)
        return {measurement.architecture: measurement for _, measurement in journal.entries}

    def _note(self, known: dict[Architecture, Measurement]) -> None:
        """Write the last of the known measurements down."""
        if self._journal is not None:
            self._journal.append(len(self._journal.entries) + 1, [*known.values()][-1:])
            self._write(known.values())

    def _share_out(
        self,
        architectures: Sequence[Architecture],
        parts: TableParts,
        on_progress: OnProgress,
        tell: Callable[[Measurement], None],
    ) -> dict[Architecture, Measurement]:
        """Train each network in one of the processes; in all, return what was measured."""
        with closing(parts.open(self._world.rank)) as part:

            def train(architecture: Architecture) -> Measurement:
                path = parts.checkpoint(self.supernet.space.format(architecture))
                measurement = self._train(architecture, World(), path, parts.header, on_progress)
                part.append(len(part.entries) + 1, [measurement])
                path.unlink(missing_ok=True)
                tell(measurement)
                return measurement

            measured = self._world.spread(architectures, train)
        return dict(zip(architectures, measured, strict=True))

    def _train(
        self,
        architecture: Architecture,
        world: World,
        path: Path,
        header: dict[str, Any],
        on_progress: OnProgress,
    ) -> Measurement:
        """Train and measure one network in the processes of `world`, from the checkpoint if that is of it."""
        trainer = StandaloneTrainer.of(
            self.supernet,
            architecture,
            self.train,
            self.settings,
            world=world,
            distill=self.distill,
            validate=lambda network: self._evaluate(network, architecture, world).top1,
        )
        identity = {**header, "architecture": list(architecture)}
        saved = world.share(lambda: _load(path, identity))
        if saved is not None:
            trainer.load_state(*saved)

        def save() -> None:
            tensors, values = trainer.state()
            if world.main:
                checkpoint.save(path, tensors, {**values, **identity})

        self._clock.restart()
        train_with_checkpoints(
            trainer.train(),
            self._clock,
            save,
            lambda progress: on_progress(architecture, progress),
            what=self.supernet.space.format(architecture),
            directory=self.directory,
            world=world,
        )
        trained = trainer.trained
        if self.keep_weights:
            world.share(lambda: self._keep(trained, architecture, identity))
        return trainer.judged(lambda network: self._evaluate(network, architecture, world), trained)

    def _keep(self, network: nn.Module, architecture: Architecture, identity: dict[str, Any]) -> None:
        """Write the weights of a trained network."""
        weights = self._weights_path(architecture)
        weights.parent.mkdir(exist_ok=True)
        checkpoint.save(weights, network.state_dict(), identity)

    def _evaluate(self, network: nn.Module, architecture: Architecture, world: World) -> Measurement:
        """Measure a network in the processes that have trained it, if its statistics are theirs together."""
        world = world if self.settings.batch_norm == "global" else World()
        precision = self.settings.precision
        return evaluate_network(network, self._images, architecture, precision=precision, world=world)

    def _misses(self, architecture: Architecture, trained: Container[Architecture]) -> bool:
        """Return whether a network is to be trained: it was not yet, or lacks weights that are wanted."""
        lacks_weights = self.keep_weights and not self._weights_path(architecture).exists()
        return architecture not in trained or lacks_weights

    def _weights_path(self, architecture: Architecture) -> Path:
        return (
            self.directory / "weights" / f"{short_name(self.supernet.space.format(architecture))}.safetensors"
        )

    def _write(self, measurements: Iterable[Measurement]) -> list[Row]:
        rows = sorted(map(self.row, measurements), key=lambda row: (row.depth, row.architecture))
        save_table(self.directory / TABLE, rows)
        return rows


def _load(path: Path, identity: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Return what a checkpoint has of a network; None where it is another network's, or there is none.

    Raises:
        CheckpointError: it is damaged, or of another table.
    """
    if not path.exists():
        return None
    tensors, metadata = checkpoint.load(path)
    if metadata.get("dataset") != identity["dataset"]:
        raise CheckpointError(
            f"{path} is of another architecture table: delete it, and resuming trains its network again"
        )
    return (tensors, metadata) if metadata["architecture"] == identity["architecture"] else None


def _ignore(*_: Any) -> None:
    """Do nothing, where another process calls back."""


def _describe(images: Any) -> Any:
    """Return what identifies images, as JSON values: their own description, or a digest of their content."""
    if isinstance(images, (tuple, list)):
        return checkpoint.digest({str(number): tensor for number, tensor in enumerate(images)})[:32]
    described = describe_images(images)
    return type(images).__name__ if described is None else described
