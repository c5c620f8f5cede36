"""The columns of a table of trained networks: which they are, and how they are read from a file."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lasfast.constraints import units_of
from lasfast.core.checks import check_choice
from lasfast.core.csv_rows import possible_names, read_rows

SECONDS = "seconds"
"""The name of the cost that is how long a training took."""
NO_COSTS = ("text", "name", "architecture", "top1", "top5", "loss", "images", "error_of_runs", "test_top1")
"""The entries of an architecture in the result of a study that are no costs."""
_COST = re.compile(r"(?:(?P<name>[A-Za-z_]\w*(?:@[\w.-]+)?)=)?(?P<column>.+?)(?::(?P<unit>[A-Za-z]+))?")
MOST_DIGITS = 9  # of an option that is a number
_SET = re.compile(r"(?P<column>.+)\[(?P<set>[^\[\]]+)\]")


class CostColumn(NamedTuple):
    """A cost: the name that constraints have for it, its column, and what one of its unit is."""

    name: str
    column: str
    size: float


@dataclass(frozen=True)
class Schema:
    """Names the columns of a table.

    A column of several data sets, in npz [N, sets] or [N, sets, runs], is read as `NAME[SET]`: SET is a
    number from 0, or a name out of a text array of the file that has one for each set.

    Attributes:
        architecture: the column of architectures: in npz, ints [N, layers] or text [N]; in csv, text. A text
            joins the numbers or the names of options by '-', such as 2-0-1.
        accuracy: the column of the accuracies that are searched by, [N]; in npz also [N, runs], for networks
            trained several times. They are shares from 0 to 1, or percent if any is above 1.
        costs: the columns of costs, numbers [N], each written `[NAME=]COLUMN[:UNIT]`. NAME is what
            constraints call it (default: as the column is called), UNIT that of the column, such as M, ms or
            MB: `latency=edge gpu:ms`.
        test: a column of accuracies that a search does not see, and that are reported of what it finds.
        seconds: the column of training times, `COLUMN[:UNIT]`, in seconds unless told otherwise.
        key: a column of texts or numbers that architectures of one function share.
    """

    architecture: str = "arch"
    accuracy: str = "mean_acc"
    costs: tuple[str, ...] = ("flops", "params")
    test: str | None = None
    seconds: str | None = None
    key: str | None = None

    @classmethod
    def of(cls, path: Path) -> Schema:
        """Return the schema of a file by the names of its columns.

        That is NAS-Bench-Macro's, or that of the tables that `lasfast dataset` writes. Of `flops` and
        `params` it has those that there are.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no .npz or .csv, or is damaged; it is named.
        """
        own = cls("architecture", "top1")
        try:
            names = _names(path)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is no table of architectures: {error}") from error
        schema = own if {own.architecture, own.accuracy} <= names else cls()
        return cls(schema.architecture, schema.accuracy, tuple(one for one in cls.costs if one in names))

    @staticmethod
    def split(text: str) -> tuple[str, ...]:
        """Return the columns that a text names, by commas; one whose name has a comma stands in quotes."""
        fields = next(csv.reader([text], skipinitialspace=True), [])
        return tuple(field.strip() for field in fields if field.strip())

    def costs_read(self) -> list[CostColumn]:
        """Return the costs, that of training among them.

        Raises:
            ValueError: two have the same name, or one has a name that results have for something else.
        """
        costs = list(map(_cost, self.costs))
        if self.seconds is not None:
            costs.append(_cost(f"{SECONDS}={self.seconds}"))
        names = [one.name for one in costs]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"costs must have different names, but {twice} is there more than once")
        if taken := next((name for name in names if name in NO_COSTS), None):
            raise ValueError(
                f"costs must have other names than {', '.join(NO_COSTS)}, which results have anyway, got "
                f"{taken}; write NAME={taken}"
            )
        return costs

    def columns(self) -> list[str]:
        """Return the names of all columns, without the numbers or names of sets."""
        wanted = [self.architecture, self.accuracy, *(one.column for one in self.costs_read())]
        return wanted + [one for one in (self.test, self.key) if one is not None]


def _cost(text: str) -> CostColumn:
    """Read a cost, such as `latency=edge gpu:ms`."""
    match = _COST.fullmatch(text)
    assert match is not None
    name = match["name"] or match["column"]
    units = units_of(name)
    if match["unit"] is None:
        return CostColumn(name, match["column"], 1.0)
    if match["unit"] not in units:
        raise ValueError(
            f"cost {text!r}: the unit of {name} must be one of {', '.join(filter(None, units))}, "
            f"got {match['unit']!r}"
        )
    return CostColumn(name, match["column"], units[match["unit"]])


class Columns:
    """The columns of a file, by name.

    Args:
        schema: the columns that are read.
        columns: name -> array, [N], [N, runs], [N, sets] or [N, sets, runs].

    Raises:
        ValueError: a column of the schema is missing, or has another number of rows than the architectures.
    """

    def __init__(self, schema: Schema, columns: Mapping[str, np.ndarray]) -> None:
        self._columns = columns
        self._read = {name: self._find(name) for name in schema.columns()}
        missing = [name for name, column in self._read.items() if column is None]
        if missing:
            raise ValueError(
                f"there is no column {', '.join(missing)}; it has {', '.join(columns) or 'none'}"
            )
        self._architectures = self._read[schema.architecture]
        if not self._architectures.ndim:
            raise ValueError(f"{schema.architecture} must be a column [N, ...], got a single value")
        rows = self._architectures.shape[:1]
        if not rows[0]:
            raise ValueError("there must be a row for each architecture, got none")
        for name, column in self._read.items():
            if column.shape[:1] != rows:
                raise ValueError(
                    f"{name} must have a value for each of the {rows[0]} architectures, got {column.shape}"
                )

    @classmethod
    def read(cls, path: Path, schema: Schema) -> Columns:
        """Read a file; raise ValueError where it is damaged, or does not fit the schema."""
        if _is_npz(path):
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            arrays = {name: one for name, one in columns.items() if isinstance(one, np.ndarray)}
            return cls(schema, {name: _decoded(column) for name, column in arrays.items()})
        names, rows = read_rows(path, schema.columns())
        return cls(
            schema, {name: np.array([row[at] for _, row in rows], str) for at, name in enumerate(names)}
        )

    def _find(self, name: str) -> Any:
        """Return a column, or one set of it; None where there is no such column."""
        if name in self._columns:
            return self._columns[name]
        match = _SET.fullmatch(name)
        if match is None or match["column"] not in self._columns:
            return None
        column, wanted = self._columns[match["column"]], match["set"]
        if column.ndim < 2:
            raise ValueError(f"{name} must be a set of a column [N, sets], got shape {column.shape}")
        labels, numbers = self._labels(column), list(map(str, range(column.shape[1])))
        for known in (*labels, numbers):
            if wanted in known:
                return column[:, known.index(wanted)]
        known = [one for names in labels for one in names] or numbers
        raise ValueError(f"{name}: the set must be one of {', '.join(known)}, got {wanted!r}")

    def _labels(self, column: np.ndarray) -> list[list[str]]:
        """Return the text arrays of the file that have a name for each set of a column [N, sets, ...]."""
        arrays = [one for one in self._columns.values() if one.dtype.kind == "U"]
        return [one.tolist() for one in arrays if one.shape == column.shape[1:2]]

    def _one_set(self, name: str) -> str:
        """Return the advice that says how one set of a column [N, sets, ...] is written."""
        column = self._read[name]
        if labels := self._labels(column):
            return f"write {name}[SET], where SET is one of {', '.join(labels[0])}"
        return f"write {name}[0] to {name}[{column.shape[1] - 1}] for one of its sets"

    def _refuse_sets(self, name: str) -> None:
        """Raise ValueError where a column has a value for each data set that a text array of the file names.

        Their mean would be taken for that of several runs.
        """
        column = self._columns.get(name)
        if column is None or column.ndim != 2 or column.shape[1] in (1, len(column)):
            return
        if labels := self._labels(column):
            raise ValueError(
                f"{name} must be of one data set, got those of {', '.join(labels[0])}; "
                f"write {name}[{labels[0][0]}]"
            )

    def numbers(self, name: str) -> np.ndarray:
        """Return a column as float64 [N, runs], NaN for empty fields.

        Raises:
            ValueError: the column has other values, or several sets.
        """
        column = self._read[name]
        if column.dtype.kind not in "biufU":
            raise ValueError(f"{name} must be numbers, got {column.dtype}")
        if column.dtype.kind == "U":
            column = np.where(column == "", "nan", column)
        try:
            numbers: np.ndarray = column.astype(np.float64)
        except ValueError:
            row, wrong = next(
                (row, text)
                for row, texts in enumerate(column.reshape(len(column), -1).tolist())
                for text in texts
                if not _is_number(text)
            )
            advice = "; write numbers without commas, and decimals behind a point" if "," in wrong else ""
            raise ValueError(
                f"{name} must be numbers, or empty where unknown, got {wrong!r}{self._of(row)}{advice}"
            ) from None
        if numbers.ndim not in (1, 2):
            advice = f"; {self._one_set(name)}" if numbers.ndim == 3 else ""
            raise ValueError(f"{name} must be [N] or [N, runs], got shape {numbers.shape}{advice}")
        return numbers[:, None] if numbers.ndim == 1 else numbers

    def _of(self, row: int) -> str:
        """Return of which architecture the values of a row are, as the end of a sentence."""
        architecture = self._architectures[row].tolist()
        return f" of {'-'.join(map(str, architecture)) if isinstance(architecture, list) else architecture}"

    def shares(self, name: str) -> np.ndarray:
        """Return a column of accuracies as shares, [N, runs]; it is in percent where any is above 1."""
        self._refuse_sets(name)
        numbers = self.numbers(name)
        beyond = (numbers < 0) | (numbers > 100)
        if beyond.any():
            row, run = np.argwhere(beyond)[0].tolist()
            raise ValueError(
                f"{name} must be shares from 0 to 1, or percent, got {numbers[row, run]:.10g}{self._of(row)}"
            )
        return numbers / 100 if (numbers > 1).any() else numbers

    def cost(self, cost: CostColumn) -> np.ndarray:
        """Return a cost in its own unit, [N, 1]; ValueError where there are several numbers in a row."""
        numbers = self.numbers(cost.column)
        if numbers.shape[1] != 1:
            raise ValueError(
                f"cost {cost.name} must have a number for each architecture, got shape {numbers.shape}; "
                f"{self._one_set(cost.column)}"
            )
        return numbers * cost.size

    def keys(self, name: str) -> list[Any]:
        """Return a column [N] as a list, in which an architecture without a key shares it with no other."""
        column = self._read[name]
        if column.ndim != 1:
            raise ValueError(f"{name} must be [N], got shape {column.shape}")
        return [(row,) if key == "" or key != key else key for row, key in enumerate(column.tolist())]

    def architectures(self) -> tuple[np.ndarray, list[list[str]] | None]:
        """Return the architectures as ints [N, decisions], and the names of options if they have names.

        Options that have names are numbered in the order of the alphabet.

        Raises:
            ValueError: texts have different numbers of decisions, or options without a name.
        """
        if self._architectures.dtype.kind != "U":
            return self._architectures, None
        if self._architectures.ndim != 1:
            raise ValueError(f"architectures must be texts [N], got shape {self._architectures.shape}")
        rows = [text.split("-") for text in self._architectures.tolist()]
        for row in rows:
            if len(row) != len(rows[0]):
                first, other = "-".join(rows[0]), "-".join(row)
                raise ValueError(
                    f"architectures must have as many decisions each, joined by '-', got {first!r} with "
                    f"{len(rows[0])} and {other!r} with {len(row)}; a name of an option has no '-' in it"
                )
            if not all(map(str.strip, row)):
                raise ValueError(f"architectures must be options joined by '-', got {'-'.join(row)!r}")
        if all(part.isdecimal() for row in rows for part in row):
            if longest := next((part for row in rows for part in row if len(part) > MOST_DIGITS), ""):
                raise ValueError(f"options must be numbers of up to {MOST_DIGITS} digits, got {longest}")
            return np.array(rows).astype(np.int64), None
        names = [sorted(set(taken)) for taken in zip(*rows, strict=True)]
        numbers = [{option: at for at, option in enumerate(options)} for options in names]
        return np.array([[at[part] for at, part in zip(numbers, row, strict=True)] for row in rows]), names


def _decoded(column: np.ndarray) -> np.ndarray:
    """Return a column of bytes as text, and others as they are."""
    return np.char.decode(column, "utf-8") if column.dtype.kind == "S" else column


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_npz(path: Path) -> bool:
    check_choice("the table's suffix", path.suffix.lower(), (".npz", ".csv"))
    return path.suffix.lower() == ".npz"


def _names(path: Path) -> set[str]:
    """Return the names of a file's columns, in a csv by any separator."""
    if not _is_npz(path):
        return possible_names(path)
    with np.load(path, allow_pickle=False) as file:
        return set(file.files)
