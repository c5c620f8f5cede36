"""Depthwise passes on channels_last values against torch, on every instruction set this machine has."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lasfast.ops.sliced_conv2d_kernels import NhwcKernels
from lasfast.runtime import compiled

LAST = torch.channels_last


def values(*size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    x = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).contiguous(memory_format=LAST)


def depthwise(x: Tensor, weight: Tensor, y: Tensor, stride: int, padding: int) -> NhwcKernels:
    return NhwcKernels.of(x, weight, y, stride, padding, x.shape[1])


def plain(x: Tensor, weight: Tensor, grad: Tensor, stride: int, padding: int) -> list[Tensor]:
    """Output and both gradients, by torch, in the dtype of `x`."""
    x, weight = x.detach().requires_grad_(), weight.detach().to(x.dtype).requires_grad_()
    y = F.conv2d(x, weight[: x.shape[1]], None, stride, padding, 1, x.shape[1])
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad.to(y.dtype))]


def ours(x: Tensor, weight: Tensor, grad: Tensor, stride: int, padding: int) -> list[Tensor]:
    """Output, both gradients and statistics; what lies behind the slice of the weight's gradient is zero."""
    y, grad_x = torch.full_like(grad, torch.nan), torch.full_like(x, torch.nan)
    grad_weight = torch.zeros_like(weight, dtype=torch.float32)
    statistics = torch.empty(2, x.shape[1])
    depthwise(x, weight, y, stride, padding).forward(x, weight, y, *statistics)
    depthwise(x, weight, y, stride, padding).grad_input(grad, weight, grad_x)
    depthwise(x, grad_weight, y, stride, padding).grad_weight(grad, x, grad_weight)
    both = torch.full_like(x, torch.nan), torch.zeros_like(grad_weight)
    depthwise(x, weight, y, stride, padding).both(grad, x, weight, *both)
    for one, other in zip(both, (grad_x, grad_weight), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
        assert torch.equal(one.isnan(), other.isnan())
    return [y, grad_x, grad_weight, statistics]


def error(a: Tensor, truth: Tensor) -> float:
    return float((a.double() - truth.double()).norm() / truth.double().norm().clamp_min(1e-30))


def check(x: Tensor, weight: Tensor, grad: Tensor, stride: int, padding: int) -> None:
    """fp32 to its rounding; bf16 to at most twice torch's own error. Statistics of the unrounded output."""
    results = ours(x, weight, grad, stride, padding)
    truth = plain(x.double(), weight.double(), grad, stride, padding)
    torchs = plain(x, weight, grad, stride, padding)
    # What is rounded to bf16 only here (torch rounds the weight's gradient too) has an error of 2^-9 at most.
    slack = 1e-5 if x.dtype == torch.float32 else 2**-9
    for a, b, exact in zip(results, torchs, truth, strict=False):
        assert error(a, exact) <= max(slack, 2 * error(b, exact))
    assert not results[2][x.shape[1] :].any()
    variance, mean = torch.var_mean(truth[0], dim=(0, 2, 3), correction=0)
    scale = truth[0].square().mean((0, 2, 3)).sqrt()
    assert ((results[3][0] - mean).abs() <= 1e-5 * scale).all()
    assert ((results[3][1] - variance).abs() <= 1e-5 * scale.square()).all()


def wide_weight(channels: int, kernel: int, dtype: torch.dtype, strided: bool = True) -> Tensor:
    """A weight with more channels than are read, which are NaN, not dense in memory."""
    weight = torch.full((channels + 3, 2, kernel, kernel + 1), torch.nan, dtype=dtype)[:, :1, :, :kernel]
    weight[:channels] = values(channels, 1, kernel, kernel, seed=1).to(dtype)
    return weight if strided else weight[:channels].contiguous()


def problem(
    batch: int,
    channels: int,
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    storage: torch.dtype = torch.float32,
    weight_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor, int, int]:
    x = values(batch, channels, *size, dtype=storage)
    out = [(n + 2 * padding - kernel) // stride + 1 for n in size]
    grad = values(batch, channels, *out, dtype=storage, seed=2)
    return x, wide_weight(channels, kernel, weight_dtype), grad, stride, padding


DTYPES = (torch.float32, torch.bfloat16)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int, int]:
    kernel, stride, padding = draw(st.integers(1, 8)), draw(st.integers(1, 4)), draw(st.integers(0, 4))
    size = tuple(draw(st.integers(max(1, kernel - 2 * padding), 21)) for _ in range(2))
    channels = draw(st.sampled_from((1, 3, 4, 8, 16, 17, 24, 33, 58)))
    batch = draw(st.integers(1, 5))
    storage, weight_dtype = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))
    return problem(batch, channels, size, kernel, stride, padding, storage, weight_dtype)


def test_any_shape_agrees_with_torch(isa: str) -> None:
    @settings(max_examples=50, deadline=None)
    @given(case=problems())
    def run(case: tuple[Tensor, Tensor, Tensor, int, int]) -> None:
        check(*case)

    run()


@pytest.mark.parametrize("storage", DTYPES)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
def test_kernels_and_strides_that_have_loops_of_their_own(
    kernel: int, stride: int, storage: torch.dtype, isa: str
) -> None:
    padding = kernel // 2
    check(*problem(3, 33, (19, 22), kernel, stride, padding, storage))
    check(*problem(37, 17, (9, 4), kernel, stride, padding, storage))
    check(*problem(1, 16, (5, 7), kernel, stride, min(padding, 3), storage))
    if kernel <= 1 + 2 * padding:
        check(*problem(3, 58, (1, 1), kernel, stride, padding, storage))


