"""Networks that are stacks of cells of two kinds, as in DARTS (Liu et al. 2019) and ITNAS."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
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
    """The position of a cell in the stack, in which the cells of one kind differ.

    `before` is the number of channels of the previous cell's output, `channels` that of each of its nodes.
    """

    index: int
    reduces: bool
    before: int
    channels: int

    @property
    def name(self) -> str:
        """The name of the cell's layer, with which its modules' names begin."""
        return f"stack.{self.index}"


@dataclass(frozen=True)
class CellParts:
    """The layers that every cell at one position of the stack is made of.

    Attributes:
        shape: the position.
        previous: the layer with which the cell reads the output of the previous cell.
        carry: the layer with which the next cell reads that same output; None for the last cell.
        edges: for each edge of the space and each operation, its layer; None where the edge is the identity.
    """

    shape: CellShape
    previous: Layer
    carry: Layer | None
    edges: tuple[tuple[Layer | None, ...], ...]

    @property
    def layers(self) -> Path:
        """All layers."""
        every = (self.previous, self.carry, *itertools.chain(*self.edges))
        return tuple(layer for layer in every if layer is not None)


class CellNet(Supernet):
    """A stem, a stack of cells and a classifier; the cells at a third and two thirds are reduction cells.

    A cell reads the outputs of the two cells before it, brings both to its own number of channels by 1x1
    convolutions, and concatenates its nodes. A reduction cell has twice as many channels, and the operations
    on its inputs have stride 2.

    The path has one layer for each cell. Since a layer has a single input, its output is the concatenation
    of the previous cell's output, already in the form in which the next cell reads it, and the cell's own.
    Architectures with the same normal cell thus share all layers before the first reduction cell.

    In the path of an architecture, batch norms have scale and shift, and no batch norm follows a pooling, as
    in the networks that DARTS trains from scratch. DARTS' auxiliary classifiers and path dropout are settings
    of training (`TrainSettings.standalone_auxiliary`, `standalone_drop_path`).

    Args:
        num_classes: the number of classes.
        in_channels: the number of channels of the images.
        cells: the number of cells, at least 3.
        channels: the number of channels of a node of the first cells. DARTS and ITNAS search 8 cells of 16
            channels and train 20 of 36 from scratch (14 of 48 on ImageNet).
        space: the search space; by default 4 nodes and all operations.
        stem: "cifar" is one convolution of stride 1 to three times `channels`; "imagenet" is three
            convolutions of stride 2, of which the last two feed the first cell; "tiny-imagenet" (ours) is
            the same with stride 2 in the second alone.
        width: a factor of `channels`, which are rounded to a multiple of 8 (ours).
        dropout: the probability of dropout before the classifier.

    Raises:
        TypeError, ValueError: an argument of the wrong type or out of range.

    Attributes:
        first, last: the layers before and after the cells.
        parts: the layers of each cell, for a search that runs several operations of an edge at once.
        published: architectures that papers print, by name, if the space has them.
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
        as_int("cells", cells, minimum=3)  # so that both kinds occur
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
        # Searchers ask for the paths of thousands of architectures, so records are made once.
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
        """Return the stem, a layer for each cell, and the head."""
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
        branches = []  # edges that are not the identity, as DARTS' code drops them
        for node, edges in enumerate(cell, start=INPUTS):
            one, other = (_operation(block, shape, edge, node, values[edge.source]) for edge in edges)
            sources = [values[edge.source] for edge in edges]
            branches += [y.number for y, x in zip((one, other), sources, strict=True) if y != x]
            values.append(block.add(one, other))
        output = values[INPUTS]
        for value in values[INPUTS + 1 :]:
            output = block.concat(output, value)
        if carry is not None:
            block.concat(carry, output)
        carries = 0 if carry is None else carry.channels
        return replace(block.build(), branches=tuple(branches), carried=carries)

    def _carry(self, block: LayerBuilder, x: Value, shape: CellShape | None) -> Value | None:
        """Append the ops with which the cell after `shape` (None for the first) reads its first input, x."""
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
        """Return the layers that every cell at one position is made of."""
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
