"""A convolution with its batch norm and ReLU while training: forward, backward, and PyTorch's sequence.

    python -m pytest benchmarks/bench_conv_bn_act.py --benchmark-group-by=group

This times `lasfast.ops.conv_bn_act` on channels_last values with fp32 weights against `conv2d`, `batch_norm`
and `relu_` on the same tensors. Each pass of the convolution runs in lasfast's kernels or PyTorch's, as
autotuning decides; in bf16, PyTorch converts the weight at each step, as autocast does. `extra_info` has the
median ratio of PyTorch's time to ours, pair by pair, the convolution's TFLOP/s, and the fraction of the
TFLOP/s of a large matrix product or convolution in PyTorch. There are 128 images and one thread.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import _harness
from benchmarks._fused import STORAGES, THREADS, peak
from lasfast.ops import conv_bn_act

IMAGES, ROUNDS = 128, 11
SHAPES = {  # channels in and out, height and width, kernel, stride
    "3x3, 16 at 32x32": (16, 16, 32, 3, 1),
    "3x3, 32 at 16x16": (32, 32, 16, 3, 1),
    "3x3, 64 at 8x8": (64, 64, 8, 3, 1),
    "3x3, 16 to 32 at 32x32, stride 2": (16, 32, 32, 3, 2),
    "3x3, 64 at 32x32": (64, 64, 32, 3, 1),
    "3x3, 128 at 16x16": (128, 128, 16, 3, 1),
    "3x3, 256 at 8x8": (256, 256, 8, 3, 1),
    "3x3, 256 at 8x8, stride 2": (256, 256, 8, 3, 2),
    "1x1, 64 to 128 at 16x16": (64, 128, 16, 1, 1),
    "1x1, 128 at 16x16": (128, 128, 16, 1, 1),
    "1x1, 256 to 1024 at 4x4": (256, 1024, 4, 1, 1),
    "1x1, 58 at 16x16": (58, 58, 16, 1, 1),
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("which", ["forward", "backward"])
@pytest.mark.parametrize("shape", SHAPES)
def test_conv_bn_act(benchmark: Callable, shape: str, which: str, storage: str, device: str) -> None:
    if device != "cpu":
        pytest.skip("measures the CPU's peak")
    torch.set_num_threads(THREADS)
    c_in, c_out, size, kernel, stride = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(IMAGES, c_in, size, size, generator=generator)
    x = x.to(STORAGES[storage], memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(c_out, c_in, kernel, kernel, generator=generator) / (c_in * kernel**2) ** 0.5
    weight = weight.to(memory_format=torch.channels_last).requires_grad_()
    gamma, beta = torch.ones(c_out, requires_grad=True), torch.zeros(c_out, requires_grad=True)
    leaves = (x, weight, gamma, beta)

    def native() -> Tensor:
        return conv_bn_act(
            x, weight, torch.zeros(c_out), torch.ones(c_out), gamma, beta,
            stride=stride, padding=kernel // 2, training=True,
        )  # fmt: skip

    def in_torch() -> Tensor:
        y = F.conv2d(x, weight.to(x.dtype), None, stride, kernel // 2)
        return F.relu_(F.batch_norm(y, torch.zeros(c_out), torch.ones(c_out), gamma, beta, training=True))

    runs: dict[str, Callable[[], object]] = {"native": native, "torch": in_torch}
    outputs = {who: run() for who, run in runs.items()}
    grad = torch.randn_like(outputs["torch"])
    if which == "backward":
        runs = {
            who: lambda y=y: torch.autograd.grad(y, leaves, grad, retain_graph=True)
            for who, y in outputs.items()
        }
    ours, theirs = ((y, *torch.autograd.grad(y, leaves, grad, retain_graph=True)) for y in outputs.values())
    for a, b in zip(ours, theirs, strict=True):
        # Near zero, rounding decides whether ReLU cuts a value off, and torch rounds three times.
        assert (a.float() - b.float()).norm() / b.float().norm() <= (5e-3 if storage == "fp32" else 0.1)

    seconds = _harness.paired(runs, ROUNDS)
    benchmark.group = f"{shape}, {which}, {storage}"
    benchmark.pedantic(runs["native"], rounds=ROUNDS)
    flops = 2 * outputs["torch"].numel() * weight[0].numel() * (2 if which == "backward" else 1)
    rate = flops / min(seconds["native"])
    benchmark.extra_info["who"] = "native"
    benchmark.extra_info["torch / native"] = round(_harness.ratio(seconds, "torch", "native"), 2)
    benchmark.extra_info["TFLOP/s"] = round(rate / 1e12, 3)
    benchmark.extra_info["of peak"] = round(rate / peak(storage), 2)
