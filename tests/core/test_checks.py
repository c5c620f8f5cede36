"""Checks of plain arguments: what they return, and that errors say name, expectation and value."""

import numpy as np
import pytest

from lasfast.core.checks import as_bool, as_number


def test_numbers_stay_what_they_are_but_numpys():
    assert [type(as_number("x", value)) for value in (1, 0.5, np.float32(0.5))] == [int, float, float]
    assert as_number("x", 0, minimum=0, below=1) == 0
    assert as_bool("x", np.bool_(True)) is True


@pytest.mark.parametrize(
    ("value", "bounds", "error", "text"),
    [
        ("1", {}, TypeError, "x must be a real number, got '1'"),
        (True, {}, TypeError, "x must be a real number, got True"),
        (float("inf"), {}, ValueError, "x must be a finite number, got inf"),
        (0, {"above": 0}, ValueError, "x must be above 0, got 0"),
        (1, {"minimum": 0, "below": 1}, ValueError, "x must be at least 0 and below 1, got 1"),
        (-0.5, {"minimum": 0, "below": 1}, ValueError, "x must be at least 0 and below 1, got -0.5"),
    ],
)
def test_numbers_out_of_range_are_named(value, bounds, error, text):
    with pytest.raises(error, match=text):
        as_number("x", value, **bounds)


def test_what_is_not_a_bool_is_named():
    with pytest.raises(TypeError, match="x must be True or False, got 1"):
        as_bool("x", 1)
