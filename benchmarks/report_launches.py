"""The part of docs/performance.md on how many kernels are queued on a GPU, and which of training's remain."""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).parent / "results" / "launches.json"

FORWARD = (  # the kernel, what it does, why it is one of its own
    (
        "`pack_windows`",
        "the weight as both passes over windows read it; zeros for the counters of the next. Up to 18 "
        "weights of a path share a launch, from its second step on (`lasfast/ops/packing.py`)",
        "every tile of the convolution reads all of its rows",
    ),
    (
        "`windows`",
        "the convolution and its statistics, which the last blocks pool",
        "the norm needs the statistics of all positions",
    ),
    (
        "`forward`",
        "norm, activation, residual sum; the running statistics; zeros for the counters of `reduce`",
        "the last of the pass",
    ),
)
BACKWARD = (
    (
        "`reduce`",
        "the gradients of the norm's weight and bias, and of the residual; the last blocks finish the sums",
        "the gradient of the norm's input needs the sums of all positions",
    ),
    (
        "`grad_x`",
        "the gradient of the norm's input",
        "the two below would each work it out again from three tensors, where they now read one",
    ),
    (
        "`windows`",
        "the gradient of the convolution's input",
        "together with the next it would need a kernel for each pair of their tiles, with the registers of "
        "the larger",
    ),
    ("`grad_weight`", "the gradient of its weight, in 1 to 512 parts of the positions", "see the next"),
    (
        "`merge_sums`",
        "the sum of the parts",
        "where there are 14 parts of 64 KB (256 channels), the last block of a tile would read 0.9 MB alone, "
        "some 9 µs at the 100 GB/s of one multiprocessor; the blocks of a launch share them, in some 2 µs",
    ),
)
TEXT = """Counted, not measured: what is queued on a GPU, in bf16 (`benchmarks/record_launches.py`).
PyTorch's are kernels, copies and memsets. What recurs is replayed as CUDA graphs. On 9.0 and newer, a kernel
may begin early, before the one that lasfast has queued right before it has ended: it waits where it needs its
results. Prediction has the scoring of its logits with it: a launch in the graph, and before it a copy of the
labels beside that of the images.
"""
TRAINING = """A convolution with its norm and activation once took 12 launches in training. What those that
remain do, and why no two of them are one:
"""
PACKED = """Where a weight was packed together with others, `windows` does not begin early, since what is
queued right before it may be PyTorch's. In a step of `nir-residual`, whose four updates have 118
convolutions, at most 8 launches pack what took 114: by an estimate of 1.5 µs each, 160 µs less, but for what
`windows` then waits.
"""


def launches(file: Path = FILE) -> str:
    """Return the tables of the record of `record_launches`, and what they mean."""
    counts = json.loads(file.read_text(encoding="utf-8"))["counts"]
    lines = [TEXT, "| what | lasfast's kernels | of these begin early | PyTorch's |", "|---" * 4 + "|"]
    for what, of_cases in counts.items():
        for case, of_steps in of_cases.items():
            for step, number in of_steps.items():
                shown = " | ".join(str(number[who]) for who in ("lasfast", "early", "torch"))
                lines.append(f"| {what}, {case}: {step} | {shown} |")
    lines += ["", TRAINING, "| pass | kernel | what it does | why it is one of its own |", "|---" * 4 + "|"]
    for which, kernels in (("forward", FORWARD), ("backward", BACKWARD)):
        lines += [f"| {which} | {' | '.join(kernel)} |" for kernel in kernels]
    return "\n".join([*lines, "", PACKED])
