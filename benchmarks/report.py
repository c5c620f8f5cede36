"""Write docs/performance.md and its picture from the records in benchmarks/results.

python -m benchmarks.report
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lasfast.report.plot import COLORS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BASELINES = {
    "sequential": "PyTorch as published code runs it: eager, fp32, one candidate after another",
    "tuned": "PyTorch at its best: channels_last, the same precision, the fastest batch size",
    "torch": "lasfast's own torch backend: shared prefixes, PyTorch's operators",
}

TEXT = """# How fast

What is measured is the question a search asks thousands of times: *how good are these candidates with the
weights they inherit?*, BatchNorm recalibration and prediction together. `native` is
`Evaluator(backend="native")`: all candidates in one pass over the prefix tree, each operation fused with
the batch norms and activations around it.

Times are medians over alternated rounds in one run, ratios medians of the rounds' own ratios; images are in
memory for all; logits are checked against PyTorch's before any time is taken (of every candidate, or of
eight where a tenth of the images is used). The fraction of peak is the multiply-adds of the *shared* tree
over those of a large PyTorch matrix product in the same precision and run. The machine was shared with
other work, which the pairing evens out, but not the fractions. This page is made from [the
records](../benchmarks/results) by `python -m benchmarks.report`.

What limits it: `layernas-frontier` is made of 1x1 and depthwise convolutions, in which filling and
finishing tiles takes longer than multiplying; `nir-residual` and `nir-plain` have three candidates, that
share little; and in fp32, PyTorch's convolutions are near the peak themselves, so that only sharing and
fusion are left to gain.

![Times faster than PyTorch](performance.png)
"""


def main() -> None:
    """Read the records, write page and picture."""
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("evaluate-*.json"))]
    parts = [TEXT, *(section(record) for record in records), conclusion(records)]
    (ROOT / "docs" / "performance.md").write_text("\n".join(parts))
    draw(records, ROOT / "docs" / "performance.png")


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean."""
    return statistics.geometric_mean(values)


def section(record: dict[str, Any]) -> str:
    """Return the table of one record."""
    machine = record["machine"]
    workloads = record["workloads"]
    baselines = [name for name in BASELINES if name in next(iter(workloads.values()))["times_faster_than"]]
    images = "random images" if record["data"] == "random images" else "CIFAR-10 images"
    scale = ", a tenth of the images of the full workloads" if record["quick"] else ""
    lines = [
        f"## {record['precision']}\n",
        f"{machine['processor']}, {machine['threads']} thread(s), "
        f"{machine['native']['isa']['selected']} kernels, torch {machine['torch']}; {images}{scale}; "
        f"load of the machine beforehand {machine['load_before']:.1f}.\n",
        "| workload | candidates | images | native, s | "
        + " | ".join(f"times faster than {name}" for name in baselines)
        + " | of peak |",
        "|---|---|---|---|" + "---|" * (len(baselines) + 1),
    ]
    for name, one in workloads.items():
        ratios = " | ".join(f"{one['times_faster_than'][baseline]:.1f}" for baseline in baselines)
        counts = " + ".join(f"{count:,}" for count in one["images"])
        seconds = statistics.median(one["seconds"]["native"])
        peak = f"{100 * one['fraction_of_peak']:.0f} %"
        lines.append(f"| `{name}` | {one['candidates']} | {counts} | {seconds:.2f} | {ratios} | {peak} |")
    means = " | ".join(
        f"**{geometric_mean([one['times_faster_than'][baseline] for one in workloads.values()]):.1f}**"
        for baseline in baselines
    )
    lines.append(f"| **geometric mean** | | | | {means} | |")
    lines.append("")
    lines += [f"- *{name}*: {BASELINES[name]}." for name in baselines]
    return "\n".join(lines) + "\n"


def conclusion(records: list[dict[str, Any]]) -> str:
    """Return the comparison with the targets."""
    targets = {
        "bf16": [("tuned", 4.0), ("sequential", 20.0)],
        "fp32": [("tuned", 1.7)],
    }
    lines = ["## Against the targets\n", "| precision | baseline | target | measured |", "|---|---|---|---|"]
    for record in records:
        for baseline, target in targets[record["precision"]]:
            ratios = [
                one["times_faster_than"][baseline]
                for one in record["workloads"].values()
                if baseline in one["times_faster_than"]
            ]
            if ratios:
                verdict = "met" if geometric_mean(ratios) >= target else "missed"
                lines.append(
                    f"| {record['precision']} | {baseline} | {target:g}x | "
                    f"{geometric_mean(ratios):.1f}x (lowest {min(ratios):.1f}x) over "
                    f"{len(ratios)} workloads, {verdict} |"
                )
    return "\n".join(lines) + "\n"


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratios to tuned PyTorch of each workload, a bar for each precision."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    width = 0.8 / len(records)
    names = list(records[0]["workloads"])
    for number, record in enumerate(records):
        shown = [(index, name) for index, name in enumerate(names) if name in record["workloads"]]
        places = [index + (number - (len(records) - 1) / 2) * width for index, _ in shown]
        ratios = [record["workloads"][name]["times_faster_than"]["tuned"] for _, name in shown]
        bars = axes.bar(places, ratios, width, color=COLORS[number], label=record["precision"])
        axes.bar_label(bars, [f"{ratio:.1f}" for ratio in ratios], fontsize=8)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylabel("times faster than tuned PyTorch")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
