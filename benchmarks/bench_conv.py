"""Convolution, batch norm and ReLU: one fused operation against PyTorch's sequence, in channels_last.

pytest benchmarks/bench_conv.py --benchmark-group-by=group

The native operation normalises and rectifies its input while reading it. In calibration it computes the
statistics of its output; in prediction it applies norm and ReLU to it. PyTorch runs `conv2d`, `batch_norm`
(with the batch's own statistics, or given ones) and `relu_`. The tests of a group do the same work, and
`extra_info` has the TFLOP/s that each reached.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks._fused import STORAGES, THREADS, native_run, random_images, timed, torch_run
from lasfast.runtime import compiled

SHAPES = {  # channels in and out, height and width, images
    "16 at 32x32": (16, 32, 64),
    "32 at 32x32": (32, 32, 32),
    "32 at 16x16": (32, 16, 64),
    "64 at 16x16": (64, 16, 64),
    "64 at 8x8": (64, 8, 128),
    "128 at 16x16": (128, 16, 32),
    "128 at 8x8": (128, 8, 64),
    "256 at 8x8": (256, 8, 32),
    "256 at 4x4": (256, 4, 64),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("mode", ["calibration", "prediction"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("who", ["native", "torch", "torch: convolution alone"])
def test_conv(benchmark: Callable, who: str, shape: str, mode: str, storage: str, device: str) -> None:
    channels, size, count = SHAPES[shape]
    x = random_images(count, channels, size, device)
    weight = random_images(channels, channels, 3, "cpu").to(device) / (9 * channels) ** 0.5
    calibration = mode == "calibration"
    benchmark.group = f"{shape}, {storage}, {mode}"
    torch.set_num_threads(THREADS)
    if who == "native":
        run = native_run(weight, x, storage, calibration)
    else:
        run = torch_run(weight, x, storage, calibration, alone=who != "torch")
    seconds = timed(benchmark, run, device)
    flops = 2 * 9 * channels**2 * size**2 * len(x)
    benchmark.extra_info["TFLOP/s"] = round(flops / seconds / 1e12, 3)
    if device == "cpu":
        benchmark.extra_info["isa"] = compiled.isa() if who == "native" else "oneDNN"
