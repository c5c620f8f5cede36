"""Squeeze-and-excitation, channel split, concatenation and shuffle: against torchvision's own blocks."""

import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.shufflenetv2 import InvertedResidual
from torchvision.ops import SqueezeExcitation

from lasfast import costs
from lasfast.execution.interpret import run_op
from lasfast.ir import layers
from lasfast.ir.layers import Layer
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import LayerBuilder, Supernet


class Blocks(Supernet):
    """A shuffle unit whose left half goes through squeeze-and-excitation; its width is searched."""

    def __init__(self) -> None:
        super().__init__(LayerAssignmentSpace(1, 3), num_classes=5, in_channels=3)
        self.create_modules(*map(self.path, self.space.enumerate()))

    def path(self, architecture):
        half = 4 * self.space.validate(architecture)[0]
        block = LayerBuilder("block", 3)
        y = block.conv_bn_act("", block.input, 2 * half, 3)
        left, right = block.channel_split(y, half)
        left = block.squeeze_excite("se", left, 3, gate="hardsigmoid")
        right = block.conv_bn_act("1", right, half, 3, kind="hardsigmoid")
        y = block.channel_shuffle(block.concat(left, right), 2)
        block.linear("fc", block.global_avg_pool(y), 5)
        return (block.build(),)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Blocks()


def compute(layer: Layer, x: torch.Tensor, modules: dict) -> torch.Tensor:
    """Return torch's output of a layer without batch norm, and check the shape of each value."""
    values = [x]
    for op, sources in layer.steps():
        values.append(run_op(op, modules, *(values[source] for source in sources)))
    assert [tuple(value.shape[1:]) for value in values] == list(layer.shapes(tuple(x.shape[1:])))
    return values[-1]


def test_squeeze_excitation_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = SqueezeExcitation(10, 4, scale_activation=nn.Hardsigmoid)
    block = LayerBuilder("b", 10)
    block.squeeze_excite("se", block.input, 4, gate="hardsigmoid")
    modules = {"b.se.fc1": theirs.fc1, "b.se.fc2": theirs.fc2}
    x = torch.randn(3, 10, 5, 6) * 3
    torch.testing.assert_close(compute(block.build(), x, modules), theirs(x))


def test_a_gate_needs_no_axes_of_its_own() -> None:
    block = LayerBuilder("b", 6)
    block.multiply(block.input, block.global_avg_pool(block.input))
    x = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(compute(block.build(), x, {}), x * x.mean((2, 3), keepdim=True))


def test_the_shuffle_unit_is_torchvisions() -> None:
    """ShuffleNetV2's unit of stride 1 (Ma et al. 2018, figure 3c) is compared with norms that do nothing."""
    torch.manual_seed(0)
    theirs = InvertedResidual(12, 12, 1).eval()
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0  # so that the initial norm is exactly the identity
    block = LayerBuilder("b", 12)
    left, right = block.channel_split(block.input, 6)
    y = block.activation(block.conv("0", right, 6, 1))
    y = block.conv("3", y, 6, 3, groups=6)
    y = block.activation(block.conv("5", y, 6, 1))
    block.channel_shuffle(block.concat(left, y), 2)
    modules = {f"b.{name}": module for name, module in theirs.branch2.named_children()}
    x = torch.randn(3, 12, 5, 6)
    torch.testing.assert_close(compute(block.build(), x, modules), theirs(x))


def test_half_as_many_groups_as_channels_part_even_from_odd() -> None:
    block = LayerBuilder("b", 8)
    block.channel_slice(block.channel_shuffle(block.input, 4), 4, 4)
    x = torch.randn(1, 8, 2, 2)
    assert torch.equal(compute(block.build(), x, {}), x[:, 1::2])


@pytest.mark.parametrize(
    ("op", "shapes", "message"),
    [
        (layers.Multiply(), ((4, 3, 3), (3,)), r"needs one factor for each channel, got \(3,\)"),
        (layers.Multiply(), ((4, 3, 3), (4, 3, 3)), r"got \(4, 3, 3\)"),
        (layers.Multiply(), ((4,), (4,)), r"multiply: expects a value of shape \(channels, height, width\)"),
        (layers.Concat(), ((4, 3, 3), (4, 3, 2)), "differ in more than their channels"),
        (layers.Shuffle(3), ((4, 3, 3),), "has no 3 equal groups"),
        (layers.Shuffle(0), ((4, 3, 3),), "has no 0 equal groups"),
        (layers.Slice(2, 3), ((4, 3, 3),), "has no channels 2 to 4"),
        (layers.Slice(-1, 3), ((4, 3, 3),), "has no channels -1 to 1"),
        (layers.Slice(1, 0), ((4, 3, 3),), "has no channels"),
    ],
)
def test_what_does_not_fit_is_named(op: layers.Op, shapes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        op.output_shape(*shapes)


@pytest.mark.parametrize("architecture", [(1,), (3,)])
def test_costs_are_what_the_extracted_network_has(supernet: Supernet, architecture: tuple[int, ...]) -> None:
    network = supernet.extract(architecture)
    assert costs.params(supernet, architecture) == sum(p.numel() for p in network.parameters())
    half = 4 * architecture[0]
    convolutions = 27 * 2 * half + 9 * half * half
    expected = 64 * convolutions + 2 * 3 * half + 2 * half * 5
    assert costs.flops(supernet, architecture, (8, 8)) == expected


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("architecture", [(1,), (3,)])
def test_an_extracted_network_computes_the_same(
    supernet: Supernet, architecture: tuple[int, ...], training: bool
) -> None:
    supernet.train(training)
    network = supernet.extract(architecture)
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(network(x), supernet(x, architecture), rtol=0, atol=0)


def test_an_extracted_network_pickles_scripts_and_exports(supernet: Supernet) -> None:
    network = supernet.eval().extract((2,))
    x = torch.randn(4, 3, 8, 8)
    expected = network(x)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    with warnings.catch_warnings():  # torch.jit and pickle of GraphModule warn in some versions of torch
        warnings.simplefilter("ignore")
        copies = [
            torch.load(file, weights_only=False),
            torch.jit.script(network),
            torch.export.export(network, (x,)).module(),
        ]
    for copied in copies:
        torch.testing.assert_close(copied(x), expected)


def test_gradients_reach_every_weight_that_is_read(supernet: Supernet) -> None:
    F.cross_entropy(supernet.train()(torch.randn(4, 3, 8, 8), (3,)), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in supernet.parameters())


def test_narrow_networks_read_leading_slices(supernet: Supernet) -> None:
    whole = supernet.get_parameter("block.se.fc2.weight")
    for architecture in supernet.space.enumerate():
        weight = supernet.extract(architecture).get_parameter("block.se.fc2.weight")
        assert torch.equal(weight, whole[: 4 * architecture[0]])
