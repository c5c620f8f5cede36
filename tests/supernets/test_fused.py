"""Layers run with fused operators: which ops come together, and the same results as one by one."""

from __future__ import annotations

import copy
import random

import pytest
import torch
import torch.nn.functional as F

from lasfast import supernets
from lasfast.supernets import LayerBuilder, layers
from lasfast.supernets.fused import fused_steps
from lasfast.supernets.layers import Layer
from tests.conftest import CHOICE_SUPERNETS


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
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_as_op_by_op(family: str, one_thread: None) -> None:
    torch.manual_seed(0)
    ours = FAMILIES[family]().train()
    theirs = copy.deepcopy(ours).double()
    architecture = ours.space.sample(random.Random(1))
    size = 32 if family == "resnet50" else 16
    x, labels = torch.randn(6, 3, size, size), torch.randint(0, 7, (6,))
    seen = {}
    runs = (("ours", ours, True), ("torch", copy.deepcopy(ours), False), ("theirs", theirs, False))
    for name, supernet, fused in runs:
        value = x.to(next(supernet.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        run = supernet.layer_runner(fused=fused)
        torch.manual_seed(2)  # dropout
        for layer in supernet.path(architecture):
            value = run(layer, value)
        F.cross_entropy(value, labels).backward()
        gradients = {key: one.grad for key, one in supernet.named_parameters() if one.grad is not None}
        seen[name] = value, gradients, dict(supernet.named_buffers())
    torch.testing.assert_close(seen["ours"][0].double(), seen["theirs"][0], rtol=2e-3, atol=2e-4)
    assert seen["ours"][1].keys() == seen["theirs"][1].keys()
    whole = {
        name: torch.cat([one.double().flatten() for one in found[1].values()]) for name, found in seen.items()
    }
    error, torchs = ((whole[name] - whole["theirs"]).norm() for name in ("ours", "torch"))
    assert error <= 1e-3 * whole["theirs"].norm() + 2 * torchs  # random deep networks magnify rounding
    for name, buffer in seen["theirs"][2].items():
        torch.testing.assert_close(seen["ours"][2][name].to(buffer.dtype), buffer, rtol=1e-3, atol=1e-4)


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
