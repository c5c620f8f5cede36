"""The evaluator that looks architectures up in a table of trained networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lasfast.core.checks import as_int
from lasfast.measurements.measurement import Measurement
from lasfast.measurements.table import ArchitectureTable
from lasfast.spaces import Architecture, SearchSpace


class TabularEvaluator:
    """Looks measurements up in a table of trained networks: an `Evaluation` that trains and runs nothing.

    Args:
        table: the trained networks.
        space: the space of their architectures; None takes `table.space()`.
        run: the training run whose accuracies are given; None gives the mean of all runs.
        images: on how many images the accuracies were measured, for their standard errors.
        training_cost: the cost of the table to which the work of a training is proportional.

    Attributes:
        spent: the work of training each architecture that was asked for once, in units of `training_cost`;
            0.0 without one.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of range.
    """

    supernet = None

    def __init__(
        self,
        table: ArchitectureTable,
        *,
        space: SearchSpace | None = None,
        run: int | None = None,
        images: int = 10_000,
        training_cost: str | None = None,
    ) -> None:
        if not isinstance(table, ArchitectureTable):
            raise TypeError(f"table must be an ArchitectureTable, got {type(table).__name__}")
        runs = table.accuracies.shape[1]
        if run is not None and as_int("run", run, minimum=0) >= runs:
            raise ValueError(f"run must be below {runs}, the runs of the table, got {run}")
        self.table = table
        self.space = table.space() if space is None else space
        self.run = run
        self.images = as_int("images", images, minimum=1)
        self.training_cost = training_cost
        self._training = (lambda _: 0.0) if training_cost is None else table.cost(training_cost)
        accuracies = table.accuracies.mean(axis=1) if run is None else table.accuracies[:, run]
        self._accuracies: list[float] = accuracies.tolist()
        self._trained: set[Architecture] = set()
        self.spent = 0.0

    def __call__(self, architectures: Sequence[Architecture]) -> list[Measurement]:
        """Return a measurement for each architecture, in order; ValueError where the table lacks one."""
        measurements = []
        for architecture in architectures:
            top1 = self._accuracies[self.table.row(architecture)]
            measurements.append(Measurement(architecture, top1, math.nan, math.nan, self.images))
        new = set(map(tuple, architectures)) - self._trained
        self._trained |= new
        self.spent += math.fsum(map(self._training, new))
        return measurements

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Return the costs of an architecture by name, as the table has them."""
        row = self.table.row(architecture)
        return {name: float(column[row]) for name, column in self.table.costs.items()}

    def describe(self) -> dict[str, Any]:
        """Return what identifies the measurements, as JSON values."""
        return {
            "table": self.table.digest(),
            "architectures": len(self.table),
            "run": self.run,
            "images": self.images,
        }
