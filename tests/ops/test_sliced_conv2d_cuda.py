"""Operators that convolve channels_last values on CUDA: its kernels on the host, and on a GPU."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.ops import reference, sliced_conv2d, sliced_conv2d_statistics
from lasfast.ops.sliced_conv2d import Convolution, known_convolution
from lasfast.runtime import autotune, kernels
from lasfast.runtime.precision import fp32_products_as

LAST = torch.channels_last
OPERATORS = importlib.import_module("lasfast.ops.sliced_conv2d")  # a function of the package has its name
CASES = {  # input size, weight size, c_out, stride, padding, groups
    "stem": ((2, 3, 7, 6), (12, 3, 3, 3), 10, 1, 1, 1),
    "slice": ((2, 16, 5, 6), (40, 24, 3, 3), 24, 1, 1, 1),
    "stride 2": ((2, 16, 6, 5), (8, 16, 3, 3), 8, 2, 1, 1),
    "1x1": ((2, 8, 4, 4), (16, 8, 1, 1), 16, 1, 0, 1),
    "depthwise": ((2, 16, 6, 7), (20, 1, 3, 3), 16, 1, 1, 16),
    "depthwise, stride 2": ((2, 11, 6, 7), (11, 1, 5, 5), 11, 2, 2, 11),
}
LARGE = {
    "3x3": ((16, 64, 32, 32), (72, 80, 3, 3), 64, 1, 1, 1),
    "3x3, wide": ((16, 64, 32, 32), (136, 80, 3, 3), 128, 1, 1, 1),
    "3x3, stride 2": ((16, 64, 31, 30), (128, 64, 3, 3), 128, 2, 1, 1),
    "1x1, unaligned": ((16, 58, 15, 14), (58, 58, 1, 1), 58, 1, 0, 1),
    "stem": ((16, 3, 64, 64), (64, 3, 7, 7), 64, 2, 3, 1),
    "depthwise": ((16, 96, 28, 28), (100, 1, 3, 3), 96, 1, 1, 96),
    "depthwise, stride 2": ((16, 58, 28, 27), (58, 1, 5, 5), 58, 2, 2, 58),
}
STORAGES = (torch.float32, torch.bfloat16)


class Work:
    """An operator's arguments; the weight is fp32 and NaN outside its slice."""

    def __init__(self, case: tuple, dtype: torch.dtype, device: str = "cpu") -> None:
        size, weight_size, self.c_out, self.stride, self.padding, self.groups = case
        self.c_in = size[1]
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(size, generator=generator).to(device, dtype, memory_format=LAST)
        self.weight = torch.full(weight_size, torch.nan)
        part = self.part(self.weight)
        part.copy_(torch.randn(part.shape, generator=generator))
        self.weight = self.weight.to(device)
        y = self.plain(self.x, self.weight)
        self.grad = torch.randn(y.shape, generator=generator).to(device, dtype, memory_format=LAST)

    def part(self, weight: Tensor) -> Tensor:
        return weight[: self.c_out, : self.c_in // self.groups]

    def plain(self, x: Tensor, weight: Tensor) -> Tensor:
        active = self.part(weight).to(x.dtype)
        return F.conv2d(x, active, None, self.stride, self.padding, 1, self.groups)

    def ours(self, x: Tensor, weight: Tensor) -> Tensor:
        return sliced_conv2d(x, weight, self.c_in, self.c_out, self.stride, self.padding, self.groups)

    def run(self, conv, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Output, and gradients of input and weight."""
        x = self.x.to(dtype or self.x.dtype).detach().requires_grad_()
        weight = self.weight.to(dtype or self.weight.dtype).detach().requires_grad_()
        y = conv(x, weight)
        return [y.detach(), *torch.autograd.grad(y, (x, weight), self.grad.to(y.dtype))]

    def check(self) -> list[Tensor]:
        ours, theirs = self.run(self.ours), self.run(self.plain)
        truth = self.run(self.plain, torch.float64)
        outside = ours[2].clone()
        self.part(outside).zero_()
        assert not outside.any()
        for a, b, exact in zip(ours, theirs, truth, strict=True):
            bound = 1e-5 if self.x.dtype == torch.float32 else 2 * error(b, exact) + 1e-4
            assert error(a, exact) <= bound
        assert ours[0].is_contiguous(memory_format=LAST)
        assert ours[2].dtype == torch.float32
        return ours


def error(a: Tensor, truth: Tensor) -> float:
    return float((a.double() - truth).norm() / truth.norm())


@pytest.fixture
def native_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's passes, which would do as well, are not there."""

    def never(*arguments: object) -> None:
        raise AssertionError("PyTorch was asked")

    for name in ("sliced_conv2d", "sliced_conv2d_grad_input", "sliced_conv2d_grad_weight"):
        monkeypatch.setattr(reference, name, never)


@pytest.mark.parametrize("dtype", STORAGES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_emulated_operators_agree_with_torch(
    emulated_place: ModuleType, native_only: None, name: str, dtype: torch.dtype
) -> None:
    Work(CASES[name], dtype).check()


def test_emulated_warpgroups_are_one_more_way(
    emulated_place: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of bf16, of more than 32 channels."""
    original, asked = autotune.fastest, []

    def fastest(key: str, device: torch.device, ways: dict, *more: object) -> str:
        asked.append((key.split()[1], "warpgroups" in ways))
        return original(key, device, ways, *more)

    monkeypatch.setattr(autotune, "fastest", fastest)
    known_convolution.cache_clear()  # each keeps what it has chosen
    case = ((2, 40, 5, 6), (48, 48, 3, 3), 48, 1, 1, 1)
    results = []
    for wanted in ("torch", "warpgroups"):
        monkeypatch.setenv("LASFAST_CHOICE", wanted)
        work = Work(case, torch.bfloat16)
        results.append(work.check())
        y, mean, _ = sliced_conv2d_statistics(work.x, work.weight, 40, 48, 1, 1, 1)
        assert torch.equal(y, results[-1][0])
        torch.testing.assert_close(mean, y.float().mean((0, 2, 3)), rtol=1e-2, atol=1e-2)
    assert set(asked) == {("forward", True), ("grad_input", True), ("grad_weight", True)}
    asked.clear()
    Work(case, torch.float32).check()
    assert not any(offered for _, offered in asked)


@pytest.mark.parametrize("name", ["slice", "depthwise, stride 2"])
def test_emulated_operators_take_any_strides(
    emulated_place: ModuleType, native_only: None, name: str
) -> None:
    work = Work(CASES[name], torch.float32)
    work.x, work.grad = work.x.contiguous(), work.grad.contiguous()
    ours = work.run(work.ours)
    for a, exact in zip(ours, work.run(work.plain, torch.float64), strict=True):
        assert error(a, exact) <= 1e-5
    assert ours[0].is_contiguous()


@pytest.mark.parametrize("name", ["slice", "depthwise, stride 2"])
def test_emulated_statistics(emulated_place: ModuleType, native_only: None, name: str) -> None:
    work = Work(CASES[name], torch.bfloat16)
    numbers = (work.c_in, work.c_out, work.stride, work.padding, work.groups)
    y, mean, var = sliced_conv2d_statistics(work.x, work.weight, *numbers)
    assert torch.equal(y, work.ours(work.x, work.weight))
    rounded = work.weight.to(torch.float32 if work.groups > 1 else torch.bfloat16)
    truth = work.plain(work.x.double(), rounded.double())
    exact_var, exact_mean = torch.var_mean(truth, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["slice", "depthwise"])
def test_emulated_gradients_in_one_call(emulated_place: ModuleType, name: str) -> None:
    work = Work(CASES[name], torch.bfloat16)
    convolution = find(work)
    grad_input, grad_weight = convolution.gradients(work.grad, work.x, work.weight, True, True)
    _, of_input, of_weight = work.run(work.ours)
    assert grad_input is not None
    assert grad_weight is not None
    assert torch.equal(grad_input, of_input)
    assert torch.equal(grad_weight, of_weight)


def find(work: Work) -> Convolution:
    numbers = (work.c_in, work.c_out, work.stride, work.padding, work.groups)
    found: Convolution = OPERATORS.find(work.x, work.weight, *numbers)
    return found


def test_emulated_tf32(emulated_place: ModuleType) -> None:
    work = Work(CASES["slice"], torch.float32)
    results = []
    for products in ("tf32", "exact"):
        with fp32_products_as(products):
            results.append(work.ours(work.x, work.weight))
    truth = work.plain(work.x.double(), work.weight.double())
    assert error(results[1], truth) < 1e-6 < 1e-5 < error(results[0], truth) < 1e-3


def test_what_is_unknown_while_a_graph_is_recorded_stays_unknown(
    emulated_place: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then lasfast's kernels run, and what is faster is measured afterwards."""
    asked: list[bool] = []
    work = Work(CASES["1x1"], torch.float32)
    monkeypatch.setenv("LASFAST_CHOICE", "measure")
    known_convolution.cache_clear()
    convolution = find(work)

    def fastest(key: str, device: torch.device, ways: dict) -> str:
        asked.append(autotune.is_capturing(device))
        return "native" if asked[-1] else "torch"

    monkeypatch.setattr(autotune, "fastest", fastest)
    for capturing in (True, True, False, False, True):
        monkeypatch.setattr(autotune, "is_capturing", lambda device, capturing=capturing: capturing)
        convolution.forward(work.x, work.weight)
    assert asked == [True, True, False]
    assert convolution._fastest_ways == {"forward": "torch"}
    known_convolution.cache_clear()


# ---- on a GPU


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", STORAGES, ids=str)
@pytest.mark.parametrize("name", LARGE)
def test_gpu_agrees_with_float64_and_repeats_its_bits(
    native_only: None, name: str, dtype: torch.dtype
) -> None:
    work = Work(LARGE[name], dtype, "cuda")
    first, second = work.check(), work.run(work.ours)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["3x3", "3x3, wide", "3x3, stride 2"])
def test_gpu_warpgroups(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if not kernels.has_warpgroups(torch.device("cuda")):
        pytest.skip("this GPU has no warpgroups")
    """Which may round sums otherwise than warps, once."""
    work = Work(LARGE[name], torch.bfloat16, "cuda")
    by_warps = work.check()
    monkeypatch.setenv("LASFAST_CHOICE", "warpgroups")
    first, second = work.check(), work.run(work.ours)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for a, b in zip(first, by_warps, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


@pytest.mark.cuda
def test_gpu_tf32_is_used_where_it_may_be() -> None:
    work = Work(LARGE["3x3"], torch.float32, "cuda")
    truth = work.run(work.plain, torch.float64)
    with fp32_products_as("tf32"):
        ours = work.run(work.ours)
    for a, right in zip(ours, truth, strict=True):
        assert 1e-5 < error(a, right) < 1e-3


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["3x3", "depthwise, stride 2"])
def test_gpu_passes_are_recorded_in_a_graph(native_only: None, name: str) -> None:
    work = Work(LARGE[name], torch.bfloat16, "cuda")
    expected = work.run(work.ours)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work.run(work.ours)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work.run(work.ours)
    for one in results:
        one.zero_()
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.cuda
def test_gpu_statistics(native_only: None) -> None:
    work = Work(LARGE["3x3"], torch.float32, "cuda")
    numbers = (work.c_in, work.c_out, work.stride, work.padding, work.groups)
    _, mean, var = sliced_conv2d_statistics(work.x, work.weight, *numbers)
    truth = work.plain(work.x.double(), work.weight.double())
    exact_var, exact_mean = torch.var_mean(truth, (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-4, atol=1e-5)
