"""A cell as a differentiable search has learned it: a distribution over operations for each edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EdgeKey = tuple[int, int]
"""(from, to): the nodes that an edge connects."""
Row = NDArray[np.float64]


@dataclass(frozen=True)
class LearnedCell:
    """The distributions that a differentiable search (ITNAS) has learned for one kind of cell.

    An edge's distribution, [columns], has a probability for each operation of the space in its order, and a
    last one for `none` where the search has it. It is either learned directly, or derived by transition from
    those of the edge's predecessors: the predecessors of an edge (i, j) are the edges (h, i) into node i.

    Attributes:
        free: for each edge with a distribution of its own, that distribution, [columns]; it sums to 1.
        transitions: for each other edge, [predecessors, columns, columns], the probabilities of operation n
            of the edge given operation m of predecessor h; rows [h, m] sum to 1 (Ma et al. 2020, Eq. 10).
        attention: for each other edge, [predecessors], the scores whose softmax weighs the predecessors
            (Eq. 12).
    """

    free: Mapping[EdgeKey, Row]
    transitions: Mapping[EdgeKey, NDArray[np.float64]]
    attention: Mapping[EdgeKey, Row]

    def distribution(self, edge: EdgeKey, predecessors: Mapping[int, Row]) -> Row:
        """Return the distribution of an edge (Eq. 11).

        Args:
            edge: the edge.
            predecessors: the distributions of its predecessors, by the node they come from. A predecessor
                that is left out counts as pruned: the others' softmax is taken without it (Eq. 15).

        Raises:
            KeyError: nothing was learned of this edge.
            ValueError: the edge needs a predecessor, and all are left out.
        """
        if edge in self.free:
            return np.asarray(self.free[edge], float)
        there = sorted(predecessors)
        if not there:
            raise ValueError(f"predecessors of edge {edge} must not all be left out")
        scores = np.asarray(self.attention[edge], float)[there]
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        rows = [predecessors[source] @ self.transitions[edge][source] for source in there]
        return np.asarray(shares @ np.stack(rows))
