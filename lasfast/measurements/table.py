"""Tables of trained networks: their architectures, accuracies and costs, to search in.

A search in a table takes seconds, and what it finds can be compared with the best there is. NAS-Bench-Macro
is such a table; others are read from npz or csv files.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lasfast.constraints import Cost, NamedCost, UnknownCostError
from lasfast.core.checks import check_choice
from lasfast.core.csv_rows import read_rows
from lasfast.spaces import Architecture, ChoiceSpace


@dataclass(frozen=True)
class Schema:
    """Names the columns of a table that hold architectures, accuracies and costs.

    Attributes:
        architecture: the column of architectures: ints [N, layers] in npz, text such as 2-0-1 in csv.
        accuracy: the column of accuracies, [N]; in npz also [N, runs], for networks trained several times.
            They are shares from 0 to 1, or percent if any is above 1.
        costs: the columns of costs, numbers [N]; a cost is known by its column's name.
    """

    architecture: str = "arch"
    accuracy: str = "mean_acc"
    costs: tuple[str, ...] = ("flops", "params")


class ArchitectureTable:
    """A table of architectures with the accuracies that they were trained to and their costs.

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
            path: the file. The columns of a .csv may be separated by commas, semicolons or tabs: the first
                line, which names them, decides.
            schema: which columns to read; the default is that of NAS-Bench-Macro.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no table, lacks a column, or has values that are out of range; it is
                named.
        """
        path, schema = Path(path), schema or Schema()
        suffix = path.suffix.lower()
        check_choice("the table's suffix", suffix, (".npz", ".csv"))
        try:
            columns = _read_npz(path) if suffix == ".npz" else _read_csv(path, schema)
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
        """Return the number of an architecture's row; raise ValueError where it has none."""
        try:
            return self._rows[tuple(architecture)]
        except KeyError:
            raise ValueError(
                f"architecture {tuple(architecture)} must be one of the {len(self)} of the table"
            ) from None

    def cost(self, name: str) -> Cost:
        """Return a cost as a function of an architecture; raise ValueError where the table lacks it.

        The function raises UnknownCostError for an architecture that has no row.
        """
        check_choice("cost", name, tuple(self.costs))
        column = self.costs[name].tolist()

        def cost(architecture: Architecture) -> float:
            try:
                return column[self.row(architecture)]
            except ValueError as error:
                raise UnknownCostError(f"{name}: {error}") from error

        return NamedCost(name, cost)

    def best(self, accept: Callable[[Architecture], bool] = lambda _: True) -> tuple[Architecture, float]:
        """Return the architecture of the highest mean accuracy that `accept` takes, and that accuracy.

        Raises:
            ValueError: `accept` takes none.
        """
        means = self.accuracies.mean(axis=1)
        accepted = [row for row, architecture in enumerate(self.architectures) if accept(architecture)]
        if not accepted:
            raise ValueError("accept must take at least one architecture of the table, it takes none")
        row = max(accepted, key=means.__getitem__)
        return self.architectures[row], float(means[row])

    def space(self) -> ChoiceSpace:
        """Return the space of all combinations of the options that the table has at each layer.

        Raises:
            ValueError: the table does not hold all of them.
        """
        space = ChoiceSpace(int(most) + 1 for most in np.max(self.architectures, axis=0))
        if np.min(self.architectures) < 0 or len(self) != space.count():
            raise ValueError(
                f"the table must hold every architecture of {space}, {space.count()} in all, with options "
                f"numbered from 0; it holds {len(self)}"
            )
        return space

    def digest(self) -> str:
        """Return a short text that tells one table's content from another's."""
        checksum = hashlib.sha256(np.array(self.architectures).tobytes())
        checksum.update(self.accuracies.tobytes())
        for name, column in sorted(self.costs.items()):
            checksum.update(name.encode() + column.tobytes())
        return checksum.hexdigest()[:16]


def _numbers(name: str, values: Any, rows: int, columns: int | None = None) -> np.ndarray:
    """Return finite numbers as float64 [rows, columns]; raise ValueError where they are something else."""
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
    names, rows = read_rows(path, (schema.architecture, schema.accuracy, *schema.costs))
    columns: dict[str, Any] = {name: [row[at] for _, row in rows] for at, name in enumerate(names)}
    for name in (schema.accuracy, *schema.costs):
        if name in columns:
            columns[name] = np.array(columns[name], dtype=np.float64)
    if schema.architecture in columns:
        columns[schema.architecture] = np.array(
            [[int(option) for option in text.split("-")] for text in columns[schema.architecture]]
        )
    return columns
