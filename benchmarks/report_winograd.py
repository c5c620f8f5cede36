"""The section of docs/performance.md on Winograd's algorithm, from the record of record_winograd."""

from __future__ import annotations

from statistics import geometric_mean
from typing import Any

from benchmarks import _harness
from lasfast.runtime.winograd import TILES

TARGET = 1.6
LIMITS = {"winograd 2x2": 2, "winograd 4x4": 4}
"""Errors may be so many times larger than PyTorch's."""

TEXT = """## Winograd's algorithm

Convolutions of 3x3 and stride 1 on the CPU, in tiles of 2x2 and of 4x4 outputs: times faster than lasfast's
direct kernels, pair by pair. Prediction and calibration are fused with the batch norms and ReLUs around them;
the others are passes of training, which transform the weight each time. Errors are relative to float64, over
those of PyTorch in the same precision. Evaluation and training take the fastest way for each size, as
measured on the machine. Where bf16 values are multiplied by pairs, their transforms are rounded to bf16, and
tiles of 4x4 would err too much; AMX multiplies directly.
"""


def winograd(records: list[dict[str, Any]]) -> str:
    """Return the section of some machines' records."""
    return "\n".join([TEXT, *map(_table, records)])


def _table(record: dict[str, Any]) -> str:
    """Return the table of times faster than the direct kernels, and of errors."""
    machine, shapes = record["machine"], record["shapes"]
    passes = passes_of(shapes)
    ways = ways_of(shapes)
    lines = [
        f"{record.get('precision', 'fp32')}, {machine['processor']}, one thread, "
        f"{machine['native']['isa']['selected']} kernels, torch {machine['torch']}; "
        f"{_harness.conditions(record)}.\n",
        f"| channels | {' | '.join(passes)} | errors |",
        "|---" * (len(passes) + 2) + "|",
    ]
    for name, shape in shapes.items():
        cells = [" / ".join(f"{shape[which]['direct / '][way]:.2f}" for way in ways) for which in passes]
        errors = " / ".join(f"{error:.1f}" for error in error_ratios(shape).values())
        lines.append(f"| {name} | {' | '.join(cells)} | {errors} |")
    means = (" / ".join(f"**{mean(shapes, which, way):.2f}**" for way in ways) for which in passes)
    lines.append(f"| **geometric mean** | {' | '.join(means)} | |\n")
    for which in passes:
        value = geometric_mean(
            max(1.0, *(shape[which]["direct / "][way] for way in ways)) for shape in shapes.values()
        )
        outcome = "met" if value >= TARGET else "missed"
        lines.append(
            f"- {which}, the fastest way of each size: target {TARGET}x, measured {value:.2f}x, {outcome}."
        )
    for way in ways:
        limit = LIMITS[way]
        most = max(error_ratios(shape)[way] for shape in shapes.values())
        outcome = "met" if most <= limit else "missed"
        lines.append(f"- errors of {way}: at most {limit} times PyTorch's, measured {most:.1f}, {outcome}.")
    return "\n".join(lines) + "\n"


def passes_of(shapes: dict[str, Any]) -> list[str]:
    """Return the passes that a record has."""
    return [name for name in next(iter(shapes.values())) if name != "errors"]


def ways_of(shapes: dict[str, Any]) -> list[str]:
    """Return the ways of Winograd's algorithm that a record has."""
    return [way for way in TILES if way in next(iter(shapes.values()))["errors"]]


def mean(shapes: dict[str, Any], which: str, way: str) -> float:
    """Return the geometric mean over shapes of how many times faster a way is."""
    return geometric_mean(shape[which]["direct / "][way] for shape in shapes.values())


def error_ratios(shape: dict[str, Any]) -> dict[str, float]:
    """Return the error of each way over PyTorch's."""
    errors = shape["errors"]
    return {way: errors[way] / errors["torch"] for way in TILES if way in errors}
