"""The section of docs/performance.md on GPUs: the bound of each kernel, and what was measured.

tar -C benchmarks/results -xzf gpu.tar.gz                       # the archive of benchmarks/gpu.sh
python -m benchmarks.report_gpu [directory with the records]    # prints the tables
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import bench_batch_norm, bench_bn_act, bench_conv, bench_depthwise
from benchmarks._fused import images_on
from benchmarks._harness import CHECKED
from benchmarks.inspect_kernels import table
from benchmarks.report_launches import launches

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu"


@dataclass(frozen=True)
class Chip:
    """A GPU's data sheet: bytes a second, and dense FLOPs (two for a multiply-add) a second."""

    name: str
    bandwidth: float
    bf16: float  # of tensor cores, with fp32 sums
    fp32: float  # of the other cores


CHIPS = (
    Chip("H100", 3.35e12, 989e12, 67e12),  # SXM5, HBM3
    Chip("H200", 4.8e12, 989e12, 67e12),
    Chip("A100", 2.04e12, 312e12, 19.5e12),  # SXM4, 80 GB
)

TEXT = """## On a GPU

The same schedules run on NVIDIA GPUs (8.0 and newer). Each kernel has two floors: the bytes it must move over
the memory's bandwidth, and the FLOPs (two for a multiply-add) it must do over the peak of the units that do
them; the larger one is the least time it can take. Weights are read once, values once where written and once
where read; what caches hold is not counted in a kernel's favour.
"""

MATRIX = "max((in + out + weight) bytes / bandwidth, 2 · out · c_in · k² / peak)"
KERNELS = (  # file, what, floor, how it gets near
    (
        "schedule_conv.cu",
        "convolution, linear",
        MATRIX,
        "all candidates' operations of a level in one launch, in tiles of 64 to 256 positions by 16 to 128 "
        "channels: for each size of convolution those that are measured faster, once on a GPU; on tensor "
        "cores by warps, on Hopper by warpgroups, too (fp32 outside of these, or as TF32, for which weights "
        "are rounded as they are packed); copies to shared memory 64 to 128 elements of k ahead of the "
        "products (in bf16), what windows share by way of the first level of cache, while it is there "
        "(`k_order.cuh`); no addresses are worked out in the loop, "
        "which reads them from a small table (`conv_loader.cuh`); norms and activations applied on the way "
        "in and out, statistics summed there",
    ),
    (
        "schedule_conv_mapped.cu",
        "the same in prediction on Hopper, where it is asked for (`LASFAST_TENSOR_MAPS=1`)",
        "as above",
        "in the tiles of warpgroups, but one thread asks the chip for its copies, by tensor maps (TMA, "
        "im2col), three or four steps of k ahead, and those who multiply spend no instruction on them; where "
        "nothing is applied on the way in and channels are a multiple of 64",
    ),
    (
        "schedule_planes.cu",
        "depthwise, pools, sums, gates, arrangements, images",
        "(in + out) bytes / bandwidth",
        "16 bytes an access, eight channels of four positions a thread; what several depthwise windows of "
        "these see is loaded once; images are bytes, normalized as they are read",
    ),
    (
        "schedule_statistics.cuh",
        "statistics, second stage",
        "8 bytes for each channel of 128 positions / bandwidth: 3 % of the value's own bytes in bf16",
        "no launch of its own: of each 32 tiles the last block to finish pools theirs, and the last of these "
        "blocks pools what they found; in double, in a fixed order",
    ),
    (
        "schedule_pack.cu",
        "weights for the above",
        "(4 + 2) bytes a weight / bandwidth, once a call of the evaluator",
        "a thread for each packed element",
    ),
    (
        "schedule_resident.cu",
        "prediction of small images",
        "max((image + logits) bytes / bandwidth, FLOPs of the tree / peak)",
        "one launch: a block takes images through all operations, their values stay in its shared memory; "
        "weights come from the second level of cache once a group of images: the likely limit",
    ),
    (
        "schedule_tally.cu",
        "scores of the logits",
        "4 bytes a logit and 12 an answer / bandwidth",
        "one launch, in the CUDA graph of the pass: eight threads for each answer; sums in double, in a "
        "fixed order",
    ),
    (
        "conv2d_nhwc.cu",
        "training: convolution and its gradients",
        f"{MATRIX}, for each of three passes",
        "matrix products on tensor cores of values as PyTorch has them, on Hopper by warpgroups, too; "
        "statistics summed on the way out, and pooled by the last blocks; gradients of weights in parts that "
        "run at once, added in a fixed order; each window is found once for all threads that copy from it",
    ),
    (
        "depthwise_nhwc.cu",
        "training: depthwise and its gradients",
        "(in + out) bytes / bandwidth, for each of three passes",
        "as the schedule's",
    ),
    (
        "bn_act.cu",
        "training: batch norm, activation, residual sum",
        "tensors · bytes / bandwidth: 3 forward and 5 backward, with a residual 4 and 7",
        "sums in one pass over memory, finished by its last blocks, all else in another, 16 bytes an access",
    ),
    (
        "sgd.cu",
        "training: the update of all weights",
        "20 bytes a weight / bandwidth (weight, gradient, momentum read; two written)",
        "one launch for all weights, of slices those parts that were used",
    ),
    (
        "sliced_conv2d.cu",
        "`sliced_conv2d` and its gradients",
        "as a convolution's, over the peak outside of tensor cores",
        "slices of weights are read in place through strides; tiled products in shared memory",
    ),
)


