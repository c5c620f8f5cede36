"""Grouped passes on channels_last values against torch, on every instruction set this machine has."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lasfast.ops import conv_bn_act
from lasfast.ops.sliced_conv2d_kernels import NhwcKernels, Norm
from lasfast.runtime import compiled

DTYPES = (torch.float32, torch.bfloat16)
Problem = tuple[Tensor, Tensor, Tensor, int, int, int]


def values(*size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    x = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def problem(
    batch: int,
    groups: int,
    channels: tuple[int, int],  # of a group, read and given
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    storage: torch.dtype = torch.float32,
    weight_dtype: torch.dtype = torch.float32,
) -> Problem:
    """Values, and a weight that is a slice of one full of NaN, not dense in memory."""
    reads, gives = channels
    x = values(batch, groups * reads, *size, dtype=storage)
    out = [(n + 2 * padding - kernel) // stride + 1 for n in size]
    grad = values(batch, groups * gives, *out, dtype=storage, seed=2)
    filters = (groups * gives + 3, reads + 2, kernel, kernel + 1)
    weight = torch.full(filters, torch.nan, dtype=weight_dtype)[..., :kernel]
    weight[: groups * gives, :reads] = values(groups * gives, reads, kernel, kernel, seed=1).to(weight_dtype)
    return x, weight, grad, stride, padding, groups


def plain(x: Tensor, weight: Tensor, grad: Tensor, stride: int, padding: int, groups: int) -> list[Tensor]:
    """Output and both gradients, by torch, in the dtype of `x`."""
    active = weight[: grad.shape[1], : x.shape[1] // groups].detach().to(x.dtype).requires_grad_()
    x = x.detach().requires_grad_()
    y = F.conv2d(x, active, None, stride, padding, 1, groups)
    return [y.detach(), *torch.autograd.grad(y, (x, active), grad.to(y.dtype))]


def ours(x: Tensor, weight: Tensor, grad: Tensor, *numbers: int) -> list[Tensor]:
    """Output, both gradients (of the slice of the weight; the rest is as it was) and statistics."""
    y, grad_x = torch.full_like(grad, torch.nan), torch.full_like(x, torch.nan)
    grad_weight = torch.full_like(weight, 7.0, dtype=torch.float32)
    statistics = torch.empty(2, grad.shape[1])
    passes = NhwcKernels.of(x, weight, y, *numbers)
    passes.forward(x, weight, y, *statistics)
    passes.grad_input(grad, weight, grad_x)
    NhwcKernels.of(x, grad_weight, y, *numbers).grad_weight(grad, x, grad_weight)
    active = grad_weight[: grad.shape[1], : x.shape[1] // numbers[-1]].clone()
    grad_weight[: grad.shape[1], : x.shape[1] // numbers[-1]] = 7.0
    assert (grad_weight == 7.0).all()
    return [y, grad_x, active, statistics]


def error(a: Tensor, truth: Tensor) -> float:
    return float((a.double() - truth.double()).norm() / truth.double().norm().clamp_min(1e-30))


def check(x: Tensor, weight: Tensor, grad: Tensor, *numbers: int) -> None:
    """fp32 to its rounding; bf16 to at most twice torch's own error. Statistics of the unrounded output."""
    results = ours(x, weight, grad, *numbers)
    truth = plain(x.double(), weight.double(), grad, *numbers)
    torchs = plain(x, weight, grad, *numbers)
    slack = 1e-5 if x.dtype == torch.float32 else 2**-8
    for a, b, exact in zip(results, torchs, truth, strict=False):
        assert a.shape == exact.shape
        assert error(a, exact) <= max(slack, 2 * error(b, exact))
    variance, mean = torch.var_mean(truth[0], dim=(0, 2, 3), correction=0)
    scale = truth[0].square().mean((0, 2, 3)).sqrt()
    assert ((results[3][0] - mean).abs() <= 1e-5 * scale).all()
    assert ((results[3][1] - variance).abs() <= 1e-5 * scale.square()).all()


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    kernel, stride, padding = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(0, 3))
    size = tuple(draw(st.integers(max(1, kernel - 2 * padding), 13)) for _ in range(2))
    widths = st.sampled_from((2, 3, 4, 6, 8, 12, 16, 24, 32, 40))
    reads = draw(widths)
    gives = draw(st.sampled_from((reads, reads, draw(widths))))
    groups, batch = draw(st.integers(2, 7)), draw(st.integers(1, 9))
    storage, weight_dtype = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))
    return problem(batch, groups, (reads, gives), size, kernel, stride, padding, storage, weight_dtype)