# Work that seven threads share (csrc/cpu/threads.h), of the last, three.
CASES = {  # batch, channels, size, kernel, stride, padding
    "bands of large images": (2, 40, (61, 60), 3, 1, 1),
    "bands, stride 2": (2, 24, (90, 61), 5, 2, 2),
    "several images a piece": (500, 17, (4, 4), 3, 1, 1),
    "several parts": (40, 33, (16, 16), 3, 1, 1),
    "many channels": (60, 200, (2, 2), 7, 1, 3),
    "large sums of several parts": (20, 256, (14, 14), 7, 1, 3),
}


@pytest.mark.parametrize("name", CASES)
def test_same_bits_whatever_the_threads(name: str, isa: str) -> None:
    case = problem(*CASES[name])
    check(*case)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7, 2):
            torch.set_num_threads(threads)
            results.append(ours(*case))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_statistics_do_not_cancel(isa: str) -> None:
    """Of channels whose mean is far larger than their deviation, and of one that is constant."""
    x = values(37, 17, 5, 7) + 1000.0
    x[:, 3] = 7.0
    weight = torch.ones(17, 1, 1, 1)
    y, statistics = torch.empty_like(x), torch.empty(2, 17)
    depthwise(x, weight, y, 1, 0).forward(x, weight, y, *statistics)
    variance, mean = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0)
    assert torch.allclose(statistics[0].double(), mean, rtol=1e-6)
    assert torch.allclose(statistics[1].double(), variance, rtol=1e-4, atol=0.0)
    assert statistics[1, 3] == 0


@pytest.mark.parametrize("storage", DTYPES)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_inf_and_nan_reach_what_they_reach_in_torch(stride: int, storage: torch.dtype, isa: str) -> None:
    x, weight, grad, *numbers = problem(3, 17, (9, 12), 3, stride, 1, storage)
    x[0, 2, 0, 0], x[1, 5, 4, 6], x[2, 16, 8, 11] = torch.inf, torch.nan, -torch.inf
    grad[0, 3, 0, 0], grad[1, 6, 1, 2], grad[2, 15, 2, 3] = torch.nan, torch.inf, torch.nan
    results = ours(x, weight, grad, *numbers)
    # In float32, where torch leaves the padding out; in others it multiplies Inf and NaN by zero in places.
    truth = plain(x.float(), weight, grad, *numbers)
    for a, exact in zip(results, truth, strict=False):
        assert torch.equal(a.isnan(), exact.isnan())
        assert torch.equal(a.isposinf(), exact.isposinf())
        assert torch.equal(a.isneginf(), exact.isneginf())
    mean = truth[0].mean((0, 2, 3))
    assert torch.equal(results[3][0].isnan(), mean.isnan())
    assert torch.equal(results[3][1].isnan(), ~mean.isfinite())


def test_weights_that_are_not_finite_do_not_meet_the_padding(isa: str) -> None:
    x, weight, grad, *numbers = problem(1, 17, (5, 7), 3, 1, 1)
    weight[4, 0, 0, 0] = torch.inf
    y = ours(x, weight, grad, *numbers)[0]
    assert not y[0, 4, 0].isinf().any()
    assert not y[0, 4, :, 0].isinf().any()
    assert y[0, 4, 1:, 1:].isinf().all()


def test_without_statistics_the_output_is_the_same(isa: str) -> None:
    x, weight, grad, *numbers = problem(3, 33, (9, 9), 3, 1, 1)
    y = torch.empty_like(grad)
    depthwise(x, weight, y, *numbers).forward(x, weight, y)
    assert torch.equal(y, ours(x, weight, grad, *numbers)[0])


def test_empty_batches_and_channels(isa: str) -> None:
    for size in ((0, 5, 4, 4), (3, 0, 4, 4)):
        x = torch.zeros(size)
        weight = torch.ones(5, 1, 3, 3)
        result = torch.full((5, 1, 3, 3), 2.0)
        statistics = torch.zeros(2, size[1])
        passes = depthwise(x, weight, x, 1, 1)
        passes.forward(x, weight, torch.zeros(size), *statistics)
        passes.grad_input(x, weight, torch.zeros(size))
        passes.grad_weight(x, x, result)
        passes.both(x, x, weight, torch.zeros(size), torch.zeros(5, 1, 3, 3))
        assert not result[: size[1]].any()
        assert (result[size[1] :] == 2).all()
        assert statistics.isnan().all()


def test_images_without_rows_or_output(isa: str) -> None:
    """Of padding alone the output is zero; what no output reaches has no gradient."""
    for size, out, kernel, padding in (((0, 4), (2, 6), 3, 2), ((2, 4), (0, 0), 5, 0)):
        x, grad, weight = values(2, 17, *size), values(2, 17, *out), values(17, 1, kernel, kernel)
        y, grad_x, grad_weight, _ = ours(x, weight, grad, 1, padding)
        assert not y.any()
        assert not grad_x.any()
        assert not grad_weight.any()


def test_sizes_that_do_not_fit_are_refused() -> None:
    if not compiled.available():
        pytest.skip("lasfast's compiled module is not built")
    x, weight = values(2, 5, 4, 4), torch.ones(5, 1, 3, 3)
    y = values(2, 5, 3, 4)
    with pytest.raises(ValueError, match="out_height does not follow from the input"):
        depthwise(x, weight, y, 1, 1).forward(x, weight, y)
    with pytest.raises(ValueError, match="stride must be at least 1"):
        depthwise(x, weight, x, 0, 1).forward(x, weight, x)
    with pytest.raises(ValueError, match="padding must not be negative"):
        depthwise(x, weight, x, 1, -1).forward(x, weight, x)