@dataclass(frozen=True)
class Work:
    """The work of one benchmark: bytes to move, FLOPs, the units that do these, its groups in the record."""

    name: str
    moved: float
    flops: float
    matrix: bool
    groups: tuple[str, ...]

    def floor(self, chip: Chip) -> tuple[float, str]:
        """Return the least seconds on a chip, and what bounds them."""
        memory = self.moved / chip.bandwidth
        sums = self.flops / (chip.bf16 if self.matrix else chip.fp32)
        return max((memory, "memory"), (sums, "arithmetic"))


def works() -> dict[str, list[Work]]:
    """Return the benchmarks of operations in bf16, by what they time."""
    found: dict[str, list[Work]] = {"conv": [], "depthwise": [], "batch_norm": [], "bn_act": []}
    modes = ("calibration", "prediction")
    for name, (channels, size, count) in bench_conv.SHAPES.items():
        values = images_on("cuda", count, channels, size) * channels * size**2
        flops, weight = 2 * 9 * channels * values, 9 * channels**2
        groups = tuple(f"{name}, bf16, {mode}" for mode in modes)
        found["conv"].append(Work(name, 2 * (2 * values + weight), flops, True, groups))
    for name, (channels, size, count) in bench_depthwise.SHAPES.items():
        values = images_on("cuda", count, channels, size) * channels * size**2
        for kernel in (3, 5):
            label = f"{name}, {kernel}x{kernel}"
            groups = tuple(f"{label}, bf16, {mode}" for mode in modes)
            found["depthwise"].append(Work(label, 4 * values, 2 * kernel**2 * values, False, groups))
    for name, (channels, size, count) in bench_batch_norm.SHAPES.items():
        values = images_on("cuda", count, channels, size) * channels * size**2
        found["batch_norm"].append(Work(name, 4 * values, 4 * values, False, (f"{name}, bf16",)))
    for name, (count, channels, size, _) in bench_bn_act.SHAPES.items():
        values = images_on("cuda", count, channels, size) * channels * size**2
        for which, tensors in bench_bn_act.MOVED.items():
            for kind, many in zip(("plain", "residual"), tensors, strict=True):
                label, group = f"{name}, {which}, {kind}", f"{which}, {name}, {kind}, bf16"
                found["bn_act"].append(Work(label, 2 * many * values, 8 * values, False, (group,)))
    return found


TITLES = {
    "conv": "3x3 convolution, batch norm and ReLU",
    "depthwise": "Depthwise convolution, batch norm and ReLU",
    "batch_norm": "Batch norm, residual add and ReLU of a value at rest",
    "bn_act": "Batch norm, ReLU and residual sum in training",
}


def gpu(directory: Path = RESULTS) -> str:
    """Return the section, with figures if there are records in the directory."""
    lines = [TEXT, known(read(directory))]
    if not any(directory.glob("*.json")):
        lines.append(
            "**No figure from a GPU has been recorded yet.** The kernels pass their tests on the host "
            "(`csrc/cuda/device_host.h`) and compile without spilling registers; how fast they are is not "
            "known. `benchmarks/gpu.sh` measures it in ten minutes, and this page then has the figures.\n"
        )
    lines += ["| kernel (`csrc/cuda`) | what | floor, seconds | how it gets near |", "|---" * 4 + "|"]
    for file, what, floor, how in KERNELS:
        if (ROOT / "csrc" / "cuda" / file).exists():
            lines.append(f"| `{file}` | {what} | {floor} | {how} |")
    return "\n".join([*lines, "", inspected(), launches(), tables(directory)])


