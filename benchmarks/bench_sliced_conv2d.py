"""`sliced_conv2d` against F.conv2d on the same slice: `pytest benchmarks/bench_sliced_conv2d.py`.

Both sides of a group do the same work on the same tensors, on as many threads as torch uses; the group's
table gives the ratio, and `extra_info` has GFLOP/s (two per multiply-add). The slice is part of a weight that
is half as large again, so that F.conv2d reads a non-contiguous weight, as in a supernet.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.ops import sliced_conv2d
from lasfast.runtime import compiled

SHAPES = {  # batch, c_in, c_out, size, kernel, stride, groups
    "cifar-16": (64, 16, 16, 32, 3, 1, 1),
    "cifar-32": (64, 32, 32, 16, 3, 1, 1),
    "cifar-64": (64, 64, 64, 8, 3, 1, 1),
    "downsample": (64, 16, 32, 32, 3, 2, 1),
    "pointwise": (32, 64, 128, 16, 1, 1, 1),
    "depthwise": (32, 64, 64, 32, 3, 1, 64),
    "imagenet-64": (4, 64, 64, 56, 3, 1, 1),
}
PASSES = ("forward", "grad_input", "grad_weight")


def theirs(
    x: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> Tensor:
    return F.conv2d(x, weight[:c_out, : c_in // groups], None, stride, padding, 1, groups)


def work(conv: Callable[..., Tensor], which: str, shape: str) -> tuple[Callable[[], Tensor], int]:
    """Return the call to measure, and its multiply-adds."""
    batch, c_in, c_out, size, kernel, stride, groups = SHAPES[shape]
    torch.manual_seed(0)
    x = torch.randn(batch, c_in, size, size, requires_grad=which == "grad_input")
    whole = (c_out * 3 // 2, c_in // groups * 3 // 2 if groups == 1 else 1, kernel, kernel)
    weight = torch.randn(whole, requires_grad=which == "grad_weight")
    numbers = (c_in, c_out, stride, kernel // 2, groups)
    y = conv(x, weight, *numbers)
    madds = y.numel() * (c_in // groups) * kernel * kernel
    if which == "forward":
        return lambda: conv(x, weight, *numbers), madds
    grad = torch.randn_like(y)
    wanted = x if which == "grad_input" else weight
    return lambda: torch.autograd.grad(y, wanted, grad, retain_graph=True)[0], madds


@pytest.mark.parametrize("side", ["torch", *compiled.load().isas_supported()])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sliced_conv2d(benchmark, monkeypatch: pytest.MonkeyPatch, shape: str, which: str, side: str) -> None:
    if side != "torch":
        monkeypatch.setenv("LASFAST_ISA", side)
    run, madds = work(theirs if side == "torch" else sliced_conv2d, which, shape)
    expected = work(theirs, which, shape)[0]()
    assert float((run() - expected).norm() / expected.norm()) < 1e-5
    benchmark.group = f"{shape} {which}"
    benchmark(run)
    benchmark.extra_info["GFLOP/s"] = round(2 * madds / benchmark.stats["median"] / 1e9, 1)
