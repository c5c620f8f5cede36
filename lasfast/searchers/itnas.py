"""Inter-layer Transition NAS (Ma et al. 2020): pruning derives the cells from what training has learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lasfast.core.checks import check_choice
from lasfast.searchers.base import Searcher
from lasfast.spaces import Architecture, CellSpace
from lasfast.spaces.cell import INPUTS, KINDS, Cell, Edge
from lasfast.spaces.transition import LearnedCell, Row

PRUNING = ("iterative", "hard")


class ITNAS(Searcher):
    """Asks for one architecture, once training is done: the one that pruning derives (section 3.4).

    The search itself is the training (`lasfast.train.ITNASTrainer`), which learns distributions over the
    operations of the edges, and how they pass from an edge to the next:

        trainer = ITNASTrainer(supernet, data)
        Study(ITNAS(supernet.space, learned=trainer.learned), evaluator, trainer=trainer).run()

    Args:
        space: the space of cells.
        learned: returns what was learned of the "normal" and of the "reduction" cell.
        pruning: "iterative" (the paper's TIEP), or "hard" (as DARTS prunes, all edges by the distributions
            that training ends with).
    """

    after_training = True

    def __init__(
        self,
        space: CellSpace,
        *,
        learned: Callable[[], Mapping[str, LearnedCell]],
        pruning: str = "iterative",
    ) -> None:
        if not isinstance(space, CellSpace):
            raise TypeError(f"space must be a CellSpace, got {type(space).__name__}")
        if not callable(learned):
            raise TypeError(f"learned must be a function such as ITNASTrainer's learned, got {learned!r}")
        check_choice("pruning", pruning, PRUNING)
        super().__init__(space)
        self.learned = learned
        self.pruning = pruning

    def propose(self) -> list[Architecture]:
        """Return the architecture that pruning leaves, in the first step; nothing after it."""
        if self.history:
            return []
        assert isinstance(self.space, CellSpace)
        learned = self.learned()
        normal, reduction = (
            prune(self.space, learned[kind], iterative=self.pruning == "iterative") for kind in KINDS
        )
        return [self.space.architecture(normal, reduction)]

    def describe(self) -> dict[str, Any]:
        """Return name, hyper-parameters and space, as JSON values."""
        return {"name": "itnas", "pruning": self.pruning, "space": self.space.describe()}


def prune(space: CellSpace, learned: LearnedCell, *, iterative: bool = True) -> Cell:
    """Prune a cell to two edges, with an operation each, for each node (TIEP, Algorithm 1).

    Node by node, the distributions of the edges that enter it follow from those kept before (Eq. 14, 15); the
    edge whose largest probability is the least goes, until two are left; and these keep their most probable
    operation, as one-hot distributions that later edges follow from (Eq. 13). Without `iterative`, later
    edges follow from the whole distributions of all edges instead.

    As in DARTS, the probability that an edge does nothing (`none`) does not count, and that operation is
    never kept. Of equally strong edges, the one from the later node goes; of equally probable operations, the
    first stays.
    """
    operations = len(space.operations)
    settled: dict[int, dict[int, Row]] = {}  # node -> source of an edge that enters it -> its distribution
    cell = []
    for node in range(INPUTS, INPUTS + space.nodes):
        rows = {
            source: learned.distribution((source, node), settled.get(source, {})) for source in range(node)
        }
        left = dict(rows)
        while len(left) > 2:
            del left[min(left, key=lambda source: (left[source][:operations].max(), -source))]
        chosen = {source: int(row[:operations].argmax()) for source, row in left.items()}
        one_hot = np.eye(len(rows[0]))
        settled[node] = {source: one_hot[number] for source, number in chosen.items()} if iterative else rows
        one, other = (Edge(source, space.operations[number]) for source, number in sorted(chosen.items()))
        cell.append((one, other))
    return tuple(cell)
