"""What the machine can do at best: a large matrix product, and a copy that no cache holds.

pytest benchmarks/bench_limits.py

The other benchmarks of operations are read against these, run beside them.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks._fused import STORAGES, THREADS

SIZE = 2048
COPIED = 256 * 2**20


@pytest.mark.parametrize("storage", STORAGES)
def test_matrix_product(benchmark: Callable, storage: str) -> None:
    torch.set_num_threads(THREADS)
    a, b = (torch.randn(SIZE, SIZE).to(STORAGES[storage]) for _ in range(2))
    benchmark.group = f"matrix product, {storage}"
    with torch.inference_mode():
        benchmark.pedantic(lambda: a @ b, rounds=10, warmup_rounds=2)
    benchmark.extra_info["TFLOP/s"] = round(2 * SIZE**3 / benchmark.stats.stats.min / 1e12, 3)


def test_copy(benchmark: Callable) -> None:
    torch.set_num_threads(THREADS)
    source, target = (torch.ones(COPIED // 4) for _ in range(2))
    benchmark.group = "copy"
    benchmark.pedantic(lambda: target.copy_(source), rounds=10, warmup_rounds=2)
    benchmark.extra_info["GB/s"] = round(2 * COPIED / benchmark.stats.stats.min / 1e9, 2)
