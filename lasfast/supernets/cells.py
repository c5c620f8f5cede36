"""Networks that are stacks of two cells, as DARTS and ITNAS search and build them (Liu et al. 2019)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

from lasfast.core.checks import as_int, check_choice, check_positive
from lasfast.ir.builder import LayerBuilder, Value
from lasfast.ir.layers import Layer, Path
from lasfast.spaces import Architecture, CellSpace
from lasfast.spaces.cell import INPUTS, OPERATIONS, Cell, Edge
from lasfast.supernets.base import Supernet
from lasfast.supernets.cell_operations import apply_operation, factorized_reduction, preprocess
from lasfast.supernets.parts import classifier, scaled

CellStem = Literal["cifar", "tiny-imagenet", "imagenet"]
STEM_STRIDES = {"cifar": (), "tiny-imagenet": (1, 2, 1), "imagenet": (2, 2, 2)}
DARTS_V1 = (
    "sep3.0+sep3.1-skip.0+sep3.1-skip.0+sep3.1-sep3.0+skip.2--"
    "max3.0+max3.1-max3.0+skip.2-max3.0+skip.2-avg3.0+skip.2"
)
DARTS_V2 = (
    "sep3.0+sep3.1-sep3.0+sep3.1-skip.0+sep3.1-skip.0+dil3.2--"
    "max3.0+max3.1-max3.1+skip.2-max3.0+skip.2-max3.1+skip.2"
)


@dataclass(frozen=True)
class CellShape:
    """Where a cell stands in the stack: what differs between the cells of one kind.

    `before` are the channels of the previous cell's output, which it reads as its second input.
    """

    index: int
    reduces: bool
    before: int
    channels: int

    @property
    def name(self) -> str:
        """Of its layer; names of its modules begin so."""
        return f"stack.{self.index}"


@dataclass(frozen=True)
class CellParts:
    """The layers of which all cells of a shape are made, each with an input of its own.

    Attributes:
        shape: where the cell stands.
        previous: how the cell reads the output of the previous one.
        carry: how the next cell reads that; None for the last cell.
        edges: for each of the space's edges, for each operation, its layer; None where it does nothing.
    """

    shape: CellShape
    previous: Layer
    carry: Layer | None
    edges: tuple[tuple[Layer | None, ...], ...]

    @property
    def layers(self) -> Path:
        """All of them."""
        every = (self.previous, self.carry, *itertools.chain(*self.edges))
        return tuple(layer for layer in every if layer is not None)


class CellNet(Supernet):
    """A stem, a stack of `cells` of which those at a third and two thirds reduce, and a classifier.

    A cell reads the outputs of the two cells before it, brings both to its own number of channels by 1x1
    convolutions, and puts its nodes' channels one after another. A reduction cell's operations on its inputs
    have stride 2, and it has twice as many channels. Layers have one input: each carries, before its own
    output, the previous one's as the next cell will read it, so that the path is a chain of layers, and
    architectures with the same normal cell share all of it up to the first reduction.

    In a network of one architecture, batch norms have a scale and a shift and poolings have none behind them,
    as in the networks that DARTS trains from scratch. Auxiliary classifiers and dropped paths, with which it
    trains them, are no part of it.

    Args:
        num_classes, in_channels: of the classifier, of the images.
        cells: how many, at least 3.
        channels: of a node of the first cells. DARTS and ITNAS search 8 cells of 16 channels and train 20 of
            36 from scratch (14 of 48 on ImageNet).
        space: the cells; by default with 4 nodes and all operations.
        stem: "cifar": one convolution of stride 1 to three times `channels`; "imagenet": three of stride 2,
            the first cell's inputs being the outputs of the last two; "tiny-imagenet" (ours): as there, only
            the second of stride 2.
        width: multiplies `channels`, to a multiple of 8 (ours).
        dropout: probability, before the classifier.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.

    Attributes:
        first, last: the layers before and after the cells.
        parts: what each cell is made of, for who runs several operations of an edge at once.
        published: architectures that papers print, by name, where the space has them.
    """

    space: CellSpace

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        cells: int = 8,
        channels: int = 16,
        space: CellSpace | None = None,
        stem: CellStem = "cifar",
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        as_int("cells", cells, minimum=3)  # so that both kinds are in use
        check_positive(channels=channels)
        check_choice("stem", stem, tuple(STEM_STRIDES))
        if space is not None and not isinstance(space, CellSpace):
            raise TypeError(f"space must be a CellSpace, got {type(space).__name__}")
        space = CellSpace() if space is None else space
        super().__init__(space, num_classes=num_classes, in_channels=in_channels)
        self.stem_kind, self.dropout = stem, dropout
        self.channels = channels if width == 1 else scaled(channels, width)
        whole = space.nodes == 4 and space.operations == tuple(OPERATIONS)
        self.published = {"darts-v1": DARTS_V1, "darts-v2": DARTS_V2} if whole else {}
        self.shapes = self._shapes(cells)
        # Searchers ask for the paths of thousands of architectures: records are made once.
        self._layers: dict[tuple[CellShape, Cell], Layer] = {}
        self.first = self._first()
        self.last = classifier(self.shapes[-1].channels * space.nodes, num_classes, dropout)
        self.parts = tuple(map(self._parts, self.shapes))
        self.create_modules((self.first, *self.last), *(parts.layers for parts in self.parts))

    def _shapes(self, count: int) -> tuple[CellShape, ...]:
        before = self.channels if STEM_STRIDES[self.stem_kind] else 3 * self.channels
        channels = self.channels
        shapes = []
        for index in range(count):
            reduces = index in (count // 3, 2 * count // 3)
            channels *= 2 if reduces else 1
            shapes.append(CellShape(index, reduces, before, channels))
            before = channels * self.space.nodes
        return tuple(shapes)

    def path(self, architecture: Architecture) -> Path:
        """Return stem, cells, head."""
        normal, reduction = self.space.cells(architecture)
        chosen = (reduction if shape.reduces else normal for shape in self.shapes)
        return (self.first, *map(self._cell_layer, self.shapes, chosen), *self.last)

    def _cell_layer(self, shape: CellShape, cell: Cell) -> Layer:
        if (shape, cell) not in self._layers:
            self._layers[shape, cell] = self._build(shape, cell)
        return self._layers[shape, cell]

    def _build(self, shape: CellShape, cell: Cell) -> Layer:
        block = LayerBuilder(shape.name, shape.channels + shape.before)
        carried, previous = block.channel_split(block.input, shape.channels)
        carry = self._carry(block, previous, shape)
        values = [carried, preprocess(block, "previous", previous, shape.channels)]
        for node, edges in enumerate(cell, start=INPUTS):
            one, other = (_operation(block, shape, edge, node, values[edge.source]) for edge in edges)
            values.append(block.add(one, other))
        output = values[INPUTS]
        for value in values[INPUTS + 1 :]:
            output = block.concat(output, value)
        if carry is not None:
            block.concat(carry, output)
        return block.build()

    def _carry(self, block: LayerBuilder, x: Value, shape: CellShape | None) -> Value | None:
        """Append how the cell after `shape` (None: the first) reads x, the output of the one before that."""
        index = 0 if shape is None else shape.index + 1
        if index == len(self.shapes):
            return None
        channels = self.shapes[index].channels
        halved = STEM_STRIDES[self.stem_kind][-1:] == (2,) if shape is None else shape.reduces
        return (factorized_reduction if halved else preprocess)(block, "carry", x, channels)

    def _first(self) -> Layer:
        block = LayerBuilder("stem", self.in_channels)
        strides = STEM_STRIDES[self.stem_kind]
        if strides:
            y = block.conv_bn_act("1", block.input, self.channels // 2, 3, strides[0])
            earlier = block.conv_bn("2", y, self.channels, 3, strides[1])
            last = block.conv_bn("3", block.activation(earlier), self.channels, 3, strides[2])
        else:
            earlier = last = block.conv_bn("", block.input, 3 * self.channels, 3)
        carry = self._carry(block, earlier, None)
        assert carry is not None
        block.concat(carry, last)
        return block.build()

    def _parts(self, shape: CellShape) -> CellParts:
        """The layers of which all cells of a shape are made."""
        block = LayerBuilder(shape.name, shape.before)
        preprocess(block, "previous", block.input, shape.channels)
        carry = LayerBuilder(shape.name, shape.before)
        carries = self._carry(carry, carry.input, shape) is not None
        edges = tuple(
            tuple(_edge_layer(shape, Edge(source, operation), node) for operation in self.space.operations)
            for source, node in self.space.edges
        )
        return CellParts(shape, block.build(), carry.build() if carries else None, edges)

    def describe(self) -> dict[str, Any]:
        """Return what identifies this supernet's structure; the weights do not say the strides."""
        return {**super().describe(), "stem": self.stem_kind}


def _operation(block: LayerBuilder, shape: CellShape, edge: Edge, node: int, x: Value) -> Value:
    stride = 2 if shape.reduces and edge.source < INPUTS else 1
    return apply_operation(block, f"{node}.{edge.source}.{edge.operation}", edge.operation, x, stride)


def _edge_layer(shape: CellShape, edge: Edge, node: int) -> Layer | None:
    block = LayerBuilder(shape.name, shape.channels)
    y = _operation(block, shape, edge, node, block.input)
    return None if y == block.input else block.build()
