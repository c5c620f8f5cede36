"""The section of docs/performance.md on single operations, from the records of record_operations."""

from __future__ import annotations

from collections.abc import Callable
from statistics import geometric_mean
from typing import Any

OPERATIONS = {
    "conv": "3x3 convolution, batch norm and ReLU against PyTorch's sequence in channels_last",
    "depthwise": "Depthwise convolution, batch norm and ReLU against the same",
    "batch_norm": "Batch norm, residual add and ReLU of a value at rest against the same",
}
TRAINING = {
    "conv_bn_act": "`conv_bn_act` (convolution, batch norm, ReLU) against PyTorch's sequence",
    "conv_train": "A convolution's passes by lasfast's kernels, against PyTorch's",
    "depthwise_train": "A depthwise convolution's passes by lasfast's kernels, against PyTorch's",
    "bn_act": "`bn_act` (batch norm, residual sum, ReLU) against PyTorch's sequence",
}
VARIANTS = {
    *("fp32", "bf16", "calibration", "prediction", "plain", "residual"),
    *("forward", "forward with statistics", "backward", "grad_input", "grad_weight"),
}
Runs = dict[str, dict[str, Any]]


def operations(record: dict[str, Any]) -> str:
    """Return a table for each of the engine's operations."""
    measured = record["operations"]
    limits = {group: one["torch"] for group, one in measured["limits"].items()}
    peaks = {storage: limits[f"matrix product, {storage}"]["TFLOP/s"] for storage in ("fp32", "bf16")}
    copy = limits["copy"]["GB/s"]

    def measure(parts: list[str], runs: Runs) -> tuple[float, float]:
        native = runs["native"]
        ratio = runs["torch"]["seconds"] / native["seconds"]
        if "TFLOP/s" not in native:
            return ratio, native["GB/s"] / copy
        return ratio, native["TFLOP/s"] / peaks["bf16" if "bf16" in parts else "fp32"]

    text = (
        "## Single operations\n\n"
        "One thread. Times faster than PyTorch, and in brackets the fraction of the limit, measured in the "
        f"same run: a large matrix product ({peaks['fp32']:.2f} TFLOP/s in fp32, {peaks['bf16']:.2f} in "
        f"bf16) for dense convolutions, a copy in memory ({copy:.0f} GB/s) for the others, which beat it "
        "where a cache holds what they work on.\n"
    )
    tables = [table(title, measured[operation], measure) for operation, title in OPERATIONS.items()]
    return "\n".join([text, *tables])


def training_operations(record: dict[str, Any]) -> str:
    """Return a table for each operation of a training step."""
    machine = record["machine"]

    def measure(parts: list[str], runs: Runs) -> tuple[float, float]:
        native = runs["native"]
        part = native["of peak"] if "of peak" in native else native["GB/s"] / native["GB/s of a copy"]
        return native["torch / native"], part

    text = (
        "## Single operations of training\n\n"
        f"{machine['processor']}, one thread, {machine['native']['isa']['selected']} kernels, torch "
        f"{machine['torch']}; batches of 128 images in channels_last; load of the machine beforehand "
        f"{machine['load_before']:.1f}. Times faster than PyTorch, pair by pair, and in brackets the "
        "fraction of the limit, measured in the same run: a large matrix product or 3x3 convolution of "
        "PyTorch's in the same precision, whichever is faster, or a copy in memory. What trains a network "
        "takes PyTorch's pass wherever it is the faster one, as `conv_bn_act` does here.\n"
    )
    measured = record["operations"]
    tables = [table(title, measured[name], measure) for name, title in TRAINING.items() if name in measured]
    return "\n".join([text, *tables])


def table(
    title: str, groups: dict[str, Runs], measure: Callable[[list[str], Runs], tuple[float, float]]
) -> str:
    """Return a row for each shape, a column for each variant, from groups named "shape, variant, ...".

    `measure` returns how many times faster than PyTorch a group's run is, and the fraction of the limit.
    """
    rows: dict[str, dict[str, str]] = {}
    ratios: dict[str, list[float]] = {}
    for group, runs in groups.items():
        parts = group.split(", ")
        variant = ", ".join(part for part in parts if part in VARIANTS)
        ratio, part = measure(parts, runs)
        row = rows.setdefault(", ".join(part for part in parts if part not in VARIANTS), {})
        row[variant] = f"{ratio:.1f} ({100 * part:.0f} %)"
        ratios.setdefault(variant, []).append(ratio)
    lines = [f"{title}:\n", f"| channels | {' | '.join(ratios)} |", "|---" * (len(ratios) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {' | '.join(row.get(variant, '') for variant in ratios)} |")
    means = " | ".join(f"**{geometric_mean(values):.1f}**" for values in ratios.values())
    return "\n".join([*lines, f"| **geometric mean** | {means} |", ""])
