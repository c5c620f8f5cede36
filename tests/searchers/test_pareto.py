"""Pareto local search."""

from __future__ import annotations

import pytest

from lasfast.constraints import Constraint
from lasfast.searchers import ParetoLocalSearch, Random, Searcher
from lasfast.spaces import Architecture, ChoiceSpace

SPACE = ChoiceSpace([3] * 8)


def value(architecture: Architecture) -> float:
    """Each decision helps, the first ones more; one of them harms together with another."""
    gains = [option * (8 - place) for place, option in enumerate(architecture)]
    return sum(gains) - 5.0 * (architecture[0] == 2 and architecture[7] == 0)


def area(searcher: Searcher) -> float:
    """The area of cost and value that what was found dominates."""
    while candidates := searcher.ask():
        for one in candidates:
            searcher.tell(one, value(one))
    total, below = 0.0, 0.0
    for architecture, reached in searcher.front(sum):
        total += (16 - sum(architecture)) * (reached - below)
        below = reached
    return total


def test_it_finds_more_of_the_front_than_random_search() -> None:
    whole = area(Random(SPACE, samples=3**8))
    found = [area(ParetoLocalSearch(SPACE, cost=sum, seed=seed)) / whole for seed in range(3)]
    drawn = [area(Random(SPACE, samples=400, seed=seed)) / whole for seed in range(3)]
    assert min(found) > 0.97
    assert max(drawn) < 0.93


def test_it_stays_within_a_constraint_and_keeps_the_front() -> None:
    within = Constraint("sum<=7", {"sum": sum})
    searcher = ParetoLocalSearch(SPACE, cost=sum, constraint=within, initial=5, evaluations=50, children=3)
    steps = []
    while candidates := searcher.ask():
        steps.append(len(candidates))
        for one in candidates:
            assert within(one)
            searcher.tell(one, value(one))
    assert steps[0] == 5
    assert sum(steps) == 50
    assert searcher.optima == searcher.front()


def test_it_goes_on_at_random_where_the_front_has_no_neighbours_left() -> None:
    """Only the last architecture costs nothing, and it beats all others."""
    searcher = ParetoLocalSearch(ChoiceSpace([2, 2, 2]), cost=lambda one: one != (1, 1, 1), initial=8)
    while candidates := searcher.ask():
        for one in candidates:
            searcher.tell(one, float(one == (1, 1, 1)))
    assert len(searcher.results) == 8
    assert [one for one, _ in searcher.optima] == [(1, 1, 1)]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="cost must be a function of an architecture, got 3"):
        ParetoLocalSearch(SPACE, cost=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="evaluations must be at least 10, got 9"):
        ParetoLocalSearch(SPACE, cost=sum, evaluations=9)
