"""The section of docs/performance.md on training, from the records of bench_train and bench_demo."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import _harness

TARGETS = {"sequential": {"tuned": 1.4, "eager": 4.0}, "joint": {"tuned": 1.8}}

TEXT = """## Training

A step of NIR's training takes the deepest sub-network and three candidates through a batch of 128, an
update each (*sequential*) or one together (*joint*); a step of one-shot training takes one random path.
Against plain PyTorch with the same weights and images: *eager*, as it comes (fp32, contiguous, its default
SGD), and *tuned* (channels_last, fused SGD, bf16 autocast or fp32, eager or compiled, the fastest of these
for each workload; compilation not counted). Gradients of a batch are compared with PyTorch's beforehand.
"""


def training(record: dict[str, Any]) -> str:
    """Return the section of one record of `bench_train`, with the targets."""
    lines = [TEXT, training_table(record)]
    for update, others in TARGETS.items():
        for other, target in others.items():
            value = mean(record["workloads"], update, other)
            outcome = "met" if value >= target else "missed"
            lines.append(f"- {update} against {other}: target {target:g}x, measured {value:.2f}x, {outcome}.")
    return "\n".join(lines) + "\n"


def training_table(record: dict[str, Any]) -> str:
    """Return the table of one record of `bench_train`."""
    machine, workloads = record["machine"], record["workloads"]
    columns = [(update, other) for update in TARGETS for other in ("tuned", "eager")]
    images = "random images" if record["data"] == "random images" else "CIFAR-10 images"
    lines = [
        f"{record['precision']}, {machine['processor']}, {machine['threads']} thread(s), "
        f"{machine['native']['isa']['selected']} kernels, torch {machine['torch']}; {images}; "
        f"{_harness.conditions(record)}.\n",
        "| workload | tuned is | tuned, steps/s | sequential, steps/s | "
        + " | ".join(f"{update} / {other}" for update, other in columns)
        + " | of peak |",
        "|---" * (len(columns) + 5) + "|",
    ]
    for name, one in workloads.items():
        ratios = [one["times_faster"].get(update, {}).get(other) for update, other in columns]
        shown = " | ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        rates = " | ".join(
            f"{one['steps'] / statistics.median(one['seconds'][run]):.2f}" for run in ("tuned", "sequential")
        )
        peak = f"{100 * one['fraction_of_peak']:.0f} %"
        lines.append(f"| `{name}` | {one['tuned']} | {rates} | {shown} | {peak} |")
    means = " | ".join(f"**{mean(workloads, *column):.2f}**" for column in columns)
    lines.append(f"| **geometric mean** | | | | {means} | |\n")
    trials = {name: " ".join(one["tuned_trials"]) for name, one in workloads.items()}
    eager = [f"`{name}`" for name, tried in trials.items() if "compiled" not in tried]
    if eager:
        lines.append(
            f"Compiling was not tried for {' and '.join(eager)}: it takes minutes for each network, and each "
            "random path is a network of its own.\n"
        )
    return "\n".join(lines)


def mean(workloads: dict[str, Any], update: str, other: str) -> float:
    """Return the geometric mean over the workloads that have this update."""
    return statistics.geometric_mean(
        one["times_faster"][update][other] for one in workloads.values() if update in one["times_faster"]
    )


SEARCHES = {
    "demo": "`make demo` (digits, fp32, with retraining)",
    "demo-bf16": "the same in bf16",
    "cifar10": "CIFAR-10, bf16, depth 9",
    "cifar10-fp32": "CIFAR-10, fp32, depth 9",
}


def searches(records: list[dict[str, Any]]) -> str:
    """Return the times of whole searches, with lasfast's kernels and with PyTorch's operators."""
    lines = [
        "## Whole searches\n",
        "The same NIR search with the same seeds, with lasfast as it comes or with PyTorch's operators "
        "alone (channels_last, fused SGD), alternated, one thread, medians (on CIFAR-10, of the processor's "
        "seconds, but for evaluations, which a clock times: other work lengthens them). "
        "Training takes most of the time: what [training](#training) gains is what a search gains. "
        "`--update joint` trains with fewer updates, of all candidates at once. Digits are 8x8, and their "
        "layers in fp32 take little longer than calling one does: on the processor with AMX lasfast, which "
        "times both, trained with PyTorch's.\n",
        "| search | lasfast, s | PyTorch, s | times faster | of which evaluations, s |",
        "|---|---|---|---|---|",
    ]
    for record in records:
        isa = record["machine"]["native"]["isa"]["selected"]
        where = "" if isa == "amx" else f", {isa} kernels"
        for way in (one for one in ("native", "joint") if one in record["seconds"]):
            ours, theirs = (statistics.median(record["seconds"][name]) for name in (way, "torch"))
            inside = " and ".join(
                f"{statistics.median(record['evaluation_seconds'][name]):.1f}" for name in (way, "torch")
            )
            how = ", `--update joint`" if way == "joint" else ""
            faster = _harness.ratio(record["seconds"], "torch", way)
            lines.append(
                f"| {SEARCHES[record['benchmark']]}{how}{where} | {ours:.1f} | {theirs:.1f} | {faster:.2f} | "
                f"{inside} |"
            )
    winners = "\n".join(_winners(one) for one in records if "top1" in one)
    return "\n".join([*lines, "", WINNERS, winners]) + "\n"


WINNERS = """The winners on CIFAR-10 have these accuracies on the validation images, with inherited weights:
"""


def _winners(record: dict[str, Any]) -> str:
    """Return in words how the winners of whole searches compare, seed by seed."""
    top1, said = record["top1"], []
    for way, words in {"native": "lasfast", "joint": "lasfast with `--update joint`"}.items():
        apart = [100 * (one - other) for one, other in zip(top1[way], top1["torch"], strict=True)]
        error = f" ± {statistics.stdev(apart) / len(apart) ** 0.5:.1f}" if len(apart) > 1 else ""
        said.append(f"of {words}, {statistics.fmean(apart):+.1f}{error} points from that")
    theirs = 100 * statistics.fmean(top1["torch"])
    count = len(top1["torch"])
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    return (
        f"- {SEARCHES[record['benchmark']]}, {seeds}: with PyTorch's operators "
        f"{theirs:.1f} % on average; {'; '.join(said)}."
    )


THREADS = """## Threads

