"""What pruning leaves of distributions, worked out by hand."""

import numpy as np
import pytest

from lasfast.searchers import ITNAS
from lasfast.searchers.itnas import prune
from lasfast.spaces import CellSpace
from lasfast.spaces.cell import Edge
from lasfast.spaces.transition import LearnedCell

SPACE = CellSpace(3, ["skip_connect", "sep_conv_3x3"])
SKIP, SEP = SPACE.operations
FREE = {
    (0, 2): [0.6, 0.4],
    (1, 2): [0.3, 0.7],
    (0, 3): [0.9, 0.1],
    (1, 3): [0.45, 0.55],
    (0, 4): [0.35, 0.65],
    (1, 4): [0.2, 0.8],
}
EVEN = [[0.5, 0.5], [0.5, 0.5]]
SAME, OTHER = [[0.95, 0.05], [0.1, 0.9]], [[0.0, 1.0], [1.0, 0.0]]


def learned(**changes) -> LearnedCell:
    values = {
        "free": {edge: np.array(row) for edge, row in FREE.items()},
        "transitions": {
            (2, 3): np.array([SAME, OTHER]),
            (2, 4): np.array([EVEN, EVEN]),
            (3, 4): np.array([OTHER, EVEN, SAME]),
        },
        "attention": {
            (2, 3): np.log([3.0, 1.0]),
            (2, 4): np.zeros(2),
            (3, 4): np.log([1.0, 6.0, 1.0]),
        },
    }
    return LearnedCell(**{**values, **changes})


def test_an_inner_edge_follows_from_its_predecessors() -> None:
    """Equation 11: 3/4 of (0.6, 0.4) through the first matrix, 1/4 of (0.3, 0.7) through the second."""
    before = {0: np.array([0.6, 0.4]), 1: np.array([0.3, 0.7])}
    first = [0.6 * 0.95 + 0.4 * 0.1, 0.6 * 0.05 + 0.4 * 0.9]  # (0.61, 0.39)
    second = [0.7, 0.3]
    row = learned().distribution((2, 3), before)
    np.testing.assert_allclose(row, [0.75 * a + 0.25 * b for a, b in zip(first, second, strict=True)])
    np.testing.assert_allclose(row.sum(), 1)


def test_shares_of_what_is_left_are_made_from_its_scores_alone() -> None:
    """Equation 15: scores log 1 and log 6 leave 1/7 and 6/7."""
    before = {0: np.array([1.0, 0.0]), 1: np.array([0.0, 1.0])}
    np.testing.assert_allclose(learned().distribution((3, 4), before), [6 / 14, 1 / 7 + 6 / 14])
    with pytest.raises(ValueError, match=r"predecessors of edge \(3, 4\) must not all be left out"):
        learned().distribution((3, 4), {})


def test_iterative_pruning_by_hand() -> None:
    """Node 2 keeps skip (1, 0) and sep (0, 1); edge (2, 3) is 3/4 (0.95, 0.05) + 1/4 (1, 0), so 0.9625.

    With (0, 3) it is kept; (1, 3) goes, and its share of (3, 4), 6/8, with it. What is left of that is
    1/2 (0, 1), through OTHER, and 1/2 (0.95, 0.05): (0.475, 0.525). (2, 4) is even, so both of these go.
    """
    assert prune(SPACE, learned()) == (
        (Edge(0, SKIP), Edge(1, SEP)),
        (Edge(0, SKIP), Edge(2, SKIP)),
        (Edge(0, SEP), Edge(1, SEP)),
    )


def test_what_was_pruned_counts_no_more() -> None:
    """With the share of (1, 3) gone, (3, 4) is decided by SAME alone: stronger than (0, 4)."""
    sure = {
        (2, 3): np.array([SAME, OTHER]),
        (2, 4): np.array([EVEN, EVEN]),
        (3, 4): np.array([SAME, EVEN, SAME]),
    }
    cell = prune(SPACE, learned(transitions=sure))
    assert cell[2] == (Edge(1, SEP), Edge(3, SKIP))
    # Hard pruning has (3, 4) from all three whole distributions, of which the even one has 6/8: it goes.
    assert prune(SPACE, learned(transitions=sure), iterative=False)[2] == (Edge(0, SEP), Edge(1, SEP))


def test_nothing_is_not_kept() -> None:
    """A last column says that an edge does nothing: it is no strength."""
    space = CellSpace(2, [SKIP, SEP])
    rows = {(0, 2): [0.1, 0.2, 0.7], (1, 2): [0.2, 0.1, 0.7], (0, 3): [0.1, 0.05, 0.85]}
    rows |= {(1, 3): [0.3, 0.3, 0.4], (2, 3): [0.2, 0.15, 0.65]}
    cell = LearnedCell({edge: np.array(row) for edge, row in rows.items()}, {}, {})
    expected = ((Edge(0, SEP), Edge(1, SKIP)), (Edge(1, SKIP), Edge(2, SKIP)))
    assert prune(space, cell) == prune(space, cell, iterative=False) == expected


def test_without_transitions_both_ways_of_pruning_are_the_same() -> None:
    rng = np.random.default_rng(0)
    space = CellSpace()
    for _ in range(20):
        cell = LearnedCell({edge: rng.dirichlet(np.ones(7)) for edge in space.edges}, {}, {})
        assert prune(space, cell) == prune(space, cell, iterative=False)


def test_it_asks_for_one_architecture_of_what_is_learned_by_then() -> None:
    now = {"normal": learned(), "reduction": learned()}
    searcher = ITNAS(SPACE, learned=lambda: now)
    now["reduction"] = learned(free={edge: np.array(row[::-1]) for edge, row in FREE.items()})
    [architecture] = searcher.ask()
    normal, reduction = SPACE.cells(architecture)
    assert normal == prune(SPACE, now["normal"])
    assert reduction == prune(SPACE, now["reduction"]) != normal
    searcher.tell(architecture, 0.5)
    assert searcher.finished
    assert searcher.best == (architecture, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learned": {}}, "learned must be a function"),
        ({"pruning": "soft"}, "pruning must be one of 'iterative', 'hard', got 'soft'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        ITNAS(SPACE, **{"learned": dict, **arguments})
    with pytest.raises(TypeError, match="space must be a CellSpace, got list"):
        ITNAS([], learned=dict)  # type: ignore[arg-type]
