"""The groups of a program's channels that can only be narrowed together, found from its records alone."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, replace
from functools import singledispatch
from math import lcm, prod
from typing import Any

from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op, Shape

KEEPING = (
    layers.BatchNorm2d,
    layers.Activation,
    layers.Pool,
    layers.GlobalAvgPool,
    layers.Pad,
    layers.Flatten,
    layers.Dropout,
    layers.Quantize,
    layers.Multiply,
)
"""The ops whose output has the channels of each of their inputs, whatever their number is."""

WHY_FIXED: dict[type[Op], str] = {
    layers.Concat: "a concatenation joins them with others",
    layers.Slice: "a slice takes some of them",
    layers.Shuffle: "a shuffle mixes them",
    layers.Code: "code that lasfast cannot read has them",
}
"""The ops that take channels from elsewhere than the beginning, where narrower records would read others."""


@dataclass(frozen=True)
class Axis:
    """A dimension of a module's tensors that runs along the channels of a group.

    Attributes:
        module: the name of the module.
        dimension: 0 of all its tensors (what it writes), or 1 of its weight (what it reads).
        spread: how many entries, next to each other, each channel has: height * width behind a flattening.
    """

    module: str
    dimension: int
    spread: int = 1


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be narrowed together, by leaving out the last ones.

    Attributes:
        channels: how many there are.
        block: how many channels, next to each other, can only be left out together: a multiple of the
            channels of each group of the grouped convolutions that read them.
        axes: the weights that run along them, in the order of the program.
        fixed: why their number cannot change; none where it can.
    """

    channels: int
    block: int
    axes: tuple[Axis, ...]
    fixed: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the first module that writes them, or else that reads them; "" where none does."""
        ordered = sorted(self.axes, key=lambda axis: axis.dimension)
        return ordered[0].module if ordered else ""


@dataclass(frozen=True)
class Channels:
    """The groups of a program's channels.

    Attributes:
        groups: the groups, in the order in which they appear.
        of_value: for each value of the program, the number of its group.
        spread: for each value, how many entries each channel has: height * width behind a flattening.
    """

    groups: tuple[ChannelGroup, ...]
    of_value: tuple[int, ...]
    spread: tuple[int, ...]


def find_channels(
    program: Layer, image_shape: Shape, kept: Collection[str] = (), alike: Collection[int] = ()
) -> Channels:
    """Return the groups of a program's channels.

    Sums, gates, norms, activations, pooling, flattening, depthwise and grouped convolutions tie the channels
    of what they read and write, and so do modules that are used twice. A group's number of channels is fixed
    where an op reads or writes it that cannot be narrowed, or that is not known here.

    Args:
        program: a whole network, which reads images and gives logits.
        image_shape: (channels, height, width) of the images.
        kept: the names of modules whose weights keep their shapes.
        alike: the numbers of opaque ops and of code that do the same to each channel, whatever others hold.
            The first op is number 1.
    """
    shapes = program.shapes(image_shape)
    ties = _Ties()
    axes: dict[Axis, Hashable] = {}
    spread = [1]
    fixed: list[tuple[Hashable, str]] = [(0, "they are the images'")]
    blocks: list[tuple[Hashable, int]] = []
    for number, (op, sources) in enumerate(program.steps(), start=1):
        values = (*sources, number)
        module = getattr(op, "module", "")
        grouped = isinstance(op, layers.Conv2d) and op.groups > 1
        keeping = isinstance(op, KEEPING) or number in alike
        if isinstance(op, layers.Flatten):
            spread.append(prod(shapes[sources[0]][1:]))
        else:
            spread.append(spread[sources[0]] if keeping or isinstance(op, layers.Add) else 1)
        if isinstance(op, layers.Code):  # what it computes with is read whole
            owners = (name.rpartition(".")[0] for name in op.tensors)
            fixed += [((owner, axis), WHY_FIXED[layers.Code]) for owner in owners for axis in (0, 1)]
        if module in kept:
            fixed += [(value, f"{module!r} is to be kept") for value in values]
        if isinstance(op, layers.Linear) or (isinstance(op, layers.Conv2d) and not grouped):
            ties.tie(sources[0], (module, 1))
            ties.tie(number, (module, 0))
            axes[Axis(module, 1, spread[sources[0]])] = sources[0]
            axes[Axis(module, 0)] = number
        elif isinstance(op, layers.Conv2d) and op.in_channels == op.out_channels:
            ties.tie(sources[0], number, (module, 0))
            axes[Axis(module, 0)] = number
            blocks.append((number, op.in_channels // op.groups))
        elif keeping or (isinstance(op, layers.Add) and not op.missing):
            ties.tie(*values)
            if isinstance(op, layers.BatchNorm2d):
                axes[Axis(module, 0)] = number
        else:
            fixed += [(value, _why_fixed(op)) for value in values]
    fixed.append((len(program.ops), "they are the network's outputs"))
    return _gather(shapes, ties, axes, tuple(spread), fixed, blocks)


def _why_fixed(op: Op) -> str:
    if isinstance(op, layers.Conv2d):
        return f"{op.module!r} is a grouped convolution with other numbers of inputs and outputs"
    if isinstance(op, layers.Add):
        return "a sum pads some of them with zeros"
    if isinstance(op, layers.Opaque):
        return f"{op.module!r} is a module that lasfast cannot read"
    return WHY_FIXED.get(type(op), f"{type(op).__name__}, an op that cannot be narrowed, has them")


def _gather(
    shapes: tuple[Shape, ...],
    ties: _Ties,
    axes: dict[Axis, Hashable],
    spread: tuple[int, ...],
    fixed: list[tuple[Hashable, str]],
    blocks: list[tuple[Hashable, int]],
) -> Channels:
    """Return the groups that the ties make."""
    counts = [shape[0] // entries for shape, entries in zip(shapes, spread, strict=True)]
    numbers: dict[Hashable, int] = {}
    for value, channels in enumerate(counts):
        root = ties.root(value)
        first = numbers.setdefault(root, value)
        if counts[first] != channels:
            fixed.append((value, "a module reads or writes different numbers of them"))
    roots = {root: number for number, root in enumerate(numbers)}

    def of(root: Hashable, found: list[tuple[Hashable, Any]]) -> list[Any]:
        return [what for node, what in found if ties.root(node) == root]

    groups = tuple(
        ChannelGroup(
            counts[first],
            lcm(*of(root, blocks)),
            tuple(of(root, [(node, axis) for axis, node in axes.items()])),
            tuple(dict.fromkeys(of(root, fixed))),
        )
        for root, first in numbers.items()
    )
    return Channels(groups, tuple(roots[ties.root(value)] for value in range(len(shapes))), spread)


class _Ties:
    """Sets of things that belong together (union-find)."""

    def __init__(self) -> None:
        self._parents: dict[Hashable, Hashable] = {}

    def root(self, node: Hashable) -> Hashable:
        """Return the thing that stands for a thing's set."""
        while node in self._parents:
            node = self._parents[node]
        return node

    def tie(self, *nodes: Hashable) -> None:
        """Join the sets of these things."""
        first = self.root(nodes[0])
        for node in nodes[1:]:
            root = self.root(node)
            if root != first:
                self._parents[root] = first


