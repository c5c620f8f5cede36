"""The cells of an architecture of a `CellSpace`, as a table and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from lasfast.report.run import Run
from lasfast.report.style import COLORS, GRAY, plain
from lasfast.report.tables import make_table
from lasfast.searchers.itnas import ITNAS
from lasfast.spaces import Architecture, CellSpace
from lasfast.spaces.cell import INPUTS, KINDS, OPERATIONS
from lasfast.spaces.described import space_of_description
from lasfast.study.files import CHECKPOINT
from lasfast.train import checkpoint
from lasfast.train.itnas import load_cell_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def cells_table(title: str, space: CellSpace, architecture: Architecture) -> Table:
    """Return a table of what each node of both cells adds up: operations, and the nodes that they read.

    Nodes 0 and 1 are the outputs of the cell before the previous one and of the previous one.
    """
    table = make_table(title, "node", *(f"{kind} cell" for kind in KINDS))
    for node, both in enumerate(zip(*space.cells(architecture), strict=True), start=INPUTS):
        texts = (" + ".join(f"{edge.operation}({edge.source})" for edge in edges) for edges in both)
        table.add_row(str(node), *texts)
    return table


def draw_cells(figure: Figure, space: CellSpace, architecture: Architecture) -> None:
    """Draw, for each cell, which operation each node takes of which earlier one."""
    for axes, kind, cell in zip(figure.subplots(1, 2), KINDS, space.cells(architecture), strict=True):
        for node, edges in enumerate(cell, start=INPUTS):
            _draw_node(axes, node, {edge.source: OPERATIONS[edge.operation] for edge in edges})
        axes.set_title(f"{kind} cell", fontsize=9)
        axes.set_xticks(range(INPUTS, INPUTS + space.nodes))
        axes.set_yticks(range(INPUTS + space.nodes - 1))
        axes.set_xlabel("node")
        axes.set_ylabel("reads node (0, 1: the cells before)")
        axes.margins(0.15)
        plain(axes)


def _draw_node(axes: Axes, node: int, kept: dict[int, str]) -> None:
    """Draw a square for each edge that may enter a node, with its operation, by source, if it is kept."""
    for source in range(node):
        color, alpha = (COLORS[0], 0.9) if source in kept else (GRAY, 0.15)
        axes.plot(node, source, "s", markersize=26, color=color, alpha=alpha)
        axes.text(node, source, kept.get(source, ""), ha="center", va="center", fontsize=8, color="white")


def space_of(run: Run) -> CellSpace | None:
    """Return the space of cells that a run searches; None where it searches another."""
    space = space_of_description(run.description["searcher"].get("space") or {})
    return space if isinstance(space, CellSpace) else None


def pruned_so_far(run: Run) -> tuple[int, Architecture] | None:
    """Return how many batches an ITNAS run has trained, and what pruning would leave; None if not saved."""
    space, path = space_of(run), run.directory / CHECKPOINT
    if space is None or not path.exists():
        return None
    tensors, values = checkpoint.load(path)
    options = run.description["trainer"]["itnas"]
    cells = load_cell_weights(space, tensors, transition=options["transition"], none=options["none"])
    learned = {kind: weights.learned() for kind, weights in cells.items()}
    searcher = ITNAS(space, learned=lambda: learned, pruning=run.description["searcher"]["pruning"])
    return values["position"][1], searcher.ask()[0]
