"""The passes of a convolution in a training step, on channels_last values, against PyTorch's.

    python -m pytest benchmarks/bench_conv_train.py --benchmark-group-by=group [--device cuda]

Since weights change at each step, each call packs the fp32 weights (PyTorch converts them, from channels_last
in the dtype of the values, to a layout of its own). `extra_info` has the median ratio of PyTorch's time to
ours, pair by pair, TFLOP/s, and the fraction of the TFLOP/s of a large matrix product or convolution in
PyTorch. There are 128 images and one thread, or on a GPU a CUDA graph of many calls; its cache may hold the
values, for both alike. On a GPU, fp32 is TF32 unless `torch.backends.cudnn` says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks import _harness
from benchmarks._fused import STORAGES, THREADS, peak, repeated
from lasfast.engine.native_backend import EXECUTORS, why_missing
from lasfast.ops.sliced_conv2d_kernels import NhwcKernels
from lasfast.runtime.kernels import has_warpgroups

IMAGES, ROUNDS = 128, 15
LAST = torch.channels_last
SHAPES = {  # channels in and out, height and width, kernel, stride, padding
    "CIFAR stem": (3, 16, 32, 3, 1, 1),
    "3x3, 16 at 32x32": (16, 16, 32, 3, 1, 1),
    "3x3, 32 at 16x16": (32, 32, 16, 3, 1, 1),
    "3x3, 64 at 8x8": (64, 64, 8, 3, 1, 1),
    "3x3, 16 to 32 at 32x32, stride 2": (16, 32, 32, 3, 2, 1),
    "3x3, 32 to 64 at 16x16, stride 2": (32, 64, 16, 3, 2, 1),
    "3x3, 64 at 32x32": (64, 64, 32, 3, 1, 1),
    "3x3, 128 at 16x16": (128, 128, 16, 3, 1, 1),
    "3x3, 256 at 8x8": (256, 256, 8, 3, 1, 1),
    "ImageNet stem": (3, 64, 64, 7, 2, 3),
    "3x3, 64 at 16x16": (64, 64, 16, 3, 1, 1),
    "3x3, 128 at 8x8": (128, 128, 8, 3, 1, 1),
    "3x3, 256 at 4x4": (256, 256, 4, 3, 1, 1),
    "3x3, 512 at 2x2": (512, 512, 2, 3, 1, 1),
    "3x3, 128 at 16x16, stride 2": (128, 128, 16, 3, 2, 1),
    "3x3, 256 at 8x8, stride 2": (256, 256, 8, 3, 2, 1),
    "3x3, 512 at 4x4, stride 2": (512, 512, 4, 3, 2, 1),
    "1x1, 64 to 256 at 16x16": (64, 256, 16, 1, 1, 0),
    "1x1, 256 to 64 at 16x16": (256, 64, 16, 1, 1, 0),
    "1x1, 128 to 512 at 8x8": (128, 512, 8, 1, 1, 0),
    "1x1, 512 to 128 at 8x8": (512, 128, 8, 1, 1, 0),
    "1x1, 256 to 1024 at 4x4": (256, 1024, 4, 1, 1, 0),
    "1x1, 1024 to 256 at 4x4": (1024, 256, 4, 1, 1, 0),
    "1x1, 512 to 2048 at 2x2": (512, 2048, 2, 1, 1, 0),
    "1x1, 2048 to 512 at 2x2": (2048, 512, 2, 1, 1, 0),
    "1x1, 256 to 512 at 16x16, stride 2": (256, 512, 16, 1, 2, 0),
    "1x1, 512 to 1024 at 8x8, stride 2": (512, 1024, 8, 1, 2, 0),
    "1x1, 1024 to 2048 at 4x4, stride 2": (1024, 2048, 4, 1, 2, 0),
    "1x1, 32 to 64 at 32x32": (32, 64, 32, 1, 1, 0),
    "1x1, 64 to 128 at 16x16": (64, 128, 16, 1, 1, 0),
    "1x1, 128 at 16x16": (128, 128, 16, 1, 1, 0),
    "1x1, 256 to 512 at 4x4": (256, 512, 4, 1, 1, 0),
    "1x1, 512 at 4x4": (512, 512, 4, 1, 1, 0),
    "1x1, 1024 at 2x2": (1024, 1024, 2, 1, 1, 0),
    "1x1, 58 at 16x16": (58, 58, 16, 1, 1, 0),
    "1x1, 24 to 58 at 16x16": (24, 58, 16, 1, 1, 0),
    "1x1, 116 at 8x8": (116, 116, 8, 1, 1, 0),
}


class Passes:
    """The tensors of one convolution, and functions that run a pass on them."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
        self.c_in, self.c_out, size, self.kernel, self.stride, self.padding = shape
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(IMAGES, self.c_in, size, size, generator=generator)
        weight = torch.randn(self.c_out, self.c_in, self.kernel, self.kernel, generator=generator)
        self.x = x.to(device, dtype, memory_format=LAST)
        self.weight = (weight / weight[0].numel() ** 0.5).to(device, memory_format=LAST)
        self.rounded = self.weight.to(dtype)
        self.y = self.torch("forward")()
        self.grad = torch.randn_like(self.y)
        self.flops = 2 * self.y.numel() * weight[0].numel()

    def torch(self, which: str) -> Callable[[], Tensor]:
        """Return a function that runs PyTorch's pass."""
        if which == "forward":
            return lambda: torch.conv2d(self.x, self.rounded, None, self.stride, self.padding)
        mask = [which == "grad_input", which == "grad_weight", False]
        backward = torch.ops.aten.convolution_backward
        return lambda: backward(
            self.grad, self.x, self.rounded, None, [self.stride] * 2, [self.padding] * 2, [1, 1], False,
            [0, 0], 1, mask,
        )[mask.index(True)]  # fmt: skip

    def native(self, which: str, *, warpgroups: bool = False) -> Callable[[], Tensor]:
        """Return a function that runs our pass; skip the benchmark if there is none."""
        passes = NhwcKernels.of(self.x, self.weight, self.y, self.stride, self.padding, warpgroups=warpgroups)
        if not passes.has(which):
            pytest.skip(f"{which} cannot be run here")
        first = self.x if which == "forward" else self.grad
        second = self.x if which == "grad_weight" else self.weight
        result = {"forward": self.y, "grad_input": self.x, "grad_weight": self.weight}[which].clone()
        return lambda: getattr(passes, which)(first, second, result)