def test_any_shape_agrees_with_torch(isa: str) -> None:
    @settings(max_examples=50, deadline=None)
    @given(case=problems())
    def run(case: Problem) -> None:
        check(*case)

    run()


@pytest.mark.parametrize("storage", DTYPES)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_kernels_and_strides_that_have_loops_of_their_own(
    kernel: int, stride: int, storage: torch.dtype, isa: str
) -> None:
    padding = kernel // 2
    for reads, gives in ((2, 2), (4, 4), (8, 8), (16, 16), (24, 24), (4, 8)):
        for batch, size in ((1, (9, 20)), (5, (4, 4)), (9, (2, 2)), (3, (3, 1))):
            check(*problem(batch, 5, (reads, gives), size, kernel, stride, padding, storage))


# Work that seven threads share (csrc/cpu/threads.h); the weights of the last two, three.
CASES = {  # batch, groups, channels of a group, size, kernel, stride, padding
    "bands of large images": (2, 5, (8, 8), (61, 60), 3, 1, 1),
    "bands, stride 2": (2, 3, (16, 16), (90, 61), 3, 2, 1),
    "several images a piece": (200, 5, (4, 4), (4, 4), 3, 1, 1),
    "several parts": (40, 2, (16, 16), (16, 16), 3, 1, 1),
    "many groups": (20, 55, (8, 8), (2, 2), 3, 1, 1),
    "wide groups": (3, 2, (40, 56), (7, 7), 3, 1, 1),
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
    x = values(37, 24, 5, 7) + 1000.0
    x[:, 8:16] = 7.0
    weight = torch.full((24, 8, 1, 1), 0.125)
    y, statistics = torch.empty_like(x), torch.empty(2, 24)
    NhwcKernels.of(x, weight, y, 1, 0, 3).forward(x, weight, y, *statistics)
    exact = F.conv2d(x.double(), weight.double(), groups=3)
    variance, mean = torch.var_mean(exact, dim=(0, 2, 3), correction=0)
    assert torch.allclose(statistics[0].double(), mean, rtol=1e-6)
    assert torch.allclose(statistics[1].double(), variance, rtol=1e-3, atol=0.0)
    assert not statistics[1, 8:16].any()


@pytest.mark.parametrize("storage", DTYPES)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("width", [4, 8, 12, 16])
def test_inf_and_nan_reach_what_they_reach_in_torch(
    width: int, stride: int, storage: torch.dtype, isa: str
) -> None:
    """They stay within their group."""
    x, weight, grad, *numbers = problem(3, 5, (width, width), (9, 12), 3, stride, 1, storage)
    x[0, 2, 0, 0], x[1, width + 1, 4, 6], x[2, -1, 8, 11] = torch.inf, torch.nan, -torch.inf
    # In the middle: torch multiplies the padding with a gradient at the border in places.
    grad[0, 3, 1, 1], grad[1, width + 2, 1, 2], grad[2, -2, 1, 2] = torch.nan, torch.inf, torch.nan
    results = ours(x, weight, grad, *numbers)
    truth = plain(x.double(), weight.double(), grad, *numbers)
    for a, exact in zip(results, truth, strict=False):
        assert torch.equal(a.isfinite(), exact.isfinite())
    mean = truth[0].mean((0, 2, 3))
    assert torch.equal(results[3].isfinite(), mean.isfinite().expand(2, -1))


def test_weights_that_are_not_finite_do_not_meet_the_padding(isa: str) -> None:
    for size in ((5, 7), (4, 4), (2, 2)):
        x, weight, grad, *numbers = problem(5, 3, (8, 8), size, 3, 1, 1)
        weight[4, 0, 0, 0] = torch.inf
        y = ours(x, weight, grad, *numbers)[0]
        assert not y[:, 4, 0].isinf().any()
        assert not y[:, 4, :, 0].isinf().any()
        assert y[:, 4, 1:, 1:].isinf().all()
        assert y[:, :4].isfinite().all()
        assert y[:, 5:].isfinite().all()


@pytest.mark.parametrize("storage", DTYPES)
@pytest.mark.parametrize("width", [4, 8, 12, 32])
@pytest.mark.parametrize("activation", ["none", "relu", "hardswish"])
def test_predictions_are_what_follows_the_convolution(
    activation: str, width: int, storage: torch.dtype, isa: str
) -> None:
    x, weight, grad, *numbers = problem(3, 5, (width, width), (6, 7), 3, 1, 1, storage)
    channels = 5 * width
    mean, var, scale, shift = (values(4, channels, 1, 1, seed=3).flatten(1)[i] for i in range(4))
    norm = Norm(mean, var.square() + 0.5, scale, shift, None, 1e-3, activation)
    y = torch.full_like(grad, torch.nan)
    passes = NhwcKernels.of(x, weight, y, *numbers)
    passes.predict(x, weight, norm, y)
    exact = plain(x.double(), weight.double(), grad, *numbers)[0]
    vectors = (mean, var.square() + 0.5, scale, shift)
    exact = F.batch_norm(exact, *(one.double() for one in vectors), eps=1e-3)
    exact = {"none": lambda y: y, "relu": F.relu, "hardswish": F.hardswish}[activation](exact)
    assert error(y, exact) <= (1e-5 if storage == torch.float32 else 2**-8)


@pytest.mark.parametrize("choice", ["native", "torch"])
@pytest.mark.parametrize("training", [True, False])
def test_the_fused_operator_has_them_with_a_residual(
    training: bool, choice: str, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASFAST_CHOICE", choice)
    x, residual = values(3, 40, 6, 6), values(3, 40, 6, 6, seed=4)
    weight = values(40, 8, 3, 3, seed=1).requires_grad_()
    running = torch.zeros(40), torch.ones(40)
    with torch.set_grad_enabled(training):
        y = conv_bn_act(x, weight, *running, residual=residual, padding=1, groups=5, training=training)
    exact = F.conv2d(x.double(), weight.double(), None, 1, 1, 1, 5)
    statistics = (None, None) if training else (torch.zeros(40).double(), torch.ones(40).double())
    exact = (F.batch_norm(exact, *statistics, training=training) + residual).relu()
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)
    if training:
        [found], [expected] = (torch.autograd.grad(one.square().sum(), weight) for one in (y, exact))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_without_statistics_the_output_is_the_same(isa: str) -> None:
    x, weight, grad, *numbers = problem(3, 5, (8, 8), (9, 9), 3, 1, 1)
    y = torch.empty_like(grad)
    NhwcKernels.of(x, weight, y, *numbers).forward(x, weight, y)
    assert torch.equal(y, ours(x, weight, grad, *numbers)[0])


def test_empty_batches(isa: str) -> None:
    x, weight, result = torch.zeros(0, 16, 4, 4), torch.ones(16, 8, 3, 3), torch.full((18, 8, 3, 3), 2.0)
    statistics = torch.zeros(2, 16)
    passes = NhwcKernels.of(x, weight, x, 1, 1, 2)
    passes.forward(x, weight, torch.zeros_like(x), *statistics)
    passes.grad_input(x, weight, torch.zeros_like(x))
    NhwcKernels.of(x, result, x, 1, 1, 2).grad_weight(x, x, result)
    assert not result[:16].any()
    assert (result[16:] == 2).all()
    assert statistics.isnan().all()


def test_images_without_rows_or_output(isa: str) -> None:
    """Of padding alone the output is zero; what no output reaches has no gradient."""
    for size, out, kernel, padding in (((0, 4), (2, 6), 3, 2), ((2, 4), (0, 0), 5, 0)):
        x, grad, weight = values(2, 16, *size), values(2, 16, *out), values(16, 8, kernel, kernel)
        y, grad_x, grad_weight, _ = ours(x, weight, grad, 1, padding, 2)
        assert not y.any()
        assert not grad_x.any()
        assert not grad_weight.any()


def test_sizes_that_do_not_fit_are_refused() -> None:
    if not compiled.available():
        pytest.skip("lasfast's compiled module is not built")
    x, weight = values(2, 16, 4, 4), torch.ones(16, 8, 3, 3)
    y = values(2, 16, 3, 4)
    for other, numbers, message in (
        (y, (1, 1, 2), "out_height does not follow from the input"),
        (x, (0, 1, 2), "stride must be at least 1"),
        (x, (1, -1, 2), "padding must not be negative"),
        (x, (1, 1, 3), "c_in must be divisible by groups"),
    ):
        with pytest.raises(ValueError, match=message):
            NhwcKernels.of(x, weight, other, *numbers).forward(x, weight, other)
