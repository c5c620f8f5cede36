"""CUDA's depthwise passes on channels_last values, on the host: against torch, as the CPU's are."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from lasfast.ops.sliced_conv2d_kernels import NhwcKernels
from tests.ops.test_depthwise_nhwc import DTYPES, LAST, check, ours, plain, problem, problems, values

pytestmark = pytest.mark.usefixtures("one_thread")
CASES = [  # batch, channels, size, kernel, stride, padding
    *((2, 16, (6, 7), k, s, k // 2) for k in (3, 5, 7) for s in (1, 2)),
    *((1, 10, (7, 6), k, s, k // 2) for k in (3, 5, 7) for s in (1, 2)),
    (1, 58, (4, 5), 5, 3, 2),
    (2, 5, (6, 7), 3, 1, 1),
    (2, 17, (5, 6), 3, 2, 1),
    (1, 40, (6, 5), 5, 1, 0),
    (1, 1, (5, 4), 7, 2, 3),
    (2, 8, (4, 4), 1, 1, 0),
    (2, 24, (5, 5), 2, 2, 0),
    (1, 8, (7, 9), 4, 3, 2),
    (1, 8, (5, 6), 3, 3, 1),
    (2, 8, (3, 2), 3, 1, 4),  # padding beyond the kernel
    (1, 72, (1, 1), 3, 1, 1),
    (1, 3, (12, 11), 11, 1, 5),  # more taps than threads of a channel
    (1, 72, (4, 3), 11, 2, 5),
    (3, 8, (21, 20), 3, 1, 1),  # several tiles, and parts of positions
    (2, 136, (9, 9), 3, 2, 1),
]


@pytest.mark.parametrize("storage", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_emulated_agrees_with_torch(
    emulated_place: ModuleType, case: tuple[int, ...], storage: torch.dtype
) -> None:
    weight_dtype = torch.bfloat16 if case[1] == 24 else torch.float32
    check(*problem(*case, storage, weight_dtype))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=problems())
def test_emulated_takes_any_shape(emulated_place: ModuleType, case: tuple) -> None:
    check(*case)


def test_emulated_values_that_are_not_aligned(emulated_place: ModuleType) -> None:
    x, weight, grad, *numbers = problem(2, 16, (5, 6), 3, 1, 1, torch.bfloat16)
    for by in (1, 2):
        check(shift(x, by), weight, shift(grad, by), *numbers)
        check(x, weight, shift(grad, by), *numbers)


def shift(tensor: Tensor, by: int) -> Tensor:
    """The same values in channels_last, not aligned to 16 bytes."""
    n, c, h, w = tensor.shape
    memory = torch.empty(tensor.numel() + by, dtype=tensor.dtype)
    return memory[by:].view(n, h, w, c).permute(0, 3, 1, 2).copy_(tensor)


@pytest.mark.parametrize("case", [CASES[0], CASES[7], CASES[-1]], ids=str)
def test_both_thread_orders_give_the_same_bits(emulated_place: ModuleType, case: tuple[int, ...]) -> None:
    results = []
    for reverse in (False, True):
        emulated_place.set_reversed(reverse)
        results.append(ours(*problem(*case, torch.bfloat16)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_emulated_blocks_of_many_tiles(emulated_place: ModuleType) -> None:
    """Of a large chip's blocks, each has several tiles: more values than are needed elsewhere."""
    x, weight, grad, *numbers = problem(5, 8, (470, 471), 3, 1, 1)
    y, statistics = torch.full_like(grad, torch.nan), torch.empty(2, 8)
    NhwcKernels.of(x, weight, y, *numbers, 8).forward(x, weight, y, *statistics)
    exact = plain(x, weight, grad, *numbers)[0]
    assert torch.allclose(y, exact, rtol=1e-4, atol=1e-4)
    variance, mean = torch.var_mean(exact.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(statistics.double(), torch.stack([mean, variance]), rtol=1e-5, atol=1e-6)


def test_emulated_statistics_do_not_cancel(emulated_place: ModuleType) -> None:
    x = values(3, 17, 5, 7) + 1000.0
    x[:, 3] = 7.0
    weight = torch.ones(17, 1, 1, 1)
    y, statistics = torch.empty_like(x), torch.empty(2, 17)
    NhwcKernels.of(x, weight, y, 1, 0, 17).forward(x, weight, y, *statistics)
    variance, mean = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0)
    assert torch.allclose(statistics[0].double(), mean, rtol=1e-6)
    assert torch.allclose(statistics[1].double(), variance, rtol=1e-4, atol=0.0)
    assert statistics[1, 3] == 0


@pytest.mark.parametrize("channels", [16, 17])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_emulated_inf_and_nan_reach_what_they_reach_in_torch(
    emulated_place: ModuleType, stride: int, channels: int
) -> None:
    x, weight, grad, *numbers = problem(3, channels, (9, 12), 3, stride, 1)
    x[0, 2, 0, 0], x[1, 5, 4, 6], x[2, 15, 8, 11] = torch.inf, torch.nan, -torch.inf
    grad[0, 3, 0, 0], grad[1, 6, 1, 2], grad[2, 14, 2, 3] = torch.nan, torch.inf, torch.nan
    weight[8, 0, 0, 0] = torch.inf
    results, truth = ours(x, weight, grad, *numbers), plain(x, weight, grad, *numbers)
    for a, exact in zip(results, truth, strict=False):
        assert torch.equal(a.isnan(), exact.isnan())
        assert torch.equal(a.isposinf(), exact.isposinf())
        assert torch.equal(a.isneginf(), exact.isneginf())
    finite = truth[0].isfinite().all(3).all(2).all(0)
    assert torch.equal(results[3].isfinite().all(0), finite)


def test_emulated_empty_batches_and_channels(emulated_place: ModuleType) -> None:
    for size in ((0, 5, 4, 4), (3, 0, 4, 4)):
        x, weight = torch.zeros(size), torch.ones(5, 1, 3, 3)
        result, statistics = torch.full((5, 1, 3, 3), 2.0), torch.zeros(2, size[1])
        passes = NhwcKernels.of(x, weight, x, 1, 1, size[1])
        passes.forward(x, weight, torch.zeros(size), *statistics)
        passes.grad_input(x, weight, torch.zeros(size))
        passes.grad_weight(x, x, result)
        assert not result[: size[1]].any()
        assert (result[size[1] :] == 2).all()
        assert statistics.isnan().all()


def test_what_cannot_be_run_is_left_to_others(emulated_place: ModuleType) -> None:
    x = values(1, 8, 13, 13)
    y = values(1, 8, 2, 2)
    assert not NhwcKernels.of(x, torch.ones(8, 1, 12, 12), y, 1, 0, 8).has("forward")
    with pytest.raises(ValueError, match="out_height"):
        NhwcKernels.of(x, torch.ones(8, 1, 3, 3), y, 1, 0, 8)
    y = values(1, 8, 13, 13).contiguous(memory_format=LAST)
    params = emulated_place.DepthwiseNhwcParams((1, 8), (13, 13), (13, 13), 3, 1, 1, (9, 3, 1), 0, 0)
    with pytest.raises(RuntimeError, match="no device of this number"):
        emulated_place.depthwise_nhwc_grad_input_cuda(params, 0, 0, 0, 1, 0, 0)