LOOPS = """Inspected, not measured: what the compiler makes of the main loop of convolutions for 8.0 and 9.0a
(`benchmarks/inspect_kernels.py`). The columns are registers of a thread, of which none is spilled; blocks of
256 threads that a multiprocessor takes at once; a warp's instructions in an iteration of the loop, which in
narrow tiles has as many steps of k as there are stages, and products among them; and the share of the data
sheet's rate that so many instructions leave at most. On 9.0a, warps reach two thirds of that rate at most,
and are taken in narrow tiles and for fp32 alone.

Targets are 90 % for warpgroups on 9.0a and 75 % for warps on 8.0. Missed are, in TF32, `128x16` and `64x32`,
whose warps have 16 rows by 16 columns, and `128x32` of gradients of weights. No instruction rounds to TF32:
it takes two for a value, which is used in two products of eight cycles. Of some 53 instructions for 32 cycles
in `128x16`, 16 round; without them the bound would be 87 %. Of some 98 for 64 cycles in gradients of weights,
25 round what was copied, and 16 read it, since no instruction turns fp32 as it does bf16. One rounding
instruction, adding half of the last place, would turn NaN into zero.
"""


def inspected(file: Path = ROOT / "benchmarks" / "results" / "kernels.json") -> str:
    """Return what `inspect_kernels` has recorded of the kernels that copy whole vectors."""
    record = json.loads(file.read_text(encoding="utf-8"))
    kernels = [one for one in record["kernels"] if "gathered" not in one["name"]]
    return "\n".join([LOOPS, table(kernels), ""])


def tables(directory: Path) -> str:
    """Return the tables of the records, and the floors of single operations."""
    records = read(directory)
    device = next((record["device"] for record in records.values() if "device" in record), "")
    chip = next((chip for chip in CHIPS if chip.name in device), CHIPS[0])
    parts = warnings(records)
    for record in records.values():
        if record.get("benchmark") in BENCHMARKS:
            parts.append(BENCHMARKS[record["benchmark"]](record))
    parts.append(floors(chip))
    measured: dict[str, Any] = {}
    for record in records.values():
        measured |= record.get("operations", {})
    for operation, some in works().items():
        if operation in measured:
            parts.append(figures(TITLES[operation], some, chip, measured[operation]))
    return "\n".join(parts)


