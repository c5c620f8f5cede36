import itertools
import json
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lasfast.spaces import ChoiceSpace, VirtualLayer

counts = st.lists(st.integers(1, 4), min_size=1, max_size=4)
spaces = st.builds(ChoiceSpace, counts)
BLOCK = ChoiceSpace([VirtualLayer((64, 96), 2), [(3, 48), (5, 48)], [(3, 48), (5, 48), "skip"], ["fc"]])


@st.composite
def spaces_with_architecture(draw):
    space = draw(spaces)
    return space, tuple(draw(st.sampled_from(options)) for options in space.options)


@given(counts)
def test_enumerates_and_counts_every_combination(counts):
    space = ChoiceSpace(counts)
    everything = list(itertools.product(*map(range, counts)))
    assert list(space.enumerate()) == everything
    assert space.count() == len(everything)


def test_counts_the_spaces_of_the_papers():
    assert ChoiceSpace([5, 25, 125]).count() == 15625  # LayerNAS, C.1
    assert ChoiceSpace([4] * 20).count() == 4**20  # Single Path One-Shot, section 4


def test_samples_are_uniform():
    space = ChoiceSpace([3, 1, 4])
    rng = random.Random(0)
    drawn = Counter(space.sample(rng) for _ in range(200 * space.count()))
    assert len(drawn) == space.count()
    chi_squared = sum((count - 200) ** 2 / 200 for count in drawn.values())
    degrees = len(drawn) - 1
    assert chi_squared < degrees + 4 * math.sqrt(2 * degrees)


@given(spaces_with_architecture(), st.integers(0, 2**32))
def test_mutations_stay_in_the_space_and_repeat_with_the_seed(space_and_parent, seed):
    space, parent = space_and_parent
    child = space.mutate(parent, random.Random(seed), 0.5)
    assert child in space
    assert child == space.mutate(parent, random.Random(seed), 0.5)
    assert space.mutate(parent, random.Random(seed), 0) == parent
    every = space.mutate(parent, random.Random(seed), 1)
    for taken, before, options in zip(every, parent, space.options, strict=True):
        assert taken != before or len(options) == 1


def test_mutation_changes_each_decision_with_the_probability():
    space = ChoiceSpace([4] * 10)
    rng = random.Random(0)
    parent = space.sample(rng)
    children = [space.mutate(parent, rng) for _ in range(4000)]
    changed = Counter(place for child in children for place in range(10) if child[place] != parent[place])
    for place in range(10):
        assert changed[place] / 4000 == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 4000))
    others = Counter(child[0] for child in children if child[0] != parent[0])
    assert len(others) == 3
    assert min(others.values()) > 80


@given(spaces_with_architecture(), st.integers(0, 2**32))
def test_varies_exactly_one_decision(space_and_parent, seed):
    space, parent = space_and_parent
    if space.count() == 1:
        with pytest.raises(ValueError, match="has no other architecture"):
            space.vary(parent, random.Random(seed))
        return
    child = space.vary(parent, random.Random(seed))
    assert child in space
    assert sum(a != b for a, b in zip(child, parent, strict=True)) == 1


def test_every_neighbour_is_reached():
    space = ChoiceSpace([3, 1, 2])
    rng = random.Random(0)
    assert {space.vary((1, 0, 1), rng) for _ in range(100)} == {(0, 0, 1), (2, 0, 1), (1, 0, 0)}


def test_options_are_ordered_by_cost():
    costs = [[5, 1, 3], [2, 2], [7, 9, 8, 6]]
    space = ChoiceSpace(map(len, costs))
    order = space.by_cost(lambda a: sum(layer[option] for layer, option in zip(costs, a, strict=True)))
    assert order == ((1, 2, 0), (0, 1), (3, 0, 2, 1))


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None])
def test_a_cost_that_is_no_number_is_refused(value):
    with pytest.raises((TypeError, ValueError), match="cost must be a"):
        ChoiceSpace([2, 2]).by_cost(lambda _: value)


@given(spaces_with_architecture())
def test_text_form_round_trips(space_and_architecture):
    space, architecture = space_and_architecture
    text = space.format(architecture)
    assert text == "-".join(map(str, architecture))
    assert space.parse(f" {text}\n") == architecture


def test_named_options_are_written_by_name():
    assert BLOCK.format((1, 0, 2, 0)) == "96-3x48-skip-fc"
    assert [BLOCK.parse(BLOCK.format(a)) for a in BLOCK.enumerate()] == list(BLOCK.enumerate())


def test_a_virtual_layer_decides_for_the_layers_after_it():
    assert BLOCK.chosen((1, 0, 1, 0)) == (((3, 48), 96), ((5, 48), 96), ("fc",))
    assert BLOCK.chosen((0, 1, 2, 0)) == (((5, 48), 64), ("skip", 64), ("fc",))


