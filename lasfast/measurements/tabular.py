"""The evaluator that looks architectures up in a table of trained networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lasfast.core.checks import as_int
from lasfast.measurements.measurement import Measurement
from lasfast.measurements.table import ArchitectureTable, errors_of_runs, mean_of_runs
from lasfast.spaces import Architecture, SearchSpace


@dataclass(frozen=True)
class Standing:
    """The place of an architecture among those of a table that a search might have found.

    Attributes:
        best: the one of these that has the highest accuracy.
        top1: its accuracy.
        best_test: the one that has the highest test accuracy; None where the table has no test accuracies.
        architectures: how many these are.
        functions: how many functions they compute.
        better: how many other functions have an architecture that is more accurate.
        computes_best: whether the architecture computes the function of `best`.
    """

    best: Architecture
    top1: float
    best_test: Architecture | None
    architectures: int
    functions: int
    better: int
    computes_best: bool


class TabularEvaluator:
    """Looks measurements up in a table of trained networks: an `Evaluation` that trains and runs nothing.

    Args:
        table: the trained networks.
        space: the space of their architectures; None takes `table.space()`.
        run: the training run whose accuracies are given; None gives the mean of the runs that were made.
        images: on how many images the accuracies were measured, for their standard errors; None where that
            is not known. An accuracy that is the mean of several runs has the standard error over these.
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
        images: int | None = None,
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
        self.images = None if images is None else as_int("images", images, minimum=1)
        self.training_cost = training_cost
        self._training = (lambda _: 0.0) if training_cost is None else table.cost(training_cost)
        accuracies = mean_of_runs(table.accuracies) if run is None else table.accuracies[:, run]
        if not np.isfinite(accuracies).all():
            made = int(np.isfinite(accuracies).sum())
            raise ValueError(
                f"run must be one of all architectures, got {run}, made of {made} of {len(table)}"
            )
        self._accuracies: list[float] = accuracies.tolist()
        self._errors = [None] * len(table) if run is not None else errors_of_runs(table.accuracies)
        tests = table.test_accuracies
        self._tests: list[float] | None = None if tests is None else mean_of_runs(tests).tolist()
        self._trained: set[Hashable] = set()
        self.spent = 0.0

    def __call__(self, architectures: Sequence[Architecture]) -> list[Measurement]:
        """Return a measurement for each architecture, in order; ValueError where the table lacks one."""
        measurements = []
        for architecture in architectures:
            row = self.table.row(architecture)
            top1, error = self._accuracies[row], self._errors[row]
            measurements.append(
                Measurement(architecture, top1, math.nan, math.nan, self.images, error_of_runs=error)
            )
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

    def top1(self, architecture: Architecture) -> float:
        """Return the accuracy that a measurement of an architecture has."""
        return self._accuracies[self.table.row(architecture)]

    def test_top1(self, architecture: Architecture) -> float | None:
        """Return the mean test accuracy of an architecture, which no measurement has; None without any."""
        return None if self._tests is None else self._tests[self.table.row(architecture)]

    def standing(
        self, architecture: Architecture, accept: Callable[[Architecture], bool] = lambda _: True
    ) -> Standing:
        """Return the place of an architecture among those of the table that `accept` takes.

        Accuracies are those that measurements have, of one run or the mean of the runs. Architectures that
        share a key compute one function, which counts once, with its most accurate one.

        Raises:
            ValueError: the table lacks the architecture, or `accept` takes none.
        """
        own = self.top1(architecture)
        rows = [row for row, one in enumerate(self.table.architectures) if accept(one)]
        if not rows:
            raise ValueError("accept must take at least one architecture of the table, it takes none")
        keys = {row: self.space.key(self.table.architectures[row]) for row in rows}
        best = max(rows, key=self._accuracies.__getitem__)
        better = {keys[row] for row in rows if self._accuracies[row] > own}
        key = self.space.key(tuple(architecture))
        tests = self._tests
        return Standing(
            best=self.table.architectures[best],
            top1=self._accuracies[best],
            best_test=None if tests is None else self.table.architectures[max(rows, key=tests.__getitem__)],
            architectures=len(rows),
            functions=len({*keys.values()}),
            better=len(better - {key}),
            computes_best=keys[best] == key,
        )

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
