"""Lowering of layers: which ops are fused, and which cannot be lowered."""

import numpy as np
import pytest

from lasfast import supernets
from lasfast.engine import NotLowerableError
from lasfast.engine.lower import lower
from lasfast.engine.schedule import Kind
from lasfast.ir import layers
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime import compiled
from lasfast.supernets import LayerBuilder

pytestmark = pytest.mark.skipif(not compiled.available(), reason="lasfast's compiled module is not built")
RESIDUAL = supernets.ResidualNet((2, 2, 2), 7)
SHAPE = (3, 16, 16)


def kinds(schedule) -> list[str]:
    return [Kind(number).name.lower() for number in schedule.operations["kind"]]


def test_prediction_of_a_residual_block_is_two_convolutions() -> None:
    schedule = lower(PrefixTree([RESIDUAL.path((1, 1, 1))]), SHAPE, calibration=False)
    # The shortcut's pooling runs before the convolution that adds it.
    assert kinds(schedule) == [
        *("input", "conv2d", "conv2d", "conv2d"),
        *("conv2d", "max_pool", "conv2d"),
        *("conv2d", "max_pool", "conv2d"),
        *("global_pool", "linear"),
    ]
    operations = schedule.operations
    convolutions = operations[operations["kind"] == Kind.CONV2D]
    assert (convolutions["output_norm"] >= 0).all()
    assert (convolutions["activation"] == 1).all()
    assert (convolutions["other"] >= 0).sum() == 3
    assert (operations["input_norm"] == -1).all()
    assert operations["leaf"].tolist() == [-1] * (len(operations) - 1) + [0]
    assert operations["output"][-1] == -1


def test_calibration_of_a_residual_block_adds_once_and_ends_with_the_last_statistics() -> None:
    schedule = lower(PrefixTree([RESIDUAL.path((1, 1, 1))]), SHAPE, calibration=True)
    assert kinds(schedule) == [
        *("input", "conv2d", "conv2d", "conv2d", "combine"),
        *("conv2d", "conv2d", "max_pool", "combine"),
        *("conv2d", "conv2d"),
    ]
    operations = schedule.operations
    convolutions = operations[operations["kind"] == Kind.CONV2D]
    assert (convolutions["statistics"] >= 0).all()
    assert (operations["output_norm"] == -1).all()
    sums = operations[operations["kind"] == Kind.COMBINE]
    assert (sums["input_norm"] >= 0).all()
    assert (sums["activation"] == 1).all()
    # The first block's shortcut reads the stem through its batch norm and activation.
    assert sums["other_norm"][0] >= 0
    assert sums["other_activation"][0] == 1


@pytest.mark.parametrize("calibration", [False, True])
@pytest.mark.parametrize("width", [1, 3, None])
def test_operations_come_after_what_they_read(calibration: bool, width: int | None) -> None:
    tree = PrefixTree([RESIDUAL.path(a) for a in RESIDUAL.space.enumerate()])
    schedule = lower(tree, SHAPE, calibration=calibration, width=width)
    levels: dict[int, int] = {-1: -1}
    for operation in schedule.operations:
        assert levels[operation["input"]] < operation["level"]
        assert levels[operation["other"]] < operation["level"]
        if operation["output"] >= 0:
            levels[int(operation["output"])] = int(operation["level"])
    assert (np.diff(schedule.operations["level"]) >= 0).all()
    norms = {(norm.node, norm.module) for norm in schedule.batch_norms}
    expected = {
        (index, op.module)
        for index, node in enumerate(tree.nodes)
        for op in node.layer.ops
        if isinstance(op, layers.BatchNorm2d)
    }
    assert norms == expected


def test_levels_hold_the_operations_of_all_candidates() -> None:
    tree = PrefixTree([RESIDUAL.path(a) for a in RESIDUAL.space.enumerate()])
    together = lower(tree, SHAPE, calibration=True, width=None)
    alone = lower(PrefixTree([RESIDUAL.path((2, 2, 2))]), SHAPE, calibration=True, width=None)
    assert together.operations["level"].max() == alone.operations["level"].max()
    one_by_one = lower(tree, SHAPE, calibration=True)
    assert len(set(one_by_one.operations["level"])) == len(one_by_one.operations)
    assert one_by_one.arena < together.arena
    three = lower(tree, SHAPE, calibration=True, width=3)
    assert np.bincount(three.operations["level"]).max() == 3
    assert one_by_one.arena <= three.arena <= together.arena


