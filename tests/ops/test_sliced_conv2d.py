"""The operator against F.conv2d on the same slice, on every instruction set this machine has."""

from __future__ import annotations

import logging
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lasfast.ops import sliced_conv2d
from lasfast.ops.sliced_conv2d import StridedKernels, find
from lasfast.runtime import compiled, kernels

cuda_only = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def plain(x: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int) -> Tensor:
    return F.conv2d(x, weight[:c_out, : c_in // groups], None, stride, padding, 1, groups)


def with_gradients(conv, x: Tensor, weight: Tensor, grad: Tensor, *numbers: int) -> list[Tensor]:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = conv(x, weight, *numbers)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad.to(y.dtype))]


def layout(tensor: Tensor, how: str) -> Tensor:
    """The same values, laid out in memory in another way."""
    if how == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if how == "reversed axes":
        return tensor.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    if how == "every other":
        wide = torch.full((*tensor.shape[:3], 2 * tensor.shape[3]), torch.nan, dtype=tensor.dtype)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    return tensor


LAYOUTS = ("contiguous", "channels_last", "reversed axes", "every other")


@st.composite
def problems(draw: st.DrawFn):
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    if draw(st.integers(0, 5)) == 0:
        groups = c_in = c_out = draw(st.integers(1, 19))
    else:
        c_in, c_out = groups * draw(st.integers(1, 9)), groups * draw(st.integers(1, 18))
    kernel = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    stride, padding = draw(st.integers(1, 4)), draw(st.integers(0, 4))
    size = tuple(draw(st.integers(max(1, k - 2 * padding), 23)) for k in kernel)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(draw(st.integers(0, 5)), c_in, *size, generator=generator)
    weight = torch.full(
        (c_out + draw(st.integers(0, 3)), c_in // groups + draw(st.integers(0, 3)), *kernel), torch.nan
    )
    weight[:c_out, : c_in // groups] = torch.randn(c_out, c_in // groups, *kernel, generator=generator)
    how = draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(LAYOUTS))
    numbers = c_in, c_out, stride, padding, groups
    grad = torch.randn(plain(x, weight, *numbers).shape, generator=generator)
    return layout(x, how[0]), layout(weight, how[1]), layout(grad, how[2]), numbers


def relative_error(a: Tensor, truth: Tensor) -> float:
    return float((a.double() - truth).norm() / truth.norm().clamp_min(1e-30))


def test_any_shape_stride_and_layout_agrees_with_torch(isa: str) -> None:
    """Everything outside the slice is NaN, so that reading it would show."""

    @settings(max_examples=60, deadline=None)
    @given(problem=problems())
    def check(problem) -> None:
        x, weight, grad, numbers = problem
        ours = with_gradients(sliced_conv2d, x, weight, grad, *numbers)
        theirs = with_gradients(plain, x, weight, grad, *numbers)
        truth = with_gradients(plain, x.double(), weight.double(), grad, *numbers)
        for a, b, exact in zip(ours, theirs, truth, strict=True):
            assert a.shape == exact.shape
            assert relative_error(a, exact) <= 2 * relative_error(b, exact) + 1e-6
        c_in, c_out, *_, groups = numbers
        outside = ours[2].clone()
        outside[:c_out, : c_in // groups] = 0
        assert not outside.any()

    check()


# Work that three threads share (csrc/cpu/threads.h), but for the last.
CASES = {  # input size, weight size, c_out, stride, padding, groups
    "3x3": ((4, 20, 17, 19), (40, 24, 3, 3), 37, 1, 1, 1),
    "stride 2": ((20, 8, 15, 16), (16, 8, 3, 3), 16, 2, 1, 1),
    "1x1": ((50, 33, 7, 7), (18, 40, 1, 1), 18, 1, 0, 1),
    "depthwise": ((24, 21, 12, 30), (32, 1, 3, 3), 21, 1, 1, 21),
    "bands": ((1, 64, 60, 70), (9, 64, 3, 3), 9, 1, 1, 1),
    "many images": ((70, 16, 16, 16), (16, 16, 3, 3), 16, 1, 1, 1),
    "kernel under stride": ((2, 3, 9, 11), (5, 3, 1, 2), 5, 3, 0, 1),
}


def case(name: str) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...]]:
    size, weight_size, c_out, stride, padding, groups = CASES[name]
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(size, generator=generator), torch.randn(weight_size, generator=generator)
    numbers = (size[1], c_out, stride, padding, groups)
    return x, weight, torch.randn(plain(x, weight, *numbers).shape, generator=generator), numbers


