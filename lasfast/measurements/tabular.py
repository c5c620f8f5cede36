"""Networks that were trained once and for all: a table of architectures, accuracies and costs, to search in.

A search then takes seconds, and what it finds can be held against the best there is. NAS-Bench-Macro is such
a table; any other can be read from npz or csv.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lasfast.constraints import Cost, NamedCost
from lasfast.core.checks import as_int, check_choice
from lasfast.measurements.measurement import Measurement
from lasfast.spaces import Architecture, ChoiceSpace, SearchSpace


@dataclass(frozen=True)
class Schema:
    """Which columns of a table hold what.

    Attributes:
        architecture: npz: ints [N, layers]; csv: text such as 2-0-1.
        accuracy: [N], or in npz also [N, runs] for networks trained several times. Shares of 1, or percent
            if any is above 1.
        costs: numbers [N], each known by its column's name.
    """

    architecture: str = "arch"
    accuracy: str = "mean_acc"
    costs: tuple[str, ...] = ("flops", "params")


class ArchitectureTable:
    """Architectures with the accuracies that they were trained to, and what they cost.

    Args:
        architectures: ints [N, layers], each row once.
        accuracies: [N] or [N, runs], shares from 0 to 1.
        costs: name -> [N].

    Attributes:
        architectures: tuples of ints, in the order of the table.
        accuracies: float64 [N, runs].
        costs: name -> float64 [N].

    Raises:
        TypeError, ValueError: shapes that do not fit together, numbers out of range, or an architecture
            that is there twice.
    """

    def __init__(
        self, architectures: np.ndarray, accuracies: np.ndarray, costs: Mapping[str, np.ndarray]
    ) -> None:
        architectures = np.asarray(architectures)
        if architectures.ndim != 2 or not architectures.size or architectures.dtype.kind not in "iu":
            raise ValueError(
                f"architectures must be ints [N, layers], got {architectures.dtype} {architectures.shape}"
            )
        self.architectures: list[Architecture] = [tuple(row) for row in architectures.tolist()]
        self._rows = {architecture: row for row, architecture in enumerate(self.architectures)}
        if len(self._rows) < len(self.architectures):
            twice = next(one for row, one in enumerate(self.architectures) if self._rows[one] != row)
            raise ValueError(f"architectures must be different, but {twice} is there more than once")
        self.accuracies = _numbers("accuracies", accuracies, len(self.architectures))
        if not ((self.accuracies >= 0) & (self.accuracies <= 1)).all():
            extremes = self.accuracies.min(), self.accuracies.max()
            raise ValueError(f"accuracies must be shares from 0 to 1, got {extremes[0]} to {extremes[1]}")
        self.costs = {
            name: _numbers(f"cost {name}", numbers, len(self.architectures), columns=1)[:, 0]
            for name, numbers in costs.items()
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str], schema: Schema | None = None) -> ArchitectureTable:
        """Read a table from an .npz or .csv file.

        Args:
            path: the file.
            schema: which columns to read; the default is that of NAS-Bench-Macro.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, a column that is missing, or values that make no table; the file is
                named.
        """
        path, schema = Path(path), schema or Schema()
        check_choice("the table's suffix", path.suffix, (".npz", ".csv"))
        try:
            columns = _read_npz(path) if path.suffix == ".npz" else _read_csv(path, schema)
            wanted = (schema.architecture, schema.accuracy, *schema.costs)
            missing = [name for name in wanted if name not in columns]
            if missing:
                raise ValueError(f"there is no column {', '.join(missing)}; it has {', '.join(columns)}")
            accuracies = np.asarray(columns[schema.accuracy], dtype=np.float64)
            if accuracies.size and accuracies.max() > 1:
                accuracies = accuracies / 100
            costs = {name: columns[name] for name in schema.costs}
            return cls(columns[schema.architecture], accuracies, costs)
        except (ValueError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is no table of architectures by {schema}: {error}") from error

    def __len__(self) -> int:
        return len(self.architectures)

    def __contains__(self, architecture: object) -> bool:
        return architecture in self._rows

    def row(self, architecture: Architecture) -> int:
        """The number of an architecture's row; ValueError where it has none."""
        try:
            return self._rows[tuple(architecture)]
        except KeyError:
            raise ValueError(
                f"architecture {tuple(architecture)} must be one of the {len(self)} of the table"
            ) from None

    def cost(self, name: str) -> Cost:
        """A cost as a function of an architecture; ValueError where the table does not have it."""
        check_choice("cost", name, tuple(self.costs))
        column = self.costs[name].tolist()
        return NamedCost(name, lambda architecture: column[self.row(architecture)])

    def best(self, accept: Callable[[Architecture], bool] = lambda _: True) -> tuple[Architecture, float]:
        """The architecture of the highest mean accuracy of those that `accept` takes, and that accuracy.

        Raises:
            ValueError: it takes none.
        """
        means = self.accuracies.mean(axis=1)
        accepted = [row for row, architecture in enumerate(self.architectures) if accept(architecture)]
        if not accepted:
            raise ValueError("accept must take at least one architecture of the table, it takes none")
        row = max(accepted, key=means.__getitem__)
        return self.architectures[row], float(means[row])

    def space(self) -> ChoiceSpace:
        """The space of the table: at each layer as many options as it has.

        Raises:
            ValueError: the table does not hold each combination of these options.
        """
        space = ChoiceSpace(int(most) + 1 for most in np.max(self.architectures, axis=0))
        if np.min(self.architectures) < 0 or len(self) != space.count():
            raise ValueError(
                f"the table must hold every architecture of {space}, {space.count()} in all, with options "
                f"numbered from 0; it holds {len(self)}"
            )
        return space

    def digest(self) -> str:
        """What tells one table from another: a short text of its content."""
        checksum = hashlib.sha256(np.array(self.architectures).tobytes())
        checksum.update(self.accuracies.tobytes())
        for name, column in sorted(self.costs.items()):
            checksum.update(name.encode() + column.tobytes())
        return checksum.hexdigest()[:16]


