"""Write docs/performance.md and its pictures from the records in benchmarks/results.

python -m benchmarks.report
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import _harness
from benchmarks.report_bottlenecks import bottlenecks
from benchmarks.report_gpu import gpu, not_compiled
from benchmarks.report_operations import operations, training_operations
from benchmarks.report_roofline import roofline
from benchmarks.report_training import accuracy, searches, threads, training, training_table
from benchmarks.report_winograd import winograd
from lasfast.report.plot import COLORS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BASELINES = {
    "sequential": "PyTorch as published code runs it: eager, fp32, one candidate after another",
    "tuned": "PyTorch at its best: channels_last, the same precision, the fastest batch size, compiled where "
    "tried and faster",
    "torch": "lasfast's own torch backend: shared prefixes, PyTorch's operators",
}

TEXT = """# How fast

What is measured is the question a search asks thousands of times: *how good are these candidates with the
weights they inherit?*, BatchNorm recalibration and prediction together. `native` is
`Evaluator(backend="native")`: all candidates in one pass over the prefix tree, each operation fused with
the batch norms and activations around it.

Times are medians over alternated rounds in one run, ratios medians of the rounds' own ratios; images are in
memory for all; the logits of eight candidates are checked against PyTorch's before any time is taken. *Tuned*
runs in every round, *sequential*, which takes longest, in the first only. The fraction of peak is the
multiply-adds of the *shared* tree over those of the best that PyTorch does in the same precision and run, a
large matrix product or a 3x3 convolution of 256 channels. The machine was shared with other work, which the
pairing evens out, but not the fractions. This page is made from
[the records](../benchmarks/results) by `python -m benchmarks.report`.