def read(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the records of a directory by their names."""
    files = sorted(directory.glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


INSPECTED = "inspected, below: registers, instructions, and the bound that these set"
MEASURED = (  # what, the records of which one says it, what else is known of it
    (
        "whether kernels compute what they should",
        "smoke",
        "tested: the same kernels, compiled for the processor",
    ),
    ("the speed of convolutions in each tile", "tiles", INSPECTED),
    ("the speed of evaluation", "evaluate-bf16", "estimated, below: the floors of what it is made of"),
    ("the speed of training", "train-bf16", "estimated, below: the floors of what it is made of"),
    ("the speed of training's convolutions", "conv_train", INSPECTED),
    ("the speed of other single operations", "operations", "estimated, below: their floors"),
    ("whether Hopper's own copies are faster", "evaluate-bf16-maps", 'inspected, below: "tensor maps"'),
    ("the speed of fp32, exact and as TF32", "evaluate-fp32", INSPECTED),
    ("how many kernels are queued", "launches", "counted, below, on the processor"),
)


def known(records: dict[str, dict[str, Any]]) -> str:
    """Return the table that says of each subject whether it was measured, and what is known without."""
    lines = [
        "What is measured on a GPU, what is inspected (read off compiled code), and what is estimated "
        "(computed from bytes, FLOPs and a data sheet):\n",
        "| what | measured | without a GPU |",
        "|---" * 3 + "|",
    ]
    for what, name, otherwise in MEASURED:
        record = records.get(name)
        when = "not yet" if record is None else f"`{name}.json`, {record['time'].partition('T')[0]}"
        lines.append(f"| {what} | {when} | {otherwise} |")
    return "\n".join(lines) + "\n"


def warnings(records: dict[str, dict[str, Any]]) -> list[str]:
    """Return a paragraph for each state of the kernels, other than checked, in which there are records."""
    measured: dict[str, list[str]] = {}
    for name, record in records.items():
        measured.setdefault(record.get("machine", {}).get("kernels", CHECKED), []).append(name)
    measured.pop(CHECKED, None)
    return [f"**Kernels {state}**: {', '.join(names)}.\n" for state, names in measured.items()]


def floors(chip: Chip) -> str:
    """Return the floors of all benchmarks of operations; equal ones share a line."""
    lines = [
        f"Floors in bf16 of the benchmarks of single operations on one {chip.name} "
        f"({chip.bandwidth / 1e12:.2f} TB/s, {chip.bf16 / 1e12:.0f} TFLOP/s on tensor cores, "
        f"{chip.fp32 / 1e12:.0f} elsewhere, by its data sheet), on batches larger than its cache:\n",
        "| operation | set by | floor, µs | of |",
        "|---" * 4 + "|",
    ]
    for operation, some in works().items():
        alike: dict[tuple[str, str], list[str]] = {}
        for work in some:
            floor, reason = work.floor(chip)
            alike.setdefault((reason, f"{1e6 * floor:.0f}"), []).append(work.name)
        for (reason, shown), names in alike.items():
            lines.append(f"| {TITLES[operation]} | {reason} | {shown} | {'; '.join(names)} |")
    return "\n".join(lines) + "\n"


def figures(title: str, some: list[Work], chip: Chip, measured: dict[str, Any]) -> str:
    """Return one operation's figures and gaps; `measured` has the measurements by group and by who ran it."""
    modes = ("calibration", "prediction") if len(some[0].groups) == 2 else ("figure",)
    heads = " | ".join(f"{mode}, µs | times the floor" for mode in modes)
    lines = [f"{title}:\n", f"| | floor, µs | {heads} |", "|---" * (2 + 2 * len(modes)) + "|"]
    for work in some:
        floor, _ = work.floor(chip)
        cells = [work.name, f"{1e6 * floor:.0f}"]
        for group in work.groups:
            seconds = measured.get(group, {}).get("native", {}).get("seconds")
            cells += ["", ""] if seconds is None else [f"{1e6 * seconds:.0f}", f"{seconds / floor:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def evaluation(record: dict[str, Any]) -> str:
    """Return the table of a record of `bench_evaluate`."""
    baselines = [name for name in ("tuned", "sequential") if _has(record, name)]
    ways = [name for name in ("levels", "levels by tensor maps", "resident") if _has(record, name)]
    heads = [
        "native, s",
        *(f"by {way}, s" for way in ways),
        *(f"times faster than {one}" for one in baselines),
    ]
    lines = [
        f"Evaluation in {record['precision']} on one {record['device']}:\n",
        f"| workload | {' | '.join(heads)} | tuned is | of peak |",
        "|---" * (3 + len(heads)) + "|",
    ]
    for name, one in record["workloads"].items():
        cells = [f"{statistics.median(one['seconds'][run]):.3f}" for run in ("native", *ways)]
        cells += [f"{one['times_faster_than'][baseline]:.1f}" for baseline in baselines]
        peak = f"{100 * one['fraction_of_peak']:.0f} %"
        lines.append(f"| `{name}` | {' | '.join(cells)} | {one['tuned']} | {peak} |")
    return "\n".join(lines) + "\n\n" + not_compiled(record)


def training(record: dict[str, Any]) -> str:
    """Return the table of a record of `bench_train`."""
    lines = [
        f"Training in {record['precision']} on one {record['device']}:\n",
        "| workload | tuned is | sequential / tuned | joint / tuned | of peak |",
        "|---|---|---|---|---|",
    ]
    for name, one in record["workloads"].items():
        ratios = [one["times_faster"].get(way, {}).get("tuned") for way in ("sequential", "joint")]
        shown = " | ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| `{name}` | {one['tuned']} | {shown} | {100 * one['fraction_of_peak']:.0f} % |")
    return "\n".join(lines) + "\n\n" + not_compiled(record)


def not_compiled(record: dict[str, Any]) -> str:
    """Return a sentence on the workloads of a record for which PyTorch was not compiled."""
    eager = [
        f"`{name}`"
        for name, one in record["workloads"].items()
        if "compiled" not in " ".join(one.get("tuned_trials", ()))
    ]
    if not eager:
        return ""
    return (
        f"Compiling PyTorch was not tried for {', '.join(eager)}: each candidate is a network of its own, "
        "which takes half a minute and more.\n"
    )


BENCHMARKS = {"evaluate": evaluation, "train": training}


def _has(record: dict[str, Any], baseline: str) -> bool:
    return all(baseline in one["times_faster_than"] for one in record["workloads"].values())


def main() -> None:
    print(tables(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS))


if __name__ == "__main__":
    main()
