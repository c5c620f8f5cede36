"""The space of cells: a network is a stack of a normal and a reduction cell (DARTS, Liu et al. 2019)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from lasfast.core.checks import as_int
from lasfast.spaces.base import Architecture, stripped
from lasfast.spaces.choice import ChoiceSpace
from lasfast.spaces.genotype import edges_of_nodes, is_concat, read_genotype

OPERATIONS = {
    "max_pool_3x3": "max3",
    "avg_pool_3x3": "avg3",
    "skip_connect": "skip",
    "sep_conv_3x3": "sep3",
    "sep_conv_5x5": "sep5",
    "dil_conv_3x3": "dil3",
    "dil_conv_5x5": "dil5",
}
"""The operations of edges: DARTS' names, and the short names of the text form."""
INPUTS = 2
"""A cell's input nodes: 0 is the output of the cell before the previous one, 1 that of the previous one."""
KINDS = ("normal", "reduction")


class Edge(NamedTuple):
    """One edge that a node keeps: the node it comes from, and the name of its operation."""

    source: int
    operation: str


Cell: TypeAlias = tuple[tuple[Edge, Edge], ...]
"""The two edges of each intermediate node, those from earlier nodes first."""


class CellSpace(ChoiceSpace):
    """The pairs of a normal and a reduction cell (Liu et al. 2019, section 2.1).

    Nodes 0 and 1 of a cell are its inputs; the intermediate nodes follow. An intermediate node is the sum of
    two edges, operations applied to two different earlier nodes. The cell's output is the concatenation of
    its intermediate nodes.

    An architecture has three options for each intermediate node, those of the normal cell first: which two
    nodes it reads, and the operation on the edge from each. The text form joins a node's edges by '+', nodes
    by '-' and the cells by '--', as in `sep3.0+skip.1-...--max3.0+...`. `parse` also reads the text of a
    DARTS genotype (`lasfast.spaces.genotype`), if its cells concatenate all their intermediate nodes.

    DARTS' operation `none` is left out, since no cell that a search returns has it.

    Args:
        nodes: the number of intermediate nodes of a cell.
        operations: names out of `OPERATIONS`.

    Raises:
        TypeError, ValueError: `nodes` is no positive int, or `operations` are not different keys of
            `OPERATIONS`.
    """

    def __init__(self, nodes: int = 4, operations: Sequence[str] = tuple(OPERATIONS)) -> None:
        self.nodes = as_int("nodes", nodes, minimum=1)
        if isinstance(operations, str) or not isinstance(operations, Sequence):
            raise TypeError(f"operations must be a sequence of names, got {operations!r}")
        self.operations = tuple(operations)
        unknown = [name for name in self.operations if name not in OPERATIONS]
        if unknown or not self.operations or len(set(self.operations)) < len(self.operations):
            raise ValueError(
                f"operations must be different ones of {', '.join(OPERATIONS)}, at least one, "
                f"got {operations!r}"
            )
        self.pairs = tuple(
            tuple(itertools.combinations(range(node), 2)) for node in range(INPUTS, INPUTS + self.nodes)
        )
        cell = [options for pairs in self.pairs for options in (pairs, self.operations, self.operations)]
        super().__init__([*cell, *cell])

    def __repr__(self) -> str:
        return f"CellSpace(nodes={self.nodes}, operations={list(self.operations)})"

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Every edge (from, to) that a cell may have, node by node: 14 with 4 nodes."""
        return tuple((source, node) for node in range(INPUTS, INPUTS + self.nodes) for source in range(node))

    def cells(self, architecture: Iterable[int]) -> tuple[Cell, Cell]:
        """Return the normal and the reduction cell of an architecture; ValueError for an invalid one."""
        chosen = self.validate(architecture)
        half = len(chosen) // 2
        return self._cell(chosen[:half]), self._cell(chosen[half:])

    def _cell(self, chosen: Architecture) -> Cell:
        nodes = []
        for node, pairs in enumerate(self.pairs):
            pair, one, other = chosen[3 * node : 3 * node + 3]
            first, second = pairs[pair]
            nodes.append((Edge(first, self.operations[one]), Edge(second, self.operations[other])))
        return tuple(nodes)

    def architecture(
        self, normal: Sequence[Iterable[Edge]], reduction: Sequence[Iterable[Edge]]
    ) -> Architecture:
        """Return the architecture of two cells, each given as the edges of its nodes; edges in any order.

        Raises:
            ValueError: a node without two edges from different earlier nodes, or an unknown operation.
        """
        return (*self._choices("normal", normal), *self._choices("reduction", reduction))

    def _choices(self, kind: str, cell: Sequence[Iterable[Edge]]) -> Architecture:
        nodes = [sorted(node) for node in cell]
        if len(nodes) != self.nodes:
            raise ValueError(f"the {kind} cell must have {self.nodes} nodes, got {len(nodes)}")
        chosen: list[int] = []
        for number, (edges, pairs) in enumerate(zip(nodes, self.pairs, strict=True), start=INPUTS):
            sources = tuple(source for source, _ in edges)
            if sources not in pairs:
                raise ValueError(
                    f"node {number} of the {kind} cell must have two edges from different nodes before it, "
                    f"got edges from {sources}"
                )
            for _, operation in edges:
                if operation not in self.operations:
                    raise ValueError(
                        f"node {number} of the {kind} cell: an operation must be one of "
                        f"{', '.join(self.operations)}, got {operation!r}"
                    )
            chosen += (pairs.index(sources), *(self.operations.index(operation) for _, operation in edges))
        return tuple(chosen)

    def genotype(self, architecture: Iterable[int]) -> str:
        """Return the text of a `Genotype`, which the code of DARTS and of its successors reads."""
        concat = list(range(INPUTS, INPUTS + self.nodes))
        normal, reduction = (
            [(edge.operation, edge.source) for node in cell for edge in node]
            for cell in self.cells(architecture)
        )
        return (
            f"Genotype(normal={normal}, normal_concat={concat}, reduce={reduction}, reduce_concat={concat})"
        )

    def format(self, architecture: Iterable[int]) -> str:
        """Return the text form, such as `sep3.0+skip.1-...--max3.0+...`."""
        return "--".join(
            "-".join(
                "+".join(f"{OPERATIONS[edge.operation]}.{edge.source}" for edge in node) for node in cell
            )
            for cell in self.cells(architecture)
        )

    def parse(self, text: str) -> Architecture:
        """Read the text form, or the text of a genotype.

        A genotype may list the edges of a cell one after another, two for each node, or node by node.

        Raises:
            TypeError: not a string.
            ValueError: malformed, or not in the space; a genotype that concatenates some nodes only is not.
        """
        text = stripped(text, self._example)
        if any(bracket in text for bracket in "([{"):
            return self._of_genotype(text)
        cells = text.split("--")
        if len(cells) != len(KINDS):
            raise ValueError(
                f"text must be a normal and a reduction cell joined by '--', as {self._example!r}, "
                f"got {text!r}"
            )
        return self.architecture(
            *([list(map(_edge, node.split("+"))) for node in cell.split("-")] for cell in cells)
        )

    @property
    def _example(self) -> str:
        return self.format((0,) * len(self.options))

    def _of_genotype(self, text: str) -> Architecture:
        fields = read_genotype(text)
        cells = []
        for name in ("normal", "reduce"):
            concat, every = f"{name}_concat", range(INPUTS, INPUTS + self.nodes)
            if not is_concat(fields[concat], every):
                raise ValueError(
                    f"{concat} must be {list(every)}, since the cells of this space concatenate all of their "
                    f"intermediate nodes and those of another concat are other networks; got {fields[concat]}"
                )
            nodes = edges_of_nodes(name, fields[name], self.nodes)
            cells.append([[Edge(source, operation) for operation, source in node] for node in nodes])
        return self.architecture(*cells)

    def describe(self) -> dict[str, Any]:
        """Return name, nodes and operations."""
        return {"name": "CellSpace", "nodes": self.nodes, "operations": list(self.operations)}


def _edge(text: str) -> Edge:
    """Read an edge such as `sep3.0`."""
    found = re.fullmatch(r"(\w+)\.([0-9]+)", text)
    names = {short: name for name, short in OPERATIONS.items()}
    if found is None or found[1] not in names:
        raise ValueError(
            f"an edge must be one of {', '.join(names)} and the number of a node, as 'sep3.0', got {text!r}"
        )
    return Edge(int(found[2]), names[found[1]])
