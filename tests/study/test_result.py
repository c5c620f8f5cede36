"""Which of the measured architectures is the best."""

from __future__ import annotations

import pytest

from lasfast.measurements.measurement import Measurement
from lasfast.study.result import Measured, StudyResult, choose_best


def measured(number: int, right: int, flops: float, images: int = 400) -> Measured:
    return Measured(Measurement((number,), right / images, 1.0, 0.1, images), str(number), {"flops": flops})


def flops(one: Measured) -> float:
    return one.flops


def test_a_cheaper_one_within_a_standard_error_is_the_best() -> None:
    # Of 392 right among 400, the standard error is 0.7 %, 2.8 images.
    candidates = [measured(1, 392, 3.4), measured(2, 390, 1.9), measured(3, 389, 1.0), measured(4, 300, 0.5)]
    best, highest = choose_best(candidates, flops)
    assert (best.text, highest.text) == ("2", "1")
    best, highest = choose_best(candidates, flops, exact=True)
    assert best == highest == candidates[0]


@pytest.mark.parametrize("exact", [True, False])
def test_ties_go_to_the_cheaper(exact: bool) -> None:
    candidates = [measured(1, 400, 3.4), measured(2, 400, 1.9), measured(3, 400, 1.9), measured(4, 399, 0.1)]
    best, highest = choose_best(candidates, flops, exact=exact)  # all right: a standard error of 0
    assert best == highest == candidates[1]


def test_of_equal_costs_the_higher_accuracy_counts() -> None:
    candidates = [measured(1, 389, 2.0), measured(2, 392, 2.0), measured(3, 390, 2.0)]
    assert choose_best(candidates, flops)[0].text == "2"


def test_the_result_says_by_which_rule() -> None:
    first, second = measured(1, 392, 3.4), measured(2, 390, 1.9)
    result = StudyResult(second, first, {}, [], {}, [first, second])
    assert result.why_best == (
        "it is the cheapest within one standard error of the highest accuracy, 98.0 ± 0.7 % of 1"
    )
    result = StudyResult(second, second, {}, [], {}, [second])
    assert "it has the highest accuracy" in result.why_best