What limits it: `layernas-frontier` is made of 1x1 convolutions, in which filling and finishing tiles takes
longer than multiplying, and of depthwise ones up to 7x7, which have no use for tiles; `nir-residual` and
`nir-plain` have three candidates, that share little; what vector instructions do beside the tiles seems to
slow these down (as if both drew on one power budget); and in fp32, PyTorch's convolutions are near the peak
themselves, so that only sharing, fusion and [fewer products](#winograds-algorithm) are left to gain, by which
fractions of peak exceed 100 %. What each kind of layer takes, and what it could take at the least, is said
[below](#how-near-the-roof).

![Times faster than PyTorch](performance.png)
"""


WITHOUT_AMX = """## bf16 without AMX

On processors with AVX-512 BF16 and no AMX, kernels multiply pairs of bf16 values with vector instructions,
as PyTorch's do. Evaluation, then training. Both were measured before 3x3 convolutions in bf16 could run by
[Winograd's algorithm](#winograds-algorithm), which takes a little more than half of their time:
"""

WINOGRAD = ("winograd.json", "winograd-avx2.json", "winograd-bf16.json")

AVX2 = """## AVX2 alone

Many processors have neither AVX-512 nor bf16. There, fp32 is the precision to take: bf16 would be multiplied
in fp32 all the same. Evaluation, then training:
"""

ARM = """## 64-bit ARM

No speed was measured on ARM. The kernels for NEON were compiled, and run under an emulator, which has no
speed to tell: they compute the same as the generic kernels there. What can be counted is the innermost loop
of fp32 convolutions, as GCC 12 compiles it. It has 87 instructions for NEON, of which 64 multiply and add
(four values each, FMLA) and 12 load. Of generic kernels, it has 63, of which 32 multiply and add and 22
load. With BF16, it has 88, of which 64 multiply (four pairs of bf16 values each, BFDOT) and 13 load. Whether
a processor multiplies such pairs faster than fp32 values is measured when the module is first used, as on
x86-64; where it does not, evaluation multiplies bf16 values in fp32.
"""


def main() -> None:
    """Read the records, write page and picture."""
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("evaluate-*.json"))
    ]
    whole, one_by_one = (read("agreement-search.json"), read("agreement-assignments.json"))
    parts = [TEXT, *(section(f"## {record['precision']}", record) for record in records), conclusion(records)]
    parts += [training(read("train-bf16.json")), training_table(read("train-fp32.json"))]
    parts.append(accuracy(read("accuracy.json")))
    parts += [section(WITHOUT_AMX, read("without-amx-evaluate.json"))]
    parts += [training_table(read("without-amx-train.json"))]
    parts += [section(AVX2, read("avx2-evaluate.json")), training_table(read("avx2-train.json")), ARM]
    whole_searches = (
        "demo.json",
        "demo-bf16.json",
        "search.json",
        "search-avx2.json",
        "without-amx-demo.json",
    )
    parts.append(searches([read(name) for name in whole_searches]))
    parts += [threads(read(path.name), read("grain.json")) for path in RESULTS.glob("threads.json")]
    parts += [agreement(one_by_one, whole), searchers(read("searchers.json"))]
    parts.append(roofline([read(path.name) for path in sorted(RESULTS.glob("roofline-*.json"))]))
    parts += [bottlenecks(read("bottlenecks.json")), operations(read("operations.json"))]
    parts += [training_operations(read(path.name)) for path in RESULTS.glob("operations-training.json")]
    parts += [winograd([read(name) for name in WINOGRAD]), gpu()]
    (ROOT / "docs" / "performance.md").write_text("\n".join(parts), encoding="utf-8")
    draw(records, ROOT / "docs" / "performance.png")


def read(name: str) -> Any:
    """Return one record."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean."""
    return statistics.geometric_mean(values)


def section(title: str, record: dict[str, Any]) -> str:
    """Return the table of one record, under a title."""
    machine = record["machine"]
    workloads = record["workloads"]
    baselines = [name for name in BASELINES if name in next(iter(workloads.values()))["times_faster_than"]]
    images = "random images" if record["data"] == "random images" else "CIFAR-10 images"
    parts = [f"`{name}`" for name, one in workloads.items() if one["quick"]]
    scale = f" (a tenth of the images of {', '.join(parts)})" if parts else ""
    lines = [
        f"{title}\n",
        f"{machine['processor']}, {machine['threads']} thread(s), "
        f"{machine['native']['isa']['selected']} kernels, torch {machine['torch']}; {images}{scale}; "
        f"{_harness.conditions(record)}.\n",
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
    return "\n".join(lines) + "\n\n" + not_compiled(record)


def conclusion(records: list[dict[str, Any]]) -> str:
    """Return the comparison with the targets."""
    targets = {
        "bf16": [("tuned", 4.0), ("sequential", 20.0)],
        "fp32": [("tuned", 3.5)],
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
                outcome = "met" if geometric_mean(ratios) >= target else "missed"
                lines.append(
                    f"| {record['precision']} | {baseline} | {target:g}x | "
                    f"{geometric_mean(ratios):.1f}x (lowest {min(ratios):.1f}x) over "
                    f"{len(ratios)} workloads, {outcome} |"
                )
    return "\n".join(lines) + "\n"


def agreement(assignments: dict[str, Any], search: dict[str, Any]) -> str:
    """Return how bf16 changes rankings."""
    lines = [
        "## Does bf16 change who wins?\n",
        f"All {len(assignments['architectures'])} assignments of depth 15 of one ResidualNet, trained for "
        f"{assignments['training_steps']:,} steps on paths drawn uniformly from them, CIFAR-10 "
        "images; against top-1 of PyTorch in fp32:\n",
        "| images | bf16 by | Kendall's tau | largest difference of top-1 |",
        "|---|---|---|---|",
    ]
    for images, runs in assignments["agreement"].items():
        for run, one in runs.items():
            difference = f"{100 * one['largest_difference']:.2f} points"
            lines.append(
                f"| {int(images):,} | {run.removesuffix('-bf16')} | {one['kendall_tau']:.3f} | {difference} |"
            )
    lines += [
        "\nAlong the search of NIR's record, who native bf16 says is best in each step, and how far "
        "that one is behind the best by PyTorch in fp32, on the same images:\n",
        "| step | PyTorch fp32 | native bf16 | behind, points |",
        "|---|---|---|---|",
    ]
    for number, step in enumerate(search["steps"], start=1):
        truth, ours = (step["winners"][run] for run in ("torch-fp32", "native-bf16"))
        names = " | ".join("-".join(map(str, one["architecture"])) for one in (truth, ours))
        margin = f"{100 * ours['behind']:.2f} ± {100 * ours['standard_error']:.2f}"
        lines.append(f"| {number} | {names} | {margin} |")
    return "\n".join(lines) + "\n"


def searchers(record: dict[str, Any]) -> str:
    """Return the time that searchers themselves need."""
    groups = record["operations"]["searcher"]
    lines = [
        "## The searchers themselves\n",
        "Candidates asked for and told a second, their multiply-adds reckoned on the way, in the space of "
        "LayerNAS's Table 13 (31 decisions) within 600 M, one thread. With a target of 1 M in 600, LayerNAS "
        "looks for completions longer.\n",
        f"| searcher | {' | '.join(groups)} |",
        "|---" * (len(groups) + 1) + "|",
    ]
    for who in next(iter(groups.values())):
        rates = " | ".join(f"{runs[who]['candidates/s']:,}" for runs in groups.values())
        lines.append(f"| {who} | {rates} |")
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
