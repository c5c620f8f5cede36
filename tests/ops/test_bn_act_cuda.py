"""The CUDA kernels of `bn_act`, on the host and, where there is one, on a GPU, against the reference."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.ops import bn_act, bn_act_kernels, conv_bn_act, reference
from lasfast.ops.activations import FUNCTIONS
from lasfast.ops.bn_act_schema import BnActInputs, empty_gradients

pytestmark = pytest.mark.usefixtures("one_thread")
LAST = torch.channels_last
DTYPES = (torch.float32, torch.bfloat16)
ACTIVATIONS = tuple(FUNCTIONS)


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=LAST)


def shifted(tensor: Tensor) -> Tensor:
    """The same in channels_last, at an address that is a multiple of an element's size only."""
    n, c, h, w = tensor.shape
    room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=tensor.device)
    return room[1:].view(n, h, w, c).permute(0, 3, 1, 2).copy_(tensor)


def every_other(tensor: Tensor) -> Tensor:
    """The same as every other channel and column of a larger tensor that is NaN elsewhere."""
    n, c, h, w = tensor.shape
    wide = torch.full((n, 2 * c, h, 2 * w), torch.nan, dtype=tensor.dtype, device=tensor.device)
    wide[:, ::2, :, ::2] = tensor
    return wide[:, ::2, :, ::2]


