"""The architecture table: architectures with their accuracies, costs and seeds after stand-alone training."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lasfast.core.csv_rows import read_rows
from lasfast.core.files import atomic_write_text
from lasfast.measurements import ranking
from lasfast.measurements.measurement import Measurement
from lasfast.spaces import Architecture
from lasfast.study.files import TABLE


@dataclasses.dataclass(frozen=True)
class Row:
    """One trained network of an architecture table.

    Attributes:
        architecture: the network's architecture.
        depth: the layers of an assignment; of other architectures, how many layers they run.
        top1, top5: shares of validation images, from 0 to 1.
        loss: mean cross-entropy.
        flops: multiply-adds for one image.
        params: weights, those of BatchNorm included.
        epochs: how long the network was trained.
        seed: decided the initial weights, and the order, augmentation and dropout of the training.
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


def save_table(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write rows as CSV, in one step. Numbers are written in full, so that reading gives the same ones."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(Row))
    for row in rows:
        values = dataclasses.asdict(row) | {"architecture": "-".join(map(str, row.architecture))}
        writer.writerow(values.values())
    atomic_write_text(path, text.getvalue())


def load_table(path: str | os.PathLike[str]) -> list[Row]:
    """Read a table that `save_table` wrote; a directory is that of a `TableBuilder`.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: the table is damaged; the text names the file and the line.
    """
    path = Path(path)
    if path.is_dir():
        path = path / TABLE
    names = [field.name for field in dataclasses.fields(Row)]
    try:
        found, lines = read_rows(path, names)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; restore it, or make it again") from error
    if found != names:
        raise ValueError(f"{path} is no table of architectures: its first line has to be {','.join(names)}")
    rows = []
    for number, line in lines:
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
    """The agreement of accuracies with inherited weights with those of stand-alone training.

    Attributes:
        count: how many architectures are compared.
        gap: the accuracy gap (NIR, Eq. 7), from 0 to 1.
        tau, rho: Kendall's and Spearman's rank correlations; NaN where there is no order to compare.
    """

    count: int
    gap: float
    tau: float
    rho: float


def compare(
    table: Iterable[Row], one_shot: Iterable[Measurement]
) -> tuple[Comparison, dict[int, Comparison]]:
    """Compare a table with a study's measurements, over the architectures that are in both.

    Args:
        table: what `load_table` gives.
        one_shot: `StudyResult.measurements`, or `[m for _, m in Journal.read(path)[1]]`.

    Returns:
        The comparison over all of these architectures, and one for each depth.

    Raises:
        ValueError: there is no architecture in both.
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
