"""Groups of channels that must agree, found from records alone."""

import pytest

from lasfast.ir import LayerBuilder, layers
from lasfast.ir.channels import Axis, ChannelGroup, find_channels, narrowed

IMAGES = (3, 8, 8)


def groups(block: LayerBuilder, kept: tuple[str, ...] = ()) -> dict[str, ChannelGroup]:
    """The groups by the names of the modules that write them."""
    found = find_channels(block.build(), IMAGES, kept).groups
    return {axis.module: group for group in found for axis in group.axes if axis.dimension == 0}


def test_what_is_summed_gated_and_normalized_is_one_group() -> None:
    net = LayerBuilder("n", 3)
    x = net.conv_bn_act("1", net.input, 16, 3)
    y = net.conv_bn("2", net.conv("depthwise", x, 16, 3, groups=16), 24, 1)
    y = net.squeeze_excite("se", y, 8)
    z = net.add(net.conv("3", x, 24, 1), y)
    net.linear("fc", net.global_avg_pool(net.activation(z)), 5)
    found = groups(net)
    assert found["n.conv1"] is found["n.bn1"] is found["n.depthwise"]
    assert found["n.conv2"] is found["n.3"] is found["n.se.fc2"] is not found["n.se.fc1"]
    assert found["n.conv1"].axes == (
        Axis("n.conv1", 0),
        Axis("n.bn1", 0),
        Axis("n.depthwise", 0),
        Axis("n.conv2", 1),
        Axis("n.3", 1),
    )
    assert [one.fixed for one in (found["n.conv1"], found["n.conv2"], found["n.se.fc1"])] == [()] * 3
    assert found["n.fc"].fixed == ("they are the network's outputs",)


def test_flattened_channels_have_several_features() -> None:
    net = LayerBuilder("n", 3)
    x = net.flatten(net.pool(net.conv("conv", net.input, 16, 3), "max", 2, 2), 16 * 4 * 4)
    net.linear("fc", x, 5)
    group = groups(net)["n.conv"]
    assert (group.channels, group.fixed) == (16, ())
    assert Axis("n.fc", 1, 16) in group.axes


def test_modules_that_run_twice_tie_what_they_read() -> None:
    net = LayerBuilder("n", 3)
    one, other = net.conv("1", net.input, 16, 3), net.conv("2", net.input, 16, 3)
    twice = [net.conv("shared", value, 24, 1) for value in (one, other)]
    net.linear("fc", net.global_avg_pool(net.multiply(twice[0], net.global_avg_pool(twice[1]))), 5)
    found = groups(net)
    assert found["n.1"] is found["n.2"] is not found["n.shared"]


def test_one_features_count_of_different_channels_is_fixed() -> None:
    net = LayerBuilder("n", 3)
    wide = net.flatten(net.pool(net.conv("1", net.input, 8, 3), "avg", 4, 4), 32)
    narrow = net.global_avg_pool(net.conv("2", net.input, 32, 3))
    a, b = (net.linear("shared", value, 8) for value in (wide, narrow))
    net.linear("fc", net.add(a, b), 5)
    assert groups(net)["n.1"].fixed == ("a module reads or writes different numbers of them",)


@pytest.mark.parametrize(("count", "block"), [(4, 4), (2, 8), (16, 1)])
def test_grouped_convolutions_narrow_by_groups(count: int, block: int) -> None:
    net = LayerBuilder("n", 3)
    x = net.conv("grouped", net.conv("1", net.input, 16, 3), 16, 3, groups=count)
    net.linear("fc", net.global_avg_pool(x), 5)
    group = groups(net)["n.grouped"]
    assert (group.block, group.fixed) == (block, ())
    narrow = narrowed(layers.Conv2d("g", 16, 16, 3, groups=count), 8, 8)
    assert narrow == layers.Conv2d("g", 8, 8, 3, groups=count // 2)


@pytest.mark.parametrize(
    ("use", "why"),
    [
        (lambda net, x: net.concat(x, x), "a concatenation joins them with others"),
        (lambda net, x: net.channel_slice(x, 4, 8), "a slice takes some of them"),
        (lambda net, x: net.channel_shuffle(x, 2), "a shuffle mixes them"),
        (lambda net, x: net.opaque("o", x, 16), "'n.o' is a module that lasfast cannot read"),
        (
            lambda net, x: net.conv("g", x, 32, 1, groups=4),
            "'n.g' is a grouped convolution with other numbers of inputs and outputs",
        ),
        (
            lambda net, x: net.add(x, net.conv("less", x, 8, 1)),
            "a sum pads some of them with zeros",
        ),
    ],
)
def test_what_cannot_be_narrowed(use, why: str) -> None:
    net = LayerBuilder("n", 3)
    y = use(net, net.conv("conv", net.input, 16, 3))
    net.linear("fc", net.global_avg_pool(y), 5)
    assert groups(net)["n.conv"].fixed == (why,)


class Unknown(layers.Op):
    """An op that nobody has taught to narrow."""


def test_an_op_that_is_not_known_fixes_what_it_reads_and_writes() -> None:
    program = layers.Layer("n", (layers.Conv2d("1", 3, 16, 3), Unknown(), layers.Conv2d("2", 16, 8, 3)))
    found = find_channels(program, IMAGES)
    whys = [group.fixed for group in found.groups]
    assert whys[1] == whys[2] == ("Unknown, an op that cannot be narrowed, has them",)


def test_kept_modules() -> None:
    net = LayerBuilder("n", 3)
    x = net.conv("2", net.conv("1", net.input, 16, 3), 24, 3)
    net.linear("fc", net.global_avg_pool(x), 5)
    found = groups(net, ("n.2",))
    assert found["n.1"].fixed == found["n.2"].fixed == ("'n.2' is to be kept",)
