"""Operators whose batch is spread over ranks, here threads of one process, against the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from lasfast.ops import bn_act, bn_act_kernels, conv_bn_act
from lasfast.ops.bn_act_schema import BnActInputs
from lasfast.ops.process_ranks import merge_statistics
from lasfast.runtime import compiled

pytestmark = pytest.mark.usefixtures("one_thread")
LAST = torch.channels_last
ROWS = (slice(0, 3), slice(3, 5), slice(5, 6))


class Threads:
    """As many ranks as there are slices in ROWS."""

    size = len(ROWS)

    def __init__(self) -> None:
        self._barrier = Barrier(self.size, timeout=20)
        self._shown: list[Any] = [None] * self.size
        self._own = local()

    def stack(self, tensor: Tensor) -> Tensor:
        self._shown[self._own.rank] = tensor
        self._barrier.wait()
        result = torch.stack(self._shown)
        self._barrier.wait()
        return result

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            tensor.copy_(self.stack(tensor).sum(0))

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        """What `work` gives on each rank."""

        def on(rank: int) -> Any:
            self._own.rank = rank
            try:
                return work(rank)
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(on, range(self.size)))


class Alone:
    """A rank that has nobody, but is not told so."""

    size = 2

    def stack(self, tensor: Tensor) -> Tensor:
        return tensor[None]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        pass


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CHANNELS, KERNEL = 12, (12, 5, 3, 3)


def run(
    function: Callable[..., Tensor], dtype: torch.dtype, rows: slice, ranks: Threads | None, fused: bool
) -> list[Tensor]:
    """[y, running_mean, running_var, gradients of x, residual, the norm's weight and bias, the kernel]."""
    parameters = torch.float64 if dtype == torch.float64 else torch.float32

    def leaf(values: Tensor, to: torch.dtype) -> Tensor:
        return values.to(to).detach().clone().requires_grad_()

    x = draw(6, KERNEL[1] if fused else CHANNELS, 4, 5)[rows] * 1.5 + 20
    x = leaf(x.contiguous(memory_format=LAST), dtype)
    residual = leaf(draw(6, 7, 4, 5, seed=1)[rows].contiguous(memory_format=LAST), dtype)
    weight, bias, kernel = (
        leaf(draw(*size, seed=seed), parameters)
        for seed, size in enumerate([(CHANNELS,), (CHANNELS,), KERNEL], start=2)
    )
    running = torch.zeros(CHANNELS, dtype=parameters), torch.ones(CHANNELS, dtype=parameters)
    inputs = (x, kernel) if fused else (x,)
    keywords = {"padding": 1} if fused else {}
    y = function(*inputs, *running, weight, bias, residual, training=True, ranks=ranks, **keywords)
    grad = draw(6, CHANNELS, 4, 5, seed=9)[rows].to(dtype)
    leaves = (x, residual, weight, bias, *([kernel] if fused else []))
    return [y.detach(), *running, *torch.autograd.grad(y, leaves, grad)]


def check(dtype: torch.dtype, fused: bool, bound: float) -> None:
    """The rows' results together are those of the whole batch; so are the parameters' gradients in sum."""
    function = conv_bn_act if fused else bn_act
    truth = run(function, torch.float64, slice(0, 6), None, fused)
    ranks = Threads()
    every = ranks.run(lambda rank: run(function, dtype, ROWS[rank], ranks, fused))
    for number, exact in enumerate(truth):
        parts = [results[number].double() for results in every]
        if number in (1, 2):
            assert all(torch.equal(part, parts[0]) for part in parts)  # equal bits on all ranks
            ours = parts[0]
        else:
            ours = torch.cat(parts) if number in (0, 3, 4) else torch.stack(parts).sum(0)
        assert (ours - exact).norm() <= bound * exact.norm(), number


BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_ranks_compute_what_one_process_does(dtype: torch.dtype, fused: bool) -> None:
    check(dtype, fused, BOUNDS[dtype])


def test_in_bfloat16_a_values_rounding_may_cross_the_kink_of_relu() -> None:
    """Of x near 20, bf16 keeps an eighth; judged against one process, which rounds the same values."""
    whole = run(bn_act, torch.bfloat16, slice(0, 6), None, False)
    ranks = Threads()
    every = ranks.run(lambda rank: run(bn_act, torch.bfloat16, ROWS[rank], ranks, False))
    for number, expected in enumerate(whole):
        parts = [results[number].float() for results in every]
        ours = parts[0] if number in (1, 2) else torch.cat(parts)
        if number >= 5:
            ours = torch.stack(parts).sum(0)
        assert (ours - expected.float()).norm() <= 4e-3 * expected.float().norm(), number


def test_on_cuda_too(emulated_place: ModuleType) -> None:
    check(torch.float32, False, BOUNDS[torch.float32])


def gradients(ranks: Alone | None, dtype: torch.dtype, missing: int, wanted: Sequence[bool]) -> list:
    x, grad = (draw(3, 20, 5, 7, seed=seed).to(dtype).contiguous(memory_format=LAST) for seed in range(2))
    residual = draw(3, 20 - missing, 5, 7, seed=2).to(dtype).contiguous(memory_format=LAST)
    mean, var = bn_act_kernels.batch_statistics(x)
    shapes = (x, mean, mean, residual)
    results = [torch.empty_like(one) if want else None for one, want in zip(shapes, wanted, strict=True)]
    parameters = (mean, var, draw(20).float(), draw(20, seed=3).float(), residual)
    inputs = BnActInputs(x, *parameters, True, 1e-5, "relu6")
    bn_act_kernels.bn_act_backward(grad, inputs, results, ranks)
    return results


CASES = [
    pytest.param(dtype, missing, wanted)
    for dtype in (torch.float32, torch.bfloat16)
    for missing in (0, 4)
    for wanted in ((True, True, True, True), (True, False, False, False))
]


def check_bits(dtype: torch.dtype, missing: int, wanted: Sequence[bool]) -> None:
    together, apart = (gradients(ranks, dtype, missing, wanted) for ranks in (None, Alone()))
    for one, other in zip(together, apart, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@pytest.mark.skipif(not compiled.available(), reason="lasfast's compiled module is not built")
@pytest.mark.parametrize(("dtype", "missing", "wanted"), CASES)
def test_both_passes_apart_give_the_same_bits(dtype, missing, wanted) -> None:
    check_bits(dtype, missing, wanted)


@pytest.mark.parametrize(("dtype", "missing", "wanted"), CASES)
def test_both_passes_apart_give_the_same_bits_on_cuda(dtype, missing, wanted, emulated_place) -> None:
    check_bits(dtype, missing, wanted)


def test_means_far_apart_cost_no_digits() -> None:
    values = draw(6, 4) + torch.tensor([1e4] * 3 + [-1e4] * 2 + [0], dtype=torch.float64)[:, None]
    ranks = Threads()

    def merge(rank: int) -> tuple[Tensor, Tensor, Tensor]:
        own = values[ROWS[rank]]
        return merge_statistics(ranks, own.mean(0), own.var(0, correction=0), len(own))

    for mean, var, count in ranks.run(merge):
        torch.testing.assert_close(mean, values.mean(0))
        torch.testing.assert_close(var, values.var(0, correction=0))
        assert count.item() == 6


def test_a_rank_may_have_one_value_but_not_all_together() -> None:
    ranks, x = Threads(), draw(3, 4, 1, 1)
    every = ranks.run(lambda rank: bn_act(x[rank : rank + 1], None, None, training=True, ranks=ranks))
    torch.testing.assert_close(torch.cat(every), bn_act(x, None, None, training=True))
    ranks.size = 1
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        bn_act(x[:1], None, None, training=True, ranks=ranks)


def test_evaluation_exchanges_nothing() -> None:
    x, ranks = draw(2, 4, 3, 3).float(), Threads()  # a barrier that nobody else reaches
    running = torch.zeros(4), torch.ones(4)
    y = bn_act(x, *running, training=False, ranks=ranks)
    assert torch.equal(y, bn_act(x, *running, training=False))


def test_a_second_derivative_is_refused() -> None:
    x = draw(2, 3, 4, 4).requires_grad_()
    y = bn_act(x, None, None, training=True, ranks=Alone())
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)
