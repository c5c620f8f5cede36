"""Channels that move, and then are added to something: the sum's operand is not the arrangement's second."""

from itertools import chain

import pytest
import torch

from lasfast.engine import NativeBackend, TorchBackend
from lasfast.engine.lower import lower
from lasfast.engine.schedule import Kind
from lasfast.ir import layers
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import LayerBuilder, Supernet
from tests.conftest import shaken

SHAPE = (3, 10, 9)


def slice_add(block, x):
    return block.add(block.channel_slice(x, 4, 8), block.conv_bn_act("1", x, 8, 3))


def slice_add_second(block, x):
    """The slice is the second operand."""
    return block.add(block.conv_bn_act("1", x, 8, 3), block.channel_slice(x, 4, 8))


def fewer_channels(block, x):
    """Of the slice, the missing channels count as zero."""
    return block.add(block.conv_bn("1", x, 8, 1), block.channel_slice(x, 3, 5))


def shuffle_add(block, x):
    return block.add(block.channel_shuffle(x, 4), x)


def shuffle_add_activation(block, x):
    y = block.batch_norm("bn", block.add(block.channel_shuffle(x, 2), block.conv("1", x, 16, 1)))
    return block.activation(y)


def both_halves(block, x):
    left, right = block.channel_split(x, 8)
    return block.concat(block.add(block.conv_bn_act("1", left, 8, 3), right), left)


def halves_added(block, x):
    left, right = block.channel_split(x, 8)
    return block.add(left, right)


def slices_of_one_concatenation(block, x):
    y = block.concat(block.conv_bn_act("1", x, 12, 1, kind="hardswish"), x)
    return block.add(block.channel_slice(y, 0, 14), block.channel_slice(y, 14, 14))


def concat_slice_add(block, x):
    y = block.concat(x, block.conv_bn_act("1", x, 8, 3))
    return block.add(block.channel_slice(y, 12, 8), block.conv_bn("2", x, 8, 1))


def concat_shuffle_slice_norm_add(block, x):
    y = block.channel_slice(block.channel_shuffle(block.concat(x, block.conv("1", x, 8, 1)), 2), 3, 16)
    return block.activation(block.add(block.batch_norm("bn", y), x))


def concat_add(block, x):
    left, right = block.channel_split(x, 4)
    return block.add(block.concat(right, left), x)


def sum_of_sums(block, x):
    y = block.add(block.channel_shuffle(x, 2), x)
    return block.add(block.channel_slice(y, 2, 12), block.channel_slice(x, 0, 12))


BODIES = (
    slice_add,
    slice_add_second,
    fewer_channels,
    shuffle_add,
    shuffle_add_activation,
    both_halves,
    halves_added,
    slices_of_one_concatenation,
    concat_slice_add,
    concat_shuffle_slice_norm_add,
    concat_add,
    sum_of_sums,
)


class ArrangedNet(Supernet):
    """Paths whose bodies arrange and add what one stem gives, seen through its norm and activation."""

    def __init__(self) -> None:
        super().__init__(LayerAssignmentSpace(1, len(BODIES)), num_classes=7, in_channels=3)
        self.paths = [self.path_of(body) for body in BODIES]
        self.create_modules(*self.paths)

    def path(self, architecture):
        return self.paths[architecture[0] - 1]

    def path_of(self, body):
        stem = LayerBuilder("stem", 3)
        stem.conv_bn_act("", stem.input, 16, 3)
        block = LayerBuilder(body.__name__, 16)
        y = body(block, block.input)
        head = LayerBuilder(f"classifier{y.channels}", y.channels)
        head.linear("fc", head.global_avg_pool(head.input), 7)
        return (stem.build(), block.build(), head.build())


@pytest.fixture(scope="module")
def net() -> ArrangedNet:
    torch.manual_seed(0)
    return shaken(ArrangedNet())


def error(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


@pytest.mark.parametrize("alone", [False, True], ids=["together", "alone"])
def test_arrangements_that_are_added_agree(kernels, net: ArrangedNet, alone: bool) -> None:
    """A body alone is its input's only reader, so that more may be fused."""
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(count, *SHAPE, generator=generator) for count in (5, 4)]
    images = torch.randn(3, *SHAPE, generator=generator)
    native, reference = NativeBackend(net), TorchBackend(net)
    for paths in [[path] for path in net.paths] if alone else [net.paths]:
        tree = PrefixTree(paths)
        statistics = native.calibrate(tree, batches, "cumulative")
        expected = reference.calibrate(tree, batches, "cumulative")
        for ours, theirs in zip(statistics, expected, strict=True):
            assert ours.keys() == theirs.keys()
            for a, b in zip(chain(*ours.values()), chain(*theirs.values()), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        truth = reference.predict(tree, expected, images)
        for leaf, logits in native.predict(tree, statistics, images).items():
            assert error(logits, truth[leaf]) <= 1e-4


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("calibration", [False, True])
def test_only_concatenations_have_a_second_operand(net: ArrangedNet, calibration: bool, cuda: bool) -> None:
    for path in net.paths:
        schedule = lower(PrefixTree([path]), SHAPE, calibration=calibration, cuda=cuda)
        moves = schedule.operations[schedule.operations["kind"] == Kind.ARRANGE]
        concatenates = any(isinstance(op, layers.Concat) for op in path[1].ops)
        assert concatenates or (moves["other"] == -1).all(), path[1].name
