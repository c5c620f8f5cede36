"""`conv_bn_act` and the statistics that convolutions sum along the way, against torch's sequence."""

from __future__ import annotations

import os
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.ops import conv_bn_act, sliced_conv2d, sliced_conv2d_statistics
from lasfast.runtime import compiled

ISAS = compiled.load().isas_supported() if compiled.available() else ["generic"]
ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "hardswish": F.hardswish}
CASES = {  # x, weight, (c_out, stride, padding, groups)
    "3x3": ((4, 16, 9, 7), (24, 16, 3, 3), (24, 1, 1, 1)),
    "slice": ((3, 7, 8, 8), (20, 12, 3, 3), (13, 1, 1, 1)),
    "1x1": ((3, 24, 5, 5), (33, 24, 1, 1), (33, 1, 0, 1)),
    "stride 2": ((3, 8, 9, 9), (8, 8, 3, 3), (8, 2, 1, 1)),
    "depthwise": ((3, 17, 8, 6), (20, 1, 3, 3), (17, 1, 1, 17)),
    "depthwise stride 2": ((3, 16, 9, 8), (16, 1, 5, 5), (16, 2, 2, 16)),
    "depthwise narrow": ((4, 9, 9, 7), (9, 1, 3, 3), (9, 1, 1, 9)),
    "groups": ((3, 8, 6, 6), (12, 4, 3, 3), (12, 1, 1, 2)),
}


@pytest.fixture(params=["native", "torch", "winograd 2x2", "winograd 4x4"])
def choice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASFAST_CHOICE", request.param)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if "LASFAST_ISA" in os.environ and request.param != os.environ["LASFAST_ISA"]:
        pytest.skip("another instruction set is forced")
    monkeypatch.setenv("LASFAST_ISA", request.param)
    return request.param