Evaluation and training of the workloads above, on fewer images, with one thread and with one for each core,
in turns. In evaluation, threads share out blocks of images in prediction, and operations and images in
calibration, as each comes free. In training, each operation is shared out by itself, and Python's part is one
thread's. Each thread's scratch memory begins at a line of the cache of its own. With more cores, there are as
many blocks of prediction as threads, until a block has four images.
"""
MANY_CORES = """### Which work is shared out

A region whose threads sleep in between costs about {thread} us for each of them, as below. An operation of
training takes all threads where that is less than they save of one thread's time, which is told from its
multiply-adds, bytes and weights (`csrc/cpu/threads.h`): {least} us for two threads, and {most} us for 64.
Otherwise it takes one. It takes no number in between: GNU's runtime ends the threads that a smaller team
leaves out, and makes them again for the next.

{table}

### On paper: 64 cores

More than {cores} cores were not tried. If all that two threads lose above were one thread's work, 64 would
be {evaluation:.1f} times as fast as one in evaluation and {training:.1f} times in training.

- In prediction, 64 threads have a block each from 256 images on, and meet only at the end. In calibration,
  they share the images of all operations of a level of the tree, and meet after each level. One thread
  plans a pass and packs its weights.
- In training, they meet after each operation. A batch norm has a block for each 32,768 values, an update
  one for each 2,048 weights, a convolution one for one to 16 images. The gradient of a dense convolution's
  weight has at most eight but in wide layers, since each has sums of its own: a third of the multiply-adds
  has eight threads. With all else shared by 64, that alone allows {gradient:.0f} times one thread's speed.
  Several processes of eight threads (`torchrun`) should use 64 cores better than one.
- False sharing was looked for in the code. What a thread writes of its own begins at a line of the cache.
  Results are cut into runs, one for each thread or item, which share a line at their ends at most. Counters
  of calibration share lines: each is written once an item.
- On machines with several processors, memory lies near the thread that wrote it first. That is each
  thread's own one for scratch memory and for the arenas of prediction, and the main one's for images and
  weights. Activations of training go to whichever thread is free, so that with two processors about half
  are far. A process on each (`numactl --cpunodebind=0 --membind=0`) avoids it. This was not tried.
