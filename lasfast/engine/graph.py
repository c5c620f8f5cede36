"""The graph of a prefix tree: the ops of all its nodes, each with the values that it reads.

Features are images of one position. Dropout and flattening vanish. An op without a native operation becomes
a `Call`, which torch runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from lasfast.engine.schedule import MAX_KERNEL, Call
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op, Shape
from lasfast.ir.prefix_tree import ROOT, PrefixTree


class NotLowerableError(Exception):
    """A layer holds an op that even torch cannot run between native operations."""

    def __init__(self, layer: Layer, op: Op, why: str) -> None:
        super().__init__(f"layer {layer.name!r}: {type(op).__name__}: {why}")


@dataclass(slots=True)
class Entry:
    """An op of the graph, whose number is that of the value it computes; entry 0 is the images.

    Attributes:
        op: None for the images.
        sources: the numbers of the values that it reads.
        shape: (channels, height, width) of its value as it is stored.
        node: the tree's node that it belongs to; ROOT for the images.
        call: set where torch runs the op.
        uses: how often its value is read, by ops and as the output of a node. Since an op of another node is
            then never the only reader, what is fused does not depend on how many nodes read an output.
    """

    op: Op | None
    sources: tuple[int, ...]
    shape: Shape
    node: int
    call: Call | None = None
    uses: int = 0


@dataclass
class Graph:
    """The ops of a tree, in an order in which they can run.

    Attributes:
        entries: the ops, after the images.
        outputs: the number of each node's output; ROOT has the images.
        classes: the features of every path's output; 0 unless outputs had to be logits.
    """

    entries: list[Entry]
    outputs: dict[int, int] = field(default_factory=lambda: {ROOT: 0})
    classes: int = 0


def make_graph(tree: PrefixTree, image_shape: Shape, *, logits: bool) -> Graph:
    """Return the graph of a tree; with `logits`, every path must end in as many features.

    Raises NotLowerableError, or ValueError where a layer does not fit its input.
    """
    shapes = tree.shapes(image_shape)  # as layers see them: features where an entry has an image
    graph = Graph([Entry(None, (), image_shape, ROOT)])
    entries, outputs = graph.entries, graph.outputs
    for index, node in enumerate(tree.nodes):
        source = outputs[node.parent]
        steps = _steps(node.layer, shapes[index], entries[source].shape)
        values = [source]
        for step in steps:
            sources = tuple([values[number] for number in step.sources])
            if step.op is None:
                values.append(sources[0])
                continue
            for source in sources:
                entries[source].uses += 1
            values.append(len(entries))
            entries.append(Entry(step.op, sources, step.shape, index, step.call))
        outputs[index] = values[-1]
        output = entries[values[-1]]
        output.uses += 1
        if logits and not node.uses:
            _check_leaf(node.layer, output.shape, shapes[index][-1], graph.classes)
            graph.classes = shapes[index][-1][0]
    return graph


def _check_leaf(layer: Layer, stored: Shape, shape: Shape, classes: int) -> None:
    if len(shape) != 1 or stored[1:] != (1, 1) or classes not in (0, shape[0]):
        raise NotLowerableError(
            layer, layer.ops[-1], f"ends a path with a value of shape {shape}, stored as {stored}"
        )


class _Step(NamedTuple):
    """An op of a layer; `op` is None where its value is that of its source."""

    op: Op | None
    sources: tuple[int, ...]
    shape: Shape
    call: Call | None


@lru_cache(maxsize=4096)
def _steps(layer: Layer, shapes: tuple[Shape, ...], stored: Shape) -> tuple[_Step, ...]:
    """Return a layer's ops, for values of these shapes, the input first, which is stored as another."""
    steps = []
    stored_shapes = [stored]
    for (op, numbers), output in zip(layer.steps(), shapes[1:], strict=True):
        inputs = [stored_shapes[number] for number in numbers]
        kept: Op | None = op
        call = None
        if isinstance(op, _VANISHING):
            kept, stored = None, inputs[0]
        elif not _is_native(op, inputs):
            if len(output) not in (1, 3) or len(numbers) > 2:
                raise NotLowerableError(
                    layer, op, f"makes a value of shape {output} of {len(numbers)} value(s)"
                )
            call = Call(layer, op, output, tuple(len(shapes[number]) == 1 for number in numbers))
            stored = _as_image(output)
        elif isinstance(op, _OF_ITS_INPUT):
            stored = inputs[0]
        else:
            stored = _as_image(output)
        steps.append(_Step(kept, numbers, stored, call))
        stored_shapes.append(stored)
    return tuple(steps)


def _as_image(shape: Shape) -> Shape:
    return shape if len(shape) == 3 else (shape[0], 1, 1)


_VANISHING = (layers.Dropout, layers.Flatten)
_OF_ITS_INPUT = (layers.Activation, layers.Add)
"""Ops whose value is stored as the first that they read is."""
_NATIVE = (
    layers.BatchNorm2d,
    layers.Activation,
    layers.GlobalAvgPool,
    layers.Linear,
    layers.Concat,
    layers.Shuffle,
    layers.Slice,
)


def _is_native(op: Op, inputs: list[Shape]) -> bool:
    """Return whether there is a native operation for an op on stored values of these shapes."""
    if isinstance(op, layers.Conv2d):
        dense = op.groups == 1 or op.groups == op.in_channels == op.out_channels
        if not isinstance(op.kernel_size, int) or not isinstance(op.padding, int):
            return False
        return dense and op.dilation == 1 and op.padding < op.kernel_size <= MAX_KERNEL
    if isinstance(op, layers.Pool):
        return op.kernel_size <= MAX_KERNEL and not op.counts_padding
    if isinstance(op, layers.Add):
        # They may be of one shape in the layer, but one of them flattened there.
        first, second = inputs
        return first[1:] == second[1:] and second[0] <= first[0]
    if isinstance(op, layers.Multiply):
        return inputs[1] == (inputs[0][0], 1, 1)
    return isinstance(op, _NATIVE)
