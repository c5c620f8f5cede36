"""The section of docs/performance.md on roofs, from the records of record_roofline."""

from __future__ import annotations

from statistics import geometric_mean
from typing import Any

from benchmarks._roof import Level

TARGET = 0.6
SHOWN = 0.03
"""A kind of operation has a row of its own where it takes such a part of the time of some workload."""
MOST_LOST, LEAST_LOST = 5, 0.02
"""So many kinds are said to take the time beyond the roof, each of them such a part of it."""
PARTS = {"evaluation": "Evaluation", "training": "Training"}
WAYS = {
    ("bf16", "amx"): "bf16, AMX",
    ("bf16", "avx512_bf16"): "bf16, AVX-512",
    ("fp32", "amx"): "fp32, AVX-512",
    ("fp32", "avx2"): "fp32, AVX2",
}
"""By precision and instruction set; AMX has no products of fp32."""

TEXT = f"""## How near the roof

Most layers cannot reach the peak, whoever computes them: they have too few multiply-adds for the bytes that
they move. The roof of an operation is the longer of two times: its multiply-adds at the rate of a large
product, in the precision or in fp32, whichever is faster; and what it reads and writes, each value once, at
the bandwidth that a copy has in the level of cache that the working set fits. In prediction, this is a
thread's arena for a block of images; in calibration, that for a batch of 125 images; in training, what the
operation reads and writes. Operations are timed one by one, in the order of the pass, and the time that the
roof is compared with is that of the whole pass: for an evaluation with the lowering of candidates and the
packing of weights, without the scoring of logits; for training a sequential step on 128 images. Times are the
processor's, of one thread; images are random. Of a convolution by
[Winograd's algorithm](#winograds-algorithm), the roof counts the products that this has. AMX's tiles are no
use for depthwise convolutions, and their roof does not know that: the last column has the part that each kind
reaches of what vector instructions multiply in fp32. The target is {100 * TARGET:.0f} % of the roof, as the
geometric mean over workloads.
"""


def roofline(records: list[dict[str, Any]]) -> str:
    """Return the section of the records, one for each precision and instruction set."""
    ordered = [one for way in WAYS for one in records if (one["precision"], one["isa"]) == way]
    parts = [TEXT, _limits(ordered)]
    for part, title in PARTS.items():
        measured = [one for one in ordered if one[part]]
        if measured:
            parts += [f"### {title} against its roof\n", _workloads(measured, part), _targets(measured, part)]
            parts += [_sums(measured)] if part == "evaluation" else []
            parts += [_kinds(one, part, list(measured[0][part])) for one in measured]
    return "\n".join(parts)


def _way(record: dict[str, Any]) -> str:
    return WAYS[record["precision"], record["isa"]]


def _limits(records: list[dict[str, Any]]) -> str:
    """Return the table of what the machine can do."""
    names = [level["name"] for level in records[0]["limits"]["levels"]]
    versions = " and ".join(sorted({one["machine"]["torch"] for one in records}))
    lines = [
        f"Measured limits (torch {versions}), in multiply-adds and bytes a second of one thread:\n",
        "| | processor | load beforehand | products, G/s | fp32 by vectors, G/s | "
        f"{' | '.join(f'{name}, GB/s' for name in names)} |",
        "|---" * (len(names) + 5) + "|",
    ]
    for one in records:
        limits, machine = one["limits"], one["machine"]
        rates = [limits["rate"], limits["vector_rate"]]
        rates += [Level(**level).bandwidth for level in limits["levels"]]
        lines.append(
            f"| {_way(one)} | {machine['processor']} | {machine['load_before']:.1f} | "
            f"{' | '.join(f'{rate / 1e9:.0f}' for rate in rates)} |"
        )
    return "\n".join(lines) + "\n"


def _workloads(records: list[dict[str, Any]], part: str) -> str:
    """Return the table of time and roof by workload."""
    what = "step, s" if part == "training" else "s"
    heads = " | ".join(f"{_way(one)}: {what} | roof, s | of the roof" for one in records)
    names = list(dict.fromkeys(name for one in records for name in one[part]))
    lines = [f"| workload | {heads} |", "|---" * (3 * len(records) + 1) + "|"]
    for name in names:
        cells = " | ".join(_cells(one[part].get(name)) for one in records)
        lines.append(f"| `{name}` | {cells} |")
    means = " | ".join(f" | | **{100 * fraction(one, part):.0f} %**" for one in records)
    return "\n".join([*lines, f"| **geometric mean** | {means} |", ""])


def _cells(one: dict[str, Any] | None) -> str:
    if one is None:
        return " | | "
    return f"{one['seconds']:.2f} | {one['roof_seconds']:.2f} | {100 * one['of roof']:.0f} %"


def fraction(record: dict[str, Any], part: str, which: str = "of roof") -> float:
    """Return the geometric mean over workloads of the roof over the time."""
    return geometric_mean(one[which] for one in record[part].values())