@pytest.mark.parametrize("who", ["native", "warpgroups"])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("which", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize("shape", SHAPES)
def test_conv_train(benchmark: Callable, shape: str, which: str, storage: str, who: str, device: str) -> None:
    why = why_missing(torch.device(device))
    if why is not None:
        pytest.skip(why)
    by_warpgroups, on_cuda = who == "warpgroups", EXECUTORS[device].cuda
    if by_warpgroups and not (on_cuda and has_warpgroups(torch.device(device))):
        pytest.skip("warpgroups are Hopper's")
    torch.set_num_threads(THREADS)
    passes = Passes(SHAPES[shape], STORAGES[storage], device)
    runs: dict[str, Callable[[], object]] = {}
    results = []
    repeats = 1
    ours = passes.native(which, warpgroups=by_warpgroups)
    for name, run in ((who, ours), ("torch", passes.torch(which))):
        results.append(run().float())
        runs[name], repeats = repeated(run, device)
    result, theirs = results
    bound = 1e-2 if storage == "bf16" or on_cuda else 1e-4
    assert float((result - theirs).norm() / theirs.norm()) < bound
    benchmark.group = f"{shape}, {which}, {storage}"
    with torch.inference_mode():
        seconds = _harness.paired(runs, ROUNDS)
        benchmark.pedantic(runs[who], rounds=ROUNDS)
    rate = repeats * passes.flops / min(seconds[who])
    benchmark.extra_info["repeats"] = repeats
    benchmark.extra_info["who"] = who
    benchmark.extra_info[f"torch / {who}"] = round(_harness.ratio(seconds, "torch", who), 2)
    benchmark.extra_info["TFLOP/s"] = round(rate / 1e12, 3)
    benchmark.extra_info["of peak"] = round(rate / peak(storage, device), 2)