class TabularEvaluator:
    """Looks measurements up in a table, in place of training; does for a study what `Evaluator` does.

    Args:
        table: the architectures.
        space: theirs; None takes `table.space()`.
        run: which run's accuracies to give; None gives the mean of all.
        images: on how many images the accuracies were measured, for their standard errors.
        training_cost: the cost of the table that a training's work is in proportion to.

    Attributes:
        spent: what training all that was asked for would have come to, each architecture once, in units of
            `training_cost`: 0.0 without one.
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
        """Return a measurement for each architecture, in order; ValueError for one that the table lacks."""
        measurements = []
        for architecture in architectures:
            top1 = self._accuracies[self.table.row(architecture)]
            measurements.append(Measurement(architecture, top1, math.nan, math.nan, self.images))
        new = set(map(tuple, architectures)) - self._trained
        self._trained |= new
        self.spent += math.fsum(map(self._training, new))
        return measurements

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Return name -> cost of an architecture, what the table says."""
        row = self.table.row(architecture)
        return {name: float(column[row]) for name, column in self.table.costs.items()}

    def describe(self) -> dict[str, Any]:
        """Return what identifies the measurements this gives, as JSON-able values."""
        return {
            "table": self.table.digest(),
            "architectures": len(self.table),
            "run": self.run,
            "images": self.images,
        }


def _numbers(name: str, values: Any, rows: int, columns: int | None = None) -> np.ndarray:
    """Finite numbers as float64 [rows, columns]."""
    numbers = np.asarray(values, dtype=np.float64)
    fits = numbers.ndim in (1, 2) and len(numbers) == rows and numbers.size
    if not fits or columns not in (None, numbers.size // rows):
        raise ValueError(
            f"{name} must have a number for each of the {rows} architectures, got shape {numbers.shape}"
        )
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite numbers")
    return numbers.reshape(rows, -1)


def _read_npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _read_csv(path: Path, schema: Schema) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    columns: dict[str, Any] = dict(zip(header, zip(*lines, strict=True), strict=True))
    for name in (schema.accuracy, *schema.costs):
        if name in columns:
            columns[name] = np.array(columns[name], dtype=np.float64)
    if schema.architecture in columns:
        columns[schema.architecture] = np.array(
            [[int(option) for option in text.split("-")] for text in columns[schema.architecture]]
        )
    return columns