def tensors(name: str, seed: int = 0) -> tuple[list[Tensor], tuple[int, ...]]:
    """x, weight, the norm's weight and bias, and a residual."""
    size, weight_size, numbers = CASES[name]
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    c_out, stride, padding, _ = numbers
    sizes = ((one + 2 * padding - weight_size[2]) // stride + 1 for one in size[2:])
    weight = draw(*weight_size) / weight_size[2] / weight_size[1] ** 0.5
    residual = draw(size[0], max(1, c_out - 3), *sizes)
    return [draw(*size), weight, 1 + 0.3 * draw(c_out), draw(c_out), residual], numbers


def plain(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, residual: Tensor, numbers: tuple, activation: str
) -> Tensor:
    c_out, stride, padding, groups = numbers
    active = weight[:c_out, : x.shape[1] // groups]
    y = F.batch_norm(F.conv2d(x, active, None, stride, padding, 1, groups), None, None, scale, shift, True)
    return ACTIVATIONS[activation](y + F.pad(residual, (0, 0, 0, 0, 0, c_out - residual.shape[1])))


def fused(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, residual: Tensor, numbers: tuple, activation: str
) -> Tensor:
    c_out, stride, padding, groups = numbers
    return conv_bn_act(
        x, weight, None, None, scale, shift, residual,
        c_out=c_out, stride=stride, padding=padding, groups=groups, training=True, activation=activation,
    )  # fmt: skip


def run(function, inputs: list[Tensor], *more: object, dtype: torch.dtype, autocast: bool = False):
    """The result and all gradients."""
    inputs = [one.to(dtype).requires_grad_() for one in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = function(*inputs, *more)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(5))
    (result * weights.to(result.dtype)).sum().backward()
    return [result.detach(), *(one.grad for one in inputs)]


def error(ours: Tensor, truth: Tensor) -> float:
    return float((ours.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_it_is_torchs_sequence(name: str, activation: str, isa: str, choice: None) -> None:
    inputs, numbers = tensors(name)
    truth = run(plain, inputs, numbers, activation, dtype=torch.float64)
    ours = run(fused, inputs, numbers, activation, dtype=torch.float32)
    for mine, exact in zip(ours, truth, strict=True):
        assert mine.shape == exact.shape
        assert error(mine, exact) <= 2e-5


@pytest.mark.parametrize("name", CASES)
def test_under_autocast_it_is_as_exact_as_torch(name: str, isa: str, choice: None) -> None:
    inputs, numbers = tensors(name)
    truth = run(plain, inputs, numbers, "hardswish", dtype=torch.float64)
    theirs = run(plain, inputs, numbers, "hardswish", dtype=torch.float32, autocast=True)
    ours = run(fused, inputs, numbers, "hardswish", dtype=torch.float32, autocast=True)
    assert ours[0].dtype == torch.bfloat16
    assert all(one.dtype == torch.float32 for one in ours[1:])  # weights' gradients are not rounded
    for mine, other, exact in zip(ours, theirs, truth, strict=True):
        assert error(mine, exact) <= 2 * error(other, exact) + 4e-3


@pytest.mark.parametrize("name", [name for name in CASES if name != "groups"])
@pytest.mark.parametrize("autocast", [False, True])
def test_emulated_layers_are_torchs_sequence(
    name: str, autocast: bool, emulated_place: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their weight is packed once for both passes that read it, and running statistics follow."""
    monkeypatch.setenv("LASFAST_CHOICE", "native")
    inputs, numbers = tensors(name)
    c_out, stride, padding, groups = numbers
    running, expected = ((torch.zeros(c_out), torch.ones(c_out)) for _ in range(2))

    def layer(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, residual: Tensor) -> Tensor:
        return conv_bn_act(
            x, weight, *running, scale, shift, residual,
            c_out=c_out, stride=stride, padding=padding, groups=groups, training=True,
        )  # fmt: skip

    truth = run(plain, inputs, numbers, "relu", dtype=torch.float64)
    ours = run(layer, inputs, dtype=torch.float32, autocast=autocast)
    for mine, exact in zip(ours, truth, strict=True):
        assert error(mine, exact) <= (0.04 if autocast else 2e-5)
    y = F.conv2d(
        inputs[0], inputs[1][:c_out, : inputs[0].shape[1] // groups], None, stride, padding, 1, groups
    )
    F.batch_norm(y, *expected, training=True)
    for one, other in zip(running, expected, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-2 if autocast else 1e-4, atol=1e-3 if autocast else 1e-5
        )


def test_under_autocast_to_float16_it_goes_through_torch() -> None:
    (x, weight, *_), (_, stride, padding, _) = tensors("3x3")
    with torch.autocast("cpu", torch.float16):
        y = conv_bn_act(x, weight, None, None, stride=stride, padding=padding, training=True)
    assert y.dtype == torch.float16
    expected = F.relu(F.batch_norm(F.conv2d(x, weight, None, stride, padding), None, None, training=True))
    assert error(y, expected.double()) <= 2e-3


@pytest.mark.parametrize("name", CASES)
def test_statistics_are_those_of_the_output(name: str, isa: str, choice: None) -> None:
    (x, weight, *_), (c_out, *rest) = tensors(name)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    y, mean, var = sliced_conv2d_statistics(x, weight, x.shape[1], c_out, *rest)
    assert torch.equal(y, sliced_conv2d(x, weight, x.shape[1], c_out, *rest))
    assert y.requires_grad
    assert not mean.requires_grad
    assert not var.requires_grad
    torch.testing.assert_close(mean, y.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(var, y.var((0, 2, 3), unbiased=False), rtol=1e-4, atol=1e-5)


def test_the_same_inputs_give_the_same_bits(choice: None) -> None:
    inputs, numbers = tensors("3x3")
    one, other = (run(fused, inputs, numbers, "relu", dtype=torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_evaluation_and_running_statistics() -> None:
    (x, weight, scale, shift, _), (c_out, stride, padding, _) = tensors("3x3")
    mean, var = torch.rand(c_out), 0.5 + torch.rand(c_out)
    expected_mean, expected_var = mean.clone(), var.clone()
    y = F.conv2d(x, weight, None, stride, padding)
    for training in (True, False):
        result = conv_bn_act(
            x, weight, mean, var, scale, shift, stride=stride, padding=padding, training=training
        )
        expected = F.relu(F.batch_norm(y, expected_mean, expected_var, scale, shift, training))
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mean, expected_mean)
        torch.testing.assert_close(var, expected_var)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("autocast", [False, True])
def test_without_gradients_evaluation_is_as_exact(
    name: str, autocast: bool, isa: str, choice: None, one_thread: None
) -> None:
    """One pass computes what two do, as near to float64 as these, whatever is added."""
    (x, weight, scale, shift, residual), (c_out, stride, padding, groups) = tensors(name)
    mean, var = torch.rand(c_out), 0.5 + torch.rand(c_out)
    whole = F.pad(residual, (0, 0, 0, 0, 0, c_out - residual.shape[1]))
    parts = (
        *((scale, shift, None) for _ in ACTIVATIONS),
        *((scale, shift, residual), (None, shift, whole), (None, None, residual)),
    )

    def infer(*parts: Tensor | None, activation: str) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return conv_bn_act(
                x, weight, mean, var, *parts, activation=activation,
                c_out=c_out, stride=stride, padding=padding, groups=groups, training=False,
            )  # fmt: skip

    def true(scale: Tensor | None, shift: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
        active = weight[:c_out, : x.shape[1] // groups].double()
        y = F.conv2d(x.double(), active, None, stride, padding, 1, groups)
        numbers = (None if one is None else one.double() for one in (mean, var, scale, shift))
        y = F.batch_norm(y, *numbers, False)
        if residual is not None:
            y = y + F.pad(residual.double(), (0, 0, 0, 0, 0, c_out - residual.shape[1]))
        return ACTIVATIONS[activation](y)

    for some, activation in zip(parts, 2 * [*ACTIVATIONS], strict=True):
        recorded, truth = infer(*some, activation=activation), true(*some, activation)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                result = infer(*some, activation=activation)
                assert torch.equal(result, infer(*some, activation=activation))
            assert (result.dtype, result.stride()) == (recorded.dtype, recorded.stride())
            error, before = ((one.double() - truth).norm() for one in (result, recorded))
            assert error <= 1.5 * before + 1e-6 * truth.norm()


def test_without_gradients_evaluation_names_what_is_wrong() -> None:
    (x, weight, *_), (c_out, stride, padding, _) = tensors("3x3")
    mean, var = torch.zeros(c_out), torch.ones(c_out)
    numbers = {"stride": stride, "padding": padding, "training": False}
    with torch.no_grad():
        with pytest.raises(ValueError, match=r"running_mean and running_var must be tensors .*, got None"):
            conv_bn_act(x, weight, None, var, **numbers)
        with pytest.raises(ValueError, match=r"running_var must have shape \[24\], .*, got \(23,\)"):
            conv_bn_act(x, weight, mean, var[1:], **numbers)
        with pytest.raises(ValueError, match="residual must have shape"):
            conv_bn_act(x, weight, mean, var, residual=torch.zeros(1, c_out, 2, 2), **numbers)
        with pytest.raises(ValueError, match="c_out must be at most the 24 filters of weight, got 25"):
            conv_bn_act(x, weight, mean, var, c_out=25, **numbers)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype: torch.dtype, choice: None) -> None:
    (x, weight, *_), (c_out, *rest) = tensors("3x3")
    x = x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    arguments = (x, weight.requires_grad_(), x.shape[1], c_out, *rest)
    operators = ["test_schema", "test_autograd_registration", "test_faketensor"]
    torch.library.opcheck(torch.ops.lasfast.sliced_conv2d_statistics, arguments, test_utils=operators)
    torch.library.opcheck(torch.ops.lasfast.sliced_conv2d, arguments)
