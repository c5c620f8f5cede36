"""Spaces of listed architectures."""

from __future__ import annotations

import random

import pytest

from lasfast.spaces import ListedAssignmentSpace, ListedSpace

LIST = [(0, 1), (2, 1), (2, 3), (1, 2)]


def test_it_holds_what_is_listed() -> None:
    space = ListedSpace(LIST)
    assert list(space.enumerate()) == LIST
    assert space.count() == 4
    assert space.options == (range(3), range(1, 4))
    assert space.validate([2, 3]) == (2, 3)
    assert {space.sample(random.Random(seed)) for seed in range(40)} == set(LIST)
    assert space.parse(space.format((1, 2))) == (1, 2)
    assert [space.lacks(one) for one in ((0, 1), (0, 2))] == [False, True]
    assert (0, 2) not in space
    with pytest.raises(ValueError, match=r"architecture \(0, 2\) must be one of the 4 that are listed"):
        space.validate((0, 2))


def test_options_are_ordered_by_the_mean_cost_of_those_that_have_them() -> None:
    costs = {(0, 1): 9.0, (2, 1): 1.0, (2, 3): 3.0, (1, 2): 4.0}
    assert ListedSpace(LIST).by_cost(costs.__getitem__) == ((2, 1, 0), (3, 2, 1))


def test_equal_lists_have_equal_descriptions() -> None:
    assert ListedSpace(LIST).describe() == ListedSpace(map(list, LIST)).describe()
    others = [
        ListedSpace(LIST[:3]),
        ListedSpace(LIST, keys="aabc"),
        ListedSpace(LIST, keys="abbc"),
        ListedSpace(LIST, names=["xyz", "wxyz"]),
    ]
    assert len({str(space.describe()) for space in [ListedSpace(LIST), *others]}) == 5
    assert ListedSpace(LIST, keys="aabc").key((2, 1)) == "a"
    assert ListedSpace(LIST).key((2, 1)) == (2, 1)


def test_layer_assignments_reach_as_deep_as_the_deepest() -> None:
    space = ListedAssignmentSpace([(1, 2), (3, 1)])
    assert (space.max_layers, space.max_depth, space.seed_architecture) == ((3, 2), 4, (1, 1))
    assert space.describe() != ListedAssignmentSpace([(1, 2), (3, 1), (3, 2)]).describe()


def test_options_that_are_not_listed_are_none() -> None:
    space = ListedSpace([(8, 0), (1024, 0), (8, 1)])
    assert space.options == ((8, 1024), range(2))
    assert space.vary((8, 0), random.Random(0)) in {(1024, 0), (8, 1)}
    assert space.by_cost(sum) == ((8, 1024), (1, 0))


def test_only_listed_assignments_are_counted_and_drawn() -> None:
    listed = [(3, 1), (1, 2), (2, 1), (1, 3)]
    space = ListedAssignmentSpace(listed)
    assert space.count() == 4
    assert [space.count(depth) for depth in (2, 3, 4, [3, 4])] == [0, 2, 2, 4]
    assert list(space.enumerate()) == [(1, 2), (2, 1), (1, 3), (3, 1)]
    assert {space.sample(random.Random(seed)) for seed in range(40)} == {*listed}
    assert {space.sample(random.Random(seed), depth=4) for seed in range(20)} == {(3, 1), (1, 3)}
    with pytest.raises(ValueError, match=r"depth must be one that ListedAssignmentSpace.* lists, got 2"):
        space.sample(random.Random(0), depth=2)
    assert space.largest() is None
    assert ListedAssignmentSpace([*listed, (3, 3)]).largest() == (3, 3)
    assert repr(space) == "ListedAssignmentSpace(4 of LayerAssignmentSpace(2, (3, 3)))"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"architectures": []}, "must be one or more"),
        ({"architectures": [(0,), (0, 1)]}, "with as many decisions each"),
        ({"architectures": [(0,), (0,)]}, "one is there more than once"),
        ({"architectures": LIST, "keys": "abc"}, "keys must be 4, got 3"),
        ({"architectures": LIST, "names": ["xyz", "xyz"]}, r"names must be \[3, 4\] .* got \[3, 3\]"),
        ({"architectures": LIST, "names": ["xyzw"]}, r"names must be \[3, 4\] .* got \[4\]"),
    ],
)
def test_bad_lists_are_named(arguments: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ListedSpace(**arguments)
