"""The evaluator that looks architectures up in a table of trained networks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from lasfast.core.checks import as_int
from lasfast.measurements.measurement import Measurement
from lasfast.measurements.table import ArchitectureTable, mean_of_runs
from lasfast.spaces import Architecture, SearchSpace


class TabularEvaluator:
    """Looks measurements up in a table of trained networks: an `Evaluation` that trains and runs nothing.

    Args:
        table: the trained networks.
        space: the space of their architectures; None takes `table.space()`.
        run: the training run whose accuracies are given; None gives the mean of the runs that were made.
        images: on how many images the accuracies were measured, for their standard errors.
        training_cost: the cost of the table to which the work of a training is proportional, such as
            `seconds`.

    Attributes:
        spent: the work of training each architecture that was asked for once, in units of `training_cost`;
            0.0 without one. Of those of the same function, one is trained.

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
        accuracies = mean_of_runs(table.accuracies) if run is None else table.accuracies[:, run]
        if not np.isfinite(accuracies).all():
            made = int(np.isfinite(accuracies).sum())
            raise ValueError(
                f"run must be one of all architectures, got {run}, made of {made} of {len(table)}"
            )
        self._accuracies: list[float] = accuracies.tolist()
        tests = table.test_accuracies
        self._tests: list[float] | None = None if tests is None else mean_of_runs(tests).tolist()
        self._trained: set[Hashable] = set()
        self.spent = 0.0

    def __call__(self, architectures: Sequence[Architecture]) -> list[Measurement]:
        """Return a measurement for each architecture, in order; ValueError where the table lacks one."""
        measurements = []
        for architecture in architectures:
            top1 = self._accuracies[self.table.row(architecture)]
            measurements.append(Measurement(architecture, top1, math.nan, math.nan, self.images))
        new = [one for one in map(tuple, architectures) if self.space.key(one) not in self._trained]
        self.spent += math.fsum(self.trainings(new))
        self._trained.update(map(self.space.key, new))
        return measurements

    def trainings(self, architectures: Sequence[Architecture]) -> list[float]:
        """Return the work of training each of these in order; 0.0 where one of its function was before."""
        trained: set[Hashable] = set()
        work = []
        for architecture in architectures:
            key = self.space.key(architecture)
            work.append(0.0 if key in trained else self._training(architecture))
            trained.add(key)
        return work

    def test_top1(self, architecture: Architecture) -> float | None:
        """Return the mean test accuracy of an architecture, which no measurement has; None without any."""
        return None if self._tests is None else self._tests[self.table.row(architecture)]

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
