"""The operator against torch's batch norm, sum and activation, on every instruction set this machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lasfast.ir.activations import ACTIVATIONS
from lasfast.ops import bn_act, bn_act_kernels
from lasfast.ops.activations import FUNCTIONS, GRADIENTS
from lasfast.runtime import compiled

LAST = torch.channels_last


def plain(
    x, running_mean, running_var, weight=None, bias=None, residual=None, *, activation="relu", **kwargs
):
    """What bn_act stands for, in torch's operators."""
    y = F.batch_norm(x, running_mean, running_var, weight, bias, **kwargs)
    if residual is not None:
        y = y + F.pad(residual, (0, 0, 0, 0, 0, x.shape[1] - residual.shape[1]))
    return FUNCTIONS[activation](y)


class Problem:
    """Tensors for one call, all leaves; `run` gives [y, running_mean, running_var, *gradients].

    `missing`: channels that the residual lacks; None for no residual.
    """

    def __init__(
        self, size, *, missing=None, affine=True, training=True, activation="relu", seed=0, offset=0.0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        channels = size[1]
        self.x = torch.randn(size, generator=generator) * 1.5 + offset
        self.running = torch.randn(channels, generator=generator), torch.rand(channels, generator=generator)
        self.affine = None, None
        if affine:
            self.affine = (
                torch.rand(channels, generator=generator) + 0.5,
                torch.randn(channels, generator=generator),
            )
        self.residual = None
        if missing is not None:
            narrow = (size[0], channels - missing, *size[2:])
            self.residual = torch.randn(narrow, generator=generator)
        self.grad = torch.randn(size, generator=generator)
        self.keywords = {"training": training, "activation": activation}

    def run(self, function, dtype=torch.float32, parameters=torch.float32, layout=LAST) -> list[Tensor]:
        """Run forward and backward with values of `dtype`, in `layout` or as that function lays them out."""
        lay = layout if callable(layout) else lambda t: t.contiguous(memory_format=layout)

        def leaf(tensor: Tensor | None, to: torch.dtype) -> Tensor | None:
            return None if tensor is None else lay(tensor.to(to)).detach().requires_grad_()

        x, residual = leaf(self.x, dtype), leaf(self.residual, dtype)
        weight, bias = (
            None if p is None else p.to(parameters, copy=True).requires_grad_() for p in self.affine
        )
        running = [r.to(parameters, copy=True) for r in self.running]
        y = function(x, *running, weight, bias, residual, **self.keywords)
        wanted = [t for t in (x, weight, bias, residual) if t is not None]
        return [y.detach(), *running, *torch.autograd.grad(y, wanted, lay(self.grad.to(dtype)))]

    def rounded(self, dtype) -> Problem:
        """The same with values that `dtype` holds exactly."""
        for name in ("x", "residual", "grad"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).to(dtype).float())
        return self

    def truth(self) -> list[Tensor]:
        return self.run(plain, torch.float64, torch.float64)


def relative_error(a: Tensor, truth: Tensor) -> float:
    return float((a.double() - truth).norm() / truth.norm().clamp_min(1e-30))