def test_virtual_layers_may_overlap():
    space = ChoiceSpace([VirtualLayer(("relu", "swish"), 3), 2, VirtualLayer((8, 16), 2), 2, 2, 2])
    assert space.chosen((1, 0, 1, 1, 0, 1)) == ((0, "swish"), (1, "swish", 16), (0, "swish", 16), (1,))


def test_layers_that_must_agree_share_what_all_of_them_have():
    """The example of LayerNAS, appendix E.3."""
    assert VirtualLayer.common([32, 64, 96], [64, 96, 128]) == VirtualLayer((64, 96), 2)
    with pytest.raises(ValueError, match="one that all layers share"):
        VirtualLayer.common([32], [64])


def test_descriptions_tell_spaces_apart():
    described = [
        ChoiceSpace([2, 2]),
        ChoiceSpace([2, 3]),
        ChoiceSpace([["a", "b"], 2]),
        ChoiceSpace([VirtualLayer(("a", "b"), 1), 2]),
        BLOCK,
    ]
    texts = [json.dumps(space.describe()) for space in described]
    assert len(set(texts)) == len(texts)
    assert json.loads(texts[-1]) == BLOCK.describe()


def test_validate_gives_plain_ints():
    for architecture in ([2, 0], np.array([2, 0]), (np.int8(2), 0), iter([2, 0])):
        validated = ChoiceSpace([3, 1]).validate(architecture)
        assert validated == (2, 0)
        assert [type(option) for option in validated] == [int] * 2


@pytest.mark.parametrize(
    ("architecture", "error", "text"),
    [
        ((2,), ValueError, r"must have 2 layers, got \(2,\)"),
        ((3, 0), ValueError, r"\(3, 0\): layer 0 must take option 0 to 2"),
        ((0, -1), ValueError, "layer 1 must take option 0 to 0"),
        ((1.0, 0), TypeError, "must hold only ints"),
        ("2-0", TypeError, "must be a sequence of ints"),
    ],
)
def test_what_is_not_in_the_space_is_refused(architecture, error, text):
    space = ChoiceSpace([3, 1])
    assert architecture not in space
    for method in (
        space.validate,
        space.chosen,
        space.format,
        lambda one: space.vary(one, random.Random(0)),
        lambda one: space.mutate(one, random.Random(0)),
    ):
        with pytest.raises(error, match=text):
            method(architecture)


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_an_impossible_probability_is_refused(probability):
    with pytest.raises(ValueError, match="probability must be from 0 to 1"):
        ChoiceSpace([2]).mutate((0,), random.Random(0), probability)


@pytest.mark.parametrize(
    ("text", "error", "problem"),
    [
        (
            "96-3x48",
            ValueError,
            "an option for each of the 4 layers joined by '-', such as '64-3x48-3x48-fc'",
        ),
        ("96-7x48-skip-fc", ValueError, "layer 1 must be one of 3x48, 5x48, got '7x48'"),
        ("1-0-2-0", ValueError, "layer 0 must be one of 64, 96, got '1'"),
        (3, TypeError, "text must be a string"),
    ],
)
def test_text_that_is_not_in_the_space_is_refused(text, error, problem):
    with pytest.raises(error, match=problem):
        BLOCK.parse(text)


@pytest.mark.parametrize(
    ("layers", "error", "text"),
    [
        ([], ValueError, "at least one layer"),
        (3, TypeError, r"such as \[5, 25, 125\], got 3"),
        ("33", TypeError, "layers must be a sequence"),
        ([2, 0], ValueError, r"layers\[1\] must be at least 1, got 0"),
        ([2, 2.0], TypeError, r"layers\[1\] must be an int, got 2.0"),
        ([True], TypeError, r"layers\[0\] must be an int"),
        ([["a", "a"]], ValueError, r"layers\[0\] must be options with different names"),
        ([["1", 1]], ValueError, "different names"),
        ([[]], ValueError, "at least one"),
        (["3x3"], TypeError, r"layers\[0\] must be a sequence of options"),
        ([["a-b"]], ValueError, "letters, digits and _ . [+] : alone, got 'a-b'"),
        ([[1.5]], TypeError, "must be a string, an int or a tuple"),
        ([VirtualLayer((1, 2), 2), 3], ValueError, "virtual layer 0 decides for 2 layers, but 1 follow"),
    ],
)
def test_impossible_spaces_are_refused(layers, error, text):
    with pytest.raises(error, match=text):
        ChoiceSpace(layers)


@pytest.mark.parametrize(
    ("options", "layers", "error"), [((), 1, ValueError), ((1, 2), 0, ValueError), (3, 1, TypeError)]
)
def test_impossible_virtual_layers_are_refused(options, layers, error):
    with pytest.raises(error, match="must be"):
        VirtualLayer(options, layers)