def test_weights_are_shared_between_candidates() -> None:
    paths = [RESIDUAL.path(a) for a in RESIDUAL.space.enumerate()]
    schedule = lower(PrefixTree(paths), SHAPE, calibration=False)
    modules = {op.module for path in paths for layer in path for op in layer.ops if hasattr(op, "module")}
    readers = {name for name in modules if "conv" in name or "fc" in name}
    assert sorted(op.module for op, _, _ in schedule.weights) == sorted(readers)


def path_of(block: LayerBuilder) -> supernets.Path:
    head = LayerBuilder("classifier", 8)
    head.linear("fc", head.global_avg_pool(head.input), 7)
    return (block.build(), head.build())


def test_squeeze_and_excitation_is_four_operations() -> None:
    block = LayerBuilder("squeezed", 3)
    y = block.conv_bn_act("1", block.input, 8, 1, kind="swish")
    y = block.squeeze_excite("se", y, 2, gate="hardsigmoid")
    block.add(block.conv_bn("2", y, 8, 1), y)
    tree = PrefixTree([path_of(block)])
    for calibration in (False, True):
        schedule = lower(tree, SHAPE, calibration=calibration)
        squeeze = ["global_pool", "conv2d", "conv2d", "gate", "conv2d"]
        assert kinds(schedule)[:7] == ["input", "conv2d", *squeeze]
        assert schedule.operations["activation"][3:5].tolist() == [1, 6]
        assert schedule.operations["input_norm"][5] == (0 if calibration else -1)


@pytest.mark.parametrize("calibration", [False, True])
def test_channels_that_move_several_times_move_once(calibration: bool) -> None:
    """A unit's concatenation and shuffle and the next unit's split are one operation for each half."""
    block = LayerBuilder("shuffled", 3)
    left = block.conv_bn_act("1", block.input, 6, 1)
    right = block.conv_bn_act("2", block.input, 6, 1)
    y = block.channel_shuffle(block.concat(left, right), 2)
    left, right = block.channel_split(y, 5)
    block.conv_bn("3", block.concat(left, block.conv("4", right, 3, 1)), 8, 1)
    schedule = lower(PrefixTree([path_of(block)]), SHAPE, calibration=calibration)
    moves = schedule.operations[schedule.operations["kind"] == Kind.ARRANGE]
    assert [tuple(move) for move in moves[["groups", "first", "out_channels"]]] == [
        (2, 0, 5),
        (2, 5, 7),
        (1, 0, 8),
    ]
    assert moves["input"][0] == moves["input"][1]
    assert (moves["input_norm"][:2] >= 0).all() == calibration


def test_what_an_activation_came_between_is_moved_again() -> None:
    block = LayerBuilder("shuffled", 4)
    y = block.channel_shuffle(block.channel_slice(block.input, 0, 4), 2)
    y = block.channel_shuffle(block.activation(y), 2)
    y = block.channel_shuffle(y, 4)
    block.conv("conv", block.channel_slice(y, 1, 2), 8, 1)
    schedule = lower(PrefixTree([path_of(block)]), (4, 16, 16), calibration=False)
    moves = schedule.operations[schedule.operations["kind"] == Kind.ARRANGE]
    assert moves["groups"].tolist() == [2, 2, 4]
    assert moves["first"].tolist() == [0, 0, 1]
    assert moves["activation"].tolist() == [1, 0, 0]


def opaque(schedule) -> list[tuple[str, str]]:
    return [(call.layer.name, type(call.op).__name__) for call in schedule.calls]


