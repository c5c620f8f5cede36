"""The limits of the machine: the speed of a large matrix product, and of a copy that no cache holds.

pytest benchmarks/bench_limits.py

Run these beside the other benchmarks of operations, to compare with.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks._fused import STORAGES, THREADS, timed

SIZES = {"cpu": 2048, "cuda": 8192}
COPIED = 256 * 2**20


@pytest.mark.parametrize("storage", STORAGES)
def test_matrix_product(benchmark: Callable, storage: str, device: str) -> None:
    torch.set_num_threads(THREADS)
    size = SIZES[device]
    a, b = (torch.randn(size, size, device=device).to(STORAGES[storage]) for _ in range(2))
    benchmark.group = f"matrix product, {storage}"
    seconds = timed(benchmark, lambda: a @ b, device)
    benchmark.extra_info["TFLOP/s"] = round(2 * size**3 / seconds / 1e12, 3)


def test_copy(benchmark: Callable, device: str) -> None:
    torch.set_num_threads(THREADS)
    source, target = (torch.ones(COPIED // 4, device=device) for _ in range(2))
    benchmark.group = "copy"
    seconds = timed(benchmark, lambda: target.copy_(source), device)
    benchmark.extra_info["GB/s"] = round(2 * COPIED / seconds / 1e9, 2)
