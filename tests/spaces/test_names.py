"""Short names of architectures, and spaces read off their descriptions."""

import json
import random

import pytest

from lasfast.spaces import CellSpace, ChoiceSpace, LayerAssignmentSpace, MacroSpace, VirtualLayer
from lasfast.spaces.described import space_of_description
from lasfast.spaces.names import LONGEST, is_short_name, short_name


def test_long_texts_have_names_that_are_the_same_everywhere() -> None:
    assert short_name("2-4-3") == "2-4-3"
    assert short_name("x" * LONGEST) == "x" * LONGEST
    text = "-".join(["k3e6"] * 21)
    assert short_name(text) == "net-3789885e"
    assert is_short_name(short_name(text))
    for other in ("2-4-3", "net-", "net-12345678x", "net-1234567g", text):
        assert not is_short_name(other)
    space = ChoiceSpace([["k3e6", "k5e6"]] * 21)
    assert space.name((0,) * 21) == short_name(text)


@pytest.mark.parametrize(
    "space",
    [
        LayerAssignmentSpace(3, (3, 4, 5)),
        CellSpace(3),
        ChoiceSpace([VirtualLayer((64, 96), 2), ["3x3", (5, 96)], ["3x3", "5x5"]]),
        ChoiceSpace([5, 3]),
        MacroSpace((2, 3), ["k3e3", "k5e6"]),
    ],
)
def test_a_space_is_made_of_its_description(space) -> None:
    again = space_of_description(json.loads(json.dumps(space.describe())))
    assert again is not None
    rng = random.Random(0)
    for architecture in (space.sample(rng) for _ in range(20)):
        assert again.format(architecture) == space.format(architecture)
        assert again.key(architecture) == space.key(architecture)


def test_other_spaces_are_left() -> None:
    for description in ({}, {"name": "Mine"}, {"name": "ChoiceSpace"}):
        assert space_of_description(description) is None