@pytest.mark.parametrize("name", CASES)
def test_same_bits_whatever_the_threads(name: str, isa: str) -> None:
    x, weight, grad, numbers = case(name)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append(with_gradients(sliced_conv2d, x, weight, grad, *numbers))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    truth = with_gradients(plain, x.double(), weight.double(), grad, *numbers)
    assert all(relative_error(a, b) < 2e-6 for a, b in zip(results[0], truth, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_an_image_does_not_depend_on_its_batch(name: str, isa: str) -> None:
    x, weight, grad, numbers = case(name)
    y, grad_x, _ = with_gradients(sliced_conv2d, x, weight, grad, *numbers)
    last = with_gradients(sliced_conv2d, x[-1:], weight, grad[-1:], *numbers)
    assert torch.equal(y[-1:], last[0])
    assert torch.equal(grad_x[-1:], last[1])


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("where", ["input", "weight"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [11, 32])
def test_inf_and_nan_go_where_torch_lets_them_go(
    value: float, where: str, stride: int, width: int, isa: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=generator) for s in ((2, 3, 10, width), (4, 3, 3, 3)))
    (x if where == "input" else weight)[0, 1, 2, 0] = value
    numbers = (3, 4, stride, 1, 1)
    grad = torch.randn(plain(x, weight, *numbers).shape, generator=generator)
    ours = with_gradients(sliced_conv2d, x, weight, grad, *numbers)
    theirs = with_gradients(skipping_padding, x.double(), weight.double(), grad, *numbers)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5, equal_nan=True)
    finite = [bool(a.isfinite().all()) for a in ours]
    assert finite == [False, where == "input", where == "weight"]


def skipping_padding(
    x: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> Tensor:
    """One product per tap and position it reaches: weights meet no padding, as in torch's fp32 default."""
    height, width = (
        (s + 2 * padding - k) // stride + 1 for s, k in zip(x.shape[2:], weight.shape[2:], strict=True)
    )
    y = x.new_zeros(x.shape[0], c_out, height, width)
    for r in range(weight.shape[2]):
        for s in range(weight.shape[3]):
            rows = [i for i in range(height) if 0 <= i * stride + r - padding < x.shape[2]]
            cols = [i for i in range(width) if 0 <= i * stride + s - padding < x.shape[3]]
            y0, x0 = rows[0] * stride + r - padding, cols[0] * stride + s - padding
            seen = x[:, :, y0 : y0 + len(rows) * stride : stride, x0 : x0 + len(cols) * stride : stride]
            terms = (seen[:, None] * weight[None, :, :, r, s, None, None]).sum(2)
            inside = F.pad(terms, (cols[0], width - 1 - cols[-1], rows[0], height - 1 - rows[-1]))
            y = y + inside
    return y


def test_results_are_channels_last_where_inputs_are() -> None:
    x, weight, _, numbers = case("3x3")
    last = layout(x, "channels_last").requires_grad_()
    y = sliced_conv2d(last, weight, *numbers)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert sliced_conv2d(x, weight, *numbers).is_contiguous()
    assert sliced_conv2d(last.double(), weight.double(), *numbers).stride() == y.stride()
    (grad,) = torch.autograd.grad(y, last, torch.ones_like(y))
    assert grad.stride() == last.stride()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_go_through_torch(dtype: torch.dtype) -> None:
    x, weight, _, numbers = case("stride 2")
    x, weight = x.to(dtype), weight.to(dtype)
    assert torch.equal(sliced_conv2d(x, weight, *numbers), plain(x, weight, *numbers))


@pytest.mark.filterwarnings("ignore:.*lru_cache.*:UserWarning")
def test_compiles_without_a_graph_break() -> None:
    x, weight, grad, numbers = case("3x3")
    compiled = torch.compile(sliced_conv2d, backend="aot_eager", fullgraph=True)
    ours = with_gradients(compiled, x, weight, grad, *numbers)
    theirs = with_gradients(sliced_conv2d, x, weight, grad, *numbers)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_autocast_casts_both_tensors() -> None:
    x, weight, _, numbers = case("3x3")
    with torch.autocast("cpu", torch.bfloat16):
        y = sliced_conv2d(x, weight, *numbers)
        assert torch.equal(y, plain(x, weight, *numbers))
    assert y.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(dtype: torch.dtype, channels_last: bool) -> None:
    x = torch.randn(2, 4, 6, 5, dtype=dtype)
    if channels_last:
        x = layout(x, "channels_last")
    weight = torch.randn(9, 3, 3, 2, dtype=dtype, requires_grad=True)
    grad = torch.randn(2, 6, 3, 3, dtype=dtype, requires_grad=True)
    ops = torch.ops.lasfast
    torch.library.opcheck(ops.sliced_conv2d, (x.requires_grad_(), weight, 4, 6, 2, 1, 2))
    torch.library.opcheck(ops.sliced_conv2d_grad_input, (grad, weight, 4, 6, 5, 2, 1, 2))
    torch.library.opcheck(ops.sliced_conv2d_grad_weight, (grad, x, weight, 2, 1, 2))


@pytest.mark.parametrize(
    ("size", "weight_size", "numbers"),
    [
        ((2, 2, 4, 3), (3, 3, 3, 2), (2, 2, 1, 1, 1)),
        ((1, 4, 4, 5), (5, 2, 2, 3), (4, 2, 2, 1, 2)),
        ((1, 3, 3, 4), (4, 1, 3, 3), (3, 3, 1, 1, 3)),
    ],
)
def test_gradients_of_gradients(size, weight_size, numbers) -> None:
    torch.manual_seed(0)
    x = torch.randn(size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(weight_size, dtype=torch.float64, requires_grad=True)

    def conv(x: Tensor, weight: Tensor) -> Tensor:
        return sliced_conv2d(x, weight, *numbers)

    assert torch.autograd.gradcheck(conv, (x, weight))
    assert torch.autograd.gradgradcheck(conv, (x, weight), fast_mode=True)


def test_computes_only_the_gradients_asked_for() -> None:
    x, weight, grad, numbers = case("stride 2")
    both = with_gradients(sliced_conv2d, x, weight, grad, *numbers)
    for index, tensors in (
        (1, (x.clone().requires_grad_(), weight)),
        (2, (x, weight.clone().requires_grad_())),
    ):
        sliced_conv2d(*tensors, *numbers).backward(grad)
        assert torch.equal(tensors[index - 1].grad, both[index])
        assert tensors[2 - index].grad is None


def test_a_batch_of_nothing() -> None:
    x, weight = torch.zeros(0, 3, 5, 5, requires_grad=True), torch.ones(4, 3, 3, 3, requires_grad=True)
    y = sliced_conv2d(x, weight, 3, 2, 1, 1)
    y.sum().backward()
    assert y.shape == (0, 2, 5, 5)
    assert x.grad.shape == x.shape
    assert not weight.grad.any()


X, W = torch.zeros(2, 4, 5, 5), torch.zeros(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((None, W, 4, 6), TypeError, r"input must be a tensor \[N, .*, got a NoneType"),
        ((X, [1.0], 4, 6), TypeError, r"weight must be a tensor \[C_out, .*, got a list"),
        ((X, W, 4.0, 6), TypeError, "c_in must be an int, got 4.0"),
        ((X, W, 4, 6, 1.5), TypeError, "stride must be an int, got 1.5"),
        ((X[0], W, 4, 6), ValueError, r"input must have 4 dimensions .*, got shape \(4, 5, 5\)"),
        ((X, W[0], 4, 6), ValueError, r"weight must have 4 dimensions .*, got shape \(4, 3, 3\)"),
        ((X.long(), W, 4, 6), TypeError, "input must have a floating-point dtype, got torch.int64"),
        (
            (X, W.double(), 4, 6),
            TypeError,
            "weight must have the dtype torch.float32 of .*, got torch.float64",
        ),
        ((X, W.to("meta"), 4, 6), ValueError, "weight must be on cpu as the other tensor is, got meta"),
        ((X, W, 3, 6), ValueError, r"c_in must be the 4 channels of input \(2, 4, 5, 5\), got 3"),
        ((X, W, 0, 6), ValueError, "c_in must be at least 1, got 0"),
        ((X, W, 4, 0), ValueError, "c_out must be at least 1, got 0"),
        ((X, W, 4, 7), ValueError, "c_out must be at most the 6 filters of weight, got 7"),
        (
            (X, W[:, :3], 4, 6),
            ValueError,
            r"c_in must be at most 3: 1 groups of the 3 input channels .*, got 4",
        ),
        ((X, W, 4, 6, 0), ValueError, "stride must be at least 1, got 0"),
        ((X, W, 4, 6, 1, -1), ValueError, "padding must be at least 0, got -1"),
        ((X, W, 4, 6, 1, 0, 0), ValueError, "groups must be at least 1, got 0"),
        ((X, W, 4, 6, 1, 0, 3), ValueError, "c_in must be a multiple of groups=3, got 4"),
        ((X, W, 4, 5, 1, 0, 2), ValueError, "c_out must be a multiple of groups=2, got 5"),
        (
            (X[:, :, :2], W, 4, 6),
            ValueError,
            "input must have room for the kernel of height 3, got height 2 and padding 0",
        ),
        ((X[..., :0], W, 4, 6, 1, 1), ValueError, "input must have room .*, got width 0 and padding 1"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        sliced_conv2d(*arguments)


def test_without_the_compiled_module_torch_runs_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled, "_C", None)
    kernels._warn_once.cache_clear()
    x, weight, _, numbers = case("3x3")
    with caplog.at_level(logging.WARNING, "lasfast"):
        results = [sliced_conv2d(x, weight, *numbers) for _ in range(2)]
    assert [r.message for r in caplog.records] == [
        "lasfast's compiled module is missing; using PyTorch's operators (lasfast info says why)"
    ]
    assert all(torch.equal(r, plain(x, weight, *numbers)) for r in results)
    kernels._warn_once.cache_clear()


def test_it_is_the_native_kernel_that_was_tested() -> None:
    if not compiled.available():
        pytest.skip("lasfast's compiled module is not built")
    assert isinstance(find(X, W, 4, 6, 1, 0, 1)._kernels["forward"], StridedKernels)
    assert not find(X.double(), W.double(), 4, 6, 1, 0, 1)._kernels
    assert not find(X.to("meta"), W.to("meta"), 4, 6, 1, 0, 1)._kernels


def emulate(module: ModuleType, x: Tensor, weight: Tensor, grad: Tensor, *numbers: int) -> list[Tensor]:
    """What the CUDA kernels make of it on the host: output and both gradients."""
    _, c_out, stride, padding, groups = numbers
    results = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) for t in (grad, x, weight)]
    for result, fill in zip(results, (torch.nan, torch.nan, 0), strict=True):
        result.fill_(fill)
    for which, operands, result in (
        ("forward", (x, weight), results[0]),
        ("grad_input", (grad, weight), results[1]),
        ("grad_weight", (grad, x), results[2]),
    ):
        params = module.SlicedConv2dParams(
            (x.shape[0], groups), x.shape[1:], (c_out, *grad.shape[2:]), weight.shape[2:], stride, padding,
            x.stride(), weight.stride(), grad.stride(),
        )  # fmt: skip
        size = module.sliced_conv2d_workspace_cuda(params, getattr(module.Pass, which))
        workspace = torch.full((size,), 255, dtype=torch.uint8)
        run = getattr(module, f"sliced_conv2d_{which}_cuda")
        dtype = int(x.dtype == torch.bfloat16)
        addresses = [t.data_ptr() for t in (*operands, workspace)]
        run(params, dtype, *addresses, 0, 0, result.data_ptr())
    return results


@pytest.mark.parametrize("name", ["stride 2", "1x1", "kernel under stride", "depthwise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_emulated_cuda_agrees(name: str, dtype: torch.dtype, emulated: ModuleType) -> None:
    x, weight, grad, numbers = case(name)
    x, weight, grad = (t.to(dtype) for t in (x, weight, grad))
    truth = with_gradients(plain, x.double(), weight.double(), grad, *numbers)
    bound = 2e-6 if dtype == torch.float32 else 3e-3
    for ours, exact in zip(emulate(emulated, x, weight, grad, *numbers), truth, strict=True):
        assert relative_error(ours, exact) <= bound


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problem=problems())
def test_emulated_cuda_takes_any_shape_stride_and_layout(emulated: ModuleType, problem) -> None:
    x, weight, grad, numbers = problem
    truth = with_gradients(plain, x.double(), weight.double(), grad, *numbers)
    for ours, exact in zip(emulate(emulated, x, weight, grad, *numbers), truth, strict=True):
        assert relative_error(ours, exact) <= 3e-6


@pytest.mark.cuda
@cuda_only
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_agrees_with_the_truth_as_torch_does(name: str, dtype: torch.dtype) -> None:
    x, weight, grad, numbers = case(name)
    x, weight, grad = (t.cuda().to(dtype) for t in (x, weight, grad))
    if not kernels.usable_for(x):
        pytest.skip("lasfast has no CUDA kernels for this GPU")
    truth = with_gradients(plain, x.double(), weight.double(), grad, *numbers)
    theirs = with_gradients(plain, x, weight, grad, *numbers)
    ours = with_gradients(sliced_conv2d, x, weight, grad, *numbers)
    again = with_gradients(sliced_conv2d, x, weight, grad, *numbers)
    slack = 1e-6 if dtype == torch.float32 else 2e-3
    for a, b, exact, repeated in zip(ours, theirs, truth, again, strict=True):
        assert relative_error(a, exact) <= 2 * relative_error(b, exact) + slack
        assert torch.equal(a, repeated)


@pytest.mark.cuda
@cuda_only
def test_cuda_refuses_tensors_of_two_devices() -> None:
    with pytest.raises(ValueError, match="weight must be on cuda:0 as the other tensor is, got cpu"):
        sliced_conv2d(X.cuda(), W, 4, 6)
