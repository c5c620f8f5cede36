import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lasfast.spaces import LayerAssignmentSpace

bounds = st.lists(st.integers(1, 5), min_size=1, max_size=4)
spaces = st.builds(lambda bounds: LayerAssignmentSpace(len(bounds), bounds), bounds)


@st.composite
def spaces_with_architecture(draw):
    space = draw(spaces)
    return space, tuple(draw(st.integers(1, bound)) for bound in space.max_layers)


def everything(space):
    """Return all assignments, straight from the definition."""
    assignments = itertools.product(*(range(1, bound + 1) for bound in space.max_layers))
    return sorted(assignments, key=lambda assignment: (sum(assignment), assignment))


def test_counts_of_the_paper():
    space = LayerAssignmentSpace(3, 15)
    assert space.count(depth=15) == 91
    assert space.count(depth=range(4, 16)) == 454
    assert len(list(space.enumerate(depth=range(4, 16)))) == 454


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("depth", [7, 8, 12, 30])
def test_unbounded_counts_are_equations_3_and_5(groups, depth):
    space = LayerAssignmentSpace(groups, 30)
    f = math.factorial
    assert space.count(depth) == f(depth - 1) // (f(groups - 1) * f(depth - groups))
    products = (math.prod(i - j for j in range(1, groups)) for i in range(groups, depth + 1))
    assert space.count(range(groups, depth + 1)) == sum(products) // f(groups - 1)


@given(spaces)
def test_enumerates_each_assignment_once_by_depth(space):
    assert list(space.enumerate()) == everything(space)


@given(spaces, st.data())
def test_count_is_what_enumerate_gives(space, data):
    assert space.count() == len(list(space.enumerate()))
    all_depths = range(space.min_depth, space.max_depth + 1)
    depths = data.draw(st.sets(st.sampled_from(all_depths), min_size=1))
    listed = list(space.enumerate(sorted(depths)))
    assert space.count(sorted(depths)) == len(listed)
    assert listed == [assignment for assignment in everything(space) if sum(assignment) in depths]
    assert sum(space.count(depth) for depth in all_depths) == space.count()


def test_counts_without_enumerating():
    assert LayerAssignmentSpace(40, 50).count() == 50**40
    space = LayerAssignmentSpace(40, [50] * 39 + [3])
    # One group is at its bound each time; the others cannot reach theirs at this depth.
    assert space.count(60) == sum(math.comb(60 - own - 1, 38) for own in (1, 2, 3))


@given(spaces, st.integers(0, 2**32), st.data())
def test_samples_are_valid_and_repeat_with_the_seed(space, seed, data):
    depth = data.draw(st.none() | st.integers(space.min_depth, space.max_depth))
    sample = space.sample(random.Random(seed), depth)
    assert sample in space
    assert depth is None or sum(sample) == depth
    assert sample == space.sample(random.Random(seed), depth)


@given(spaces, st.data())
def test_every_rank_is_a_different_assignment(space, data):
    """Sampling is exactly uniform, since each value of its one random number gives a different assignment."""

    class Counting(random.Random):
        def __init__(self, rank):
            super().__init__()
            self.rank = rank

        def randrange(self, stop):
            self.stop = stop
            return self.rank

    depth = data.draw(st.none() | st.integers(space.min_depth, space.max_depth))
    samples = []
    for rank in range(space.count(depth)):
        rng = Counting(rank)
        samples.append(space.sample(rng, depth))
        assert rng.stop == space.count(depth)
    assert samples == list(space.enumerate(depth))


def test_samples_are_uniform():
    space = LayerAssignmentSpace(3, (4, 2, 7))
    rng = random.Random(0)
    counts = Counter(space.sample(rng, depth=[6, 7]) for _ in range(200 * space.count([6, 7])))
    assert len(counts) == space.count([6, 7])
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    degrees = len(counts) - 1
    assert chi_squared < degrees + 4 * math.sqrt(2 * degrees)


def test_inherit_is_equation_6():
    assert LayerAssignmentSpace(4, 9).inherit((2, 5, 2, 3)) == (
        (3, 5, 2, 3),
        (2, 6, 2, 3),
        (2, 5, 3, 3),
        (2, 5, 2, 4),
    )


@given(spaces_with_architecture())
def test_inherits_one_layer_in_one_group_within_bounds(space_and_parent):
    space, parent = space_and_parent
    children = space.inherit(parent)
    assert set(children) == {
        child
        for child in everything(space)
        if sum(child) == sum(parent) + 1 and all(c >= p for c, p in zip(child, parent, strict=True))
    }
    grown = [[c - p for c, p in zip(child, parent, strict=True)].index(1) for child in children]
    assert grown == sorted(set(grown))


def test_the_deepest_has_no_heirs_and_everything_descends_from_the_seed():
    space = LayerAssignmentSpace(3, (2, 3, 1))
    assert space.seed_architecture == (1, 1, 1)
    assert space.largest() == space.deepest
    assert space.deepest == (2, 3, 1)
    assert (space.min_depth, space.max_depth) == (3, 6)
    assert space.inherit(space.deepest) == ()
    reached = {space.seed_architecture}
    for _ in range(space.max_depth):
        reached |= {child for parent in reached for child in space.inherit(parent)}
    assert reached == set(everything(space))


