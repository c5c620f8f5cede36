"""Tables of trained networks: their architectures, accuracies and costs, to search in.

A search in a table takes seconds, and what it finds can be compared with the best there is. NAS-Bench-Macro
is such a table; others are read from npz or csv files.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import math
import os
import zipfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lasfast.constraints import Cost, NamedCost, UnknownCostError
from lasfast.core.checks import check_choice
from lasfast.measurements.schema import Columns, Schema
from lasfast.spaces import Architecture, ChoiceSpace, ListedAssignmentSpace, ListedSpace
from lasfast.spaces.choice import is_option_name

logger = logging.getLogger("lasfast")


class ArchitectureTable:
    """A table of architectures with the accuracies that they were trained to and their costs.

    Args:
        architectures: ints [N, decisions], each row once.
        accuracies: [N] or [N, runs], shares from 0 to 1; NaN where a run was not made.
        costs: name -> [N]. The cost `seconds` is how long a training took.
        test_accuracies: accuracies that a search does not see, as `accuracies`; None for none.
        keys: for each row, what those that compute the same function share; None takes all for different.
        names: for each decision, the names of its options from 0 on; None names them by their numbers.

    Attributes:
        architectures: tuples of ints, in the order of the table.
        accuracies: float64 [N, runs].
        costs: name -> float64 [N].
        test_accuracies: float64 [N, runs], or None.
        keys: a list, or None.
        names: tuples of strings, or None.

    Raises:
        TypeError, ValueError: shapes that do not fit together, numbers out of range, or an architecture
            that is there twice.
    """

    def __init__(
        self,
        architectures: np.ndarray,
        accuracies: np.ndarray,
        costs: Mapping[str, np.ndarray],
        *,
        test_accuracies: np.ndarray | None = None,
        keys: Sequence[Hashable] | None = None,
        names: Sequence[Sequence[str]] | None = None,
    ) -> None:
        architectures = np.asarray(architectures)
        if architectures.ndim != 2 or not architectures.size or architectures.dtype.kind not in "iu":
            raise ValueError(
                f"architectures must be ints [N, layers], got {architectures.dtype} {architectures.shape}"
            )
        self.architectures: list[Architecture] = [tuple(row) for row in architectures.tolist()]
        self._rows = {architecture: row for row, architecture in enumerate(self.architectures)}
        rows = len(self.architectures)
        self.names = None if names is None else tuple(map(tuple, names))
        if len(self._rows) < rows:
            twice = next(one for row, one in enumerate(self.architectures) if self._rows[one] != row)
            raise ValueError(
                f"architectures must be different, got {self._text(twice)} "
                f"{self.architectures.count(twice)} times; several trainings of one are runs in one row, "
                "[N, runs] in an .npz, or take their mean; of other repeats keep one row"
            )
        self.accuracies = _shares("accuracies", accuracies, rows)
        self.test_accuracies = (
            None if test_accuracies is None else _shares("test_accuracies", test_accuracies, rows)
        )
        self.costs = {name: _numbers(f"cost {name}", one, rows)[:, 0] for name, one in costs.items()}
        self.keys = None if keys is None else list(keys)
        if self.keys is not None and len(self.keys) != rows:
            raise ValueError(f"keys must be one for each of the {rows} architectures, got {len(self.keys)}")
        for name, column in self.costs.items():
            if (column < 0).any():
                row = int(np.argmax(column < 0))
                text = self._text(self.architectures[row])
                raise ValueError(
                    f"cost {name} must be 0 or more, got {column[row]:.10g} of {text}; where it is not "
                    "known, leave a .csv's field empty, and write NaN in an .npz"
                )

    @classmethod
    def load(cls, path: str | os.PathLike[str], schema: Schema | None = None) -> ArchitectureTable:
        """Read a table from an .npz or .csv file.

        Rows without an accuracy, or without one of the numbers that are asked for, are left out, which is
        logged.

        Args:
            path: the file. The columns of a .csv may be separated by commas, semicolons or tabs: the first
                line, which names them, decides.
            schema: which columns to read; None is `Schema.of(path)`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no table, lacks a column, or has values that are out of range; it is
                named.
        """
        path = Path(path)
        schema = schema or Schema.of(path)
        try:
            columns = Columns.read(path, schema)
            architectures, names = columns.architectures()
            accuracies = columns.shares(schema.accuracy)
            tests = None if schema.test is None else columns.shares(schema.test)
            costs = {one.name: columns.cost(one) for one in schema.costs_read()}
            keys = None if schema.key is None else columns.keys(schema.key)
            known = [accuracies, *costs.values(), *([] if tests is None else [tests])]
            full = np.all([np.isfinite(one).any(axis=1) for one in known], axis=0)
            if not full.any():
                needed = ", ".join(dict.fromkeys(schema.columns()))
                raise ValueError(
                    f"some row must have all of {needed}, got {len(full)} that lack a number each"
                )
            if lacking := int((~full).sum()):
                logger.warning("%s: %d of %d rows lack a number and are left out", path, lacking, len(full))
            return cls(
                architectures[full],
                accuracies[full],
                {name: column[full] for name, column in costs.items()},
                test_accuracies=None if tests is None else tests[full],
                keys=None if keys is None else [key for key, one in zip(keys, full, strict=True) if one],
                names=names,
            )
        except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is no table of architectures by {schema}: {error}") from error

    def _text(self, architecture: Architecture) -> str:
        """Return an architecture by the names of its options, or by their numbers where they have none."""
        if self.names is None:
            return "-".join(map(str, architecture))
        return "-".join(names[option] for names, option in zip(self.names, architecture, strict=True))

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
        means = mean_of_runs(self.accuracies)
        accepted = [row for row, architecture in enumerate(self.architectures) if accept(architecture)]
        if not accepted:
            raise ValueError("accept must take at least one architecture of the table, it takes none")
        row = max(accepted, key=means.__getitem__)
        return self.architectures[row], float(means[row])

    def space(self) -> ChoiceSpace | ListedSpace:
        """Return the space of the architectures.

        That is a `ChoiceSpace` where the table holds all combinations of its options, numbered from 0 or with
        names that such a space may have, and no two of the same function; else the list of those that it
        holds.
        """
        counts = [int(most) + 1 for most in np.max(self.architectures, axis=0)]
        usual = all(map(is_option_name, itertools.chain(*self.names or ())))
        if self.keys is None and usual and np.min(self.architectures) >= 0:
            layers = counts if self.names is None else [list(names) for names in self.names]
            sizes = counts if self.names is None else list(map(len, self.names))
            if math.prod(sizes) == len(self):
                return ChoiceSpace(layers)
        return ListedSpace(self.architectures, names=self.names, keys=self.keys)

    def assignments(self) -> ListedAssignmentSpace:
        """Return the table's architectures as layer assignments, which NIR searches.

        Raises:
            ValueError: they are none.
        """
        if self.names is not None or np.min(self.architectures) < 1:
            raise ValueError(
                "architectures must be layer assignments, with at least 1 layer in each group, got "
                f"{self.space().format(self.architectures[0])}"
            )
        return ListedAssignmentSpace(self.architectures)

    def digest(self) -> str:
        """Return a short text that tells one table's content from another's."""
        checksum = hashlib.sha256(np.array(self.architectures).tobytes())
        checksum.update(self.accuracies.tobytes())
        for name, column in sorted(self.costs.items()):
            checksum.update(name.encode() + column.tobytes())
        if self.test_accuracies is not None:
            checksum.update(b"test" + self.test_accuracies.tobytes())
        if self.keys is not None or self.names is not None:
            checksum.update(repr((self.keys, self.names)).encode())
        return checksum.hexdigest()[:16]


def mean_of_runs(accuracies: np.ndarray) -> np.ndarray:
    """Return the mean accuracy of the runs that were made, [N], of accuracies [N, runs]."""
    return accuracies.mean(axis=1) if np.isfinite(accuracies).all() else np.nanmean(accuracies, axis=1)


def errors_of_runs(accuracies: np.ndarray) -> list[float | None]:
    """Return the standard errors of `mean_of_runs`; None where fewer than two runs were made."""
    runs = np.isfinite(accuracies).sum(axis=1)
    squares = np.nansum((accuracies - mean_of_runs(accuracies)[:, None]) ** 2, axis=1)
    return [
        math.sqrt(square / (made - 1) / made) if made > 1 else None
        for square, made in zip(squares.tolist(), runs.tolist(), strict=True)
    ]


def _shares(name: str, values: Any, rows: int) -> np.ndarray:
    """Return accuracies as float64 [rows, runs]; raise ValueError where they are something else."""
    shares = np.asarray(values, dtype=np.float64)
    if shares.ndim not in (1, 2) or len(shares) != rows or not shares.size:
        raise ValueError(
            f"{name} must have a number for each of the {rows} architectures, got shape {shares.shape}"
        )
    shares = shares.reshape(rows, -1)
    made = np.isfinite(shares)
    if not made.any(axis=1).all() or np.isinf(shares).any():
        raise ValueError(f"{name} must be finite numbers, at least one for each architecture")
    if not ((shares[made] >= 0) & (shares[made] <= 1)).all():
        extremes = shares[made].min(), shares[made].max()
        raise ValueError(f"{name} must be shares from 0 to 1, got {extremes[0]} to {extremes[1]}")
    return shares


def _numbers(name: str, values: Any, rows: int) -> np.ndarray:
    """Return finite numbers as float64 [rows, 1]; raise ValueError where they are something else."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim not in (1, 2) or numbers.size != rows or len(numbers) != rows:
        raise ValueError(
            f"{name} must have a number for each of the {rows} architectures, got shape {numbers.shape}"
        )
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite numbers")
    return numbers.reshape(rows, 1)
