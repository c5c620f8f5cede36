"""Batch norm, ReLU and the sum of a residual block while training: forward, backward, and PyTorch's sequence.

    python -m pytest benchmarks/bench_bn_act.py -s --benchmark-group-by=group [--device cuda]

The two take turns on the same tensors in the same dtype and layout. A plain copy runs before each, so that
neither finds in a cache what the other left there. On a GPU, batches are larger than its cache, and several
calls are queued before the benchmark waits. `extra_info` has the median ratio of their times, and the GB/s of
what the kernels must move, also as a fraction of a copy's. Forward, x is read twice and y is written.
Backward, x and the gradient of y are read twice, and the gradient of x is written. A residual is read once in
each direction; backward, its gradient is also written, and read instead of the gradient of y.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks._fused import REPEATS, STORAGES, THREADS, UNCACHED
from lasfast.ops import bn_act, bn_act_kernels

SHAPES = {  # those of ResidualNet's stages, and one larger than a core's caches
    "16 at 32x32": (128, 16, 32, 32),
    "32 at 16x16": (128, 32, 16, 16),
    "64 at 8x8": (128, 64, 8, 8),
    "256 at 16x16": (128, 256, 16, 16),
}
MOVED = {
    "forward": (3, 4),
    "backward": (5, 7),
}  # tensors of x's size, without and with residual
ROUNDS = 30


def torch_sequence(x, mean, var, weight, bias, residual, *, training: bool) -> Tensor:
    y = F.batch_norm(x, mean, var, weight, bias, training)
    return F.relu_(y if residual is None else y.add_(residual))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("which", MOVED)
def test_bn_act(
    benchmark: Callable, which: str, shape: str, residual: bool, storage: str, device: str
) -> None:
    torch.set_num_threads(THREADS)
    x, other, grad = (values(SHAPES[shape], storage, device, seed) for seed in range(3))
    if not bn_act_kernels.supports(x):
        pytest.skip("lasfast has no kernels here, and would time PyTorch against itself")
    x.requires_grad_()
    other.requires_grad_()
    channels = x.shape[1]
    weight, bias = (torch.rand(channels, device=device, requires_grad=True) for _ in range(2))
    leaves = (x, weight, bias, other) if residual else (x, weight, bias)

    def forward(function: Callable, running: list[Tensor]) -> Tensor:
        return function(x, *running, weight, bias, other if residual else None, training=True)

    runs: dict[str, Callable[[], object]] = {}
    outputs = []
    for who, function in (("native", bn_act), ("torch", torch_sequence)):
        running = [torch.zeros(channels, device=device), torch.ones(channels, device=device)]
        y = forward(function, running)
        gradients = torch.autograd.grad(y, leaves, grad, retain_graph=True)
        outputs.append((y, *gradients))
        if which == "forward":
            runs[who] = lambda function=function, running=running: forward(function, running)
        else:
            runs[who] = lambda y=y: torch.autograd.grad(y, leaves, grad, retain_graph=True)
    for ours, theirs in zip(*outputs, strict=True):
        error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        # Near zero, rounding decides whether ReLU cuts a value off, and torch rounds three times.
        assert error <= (5e-3 if storage == "fp32" else 0.1)
    target = torch.empty_like(grad)

    seconds = taking_turns(runs, lambda: target.copy_(grad), device)
    ratio = statistics.median(b / a for a, b in zip(seconds["native"], seconds["torch"], strict=True))
    medians = {who: statistics.median(times) for who, times in seconds.items()}
    benchmark.group = f"{which}, {shape}, {'residual' if residual else 'plain'}, {storage}"
    speed = MOVED[which][residual] * grad.nbytes / medians["native"] / 1e9
    copied = 2 * grad.nbytes / medians["copy"] / 1e9
    benchmark.extra_info["torch / native"] = round(ratio, 2)
    benchmark.extra_info["GB/s"] = round(speed, 1)
    benchmark.extra_info["GB/s of a copy"] = round(copied, 1)
    benchmark.extra_info["of a copy"] = round(speed / copied, 2)
    print(f"\n{benchmark.group}: {benchmark.extra_info}")
    benchmark.extra_info |= {"who": "native", "repeats": repeats_on(device)}
    benchmark.pedantic(repeated(runs["native"], device), rounds=10, warmup_rounds=1)


def values(size: tuple[int, ...], storage: str, device: str, seed: int) -> Tensor:
    if device == "cuda":
        size = (max(size[0], UNCACHED // math.prod(size[1:])), *size[1:])
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.randn(size, generator=generator, device=device)
    return x.to(dtype=STORAGES[storage], memory_format=torch.channels_last)


def taking_turns(
    runs: dict[str, Callable[[], object]], copy: Callable[[], object], device: str
) -> dict[str, list[float]]:
    """Return the seconds of each run, and of the copy before each, in `ROUNDS` rounds."""
    repeats = repeats_on(device)
    seconds: dict[str, list[float]] = {who: [] for who in ("copy", *runs)}
    for number in range(-3, ROUNDS // repeats + 3):
        for who, run in runs.items():
            for name, timed in (("copy", repeated(copy, device)), (who, repeated(run, device))):
                begin = time.perf_counter()
                timed()
                if number >= 0:
                    seconds[name].append((time.perf_counter() - begin) / repeats)
    return seconds


def repeats_on(device: str) -> int:
    """Return how many calls are timed together."""
    return REPEATS if device == "cuda" else 1


def repeated(run: Callable[[], object], device: str) -> Callable[[], None]:
    """Return a function that makes these calls and waits for them."""

    def several() -> None:
        for _ in range(repeats_on(device)):
            run()
        if device == "cuda":
            torch.cuda.synchronize()

    return several