def _targets(records: list[dict[str, Any]], part: str) -> str:
    """Return what was to be reached, what was, and what takes the time beyond the roof."""
    lines = []
    for one in records:
        value = fraction(one, part)
        outcome = "met" if value >= TARGET else "missed"
        own = _own(one, part) if part == "evaluation" else ""
        if one["precision"] != "fp32" and one["limits"]["rate"] < one["limits"]["vector_rate"]:
            own += _in_precision(one, part)
        lines.append(
            f"- {_way(one)}: {100 * TARGET:.0f} % of the roof; measured {100 * value:.0f} %, {outcome}{own}."
            f" Of the time beyond the roof, {_lost(one, part)}."
        )
    return "\n".join(lines) + "\n"


def _sums(records: list[dict[str, Any]]) -> str:
    """Return how near the sum over operations is to the time of the pass."""
    ratios = [
        one["sum / whole"]
        for record in records
        for workload in record["evaluation"].values()
        for one in workload["passes"].values()
    ]
    return (
        f"Operations timed one by one take {min(ratios):.2f} to {max(ratios):.2f} times as long in all as "
        "the pass does.\n"
    )


def _own(record: dict[str, Any], part: str) -> str:
    value = fraction(record, part, "of own roof")
    return f" ({100 * value:.0f} % if caches had to hold no more than what one operation reads and writes)"


def _in_precision(record: dict[str, Any], part: str) -> str:
    rate, value = record["limits"]["rate"] / 1e9, fraction(record, part, "of precision's roof")
    return (
        f". Products in {record['precision']} by these instructions are slower on this processor than in "
        f"fp32, {rate:.0f} G/s: by this rate, it is {100 * value:.0f} %"
    )


def _lost(record: dict[str, Any], part: str) -> str:
    """Return who takes the time beyond the roof: the mean over workloads."""
    shares: dict[str, float] = {}
    for one in record[part].values():
        kinds = kinds_of(one)
        beyond = one["seconds"] - one["roof_seconds"]
        lost = {kind: each["seconds"] - each["roof"] for kind, each in kinds.items()}
        if part == "training":
            lost["Python, autograd"] = one["seconds"] * one["outside of operations"]
        else:
            lost["preparing"] = one["preparing_seconds"]
        for kind, seconds in lost.items():
            shares[kind] = shares.get(kind, 0.0) + seconds / beyond / len(record[part])
    most = sorted(shares.items(), key=lambda item: -item[1])[:MOST_LOST]
    return (
        ", ".join(f"{100 * share:.0f} % is in *{kind}*" for kind, share in most) + " (means over workloads)"
    )


def kinds_of(one: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the sums of a workload by kind, those of both passes of an evaluation together."""
    if "passes" not in one:
        kinds: dict[str, dict[str, float]] = one["kinds"]
        return kinds
    total: dict[str, dict[str, float]] = {}
    for one_pass in one["passes"].values():
        for kind, values in one_pass["kinds"].items():
            before = total.get(kind, dict.fromkeys(values, 0.0))
            total[kind] = {name: value + before[name] for name, value in values.items()}
    return total


def _kinds(record: dict[str, Any], part: str, order: list[str]) -> str:
    """Return the table by kind of operation: parts of the time, and how near the roof."""
    workloads, vector_rate = record[part], record["limits"]["vector_rate"]
    by_workload = {name: kinds_of(workloads[name]) for name in order if name in workloads}
    parts: dict[str, float] = {}
    for name, kinds in by_workload.items():
        for kind, one in kinds.items():
            parts[kind] = max(parts.get(kind, 0.0), one["seconds"] / workloads[name]["seconds"])
    shown = [kind for kind, most in sorted(parts.items(), key=lambda item: -item[1]) if most >= SHOWN]
    lines = [
        f"{_way(record)}: the part of the time that each kind of operation takes, and in brackets how near "
        "it comes to its roof, in all workloads together at the right; then its multiply-adds, of those that "
        "vector instructions do in fp32:\n",
        f"| kind | {' | '.join(f'`{name}`' for name in by_workload)} | of the roof | of vectors |",
        "|---" * (len(by_workload) + 3) + "|",
    ]
    for kind in shown:
        cells = [_cell(kinds.get(kind), workloads[name]["seconds"]) for name, kinds in by_workload.items()]
        each = [kinds[kind] for kinds in by_workload.values() if kind in kinds]
        seconds, roof, products = (sum(one[what] for one in each) for what in ("seconds", "roof", "products"))
        vectors = f"{100 * products / vector_rate / seconds:.0f} %" if products else ""
        lines.append(f"| {kind} | {' | '.join(cells)} | {100 * roof / seconds:.0f} % | {vectors} |")
    rest = [
        1 - sum(kinds[kind]["seconds"] for kind in shown if kind in kinds) / workloads[name]["seconds"]
        for name, kinds in by_workload.items()
    ]
    lines.append(f"| all else | {' | '.join(f'{max(0.0, 100 * one):.0f} %' for one in rest)} | | |")
    return "\n".join(lines) + "\n"


def _cell(one: dict[str, float] | None, seconds: float) -> str:
    if one is None:
        return ""
    return f"{100 * one['seconds'] / seconds:.0f} % ({100 * one['roof'] / one['seconds']:.0f} %)"
