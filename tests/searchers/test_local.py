"""Local search."""

from __future__ import annotations

from lasfast.searchers import LocalSearch
from lasfast.spaces import Architecture, ChoiceSpace

SPACE = ChoiceSpace([3] * 6)


def hill(architecture: Architecture) -> float:
    return float(sum(architecture))


def two_hills(architecture: Architecture) -> float:
    """The higher hill is narrow: all decisions must be 2. Else fewer are better, down to all 0."""
    return 20.0 if min(architecture) == 2 else 12.0 - sum(architecture)


def test_it_climbs_one_step_at_a_time() -> None:
    searcher = LocalSearch(SPACE, evaluations=200, seed=3)
    place = None
    while searcher.place is None or searcher.place[1] < 12:
        [candidate] = searcher.ask()
        if place is not None:
            assert sum(a != b for a, b in zip(candidate, place[0], strict=True)) == 1
        searcher.tell(candidate, hill(candidate))
        assert place is None or searcher.place[1] >= place[1]
        place = searcher.place
    assert place == ((2,) * 6, 12.0)
    assert len(searcher.results) < 80


def test_it_starts_again_where_no_neighbour_is_better() -> None:
    searcher = LocalSearch(SPACE, evaluations=729, seed=0)
    places, starts = [], 0
    while candidates := searcher.ask():
        for one in candidates:
            searcher.tell(one, two_hills(one))
        if places and searcher.place[1] < places[-1][1]:
            assert all(one in searcher.known for one in neighbours(places[-1][0])), (
                "it leaves a hill when all around is known"
            )
            starts += 1
        places.append(searcher.place)
    assert starts > 3
    assert searcher.best == ((2,) * 6, 20.0)
    assert len(searcher.results) == SPACE.count()


def neighbours(architecture: Architecture) -> list[Architecture]:
    return [
        one for one in SPACE.enumerate() if sum(a != b for a, b in zip(one, architecture, strict=True)) == 1
    ]


def test_of_several_children_the_best_counts() -> None:
    searcher = LocalSearch(SPACE, evaluations=50, children=4, seed=1)
    [start] = searcher.ask()
    searcher.tell(start, hill(start))
    children = searcher.ask()
    assert len(children) == 4
    for one in children:
        searcher.tell(one, hill(one))
    assert searcher.place[1] == max(map(hill, [start, *children]))