class Problem:
    """Values that `dtype` holds exactly; `missing`: channels that the residual lacks, None for none."""

    def __init__(
        self, size, dtype, missing=None, *, activation="relu", affine=True, training=True, offset=0.0, seed=0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        n, channels, *rest = size

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.dtype, self.training, self.activation = dtype, training, activation
        self.x = (draw(*size) * 1.5 + offset).to(dtype)
        self.grad = draw(*size).to(dtype)
        self.weight, self.bias = (draw(channels), draw(channels)) if affine else (None, None)
        self.residual = None if missing is None else draw(n, channels - missing, *rest).to(dtype)
        self.running = draw(channels), torch.rand(channels, generator=generator) + 0.1

    def truth(self, device: str = "cpu") -> list[Tensor]:
        """[y, running_mean, running_var, gradients of x, weight, bias, residual], by torch in float64."""
        x, weight, bias, residual = (
            None if t is None else t.to(device, torch.float64).requires_grad_()
            for t in (self.x, self.weight, self.bias, self.residual)
        )
        running = [t.to(device, torch.float64, copy=True) for t in self.running]
        y = F.batch_norm(x, *running, weight, bias, self.training)
        if residual is not None:
            y = y + F.pad(residual, (0, 0, 0, 0, 0, x.shape[1] - residual.shape[1]))
        y = FUNCTIONS[self.activation](y)
        wanted = [t for t in (x, weight, bias, residual) if t is not None]
        return [y.detach(), *running, *torch.autograd.grad(y, wanted, self.grad.to(y))]

    def run(self, lay: Callable[[Tensor], Tensor] = channels_last, device: str = "cpu") -> list[Tensor]:
        """The same by `bn_act`, of values laid out by `lay`."""

        def leaf(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else lay(tensor.to(device)).detach().requires_grad_()

        x, residual = leaf(self.x), leaf(self.residual)
        weight, bias = (
            None if t is None else t.to(device, copy=True).requires_grad_() for t in (self.weight, self.bias)
        )
        running = [t.to(device, copy=True) for t in self.running]
        y = bn_act(x, *running, weight, bias, residual, training=self.training, activation=self.activation)
        wanted = [t for t in (x, weight, bias, residual) if t is not None]
        return [y.detach(), *running, *torch.autograd.grad(y, wanted, lay(self.grad.to(device)))]

    def check(self, lay: Callable[[Tensor], Tensor] = channels_last, device: str = "cpu") -> None:
        """One rounding of a result, and sums in float32 before it."""
        bound = 3e-6 if self.dtype == torch.float32 else 4e-3
        for ours, exact in zip(self.run(lay, device), self.truth(device), strict=True):
            assert ours.shape == exact.shape
            assert (ours.double() - exact).norm() <= bound * exact.norm() + 1e-6


@pytest.mark.parametrize("channels", [1, 3, 8, 17, 64, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_passes_agree(channels: int, dtype: torch.dtype, emulated_place: ModuleType) -> None:
    for number, missing in enumerate([None, 0, channels // 2, channels // 3]):
        if missing != channels:
            activation = ACTIVATIONS[(channels + number) % len(ACTIVATIONS)]
            training, affine = number != 1, number != 2
            keywords = {"activation": activation, "training": training, "affine": affine}
            Problem((3, channels, 5, 1 + number), dtype, missing, **keywords).check()


@pytest.mark.parametrize("size", [(5, 64, 9, 7), (7, 12, 16, 10), (2, 3, 41, 33), (1, 520, 13, 11)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_blocks_of_rows_are_put_together(size, dtype: torch.dtype, emulated_place) -> None:
    Problem(size, dtype, 0).check()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_emulated_activations(activation: str, emulated_place: ModuleType) -> None:
    Problem((2, 12, 5, 7), torch.float32, 4, activation=activation).check()


@pytest.mark.parametrize("lay", [torch.Tensor.contiguous, shifted, every_other])
@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_layouts(lay, dtype: torch.dtype, emulated_place: ModuleType) -> None:
    Problem((2, 16, 3, 5), dtype, 8).check(lay)


def test_emulated_mean_far_from_zero_costs_no_digits(emulated_place: ModuleType) -> None:
    x = channels_last(Problem((6, 20, 9, 9), torch.float32, offset=3000.0).x)
    mean, var = bn_act_kernels.batch_statistics(x)
    expected_mean, expected_var = reference.batch_statistics(x.double())
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(var.double(), expected_var, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [(9, 20, 11, 10), (2, 17, 9, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_bits_depend_on_no_order(size, dtype: torch.dtype, emulated_place: ModuleType) -> None:
    problem = Problem(size, dtype, 1)
    results = []
    for order in (False, True):
        emulated_place.set_reversed(order)
        results.append(problem.run())
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_emulated_kinks_are_torchs(activation: str, emulated_place: ModuleType) -> None:
    """Mean 0, variance 1 and eps 0 bring values to the activation as they are."""
    values = [0.0, -0.0, -3.0, 3.0, 6.0, 2.9999998, 3.0000002, -3.0000002, torch.inf]
    x = torch.tensor(values).view(1, 1, 1, -1).requires_grad_()
    keywords = {"training": False, "eps": 0.0, "activation": activation}
    y = bn_act(x, torch.zeros(1), torch.ones(1), **keywords)
    plain = FUNCTIONS[activation](x)
    gradients = [torch.autograd.grad(one.sum(), x)[0] for one in (y, plain)]
    for ours, theirs in ((y, plain), gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("where", ["x", "residual", "grad"])
def test_emulated_inf_and_nan_go_where_torch_lets_them_go(value, where, emulated_place: ModuleType) -> None:
    for position in (0, -1):
        problem = Problem((3, 18, 5, 7), torch.float32, 0)
        getattr(problem, where)[position, 1, position, position] = value
        for ours, exact in zip(problem.run(), problem.truth(), strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("training", [True, False])
def test_emulated_batch_of_nothing(training: bool, emulated_place: ModuleType) -> None:
    x = torch.zeros(0, 3, 5, 5, requires_grad=True)
    weight, running = torch.ones(3, requires_grad=True), (torch.zeros(3), torch.ones(3))
    bn_act(x, *running, weight, training=training).sum().backward()
    assert x.grad.shape == x.shape
    assert not weight.grad.any()
    assert [one.tolist() for one in running] == [[0.0] * 3, [1.0] * 3]
    assert [s.tolist() for s in bn_act_kernels.batch_statistics(x.detach())] == [[0.0] * 3] * 2


def test_emulated_single_row(emulated_place: ModuleType) -> None:
    for dtype in DTYPES:
        Problem((1, 21, 1, 1), dtype, 3, training=False).check()
        mean, var = bn_act_kernels.batch_statistics(torch.full((1, 21, 1, 1), 7.0, dtype=dtype))
        assert mean.eq(7).all()
        assert var.eq(0).all()


def test_emulated_convolution_with_all_behind_it(emulated_place: ModuleType, monkeypatch) -> None:
    """Under autocast the convolution gives bfloat16, and so do the passes behind it."""
    monkeypatch.setenv("LASFAST_CHOICE", "torch")  # of convolutions, which others test
    x, weight = torch.randn(2, 6, 5, 7), torch.randn(9, 6, 1, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv_bn_act(x, weight, None, None, training=True)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("channels", [1, 17, 64, 300, 520])
@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_running_statistics_follow_in_the_forward_pass(
    channels: int, dtype: torch.dtype, emulated_place: ModuleType
) -> None:
    """Once for each channel, whatever the blocks; to the bits of a launch of its own."""
    problem = Problem((5, channels, 13, 11), dtype, 0)
    x, residual = channels_last(problem.x), channels_last(problem.residual)
    batch = bn_act_kernels.batch_statistics(x)
    inputs = BnActInputs(x, *batch, problem.weight, problem.bias, residual, True, 1e-5, "relu")
    apart, together = ([one.clone() for one in problem.running] for _ in range(2))
    bn_act_kernels.update_running((apart[0], apart[1]), batch, 0.1, 5 * 13 * 11)
    expected = bn_act_kernels.bn_act(inputs)
    emulated_place.noted_launches()
    versions = [one._version for one in together]
    y, counters = bn_act_kernels.bn_act_in_training(inputs, (together[0], together[1]), 0.1)
    assert sum(emulated_place.noted_launches().values()) == 1
    assert counters is not None
    assert not counters.any()
    assert torch.equal(y, expected)
    assert all(map(torch.equal, together, apart))
    assert not torch.equal(together[0], problem.running[0])
    assert [one._version for one in together] != versions


@pytest.mark.parametrize("size", [(3, 64, 27, 28), (1, 520, 13, 11), (2, 17, 9, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_emulated_sums_are_finished_where_they_are_taken(size, dtype, emulated_place: ModuleType) -> None:
    """With counters of the forward pass, or with zeros of a launch of its own: the same bits every time."""
    problem = Problem(size, dtype, 0)
    problem.check()
    x, residual, grad = map(channels_last, (problem.x, problem.residual, problem.grad))
    batch = bn_act_kernels.batch_statistics(x)
    inputs = BnActInputs(x, *batch, problem.weight, problem.bias, residual, True, 1e-5, "relu")
    _, counters = bn_act_kernels.bn_act_in_training(inputs, problem.running, 0.1)
    assert counters is not None
    results = []
    for given, launches in ((None, 3), (counters, 2), (counters, 2)):
        results.append(empty_gradients(inputs, (True,) * 4))
        emulated_place.noted_launches()
        bn_act_kernels.bn_act_backward(grad, inputs, results[-1], counters=given)
        assert sum(emulated_place.noted_launches().values()) == launches
        assert not counters.any()
    for others in results[1:]:
        assert all(map(torch.equal, others, results[0]))


def test_emulated_mistakes(emulated: ModuleType) -> None:
    none = (0,) * 9
    with pytest.raises(ValueError, match="activation is unknown"):
        emulated.bn_act_forward_cuda(1, 1, 0, 0, 7, 0.0, *none[:7], 0, 0, 0)
    with pytest.raises(ValueError, match="rows must be at least 2"):
        emulated.update_running_cuda(1, 1, 0, 0, 0.1, 0, 0, 0, 0)
    for rows, running, text in ((1, 64, "rows must be at least 2"), (2, 0, "running statistics are missing")):
        with pytest.raises(ValueError, match=text):
            emulated.bn_act_train_cuda(
                rows, 1, 0, 0, 0, 0.0, False, 0, *none[:7], 0, 0, 0, 0.1, running, running
            )
    with pytest.raises(RuntimeError, match="no device of this number"):
        emulated.batch_statistics_cuda(1, 1, 0, 0, 0, 1, 0, 0, 0)


# ---- on a GPU


@pytest.fixture
def gpu() -> str:
    if not bn_act_kernels.supports(torch.empty(1, device="cuda")):
        pytest.skip("lasfast has no CUDA kernels for this GPU")
    return "cuda"


@pytest.mark.cuda
@pytest.mark.parametrize("channels", [1, 3, 8, 17, 58, 64, 116, 300, 2048])
@pytest.mark.parametrize("missing", [None, 0, 0.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_agrees(channels: int, missing: float | None, dtype: torch.dtype, gpu: str) -> None:
    lacking = None if missing is None else int(missing * channels)
    for number, lay in enumerate((channels_last, torch.Tensor.contiguous, shifted, every_other)):
        for training in (True, False):
            activation = ACTIVATIONS[(channels + number) % len(ACTIVATIONS)]
            size = (9, channels, 13, 11) if channels < 1000 else (9, channels, 5, 3)
            problem = Problem(size, dtype, lacking, activation=activation, training=training)
            problem.check(lay, gpu)
            first, second = problem.run(lay, gpu), problem.run(lay, gpu)
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_takes_large_tensors(dtype: torch.dtype, gpu: str) -> None:
    Problem((32, 64, 56, 56), dtype, 0).check(device=gpu)


@pytest.mark.cuda
def test_cuda_under_autocast(gpu: str) -> None:
    x = torch.randn(4, 6, 9, 9, device=gpu)
    weight = torch.randn(12, 6, 3, 3, device=gpu, requires_grad=True)
    for dtype in (torch.bfloat16, torch.float16):  # float16 goes through PyTorch
        with torch.autocast("cuda", dtype):
            y = conv_bn_act(x, weight, None, None, training=True, padding=1)
        assert y.dtype == dtype
        (grad,) = torch.autograd.grad(y.float().square().sum(), weight)
        assert grad.dtype == torch.float32
        assert grad.isfinite().all()


@pytest.mark.cuda
def test_cuda_graphs_capture_it(gpu: str) -> None:
    problem = Problem((8, 24, 9, 9), torch.bfloat16, 0)
    expected = problem.run(device=gpu)
    x, residual, grad = (channels_last(t.to(gpu)) for t in (problem.x, problem.residual, problem.grad))
    weight, bias = problem.weight.to(gpu).requires_grad_(), problem.bias.to(gpu).requires_grad_()
    leaves = [x.requires_grad_(), weight, bias, residual.requires_grad_()]
    running = [t.to(gpu, copy=True) for t in problem.running]

    def step() -> list[Tensor]:
        y = bn_act(x, *running, weight, bias, residual, training=True)
        return [y, *torch.autograd.grad(y, leaves, grad)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    for values, before in zip(running, problem.running, strict=True):
        values.copy_(before)
    graph.replay()
    torch.cuda.synchronize()
    for ours, exact in zip((results[0], *running, *results[1:]), expected, strict=True):
        assert torch.equal(ours, exact)


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:.*lru_cache.*:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_operators_are_registered_well(dtype: torch.dtype, gpu: str) -> None:
    problem = Problem((3, 20, 5, 7), dtype, 3)
    x, residual = (channels_last(t.to(gpu)) for t in (problem.x, problem.residual))
    weight, bias = problem.weight.to(gpu), problem.bias.to(gpu)
    ops = torch.ops.lasfast
    torch.library.opcheck(ops.batch_statistics, (x,))
    mean, var = ops.batch_statistics(x)
    torch.library.opcheck(ops.bn_act, (x, mean, var, weight, bias, residual, True, 1e-5, "swish"))
    compiled = torch.compile(bn_act, backend="aot_eager", fullgraph=True)
    y = compiled(x, None, None, weight, bias, residual, training=True)
    expected = bn_act(x, None, None, weight, bias, residual, training=True)
    torch.testing.assert_close(y, expected)