def check_agreement(problem: Problem, dtype: torch.dtype, layout=LAST) -> None:
    """Errors against float64 at most twice those of torch's sequence in the same dtype, and rounding."""
    ours, theirs = (problem.run(f, dtype, layout=layout) for f in (bn_act, plain))
    slack = 1e-5 if dtype == torch.float32 else 4e-3
    for a, b, exact in zip(ours, theirs, problem.truth(), strict=True):
        assert a.shape == exact.shape
        assert a.dtype == b.dtype
        assert relative_error(a, exact) <= 2 * relative_error(b, exact) + slack


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, torch.dtype]:
    channels = draw(st.sampled_from((1, 2, 3, 4, 8, 16, 17, 24, 33, 40, 64, 116, 130)))
    size = (draw(st.integers(1, 5)), channels, draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    training = draw(st.booleans()) and size[0] * size[2] * size[3] > 2
    dtype = draw(st.sampled_from((torch.float32, torch.bfloat16)))
    problem = Problem(
        size,
        missing=draw(
            st.sampled_from((None, 0, 0, min(1, channels - 1), channels // 2 if channels > 1 else 0))
        ),
        affine=draw(st.booleans()),
        training=training,
        activation=draw(st.sampled_from(list(ACTIVATIONS))),
        seed=draw(st.integers(0, 2**31)),
    )
    return problem.rounded(dtype), dtype


def test_any_shape_agrees_with_torch(isa: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(drawn=problems())
    def check(drawn: tuple[Problem, torch.dtype]) -> None:
        check_agreement(*drawn)

    check()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("missing", [None, 0, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_activation_over_many_blocks(
    activation: str, missing: int | None, dtype: torch.dtype, isa: str
) -> None:
    problem = Problem((9, 24, 23, 21), missing=missing, activation=activation).rounded(dtype)
    check_agreement(problem, dtype)


def every_other(tensor: Tensor) -> Tensor:
    """The same values as every other channel and column of a larger tensor that is NaN elsewhere."""
    n, c, h, w = tensor.shape
    wide = torch.full((n, 2 * c, h, 2 * w), torch.nan, dtype=tensor.dtype)
    wide[:, ::2, :, ::2] = tensor
    return wide[:, ::2, :, ::2]


def first_channels(tensor: Tensor) -> Tensor:
    """The same values as the first channels of a channels_last tensor that is NaN elsewhere."""
    n, c, h, w = tensor.shape
    wide = torch.full((n, c + 3, h, w), torch.nan, dtype=tensor.dtype).contiguous(memory_format=LAST)
    wide[:, :c] = tensor
    return wide[:, :c]


@pytest.mark.parametrize("layout", [torch.contiguous_format, every_other, first_channels])
@pytest.mark.parametrize("missing", [None, 0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_layout(layout, missing: int | None, dtype: torch.dtype) -> None:
    check_agreement(Problem((3, 12, 5, 7), missing=missing).rounded(dtype), dtype, layout)


@pytest.mark.parametrize("size", [(2, 6, 4, 5), (2, 6, 1, 1), (3, 1, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST])
def test_results_are_laid_out_as_x_is(size, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x = torch.randn(size).to(dtype=dtype, memory_format=memory_format).requires_grad_()
    y = bn_act(x, None, None, training=True)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.dtype == grad.dtype == dtype
    assert y.stride() == grad.stride() == x.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mean_far_from_zero_costs_no_digits(dtype: torch.dtype, isa: str) -> None:
    check_agreement(Problem((8, 20, 16, 16), offset=300.0).rounded(dtype), dtype)


@pytest.mark.parametrize("missing", [None, 0, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_whatever_the_threads(missing: int | None, dtype: torch.dtype, isa: str) -> None:
    problem = Problem((11, 20, 41, 40), missing=missing)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append(problem.run(bn_act, dtype))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are not listed here")
def test_few_blocks_leave_the_other_threads_alive() -> None:
    """GNU's runtime ends the threads that a smaller team leaves out, and takes long to make them again."""
    before = torch.get_num_threads()
    alive = []
    try:
        torch.set_num_threads(3)
        for size in ((11, 20, 41, 40), (16, 16, 16, 16), (11, 20, 41, 40)):  # many blocks, two, many
            bn_act(torch.randn(size).to(memory_format=LAST), None, None, training=True)
            alive.append(set(os.listdir("/proc/self/task")))
    finally:
        torch.set_num_threads(before)
    assert alive[0] == alive[2]


# (No NaN: torch's own vectorized and plain loops differ in the gradients that they give it.)
KINKS = (0.0, -0.0, -3.0, 3.0, 6.0, 2.9999998, 3.0000002, -3.0000002, torch.inf)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("missing", [None, 0])
def test_kinks_are_torchs(activation: str, missing: int | None, isa: str) -> None:
    """Mean 0, variance 1 and eps 0 bring values to the activation as they are."""
    x = torch.tensor(KINKS).view(1, 1, 1, -1).requires_grad_()
    residual = None if missing is None else torch.zeros_like(x)
    results = []
    for function in (bn_act, plain):
        y = function(
            x,
            torch.zeros(1),
            torch.ones(1),
            residual=residual,
            training=False,
            eps=0.0,
            activation=activation,
        )
        results.append((y, *torch.autograd.grad(y, x, torch.ones_like(y))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("where", ["x", "residual", "grad"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("position", [0, -1])
def test_inf_and_nan_go_where_torch_lets_them_go(
    value: float, where: str, training: bool, position: int, isa: str
) -> None:
    problem = Problem((3, 18, 5, 7), missing=0, training=training)
    getattr(problem, where)[position, 1, position, position] = value
    for ours, theirs in zip(problem.run(bn_act), problem.run(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.3, 1])
def test_running_statistics_may_be_slices(step: int, momentum: float) -> None:
    problem = Problem((4, 6, 5, 5))
    wide = torch.full((2, 15), torch.nan)
    mean, var = wide[:, : 6 * step : step]
    mean.copy_(problem.running[0])
    var.copy_(problem.running[1])
    version = mean._version
    bn_act(problem.x, mean, var, training=True, momentum=momentum)
    assert mean._version > version
    F.batch_norm(problem.x, *problem.running, training=True, momentum=momentum)
    torch.testing.assert_close(mean, problem.running[0])
    torch.testing.assert_close(var, problem.running[1])
    assert wide.isnan().sum() == 2 * 9


def test_running_statistics_and_batch_of_which_only_one_is_finite() -> None:
    problem = Problem((4, 2, 5, 5))
    problem.running[0][0], problem.running[1][1] = torch.inf, torch.nan
    problem.keywords["momentum"] = 1.0
    for ours, theirs in zip(problem.run(bn_act), problem.run(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_statistics_that_somebody_has_are_not_taken_again() -> None:
    problem = Problem((4, 6, 5, 5))
    own = problem.run(bn_act)
    var, mean = torch.var_mean(problem.x, (0, 2, 3), correction=0)
    problem.keywords["statistics"] = (mean, var)
    for a, b in zip(problem.run(bn_act), own, strict=True):
        torch.testing.assert_close(a, b)
    problem.keywords["statistics"] = (mean + 1, var)
    assert not torch.allclose(problem.run(bn_act)[0], own[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_carry_no_gradient(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, 4, dtype=dtype, requires_grad=True)
    assert not any(s.requires_grad for s in torch.ops.lasfast.batch_statistics(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_go_through_torch(dtype: torch.dtype) -> None:
    problem = Problem((3, 6, 4, 5), missing=2, activation="hardswish").rounded(torch.float16)
    for a, exact in zip(problem.run(bn_act, dtype), problem.truth(), strict=True):
        assert relative_error(a, exact) <= (1e-6 if dtype == torch.float64 else 2e-3)
    assert not bn_act_kernels.supports(problem.x.to(dtype))
    assert bn_act_kernels.supports(problem.x) == compiled.available()


def test_parameters_of_other_dtypes_are_cast() -> None:
    problem = Problem((3, 6, 4, 5))
    for dtype, parameters in ((torch.bfloat16, torch.bfloat16), (torch.float64, torch.float32)):
        results = problem.run(bn_act, dtype, parameters)
        assert [r.dtype for r in results] == [dtype, *[parameters] * 2, dtype, *[parameters] * 2]
        for a, exact in zip(results, problem.truth(), strict=True):
            assert relative_error(a, exact) <= 1e-2


def test_autocast_keeps_the_dtype_of_x_and_casts_the_residual() -> None:
    x, residual = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert bn_act(x, None, None, training=True).dtype == torch.float32
        y = bn_act(x.bfloat16(), None, None, residual=residual, training=True)
    assert y.dtype == torch.bfloat16
    again = bn_act(x.bfloat16(), None, None, residual=residual.bfloat16(), training=True)
    assert torch.equal(y, again)


def test_computes_only_the_gradients_asked_for() -> None:
    problem = Problem((3, 6, 4, 5), missing=2)
    every = problem.run(bn_act)[3:]
    tensors = [problem.x.to(memory_format=LAST), *problem.affine, problem.residual]
    for index, expected in enumerate(every):
        leaves = [t.detach().clone().requires_grad_(i == index) for i, t in enumerate(tensors)]
        x, weight, bias, residual = leaves
        bn_act(x, None, None, weight, bias, residual, training=True).backward(problem.grad)
        torch.testing.assert_close(leaves[index].grad, expected)
        assert all(t.grad is None for i, t in enumerate(leaves) if i != index)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_of_nothing(training: bool, dtype: torch.dtype) -> None:
    x = torch.zeros(0, 3, 5, 5, dtype=dtype, requires_grad=True)
    weight, running = torch.ones(3, requires_grad=True), (torch.zeros(3), torch.ones(3))
    y = bn_act(x, *running, weight, training=training)
    y.sum().backward()
    assert y.shape == x.grad.shape == x.shape
    assert not weight.grad.any()
    assert running[0].eq(0).all()
    assert running[1].eq(1).all()


@pytest.mark.filterwarnings("ignore:.*lru_cache.*:UserWarning")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST])
@pytest.mark.parametrize("training", [True, False])
def test_compiles_without_a_graph_break(memory_format: torch.memory_format, training: bool) -> None:
    problem = Problem((3, 20, 5, 7), missing=3, training=training)
    compiled = torch.compile(bn_act, backend="aot_eager", fullgraph=True)
    ours = problem.run(compiled, layout=memory_format)
    for a, b in zip(ours, problem.run(bn_act, layout=memory_format), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        assert a.stride() == b.stride()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST])
def test_opcheck(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    def values(channels: int) -> Tensor:
        return torch.randn(2, channels, 6, 5).to(dtype, memory_format=memory_format).requires_grad_()

    x, residual, grad = values(4), values(3), values(4).detach()
    ops = torch.ops.lasfast
    mean, var = ops.batch_statistics(x)
    weight, bias = torch.rand(2, 4, dtype=mean.dtype)
    weight.requires_grad_()
    torch.library.opcheck(ops.batch_statistics, (x.detach(),))
    for middle in ((weight, bias.requires_grad_(), residual), (weight, None, None), (None, None, residual)):
        torch.library.opcheck(ops.bn_act, (x, mean, var, *middle, True, 1e-5, "swish"))
        arguments = [None if t is None else t.detach() for t in (x, mean, var, *middle)]
        needed = [True, middle[0] is not None, False, middle[2] is not None]
        torch.library.opcheck(ops.bn_act_backward, (grad, *arguments, True, 1e-5, "swish", needed))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation: str, training: bool) -> None:
    problem = Problem((2, 3, 2, 3), missing=1, seed=3)
    leaves = [t.double().requires_grad_() for t in (problem.x, *problem.affine, problem.residual)]
    running = [r.double() for r in problem.running]

    def run(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        copies = [r.clone() for r in running]
        return bn_act(x, *copies, weight, bias, residual, training=training, activation=activation)

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_second_derivative_is_refused(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, 4, dtype=dtype, requires_grad=True)
    y = bn_act(x, None, None, training=True)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        torch.autograd.grad(y.square().sum(), x, create_graph=True)


X, C4 = torch.zeros(2, 4, 5, 5), torch.ones(4)

MEAN_HAS_3, VAR_HAS_3 = (
    rf"{name} must have shape \[4\], .*, got \(3,\)" for name in ("running_mean", "running_var")
)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "text"),
    [
        ((None, None, None), {}, TypeError, "x must be a tensor .*, got a NoneType"),
        ((X[0], None, None), {}, ValueError, r"x must have 4 dimensions .*, got shape \(4, 5, 5\)"),
        ((X.long(), None, None), {}, TypeError, "x must have a floating-point dtype, got torch.int64"),
        (
            (X[:1, :, :1, :1], None, None),
            {},
            ValueError,
            "Expected more than 1 value per channel when training",
        ),
        ((X, C4[:3], C4), {}, ValueError, MEAN_HAS_3),
        ((X, C4, C4[:3]), {}, ValueError, VAR_HAS_3),
        (
            (X, C4[:3], C4),
            {"training": False},
            ValueError,
            MEAN_HAS_3,
        ),
        (
            (X, None, None),
            {"training": False},
            ValueError,
            "running_mean and running_var must be",
        ),
        (
            (X, C4, C4),
            {"training": False, "statistics": (C4, C4)},
            ValueError,
            "statistics must be None in evaluation",
        ),
        (
            (X, None, None),
            {"statistics": (C4.double(), C4)},
            TypeError,
            "mean must have dtype torch.float32 .*, got torch.float64",
        ),
        ((X, None, None, X), {}, ValueError, r"weight must have shape \[4\], .*, got \(2, 4, 5, 5\)"),
        ((X, None, None, C4, C4[:3]), {}, ValueError, r"bias must have shape \[4\], .*, got \(3,\)"),
        ((X, None, None, C4.to("meta")), {}, ValueError, "weight must be on cpu as x is, got meta"),
        (
            (X, None, None, None, None, X[0]),
            {},
            ValueError,
            r"residual must have shape \[N, at .*, got \(4, 5, 5\)",
        ),
        (
            (X, None, None, None, None, torch.zeros(2, 5, 5, 5)),
            {},
            ValueError,
            r"residual must have shape \[N, at most 4, .* got \(2, 5, 5, 5\)",
        ),
        (
            (X, None, None, None, None, X[:, :, :1]),
            {},
            ValueError,
            r"residual must have shape .*, got \(2, 4, 1, 5\)",
        ),
        (
            (X, None, None, None, None, X.to("meta")),
            {},
            ValueError,
            "residual must be on cpu as x is, got meta",
        ),
        (
            (X, C4, C4),
            {"activation": "tanh"},
            ValueError,
            "activation must be one of none, relu, relu6, hardswish, .*, hardsigmoid, got 'tanh'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, keywords, error: type[Exception], text: str) -> None:
    running = [a.clone() for a in arguments[1:3] if a is not None]
    with pytest.raises(error, match=text):
        bn_act(*arguments, **{"training": True, **keywords})
    assert all(torch.equal(a, b) for a, b in zip(running, arguments[1:3], strict=False))


def test_native_code_refuses_what_it_has_not(isa: str) -> None:
    module, none = compiled.load(), (0,) * 9
    with pytest.raises(ValueError, match="activation is unknown"):
        module.bn_act_forward_cpu(1, 1, 0, 0, 7, 0.0, *none[:7], 1, 0, 0)
    with pytest.raises(ValueError, match="residual_channels must be between 0 and channels"):
        module.bn_act_forward_cpu(1, 1, 2, 0, 1, 0.0, *none[:7], 1, 0, 0)
    with pytest.raises(ValueError, match="rows must be at least 2"):
        module.update_running_cpu(1, 1, 0, 0, 0.1, 0, 0)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        module.batch_statistics_cpu(1, 1, 0, 0, 0, 0, 0, 0, 0)
    with pytest.raises(RuntimeError, match="lacks the instruction set"):
        module.batch_statistics_cpu(1, 1, 0, 0, 0, 1, 9, 0, 0)


def test_the_native_and_the_reference_know_the_same_activations() -> None:
    assert list(FUNCTIONS) == list(GRADIENTS) == list(ACTIVATIONS)