@given(spaces, st.data())
def test_even_assignments_are_as_even_as_bounds_allow(space, data):
    depth = data.draw(st.integers(space.min_depth, space.max_depth))
    even = space.even(depth)
    assert sum(even) == depth
    assert sum(x * x for x in even) == min(sum(x * x for x in a) for a in space.enumerate(depth))


@pytest.mark.parametrize(
    ("bound", "depth", "even"),
    [(9, 12, (3, 3, 3, 3)), (9, 13, (3, 3, 3, 4)), (9, 15, (3, 4, 4, 4)), ((2, 9, 9, 2), 12, (2, 4, 4, 2))],
)
def test_even_gives_the_remainder_to_the_last_groups(bound, depth, even):
    assert LayerAssignmentSpace(4, bound).even(depth) == even


@given(spaces_with_architecture())
def test_text_form_round_trips(space_and_architecture):
    space, architecture = space_and_architecture
    text = space.format(architecture)
    assert text == "-".join(str(layers) for layers in architecture)
    assert space.parse(text) == architecture
    assert space.parse(f" {text}\n") == architecture


@pytest.mark.parametrize(
    "text", ["", "2-", "-2-3-4", "2-5-2-3-", "2,5,2", "2-5-x", "2--5", "\uff12-1-1", "1-1-1.0"]
)
def test_malformed_text_is_refused(text):
    with pytest.raises(ValueError, match="numbers joined by '-'"):
        LayerAssignmentSpace(3, 9).parse(text)


@pytest.mark.parametrize(
    ("text", "problem"), [("2-5", "3 groups"), ("1-10-1", "group 1"), ("0-1-1", "group 0")]
)
def test_text_that_is_not_in_the_space_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        LayerAssignmentSpace(3, 9).parse(text)


def test_parse_refuses_what_is_no_text():
    with pytest.raises(TypeError, match="text must be a string"):
        LayerAssignmentSpace(3, 9).parse((2, 5, 2))


def test_validate_gives_plain_ints():
    space = LayerAssignmentSpace(3, 9)
    for architecture in ([2, 5, 2], np.array([2, 5, 2]), (np.int8(2), 5, 2), iter([2, 5, 2])):
        validated = space.validate(architecture)
        assert validated == (2, 5, 2)
        assert [type(layers) for layers in validated] == [int] * 3


@pytest.mark.parametrize(
    ("architecture", "error", "text"),
    [
        ((2, 5), ValueError, r"must have 3 groups, got \(2, 5\)"),
        ((2, 5, 2, 3), ValueError, "must have 3 groups"),
        ((), ValueError, "must have 3 groups"),
        ((2, 0, 2), ValueError, r"\(2, 0, 2\): group 1 must have 1 to 9 layers"),
        ((2, 5, 10), ValueError, "group 2 must have 1 to 9 layers"),
        ((2, 5, -1), ValueError, "group 2 must have 1 to 9 layers"),
        ((2, 5.0, 2), TypeError, "must hold only ints"),
        ((True, 5, 2), TypeError, "must hold only ints"),
        ("2-5-2", TypeError, "must be a sequence of ints"),
        ({2, 5, 3}, TypeError, "must be a sequence of ints"),
        (7, TypeError, "must be a sequence of ints"),
        (None, TypeError, "must be a sequence of ints"),
    ],
)
def test_what_is_not_in_the_space_is_refused(architecture, error, text):
    space = LayerAssignmentSpace(3, 9)
    assert architecture not in space
    with pytest.raises(error, match=text):
        space.validate(architecture)
    with pytest.raises(error, match=text):
        space.inherit(architecture)


@pytest.mark.parametrize("method", ["count", "enumerate", "sample"])
@pytest.mark.parametrize(
    ("depth", "error", "text"),
    [
        (2, ValueError, "depth must be from 3 to 27"),
        (28, ValueError, "depth must be from 3 to 27"),
        (range(3, 29), ValueError, "depth must be from 3 to 27"),
        ([], ValueError, "at least one depth"),
        (4.0, TypeError, "depth must be an int"),
        ([4, "5"], TypeError, "depth must hold only ints"),
    ],
)
def test_depths_that_the_space_has_not_are_refused(method, depth, error, text):
    space = LayerAssignmentSpace(3, 9)
    arguments = (random.Random(0),) if method == "sample" else ()
    with pytest.raises(error, match=text):
        getattr(space, method)(*arguments, depth=depth)


@pytest.mark.parametrize(
    ("groups", "max_layers", "error", "text"),
    [
        (0, 3, ValueError, "groups must be at least 1, got 0"),
        ("3", 3, TypeError, "groups must be an int, got '3'"),
        (3, 0, ValueError, "max_layers must be at least 1, got 0"),
        (3, 4.0, TypeError, "max_layers must be an int"),
        (3, (4, 4), ValueError, r"each of the 3 groups, got \(4, 4\)"),
        (3, (4, 0, 4), ValueError, "bound of at least 1"),
        (3, (4, 4.0, 4), TypeError, "max_layers must hold only ints"),
    ],
)
def test_impossible_spaces_are_refused(groups, max_layers, error, text):
    with pytest.raises(error, match=text):
        LayerAssignmentSpace(groups, max_layers)


def test_descriptions_tell_spaces_apart():
    assert LayerAssignmentSpace(3, 4).describe() == LayerAssignmentSpace(3, [4, 4, 4]).describe()
    assert LayerAssignmentSpace(3, 4).describe() != LayerAssignmentSpace(3, [4, 4, 5]).describe()
