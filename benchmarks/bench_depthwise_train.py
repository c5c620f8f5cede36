"""The passes of a depthwise convolution in training, on channels_last values, against PyTorch's.

    python -m pytest benchmarks/bench_depthwise_train.py [--device cuda]

Since the passes are memory-bound, `extra_info` has GB/s, counting each tensor read or written once, the
fraction of a copy's GB/s in the same run, and the ratio of PyTorch's time to ours, measured in turn.
`backward` computes both gradients, for which PyTorch has one call. On a GPU there are as many images as no
cache holds, and a CUDA graph of many calls is timed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from benchmarks._fused import STORAGES, THREADS, UNCACHED, repeated
from benchmarks._harness import paired, ratio
from lasfast.engine.native_backend import why_missing
from lasfast.ops.sliced_conv2d_kernels import NhwcKernels

SHAPES = {  # channels, height and width, kernel, stride
    "32 at 32x32": (32, 32, 3, 1),
    "64 at 32x32, stride 2": (64, 32, 3, 2),
    "128 at 16x16": (128, 16, 3, 1),
    "128 at 16x16, stride 2": (128, 16, 3, 2),
    "256 at 8x8": (256, 8, 3, 1),
    "256 at 8x8, stride 2": (256, 8, 3, 2),
    "512 at 4x4": (512, 4, 3, 1),
    "512 at 4x4, stride 2": (512, 4, 3, 2),
    "1024 at 2x2": (1024, 2, 3, 1),
    "96 at 16x16, 5x5": (96, 16, 5, 1),
    "240 at 8x8, 5x5, stride 2": (240, 8, 5, 2),
    "192 at 8x8, 7x7": (192, 8, 7, 1),
    "58 at 8x8, 5x5": (58, 8, 5, 1),
}
BATCH = 128
PASSES = ("forward", "forward with statistics", "grad_input", "grad_weight", "backward")
ROUNDS = 9


def work(
    shape: str, dtype: torch.dtype, which: str, device: str
) -> tuple[dict[str, Callable[[], object]], int]:
    """Return the pass of lasfast, that of torch, a copy of as many bytes as it moves, and that number."""
    channels, size, kernel, stride = SHAPES[shape]
    padding = kernel // 2
    batch = max(BATCH, UNCACHED // (channels * size**2)) if device == "cuda" else BATCH
    generator = torch.Generator(device).manual_seed(0)

    def values(*sizes: int) -> torch.Tensor:
        x = torch.randn(sizes, generator=generator, device=device)
        return x.to(dtype, memory_format=torch.channels_last)

    x, weight = values(batch, channels, size, size), values(channels, 1, kernel, kernel)
    y = F.conv2d(x, weight, None, stride, padding, groups=channels)
    grad = values(*y.shape)
    grad_x, moments = torch.empty_like(x), torch.empty(2, channels, device=device)
    grad_weight = torch.empty(weight.shape, device=device)
    passes = NhwcKernels.of(x, weight, y, stride, padding, channels)
    mask = (which != "grad_weight", which != "grad_input", False)

    def ours() -> object:
        if which.startswith("forward"):
            return passes.forward(x, weight, y, *(moments if "statistics" in which else ()))
        if which == "grad_weight":
            return passes.grad_weight(grad, x, grad_weight)
        if which == "grad_input":
            return passes.grad_input(grad, weight, grad_x)
        passes.both(grad, x, weight, grad_x, grad_weight)
        return grad_x

    def theirs() -> object:
        if which.startswith("forward"):
            return F.conv2d(x, weight, None, stride, padding, groups=channels)
        steps = (stride, stride), (padding, padding), (1, 1)
        both = torch.ops.aten.convolution_backward(
            grad, x, weight, None, *steps, False, (0, 0), channels, mask
        )
        return both[which == "grad_weight"]

    moved = x.nbytes + y.nbytes + (x.nbytes if which == "backward" else 0)
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return {"lasfast": ours, "torch": theirs, "copy": lambda: target.copy_(source)}, moved


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_depthwise_train(benchmark: Callable, shape: str, which: str, storage: str, device: str) -> None:
    why = why_missing(torch.device(device))
    if why is not None:
        pytest.skip(why)
    torch.set_num_threads(THREADS)
    repeats = 1
    with torch.inference_mode():
        once, moved = work(shape, STORAGES[storage], which, device)
        ours, theirs = once["lasfast"]().float(), once["torch"]().float()
        bound = 1e-5 if storage == "fp32" and device == "cpu" else 1e-2  # PyTorch may take TF32 on a GPU
        assert float((ours - theirs).norm() / theirs.norm()) < bound
        runs: dict[str, Callable[[], object]] = {}
        for who, run in once.items():
            runs[who], repeats = repeated(run, device)
        seconds = paired(runs, ROUNDS)
        benchmark.group = f"{shape}, {which}, {storage}"
        benchmark.pedantic(runs["lasfast"], rounds=ROUNDS, warmup_rounds=1)
    moved *= repeats
    speed = {name: moved / statistics.median(seconds[name]) / 1e9 for name in ("lasfast", "copy")}
    benchmark.extra_info["repeats"] = repeats
    benchmark.extra_info["GB/s"] = round(speed["lasfast"], 2)
    benchmark.extra_info["GB/s of a copy"] = round(speed["copy"], 2)
    benchmark.extra_info["who"] = "native"
    benchmark.extra_info["torch / native"] = round(ratio(seconds, "torch", "lasfast"), 2)