@singledispatch
def narrowed(op: Op, inputs: int, outputs: int) -> Op:
    """Return an op as it is where `inputs` entries of its input and `outputs` of its output are left.

    Entries are channels, or features. The ops whose width may change have rules; others stay as they are.
    """
    return op


@narrowed.register
def _(op: layers.Conv2d, inputs: int, outputs: int) -> Op:
    groups = op.groups * inputs // op.in_channels if op.groups > 1 else 1
    return replace(op, in_channels=inputs, out_channels=outputs, groups=groups)


@narrowed.register
def _(op: layers.BatchNorm2d, inputs: int, outputs: int) -> Op:
    return replace(op, channels=outputs)


@narrowed.register
def _(op: layers.Linear, inputs: int, outputs: int) -> Op:
    return replace(op, in_features=inputs, out_features=outputs)


@narrowed.register
def _(op: layers.Opaque, inputs: int, outputs: int) -> Op:
    return replace(op, out_channels=outputs, shape=_narrower(op.shape, outputs))


@narrowed.register
def _(op: layers.Code, inputs: int, outputs: int) -> Op:
    return replace(op, shape=_narrower(op.shape, outputs))


def _narrower(shape: Shape | None, channels: int) -> Shape | None:
    return None if shape is None else (channels, *shape[1:])
