"""Fused chains: which ops of a graph run as one."""

import pytest

from lasfast.ir import LayerBuilder
from lasfast.ir.fusion import Fusion, Stage, match, match_layer
from lasfast.ir.layers import Activation, Add, BatchNorm2d, Conv2d


def parts(layer):
    """The numbers of each chain's ops, and of the value that it adds."""
    return [
        (tuple(chain.parts.values()), chain.other) for chain in match_layer(layer, lambda op: not op.bias)
    ]


def test_a_norm_takes_in_all_its_neighbours():
    block = LayerBuilder("block", 8)
    y = block.conv_bn("1", block.input, 8, 3)
    block.activation(block.add(y, block.input))
    assert parts(block.build()) == [((1, 2, 3, 4), 0)]


def test_of_two_norms_that_are_added_the_first_operand_takes_the_sum_in():
    block = LayerBuilder("block", 8)
    y = block.conv_bn("1", block.input, 8, 3)
    z = block.conv_bn("2", block.input, 8, 1)
    block.activation(block.add(z, y))
    assert parts(block.build()) == [((1, 2), None), ((3, 4, 5, 6), 2)]


def test_a_second_operand_that_lacks_channels_is_added_and_takes_nothing_in():
    block = LayerBuilder("block", 8)
    narrow = block.conv_bn("1", block.input, 4, 3)
    block.activation(block.add(block.input, narrow))
    assert parts(block.build()) == [((1, 2), None), ((3,), None), ((4,), None)]


def test_a_value_that_is_read_twice_ends_its_chain():
    block = LayerBuilder("block", 8)
    y = block.conv("conv", block.input, 8, 3)
    block.add(block.batch_norm("bn", y), y)
    assert parts(block.build()) == [((1,), None), ((2, 3), 1)]


def test_what_is_no_head_and_what_has_no_norm_stay_alone():
    block = LayerBuilder("block", 8)
    biased = block.batch_norm("bn", block.conv("conv1", block.input, 8, 3, bias=True))
    block.activation(block.conv("conv2", biased, 8, 3))
    assert parts(block.build()) == [((1,), None), ((2,), None), ((3,), None), ((4,), None)]


def test_a_result_of_the_graph_counts_as_read():
    conv, norm = Conv2d("conv", 3, 3, 1), BatchNorm2d("bn", 3)
    ops = {1: (conv, (0,)), 2: (norm, (1,))}
    assert len(match(ops, (2,), lambda number: True)) == 1
    assert len(match(ops, (1, 2), lambda number: True)) == 2


@pytest.mark.parametrize("bare", [False, True])
def test_bare_heads_take_in_sums_and_activations(bare):
    fusion = Fusion([1, 1, 1, 1], bare=bare)
    fusion.begin(1, Stage.HEAD)
    taken = fusion.extend(2, Activation("relu"), (1,))
    assert (taken is not None) == bare
    if taken is not None:
        assert (taken.first, taken.last, taken.stage) == (1, 2, Stage.ACTIVATION)
        assert fusion.extend(3, Activation("relu"), (2,)) is None


def test_barred_parts_are_not_taken_in():
    fusion = Fusion([1, 1, 1, 1], bare=True)
    fusion.begin(1, Stage.HEAD, barred=(Stage.SUM,))
    assert fusion.extend(2, Add(), (1, 0)) is None
    assert fusion.extend(2, BatchNorm2d("bn", 3), (1,)) is not None
