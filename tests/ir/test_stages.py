"""Programs are cut into layers, and the blocks that may be left out are found."""

import pytest

from lasfast.ir import LayerBuilder, Value, layers
from lasfast.ir.layers import Layer, Path
from lasfast.ir.stages import Stage, cut, find_stages, part, without_unread


def residual(net: LayerBuilder, name: str, x: Value) -> Value:
    y = net.conv_bn(f"{name}b", net.conv_bn_act(f"{name}a", x, x.channels, 3), x.channels, 3)
    return net.activation(net.add(y, x))


def projected(net: LayerBuilder, name: str, x: Value, channels: int) -> Value:
    y = net.conv_bn(f"{name}b", net.conv_bn_act(f"{name}a", x, channels, 3, 2), channels, 3)
    return net.activation(net.add(y, net.conv_bn(f"{name}s", x, channels, 1, 2)))


def inverted(net: LayerBuilder, name: str, x: Value, channels: int, stride: int) -> Value:
    y = net.conv_bn_act(f"{name}d", net.conv_bn_act(f"{name}a", x, 32, 1), 32, 3, stride, groups=32)
    y = net.conv_bn(f"{name}b", y, channels, 1)
    return net.add(y, x) if channels == x.channels else y


def layers_of(net: LayerBuilder) -> Path:
    program = net.build()
    return tuple(part(program, span, str(number)) for number, span in enumerate(cut(program)))


def resnet() -> LayerBuilder:
    net = LayerBuilder("n", 3)
    x = net.pool(net.conv_bn_act("", net.input, 16, 7, 2), "max", 3, 2, 1)
    for name in "cd":
        x = residual(net, name, x)
    x = projected(net, "e", x, 24)
    for name in "fg":
        x = residual(net, name, x)
    net.linear("fc", net.dropout(net.global_avg_pool(x), 0.5), 5)
    return net


def test_layers_end_where_one_value_is_left_and_no_chain_goes_on() -> None:
    path = layers_of(resnet())
    assert [len(layer.ops) for layer in path] == [3, 1, 7, 7, 9, 7, 7, 2, 1]
    shape = (3, 32, 32)
    for layer in path:
        shape = layer.shapes(shape)[-1]
    assert shape == (5,)


def test_equal_blocks_are_equal_records_but_for_names() -> None:
    one, other = layers_of(resnet())[2:4]
    assert [op.inputs for op in one.ops] == [op.inputs for op in other.ops]


def test_the_first_block_of_a_stage_stays() -> None:
    assert find_stages(layers_of(resnet())) == (Stage(1, (3,)), Stage(1, (5, 6)))


def test_the_first_block_may_be_several_layers() -> None:
    net = LayerBuilder("n", 3)
    x = inverted(net, "1", net.conv_bn_act("", net.input, 16, 3), 24, 2)
    for name in "23":
        x = inverted(net, name, x, 24, 1)
    net.linear("fc", net.global_avg_pool(x), 5)
    path = layers_of(net)
    assert find_stages(path) == (Stage(1, (4, 5)),)
    assert [len(layer.ops) for layer in path[4:6]] == [9, 9]


@pytest.mark.parametrize(("kept", "stages"), [("n.convfa", (Stage(2, (6,)),)), ("n.convgb", ())])
def test_what_is_kept_stays_with_what_is_before_it(kept: str, stages: tuple[Stage, ...]) -> None:
    assert find_stages(layers_of(resnet()), {kept})[1:] == stages


def test_ops_that_nothing_reads_are_left_out() -> None:
    net = LayerBuilder("n", 3)
    x = net.conv("1", net.input, 8, 3)
    net.activation(net.conv("unread", x, 8, 3))
    net.activation(x)
    assert without_unread(net.build()) == Layer(
        "n", (layers.Conv2d("n.1", 3, 8, 3, 1, 1), layers.Activation())
    )
