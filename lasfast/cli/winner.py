"""The winner: the network that a command ends with, as it is measured, shown and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import nn

from lasfast import costs
from lasfast.cli.setup import TrainingSetup
from lasfast.data import Dataset
from lasfast.data.dataset import LabeledImages
from lasfast.evaluation.scoring import evaluate_network
from lasfast.measurements.measurement import Measurement
from lasfast.report.leave import write_network
from lasfast.runtime import distributed
from lasfast.spaces import Architecture
from lasfast.study.architecture_table import Row
from lasfast.study.result import Measured, format_top1
from lasfast.study.table_builder import TableBuilder
from lasfast.supernets import Supernet


@dataclass(frozen=True)
class Winner:
    """A network with the measurement of its own weights.

    Attributes:
        network: takes normalized images and gives logits.
        measured: its architecture, accuracy and costs.
        weights: a text that says where its weights come from.
        supernet: the supernet that it is a sub-network of.
        tested: its measurement on the test split, where that was asked for.
    """

    network: nn.Module
    measured: Measured
    weights: str
    supernet: Supernet
    tested: Measurement | None = None

    @classmethod
    def trained(
        cls, builder: TableBuilder, rows: Iterable[Row], architecture: Architecture, data: Dataset
    ) -> Winner:
        """Return the winner that a table's builder trained from scratch; `rows` are the table's.

        All processes call this.
        """
        [row] = [row for row in rows if row.architecture == architecture]
        images = data.describe()["validation"]
        measured = Measured(
            Measurement(architecture, row.top1, row.top5, row.loss, images),
            builder.supernet.space.format(architecture),
            costs.summary(builder.supernet, architecture, data.image_size),
        )
        weights = f"trained from scratch for {epochs(row.epochs)}"
        return cls(builder.network(architecture), measured, weights, builder.supernet)

    def __str__(self) -> str:
        """Return the line that a command ends with."""
        return f"{self.measured}, {self.weights}"

    def write(self, directory: Path, data: Dataset, name: str = "") -> Path:
        """Write the network as a `torch.export` program with its card; return the file.

        Its name is that of the architecture unless it is given.
        """
        return write_network(
            self.network,
            self.measured,
            self.supernet,
            data,
            directory,
            weights=self.weights,
            tested=self.tested,
            name=name,
        )


def measure_together(
    given: TrainingSetup, network: nn.Module, images: LabeledImages, architecture: Architecture
) -> Measurement:
    """Return how good a trained network is on images; all processes call this, and share the images out."""
    world, precision = distributed.world(), given.settings.precision
    if given.settings.batch_norm == "global":
        return evaluate_network(network, images, architecture, precision=precision, world=world)
    # Each process has statistics of its own, of which those of the first count.
    return world.share(lambda: evaluate_network(network, images, architecture, precision=precision))


def measure_on_test(results: Console, given: TrainingSetup, winner: Winner) -> Winner:
    """Measure a winner on the test split, print that, and return it with that; all processes call this."""
    network = winner.network.to(given.device)
    tested = measure_together(given, network, given.data.test, winner.measured.architecture)
    results.print(f"test: top-1 {format_top1(tested)}, {tested.images} images")
    return dataclasses.replace(winner, tested=tested)


def epochs(count: int) -> str:
    """Return a number of epochs as text."""
    return f"{count} epoch{'s' if count != 1 else ''}"
