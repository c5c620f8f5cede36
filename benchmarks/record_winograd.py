"""Record 3x3 convolutions by Winograd's algorithm against direct ones, on one thread of the CPU.

    python -m benchmarks.record_winograd [--output benchmarks/results/winograd.json] [--largest 256]
    LASFAST_ISA=avx512_bf16 python -m benchmarks.record_winograd --precision bf16 --output NAME.json

The engine's passes are fused: batch norm and ReLU of the input, then statistics (calibration), or batch norm
and ReLU (prediction). Those of training are the convolution alone, and pack the weight at each call. All ways
take turns; times are of the thread's own clock, so that what else a busy machine does counts little. The
errors of outputs, relative to float64 and in norm, are compared with those of PyTorch's convolution.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import _harness
from benchmarks._fused import STORAGES, THREADS, native_run, random_images, torch_run
from lasfast.engine.conv_ways import Size
from lasfast.ir.precision import PRECISIONS
from lasfast.ops.sliced_conv2d_kernels import NhwcKernels

CHANNELS, SIZES = (32, 64, 128, 256), (8, 16, 32)
ELEMENTS = 1 << 17
"""An input has so many elements at least, and two images: a block of what a thread predicts at a time."""
BATCH = 8
"""So many times as many images, and at most `TRAINED`, are a batch of training."""
TRAINED = 128
EVALUATION = ("prediction", "calibration")
TRAINING = {"fp32": ("forward", "grad_input", "grad_weight"), "bf16": ("forward", "grad_input")}
"""The passes of training that have ways, by precision."""


def shapes(largest: int) -> dict[str, tuple[int, int]]:
    """Return channels (in and out) with height and width, by name."""
    return {
        f"{channels} at {size}x{size}": (channels, size)
        for channels in CHANNELS
        for size in SIZES
        if channels <= largest
    }


def runs_of(
    x: Tensor, weight: Tensor, which: str, precision: str, ways: dict[str, int]
) -> dict[str, Callable[[], object]]:
    """Return what computes a pass in each way, and in PyTorch."""
    if which in EVALUATION:
        calibration = which == "calibration"
        ours = {name: native_run(weight, x, precision, calibration, tile) for name, tile in ways.items()}
        return {**ours, "torch": torch_run(weight, x, precision, calibration)}
    last = x.to(STORAGES[precision], memory_format=torch.channels_last)
    weight = weight.to(memory_format=torch.channels_last)
    rounded = weight.to(STORAGES[precision])
    result = torch.empty_like(weight if which == "grad_weight" else last)
    operands = (last, last if which == "grad_weight" else weight, result)

    def native(tile: int) -> Callable[[], object]:
        kernels = NhwcKernels.of(last, weight, last, 1, 1, tile=tile)
        return lambda: getattr(kernels, which)(*operands)

    def theirs() -> Tensor:
        if which == "forward":
            return F.conv2d(last, rounded, padding=1)
        mask = [which == "grad_input", which == "grad_weight", False]
        backward = torch.ops.aten.convolution_backward
        both = backward(last, last, rounded, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)
        return both[mask.index(True)]

    return {**{name: native(tile) for name, tile in ways.items()}, "torch": theirs}


def errors_of(x: Tensor, weight: Tensor, precision: str, ways: dict[str, int]) -> dict[str, float]:
    """Return the relative errors of each way's output, and of PyTorch's."""
    weight = weight.to(memory_format=torch.channels_last)
    x = x[:2].relu().to(STORAGES[precision], memory_format=torch.channels_last)
    truth, results = F.conv2d(x.double(), weight.double(), padding=1), {}
    for name, tile in ways.items():
        result = torch.empty_like(x)
        results[name] = NhwcKernels.of(x, weight, result, 1, 1, tile=tile).forward(x, weight, result)
    results["torch"] = F.conv2d(x, weight.to(x.dtype), padding=1)
    return {name: float((one.double() - truth).norm() / truth.norm()) for name, one in results.items()}


def measure(rounds: int, largest: int, precision: str = "fp32") -> dict[str, Any]:
    """Return seconds, ratios and errors for each shape."""
    measured: dict[str, Any] = {}
    for name, (channels, size) in shapes(largest).items():
        count = max(2, ELEMENTS // (channels * size**2))
        x = random_images(count, channels, size, "cpu")
        weight = random_images(channels, channels, 3, "cpu") / (9 * channels) ** 0.5
        ways = Size.of(channels, channels, size, size).ways(PRECISIONS[precision].code)
        shape: dict[str, Any] = {"errors": errors_of(x, weight, precision, ways)}
        for which in (*EVALUATION, *TRAINING[precision]):
            trained = which in TRAINING[precision]
            values = x.repeat(BATCH, 1, 1, 1)[:TRAINED] if trained else x
            with torch.inference_mode():
                runs = runs_of(values, weight, which, precision, ways)
                seconds = _harness.paired(runs, rounds, clock=time.thread_time)
            shape[which] = {
                "images": len(values),
                "seconds": {way: statistics.median(one) for way, one in seconds.items()},
                "direct / ": {
                    way: _harness.ratio(seconds, "direct", way) for way in seconds if way != "direct"
                },
            }
            print(name, which, shape[which]["direct / "], flush=True)
        measured[name] = shape
    return measured


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", default="benchmarks/results/winograd.json")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--largest", type=int, default=CHANNELS[-1], help="channels")
    parser.add_argument("--precision", choices=TRAINING, default="fp32")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    machine = _harness.machine()
    measured = measure(arguments.rounds, arguments.largest, arguments.precision)
    head = {"record": "winograd", "precision": arguments.precision, "threads": THREADS, "machine": machine}
    record = {**head, "most_of_onednn": os.environ.get("ONEDNN_MAX_CPU_ISA"), "shapes": measured}
    _harness.write(record, arguments.output)


if __name__ == "__main__":
    main()
