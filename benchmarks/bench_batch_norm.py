"""The end of a residual block at rest, relu(batch_norm(x) + x): one pass over memory against PyTorch's three.

    python -m pytest benchmarks/bench_batch_norm.py --benchmark-group-by=group

`extra_info` has GB/s, counting the input read once and the output written once, and the limit: the GB/s of a
plain copy of as many bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from benchmarks._fused import STORAGES, THREADS, native_run, random_images, timed

SHAPES = {  # channels, height and width, images
    "16 at 32x32": (16, 32, 128),
    "64 at 32x32": (64, 32, 128),
    "64 at 8x8": (64, 8, 128),
    "256 at 8x8": (256, 8, 128),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("who", ["native", "torch", "copy"])
def test_batch_norm(benchmark: Callable, who: str, shape: str, storage: str, device: str) -> None:
    channels, size, count = SHAPES[shape]
    x = random_images(count, channels, size, device)
    benchmark.group = f"{shape}, {storage}"
    torch.set_num_threads(THREADS)
    if who == "native":
        run = native_run(None, x, storage, True)
    else:
        x = x.to(dtype=STORAGES[storage], memory_format=torch.channels_last)
        mean, beta = torch.zeros(2, channels, device=device)
        variance, gamma = torch.ones(2, channels, device=device)
        target = torch.empty_like(x)

        def run() -> None:
            if who == "copy":
                target.copy_(x)
            else:
                F.relu_(F.batch_norm(x, mean, variance, gamma, beta).add_(x))

    seconds = timed(benchmark, run, device)
    moved = 2 * x.numel() * STORAGES[storage].itemsize
    benchmark.extra_info["GB/s"] = round(moved / seconds / 1e9, 2)
