"""Layers run with fused operators: which ops come together, and the same results as one by one."""

from __future__ import annotations

import copy
import random

import pytest
import torch

from lasfast import supernets
from lasfast.execution.fused import fused_steps
from lasfast.ir import layers
from lasfast.ir.layers import Layer
from lasfast.supernets import LayerBuilder
from tests.conftest import CHOICE_SUPERNETS, QUANTIZED_SUPERNETS


def shapes(layer: Layer) -> list[str]:
    """Each step as text: what it fuses, or the op."""
    texts = []
    for step in fused_steps(layer):
        if not isinstance(step.op, layers.BatchNorm2d):
            texts.append(type(step.op).__name__)
            continue
        text = "conv bn" if step.conv is not None else "bn"
        if len(step.inputs) == 2:
            text += " add"
        texts.append(text if step.activation == "none" else f"{text} {step.activation}")
    return texts


def block(channels: int = 4) -> LayerBuilder:
    return LayerBuilder("block", channels)


def test_convolution_norm_and_activation_are_one_step() -> None:
    b = block()
    b.conv_bn_act("1", b.input, 8, 3)
    assert shapes(b.build()) == ["conv bn relu"]


def test_a_residual_block_takes_two() -> None:
    b = block()
    y = b.conv_bn("2", b.conv_bn_act("1", b.input, 4, 3), 4, 3)
    b.activation(b.add(y, b.input))
    layer = b.build()
    assert shapes(layer) == ["conv bn relu", "conv bn add relu"]
    assert [step.inputs for step in fused_steps(layer)] == [(0,), (3, 0)]


def test_of_two_norms_that_are_added_one_takes_the_sum() -> None:
    b = block()
    y = b.conv_bn("1", b.input, 8, 3)
    b.activation(b.add(y, b.conv_bn("shortcut", b.input, 8, 1)))
    assert shapes(b.build()) == ["conv bn", "conv bn add relu"]


def test_the_side_with_fewer_channels_does_not_take_the_sum() -> None:
    b = block()
    wide = b.conv("wide", b.input, 8, 3)
    b.add(wide, b.conv_bn("narrow", b.input, 4, 3))
    assert shapes(b.build()) == ["Conv2d", "conv bn", "Add"]


def test_values_with_other_readers_stay() -> None:
    b = block()
    y = b.conv("1", b.input, 4, 3)
    z = b.batch_norm("bn", y)
    b.add(b.activation(z), b.add(z, y))
    assert shapes(b.build()) == ["Conv2d", "bn", "Activation", "Add", "Add"]


def test_a_layer_that_ends_in_a_norm() -> None:
    b = block()
    b.conv_bn("1", b.input, 4, 3)
    assert shapes(b.build()) == ["conv bn"]


FAMILIES = {
    "residual": lambda: supernets.ResidualNet((2, 2, 2)),
    "residual-projection": lambda: supernets.ResidualNet((2, 2, 2), shortcut="projection"),
    "plain": lambda: supernets.PlainNet((2, 2, 2), image_size=16),
    "mobilenet-v1": lambda: supernets.MobileNetV1((1, 2, 1, 1), 10, stem="cifar"),
    "resnet50": lambda: supernets.ResNet50((1, 2, 1, 1), 10),
    **CHOICE_SUPERNETS,
    **QUANTIZED_SUPERNETS,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_as_op_by_op(family: str, one_thread: None) -> None:
    torch.manual_seed(0)
    ours = FAMILIES[family]().train()
    theirs = copy.deepcopy(ours).double()
    architecture = ours.space.sample(random.Random(1))
    size = 32 if family == "resnet50" else 16
    value = torch.randn(6, 3, size, size, dtype=torch.float64)
    runs = {"ours": (ours, True), "torch": (copy.deepcopy(ours), False), "theirs": (theirs, False)}
    # Layer by layer on the same values, since rounding grows from layer to layer. Where it puts a ReLU on its
    # other side, gradients change by much, and outputs where it quantizes to another level: that does not
    # happen with every input.
    for layer in ours.path(architecture):
        for attempt in range(3):
            value += 1e-3 * attempt * torch.randn_like(value)
            seen = {
                name: _run_and_differentiate(supernet, layer, value, fused)
                for name, (supernet, fused) in runs.items()
            }
            (output, gradients), (exact, exact_gradients) = seen["ours"], seen["theirs"]
            assert gradients.keys() == exact_gradients.keys()
            error, torchs = (_distance(seen[name][1], exact_gradients) for name in ("ours", "torch"))
            if torch.allclose(output.double(), exact, 1e-4, 1e-4) and error <= 1e-5 + 2 * torchs:
                break
        torch.testing.assert_close(output.double(), exact, rtol=1e-4, atol=1e-4)
        assert error <= 1e-5 + 2 * torchs, layer.name
        value = exact
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name).to(buffer.dtype), buffer, rtol=1e-4, atol=1e-5)


def _run_and_differentiate(
    supernet: supernets.Supernet, layer: Layer, value: torch.Tensor, fused: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A layer's output, and the gradients of its input ("") and weights for random ones of the output."""
    dtype = next(supernet.parameters()).dtype
    supernet.zero_grad()
    torch.manual_seed(2)  # dropout
    x = value.to(dtype, copy=True)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    output = supernet.layer_runner(fused=fused)(layer, x)
    generator = torch.Generator().manual_seed(3)
    output.backward(torch.randn(output.shape, generator=generator, dtype=torch.float64).to(dtype))
    gradients = {name: one.grad for name, one in supernet.named_parameters() if one.grad is not None}
    return output.detach(), {"": x.grad, **gradients}


def _distance(gradients: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """The relative error of all gradients together."""
    errors = [(gradients[name].double() - one).norm() for name, one in exact.items()]
    return float(torch.stack(errors).norm() / torch.stack([one.norm() for one in exact.values()]).norm())


def test_evaluation_reads_the_running_statistics(one_thread: None) -> None:
    torch.manual_seed(0)
    supernet = supernets.ResidualNet((2, 2, 2)).eval()
    for module in supernet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    x = torch.randn(3, 3, 16, 16)
    value, run = x, supernet.layer_runner(fused=True)
    for layer in supernet.path((2, 1, 2)):
        value = run(layer, value)
    torch.testing.assert_close(value, supernet(x, (2, 1, 2)), rtol=1e-4, atol=1e-5)