"""
TARGET_OF_TWO = 1.9


def threads(record: dict[str, Any], grain: dict[str, Any]) -> str:
    """Return how much faster more threads are, from the records of `record_threads` and `record_grain`."""
    machine = record["machine"]
    lines = [
        THREADS,
        f"{record['precision']}, {machine['processor']}, {machine['native']['isa']['selected']} kernels, "
        f"torch {machine['torch']}; {_harness.conditions(record)}.\n",
        "| workload | threads | one thread, s | all, s | times faster |",
        "|---|---|---|---|---|",
    ]
    for part in ("evaluation", "training"):
        for name, one in record[part].items():
            count = str(one["threads"])
            alone, together = (f"{one['seconds'][key]:.2f}" for key in ("1", count))
            lines.append(f"| {part}, `{name}` | {count} | {alone} | {together} | {one['times_faster']:.2f} |")
    lines.append("")
    faster = {}
    for part in ("evaluation", "training"):
        value = faster[part] = statistics.geometric_mean(one["times_faster"] for one in record[part].values())
        outcome = "met" if value >= TARGET_OF_TWO else "missed"
        lines.append(f"- {part}, two threads: target {TARGET_OF_TWO}x, measured {value:.2f}x, {outcome}.")
    return "\n".join(lines) + "\n\n" + many_cores(faster, grain)


THREAD_US = 10
"""The microseconds that csrc/cpu/threads.h reckons a region to cost for each of its threads (`thread_ns`)."""
SHARED = 64 / (2 / 3 + 64 / 8 / 3)
"""How many times as fast 64 threads train where eight at most share a third of the work."""


def many_cores(faster: dict[str, float], grain: dict[str, Any]) -> str:
    """Return which work is shared out, and what 64 cores would do, from how much faster two threads are."""
    serial = {part: 2 / value - 1 for part, value in faster.items()}  # Amdahl's law
    machine, took = grain["machine"], grain["one_thread_ns"]
    regions = {name: value for name, value in grain["region_us"].items() if name != "4 after 1"}
    table = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['native']['isa']['selected']} kernels; "
        f"{_harness.conditions(grain)}.\n",
        "| threads of an empty region | us |",
        "|---|---|",
        *(
            f"| {name.replace('after', 'after a region of')} | {value:.0f} |"
            for name, value in regions.items()
        ),
        "",
        f"One thread takes {took['multiply-add']:.3f} ns for a multiply-add of a 3x3 convolution, "
        f"{took['byte']:.3f} ns for a byte of a batch norm, and {took['weight']:.1f} ns to pack a weight, or "
        f"{took['weight, winograd']:.1f} ns for tiles of 4.",
    ]
    return MANY_CORES.format(
        table="\n".join(table),
        cores=machine["cores"],
        gradient=SHARED,
        thread=THREAD_US,
        least=_least_work(2),
        most=_least_work(64),
        **{part: 1 / (share + (1 - share) / 64) for part, share in serial.items()},
    )


def _least_work(threads: int) -> str:
    """Return the microseconds that `paying_threads` of csrc/cpu/threads.h shares out at the least."""
    return f"{THREAD_US * threads**2 / (threads - 1):.0f}"


def accuracy(record: dict[str, Any]) -> str:
    """Return whether training in bf16 ends where fp32 does."""
    lines = [
        "## Does training in bf16 cost accuracy?\n",
        "Top-1 on the validation images, mean of three seeds: PyTorch in fp32, lasfast in bf16.\n",
        "| what | PyTorch fp32 | native bf16 | difference, points | its standard error |",
        "|---|---|---|---|---|",
    ]
    what = {
        "search": "winner of a NIR search of the digits to depth 6, inherited weights",
        "standalone": f"ResidualNet 3-3-3 on 6,000 CIFAR-10 images, {record['epochs']} epochs from scratch",
    }
    for name, text in what.items():
        values, difference = record["top1"][name], record["within"][name]
        means = " | ".join(
            f"{100 * statistics.mean(values[way]):.2f} %" for way in ("PyTorch fp32", "native bf16")
        )
        lines.append(
            f"| {text} | {means} | {100 * difference['difference']:+.2f} | "
            f"{100 * difference['standard_error']:.2f} |"
        )
    return "\n".join(lines) + "\n"
