"""Depthwise convolution, batch norm and ReLU: one fused operation against PyTorch's sequence.

    python -m pytest benchmarks/bench_depthwise.py --benchmark-group-by=group

This is `bench_conv` with one filter for each channel. Since the operation is memory-bound, `extra_info` has
GB/s, counting the input read once and the output written once.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks._fused import STORAGES, THREADS, native_run, random_images, timed, torch_run

SHAPES = {  # channels, height and width, images
    "64 at 32x32": (64, 32, 32),
    "128 at 16x16": (128, 16, 64),
    "256 at 8x8": (256, 8, 128),
    "512 at 4x4": (512, 4, 256),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("mode", ["calibration", "prediction"])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("who", ["native", "torch"])
def test_depthwise(
    benchmark: Callable, who: str, shape: str, kernel: int, mode: str, storage: str, device: str
) -> None:
    channels, size, count = SHAPES[shape]
    x = random_images(count, channels, size, device)
    weight = torch.full((channels, 1, kernel, kernel), 1 / kernel**2, device=device)
    calibration = mode == "calibration"
    benchmark.group = f"{shape}, {kernel}x{kernel}, {storage}, {mode}"
    torch.set_num_threads(THREADS)
    if who == "native":
        run = native_run(weight, x, storage, calibration)
    else:
        run = torch_run(weight, x, storage, calibration)
    seconds = timed(benchmark, run, device)
    moved = 2 * x.numel() * STORAGES[storage].itemsize
    benchmark.extra_info["GB/s"] = round(moved / seconds / 1e9, 2)
