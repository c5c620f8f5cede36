"""What is believed of a cell's edges: distributions over operations, those of inner edges by transition."""

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
    """What a differentiable search has learned of one kind of cell, as plain numbers.

    An edge's distribution is [columns]: its operations in the order of the space, then, where the search
    has it, that the edge does nothing. The predecessors of an edge (i, j) are the edges (h, i) that enter
    the node it comes from.

    Attributes:
        free: distributions of the edges that were learned by themselves; rows sum to 1.
        transitions: of each other edge, [predecessors, columns, columns]: from operation m of predecessor h
            to operation n of the edge; rows [h, m] sum to 1 (Ma et al. 2020, Eq. 10).
        attention: of each other edge, [predecessors]: scores, of which a softmax makes the shares (Eq. 12).
    """

    free: Mapping[EdgeKey, Row]
    transitions: Mapping[EdgeKey, NDArray[np.float64]]
    attention: Mapping[EdgeKey, Row]

    def distribution(self, edge: EdgeKey, predecessors: Mapping[int, Row]) -> Row:
        """The distribution of an edge, given those of its predecessors by the node they come from (Eq. 11).

        Predecessors that are left out count as pruned: the shares of the others are made from their scores
        alone (Eq. 15).

        Raises:
            KeyError: an edge of which nothing was learned.
            ValueError: an edge by transition without any predecessor.
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
