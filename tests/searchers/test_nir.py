import pytest
from hypothesis import given
from hypothesis import strategies as st

from lasfast.constraints import Constraint
from lasfast.searchers import NIR
from lasfast.spaces import LayerAssignmentSpace, ListedAssignmentSpace


def run(searcher, value):
    while candidates := searcher.ask():
        for candidate in candidates:
            searcher.tell(candidate, value(candidate))
    return searcher


def algorithm_1(groups, depth, value):
    """The paper's listing, line by line."""
    assignment = [1] * groups
    winners = {}
    for p in range(groups, depth):
        candidates = [[a + (i == j) for j, a in enumerate(assignment)] for i in range(groups)]
        accuracies = [value(tuple(candidate)) for candidate in candidates]
        assignment = candidates[accuracies.index(max(accuracies))]
        winners[p + 1] = (tuple(assignment), max(accuracies))
    return winners


@given(st.integers(1, 4), st.integers(1, 8), st.randoms(use_true_random=False))
def test_is_algorithm_1(groups, steps, rng):
    depth = groups + steps
    values = {}

    def value(architecture):
        return values.setdefault(architecture, rng.randrange(6) / 6)

    searcher = run(NIR(LayerAssignmentSpace(groups, 20), depth=depth), value)
    assert searcher.winners == algorithm_1(groups, depth, value)
    assert searcher.best == searcher.winners[depth]
    assert searcher.step == steps


def test_asks_for_the_heirs_of_the_best():
    searcher = NIR(LayerAssignmentSpace(3, 4), depth=5)
    assert searcher.ask() == [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
    for architecture, value in zip(searcher.ask(), (0.5, 0.7, 0.6), strict=True):
        searcher.tell(architecture, value)
    assert searcher.winners == {4: ((1, 2, 1), 0.7)}
    assert searcher.best == ((1, 2, 1), 0.7)
    assert searcher.ask() == [(2, 2, 1), (1, 3, 1), (1, 2, 2)]
    # The best is that of the last complete depth, even where a deeper one was told a better value.
    searcher.tell((2, 2, 1), 0.9)
    assert searcher.best == ((1, 2, 1), 0.7)
    searcher.tell((1, 3, 1), 0.1)
    searcher.tell((1, 2, 2), 0.2)
    assert searcher.best == ((2, 2, 1), 0.9)
    assert searcher.finished


def test_a_deeper_winner_is_the_best_even_where_it_is_worse():
    searcher = run(NIR(LayerAssignmentSpace(3, 4), depth=6), lambda architecture: -sum(architecture))
    assert searcher.best[1] == -6.0


def test_bounds_leave_fewer_candidates():
    searcher = NIR(LayerAssignmentSpace(3, (1, 2, 3)), depth=6)
    run(searcher, lambda architecture: architecture[1])
    assert [[architecture for architecture, _ in step] for step in searcher.history] == [
        [(1, 2, 1), (1, 1, 2)],
        [(1, 2, 2)],
        [(1, 2, 3)],
    ]


def test_a_beam_keeps_several_parents_and_asks_for_each_child_once():
    searcher = NIR(LayerAssignmentSpace(3, 4), depth=6, beam=2)
    values = {(2, 1, 1): 0.6, (1, 2, 1): 0.1, (1, 1, 2): 0.7}
    for architecture in searcher.ask():
        searcher.tell(architecture, values[architecture])
    assert searcher.kept == [((1, 1, 2), 0.7), ((2, 1, 1), 0.6)]
    # Better parent first, then group by group; (2, 1, 2) has both parents.
    assert searcher.ask() == [(2, 1, 2), (1, 2, 2), (1, 1, 3), (3, 1, 1), (2, 2, 1)]


def test_a_beam_finds_what_greed_misses():
    def value(architecture):
        return 1.0 if architecture == (3, 1, 1) else architecture[2] / 10

    space = LayerAssignmentSpace(3, 4)
    assert run(NIR(space, depth=5), value).best[0] != (3, 1, 1)
    assert run(NIR(space, depth=5, beam=2), value).best[0] == (3, 1, 1)


@pytest.mark.parametrize("depth", [5, 7, 10])
def test_a_wide_beam_is_enumeration(depth):
    space = LayerAssignmentSpace(3, 4)
    searcher = run(NIR(space, depth=depth, beam=1000), lambda architecture: architecture[0])
    for step, at in zip(searcher.history, range(4, depth + 1), strict=True):
        assert sorted(architecture for architecture, _ in step) == list(space.enumerate(depth=at))


def test_starts_where_it_is_told():
    searcher = NIR(LayerAssignmentSpace(3, 4), depth=7, start=[2, 3, 1])
    assert searcher.ask() == [(3, 3, 1), (2, 4, 1), (2, 3, 2)]
    assert searcher.start == (2, 3, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"depth": 13}, ValueError, r"depth must be from 4 .* to 12 .*got 13"),
        ({"depth": 3}, ValueError, r"depth must be from 4 .*got 3"),
        ({"depth": 0}, ValueError, "depth must be at least 1"),
        ({"depth": 5.0}, TypeError, "depth must be an int"),
        ({"depth": 5, "beam": 0}, ValueError, "beam must be at least 1, got 0"),
        ({"depth": 5, "beam": "2"}, TypeError, "beam must be an int"),
        ({"depth": 5, "start": (2, 2, 1)}, ValueError, "depth must be from 6"),
        ({"depth": 5, "start": (1, 5, 1)}, ValueError, "group 1 must have 1 to 4 layers"),
        ({"depth": 5, "start": (1, 1)}, ValueError, "must have 3 groups"),
    ],
)
def test_impossible_searches_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        NIR(LayerAssignmentSpace(3, 4), **arguments)


def test_needs_layer_assignments():
    with pytest.raises(TypeError, match="space must be a LayerAssignmentSpace, got int"):
        NIR(3, depth=5)


FEW = [(1, 2), (2, 1), (1, 3), (2, 2), (3, 1), (4, 1)]


@pytest.mark.parametrize(
    ("listed", "depth", "bounds", "said"),
    [
        (FEW, 5, None, ""),
        (FEW, 9, None, "at depth 5 of 9: none of the 6 assignments in the space is deeper."),
        (
            [*FEW[:5], (1, 4)],
            5,
            None,
            "at depth 4 of 5: none of the 6 assignments in the space has one layer more than 3-1.",
        ),
        (
            FEW,
            5,
            "flops<=4M",
            "at depth 4 of 5: no assignment in the space with one layer more than 3-1 meets flops<=4M "
            "(they have 5M flops).",
        ),
        ([(1, 2), (2, 1)], 3, None, ""),
    ],
)
def test_a_search_that_ends_early_says_where_and_why(listed, depth, bounds, said):
    flops = {"flops": lambda one: 1e6 * sum(one)}
    constraint = None if bounds is None else Constraint(bounds, flops)
    space = ListedAssignmentSpace(listed)
    searcher = run(NIR(space, depth=depth, constraint=constraint), lambda one: one[0])
    assert searcher.ended_early == (said and f"The search ended {said}")


def test_a_search_that_is_ended_says_where():
    searcher = NIR(LayerAssignmentSpace(2, 4), depth=5)
    for _ in range(2):
        searcher.tell(searcher.ask()[0], 1)
    assert searcher.ended_early == "The search ended at depth 3 of 5: its budget was spent."
