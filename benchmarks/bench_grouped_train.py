"""The passes of a grouped convolution in training, on channels_last values and on CPUs, against PyTorch's.

    python -m pytest benchmarks/bench_grouped_train.py

`extra_info` has TFLOP/s and the ratio of PyTorch's time to ours, measured in turn. `backward` computes both
gradients, for which PyTorch has one call.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from benchmarks._fused import STORAGES, THREADS
from benchmarks._harness import paired, ratio
from lasfast.engine.native_backend import why_missing
from lasfast.ops.sliced_conv2d_kernels import NhwcKernels

SHAPES = {  # channels, of each group, height and width, stride
    "RegNetY-400MF, 48 at 32x32, stride 2": (48, 8, 32, 2),
    "RegNetY-400MF, 104 at 16x16, stride 2": (104, 8, 16, 2),
    "RegNetY-400MF, 104 at 8x8": (104, 8, 8, 1),
    "RegNetY-400MF, 208 at 4x4": (208, 8, 4, 1),
    "RegNetY-400MF, 440 at 2x2": (440, 8, 2, 1),
    "ResNeXt-50, 128 at 16x16": (128, 4, 16, 1),
    "ResNeXt-50, 256 at 8x8": (256, 8, 8, 1),
    "ResNeXt-50, 512 at 4x4": (512, 16, 4, 1),
    "ResNeXt-50, 1024 at 2x2": (1024, 32, 2, 1),
    "RegNetY-1.6GF, 120 at 28x28": (120, 24, 28, 1),
}
BATCH = 8
PASSES = ("forward", "forward with statistics", "backward")
ROUNDS = 9


def work(shape: str, dtype: torch.dtype, which: str) -> tuple[dict[str, Callable[[], torch.Tensor]], int]:
    """Return the pass of lasfast and that of torch, and how many products it sums."""
    channels, width, size, stride = SHAPES[shape]
    groups = channels // width
    generator = torch.Generator().manual_seed(0)

    def values(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator).to(dtype, memory_format=torch.channels_last)

    x, rounded = values(BATCH, channels, size, size), values(channels, width, 3, 3)
    weight = rounded.float()
    y = F.conv2d(x, rounded, None, stride, 1, groups=groups)
    grad = values(*y.shape)
    grad_x, grad_weight, moments = torch.empty_like(x), torch.empty_like(weight), torch.empty(2, channels)
    passes = NhwcKernels.of(x, weight, y, stride, 1, groups)

    def ours() -> torch.Tensor:
        if which == "backward":
            passes.grad_weight(grad, x, grad_weight)
            return passes.grad_input(grad, weight, grad_x)
        return passes.forward(x, weight, y, *(moments if "statistics" in which else ()))

    def theirs() -> torch.Tensor:
        if which != "backward":
            return F.conv2d(x, rounded, None, stride, 1, groups=groups)
        steps, mask = ((stride, stride), (1, 1), (1, 1)), (True, True, False)
        both = torch.ops.aten.convolution_backward(
            grad, x, rounded, None, *steps, False, (0, 0), groups, mask
        )
        return both[0]

    return {"lasfast": ours, "torch": theirs}, y.numel() * width * 9 * (2 if which == "backward" else 1)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_grouped_train(benchmark: Callable, shape: str, which: str, storage: str, device: str) -> None:
    if device != "cpu":
        pytest.skip("grouped convolutions are PyTorch's on a GPU")
    why = why_missing(torch.device(device))
    if why is not None:
        pytest.skip(why)
    torch.set_num_threads(THREADS)
    with torch.inference_mode():
        runs, products = work(shape, STORAGES[storage], which)
        ours, theirs = (run().float() for run in runs.values())
        assert float((ours - theirs).norm() / theirs.norm()) < (1e-5 if storage == "fp32" else 1e-2)
        seconds = paired(runs, ROUNDS)
        benchmark.group = f"{shape}, {which}, {storage}"
        benchmark.pedantic(runs["lasfast"], rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info["TFLOP/s"] = round(2 * products / statistics.median(seconds["lasfast"]) / 1e12, 3)
    benchmark.extra_info["who"] = "native"
    benchmark.extra_info["torch / native"] = round(ratio(seconds, "torch", "lasfast"), 2)
