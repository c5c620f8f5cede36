"""Dropout, drop path and auxiliary heads regularize a network; they are written into its layers.

The layers' modules are those of the network itself, which is the same without all this afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

from torch import Tensor

from lasfast.execution.interpret import Modules, run_op
from lasfast.ir import layers
from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import Layer, Op, Path, Shape

RATE = "drop_path"
"""The name under which `run_op` finds a `DropPathRate` among modules."""
AUXILIARY = "auxiliary"
"""The name that the modules of an auxiliary head begin with."""
WINDOW = 5  # of the auxiliary head's pooling, in DARTS
NARROW, WIDE = 128, 768  # channels of its convolutions


class DropPathRate:
    """The probability of drop path at the present batch."""

    def __init__(self) -> None:
        self.probability = 0.0


@dataclass(frozen=True)
class DropPath(Op):
    """Stochastic depth: in training, it sets whole images to zero, and scales the others up instead.

    The probability is `share` times that of the `DropPathRate`.
    """

    share: float = 1.0


@run_op.register
def _(op: DropPath, modules: Modules, x: Tensor) -> Tensor:
    return _stochastic_depth()(x, op.share * modules[RATE].probability, "row", modules[""].training)


@cache
def _stochastic_depth() -> Any:
    from torchvision.ops import stochastic_depth  # which takes a while to import

    return stochastic_depth


def branches(layer: Layer) -> tuple[int, ...]:
    """Return the values of a layer that drop path may drop.

    They are what the layer's record names; else those residual branches that nothing but the sum reads. Of
    the two values of a sum, the branch is the one that depends on the other; where none does, as with a
    projection in the shortcut, it is the one with more convolutions.
    """
    return layer.branches if layer.branches is not None else _residual_branches(layer)


@lru_cache(maxsize=4096)
def _residual_branches(layer: Layer) -> tuple[int, ...]:
    steps = list(layer.steps())
    needs: list[frozenset[int]] = [frozenset()]
    for _, sources in steps:
        needs.append(frozenset(sources).union(*(needs[source] for source in sources)))
    read = [source for _, sources in steps for source in sources]

    def convolutions(value: int) -> int:
        made = needs[value] | {value}
        return sum(isinstance(op, layers.Conv2d) for number, (op, _) in enumerate(steps, 1) if number in made)

    found = []
    for op, sources in steps:
        if not isinstance(op, layers.Add) or sources[0] == sources[1]:
            continue
        one, other = sources
        if one in needs[other] or (other not in needs[one] and convolutions(other) > convolutions(one)):
            one, other = other, one
        if read.count(one) == 1 and convolutions(one):
            found.append(one)
    return tuple(found)


def with_drop_path(path: Path, rule: str) -> Path:
    """Return layers that drop their branches.

    Args:
        path: the layers.
        rule: "depth" gives branch l of L the share l / L of the probability (Huang et al. 2016, section 3);
            with "epochs" all have the same.
    """
    total = sum(len(branches(layer)) for layer in path)
    if not total:
        raise ValueError("standalone_drop_path must be 0 for a network without residual branches")
    number, dropping = 0, []
    for layer in path:
        ops: dict[int, Op] = {}
        for value in branches(layer):
            number += 1
            ops[value] = DropPath(share=number / total if rule == "depth" else 1.0)
        dropping.append(_with_ops(layer, ops))
    return tuple(dropping)


@lru_cache(maxsize=4096)
def with_dropout(layer: Layer, probability: float) -> Layer:
    """Return a classifier's layer with this dropout before its last op, in place of what it has there."""
    *_, (last, (source,)) = layer.steps()
    assert isinstance(last, layers.Linear)
    before = layer.ops[source - 1] if source else None
    if isinstance(before, layers.Dropout):
        other = replace(before, p=probability)
        return replace(layer, ops=(*layer.ops[: source - 1], other, *layer.ops[source:]))
    return _with_ops(layer, {source: layers.Dropout(probability)})


def is_classifier(layer: Layer) -> bool:
    """Return whether a layer ends in a fully connected one."""
    return isinstance(layer.ops[-1], layers.Linear)


def check_classifier(layer: Layer) -> None:
    """Raise ValueError where a path's last layer is none that dropout can be put into."""
    if not is_classifier(layer):
        raise ValueError(
            "dropout must be None for a network that does not end in a fully connected layer, got "
            f"{layer.name!r}"
        )


def _with_ops(layer: Layer, ops: Mapping[int, Op]) -> Layer:
    """Return a layer with further ops; all that read one of the values of `ops` now read that op's."""
    if not ops:
        return layer
    made: list[Op] = []
    numbers: list[int] = []

    def add(op: Op, *sources: int) -> int:
        made.append(replace(op, inputs=sources))
        return len(made)

    numbers.append(add(ops[0], 0) if 0 in ops else 0)
    for number, (op, sources) in enumerate(layer.steps(), start=1):
        value = add(op, *(numbers[source] for source in sources))
        numbers.append(add(ops[number], value) if number in ops else value)
    return replace(layer, ops=tuple(made))


def auxiliary_place(path: Path) -> int:
    """Return the number of the layer after which the auxiliary head is, DARTS': at two thirds of the depth.

    The first and the last layer, stem and classifier, do not count.
    """
    if len(path) < 3:
        raise ValueError(
            f"standalone_auxiliary must be 0 for a network of fewer than 3 layers, got {len(path)}"
        )
    return 1 + 2 * (len(path) - 2) // 3


def auxiliary_head(path: Path, image_shape: Shape) -> Layer:
    """Return the auxiliary head that reads the output of the layer at `auxiliary_place`.

    This is the head of DARTS' code: ReLU, 5x5 average pooling to two by two positions, a 1x1 convolution to
    128 channels and one of two by two to 768, each with batch norm and ReLU, and a classifier. The stride of
    the pooling follows from the size; other windows than 5x5, for images that leave fewer than 6 or more than
    10 positions, are ours.

    Raises:
        ValueError: the network is too short, or its images are too small.
    """
    place = auxiliary_place(path)
    outputs = [shapes[-1] for _, shapes in layers.path_shapes(path, image_shape)]
    shape, classes = outputs[place], outputs[-1][0]
    if len(shape) != 3 or min(shape[1:]) < 2:
        raise ValueError(
            f"standalone_auxiliary must be 0 where the layer before the head, {path[place].name!r}, gives "
            f"less than two by two positions, got {shape}"
        )
    size = min(shape[1:])
    stride = size - WINDOW if WINDOW < size <= 2 * WINDOW else size // 2
    block = LayerBuilder(AUXILIARY, shape[0])
    own = shape[0] - path[place].carried
    y = block.channel_slice(block.input, path[place].carried, own) if own < shape[0] else block.input
    y = block.pool(block.activation(y), "avg", size - stride, stride)
    y = block.activation(block.batch_norm("bn1", block.conv("conv1", y, NARROW, 1)))
    y = block.activation(block.batch_norm("bn2", block.conv("conv2", y, WIDE, 2, padding=0)))
    block.linear("fc", block.global_avg_pool(y), classes)
    return block.build()