@pytest.mark.parametrize("width", [1, 3, None])
@pytest.mark.parametrize("calibration", [False, True])
def test_what_has_no_operation_is_opaque(calibration: bool, width: int | None) -> None:
    block = LayerBuilder("stages.1", 4)
    y = block.conv_bn_act("1", block.input, 8, 3, groups=4)
    gate = block.opaque("attention", y, 8)
    shortcut = block.conv_bn("2", block.input, 8, 1)
    block.conv_bn_act("3", block.add(gate, shortcut), 8, 13)
    schedule = lower(PrefixTree([path_of(block)]), (4, 16, 16), calibration=calibration, width=width)
    # A kernel of size 13 has no operation either.
    assert opaque(schedule) == [("stages.1", "Conv2d"), ("stages.1", "Opaque"), ("stages.1", "Conv2d")]
    for call in schedule.calls:
        operation = schedule.operations[call.operation]
        assert operation["kind"] == Kind.OPAQUE
        assert (schedule.operations["level"] == operation["level"]).sum() == 1
        plain = (
            "input_norm",
            "input_activation",
            "output_norm",
            "activation",
            "statistics",
            "bias",
            "weight",
        )
        assert [int(operation[name]) for name in plain] == [-1, 0, -1, 0, -1, -1, -1]
    assert (np.diff(schedule.operations["level"]) >= 0).all()
    covered = [index for first, last in schedule.ranges() for index in range(first, last)]
    cuts = [call.operation for call in schedule.calls]
    assert sorted(covered + cuts) == list(range(len(schedule.operations)))


def test_values_that_ranges_share_never_meet() -> None:
    """Blocks of images run a range's operations at different times, so its values must not overlap."""
    paths = [opaque_path(kernel) for kernel in (1, 3, 5)]
    schedule = lower(PrefixTree(paths), (4, 16, 16), calibration=False)
    operations, values = schedule.operations, schedule.values
    assert len(schedule.calls) == 6
    is_opaque = operations["kind"] == Kind.OPAQUE
    moments = 2 * np.cumsum(is_opaque) - is_opaque  # even: ranges of native operations; odd: opaque ones
    touched: dict[int, set[int]] = {}
    for operation, moment in zip(operations, moments, strict=True):
        for value in (operation["input"], operation["other"], operation["output"]):
            touched.setdefault(int(value), set()).add(int(moment))
    touched.pop(-1)
    shared = {value: times for value, times in touched.items() if values["shared"][value]}
    assert shared == {value: times for value, times in touched.items() if len(times) > 1}
    for one, times in shared.items():
        for other, others in shared.items():
            meet = max(min(times), min(others)) <= min(max(times), max(others))
            assert one == other or not meet or apart(values[one], values[other])
    assert schedule.shared > 0


def apart(one, other) -> bool:
    def end(value) -> int:
        return value["offset"] + value["channels"] * value["height"] * value["width"]

    return end(one) <= other["offset"] or end(other) <= one["offset"]


def opaque_path(kernel: int) -> supernets.Path:
    block = LayerBuilder("stem", 4)
    y = block.conv_bn_act("1", block.input, 8, 3)
    first = block.build()
    block = LayerBuilder("body", 8)
    y = block.opaque("attention", block.conv_bn_act(f"{kernel}", block.input, 8, kernel), 8)
    y = block.conv_bn("_2", block.add(y, block.input), 8, 3)
    block.add(block.conv_bn("_3", block.opaque("attention", y, 8), 8, 3), block.input)
    return (first, *path_of(block))


def test_a_gate_of_flattened_positions_is_torchs() -> None:
    block = LayerBuilder("gated", 4)
    y = block.conv("conv", block.input, 1, 1)
    block.conv("last", block.multiply(block.input, block.flatten(y, 4)), 8, 1)
    schedule = lower(PrefixTree([path_of(block)]), (4, 2, 2), calibration=False)
    assert opaque(schedule) == [("gated", "Multiply")]
    assert schedule.calls[0].flat == (False, True)


class Tokens(layers.Op):
    """An op whose output is neither an image nor features."""

    def output_shape(self, *shapes: layers.Shape) -> layers.Shape:
        return (shapes[0][0], shapes[0][1] * shapes[0][2])


def test_what_torch_cannot_run_either_is_named() -> None:
    layer = supernets.Layer("stages.2", (Tokens(),))
    with pytest.raises(
        NotLowerableError, match=r"layer 'stages.2': Tokens: makes a value of shape \(3, 256\)"
    ):
        lower(PrefixTree([(layer,)]), SHAPE, calibration=False)


def test_a_path_must_end_in_logits() -> None:
    block = LayerBuilder("only", 3)
    block.conv("conv", block.input, 8, 3)
    with pytest.raises(NotLowerableError, match="layer 'only': Conv2d: ends a path"):
        lower(PrefixTree([(block.build(),)]), SHAPE, calibration=False)
