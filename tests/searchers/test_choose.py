"""The choice of a searcher by its budget."""

from __future__ import annotations

import pytest

from lasfast.constraints import Constraint
from lasfast.searchers import Evolution, Predictor, Random
from lasfast.searchers.choose import choose, fitting_population
from lasfast.spaces import ChoiceSpace

SPACE = ChoiceSpace([4] * 8)


@pytest.mark.parametrize(
    ("evaluations", "kind"),
    [(1, Random), (10, Random), (11, Predictor), (1000, Predictor), (1001, Evolution)],
)
def test_the_budget_decides(evaluations: int, kind: type) -> None:
    within = Constraint("sum<=9", {"sum": sum})
    searcher = choose(SPACE, constraint=within, evaluations=evaluations, seed=3)
    assert type(searcher) is kind
    assert searcher.constraint is within
    assert searcher.describe()["seed"] == 3
    assert searcher.most is not None
    assert evaluations <= searcher.most < evaluations + 50


def test_a_large_budget_of_a_predictor_has_larger_steps() -> None:
    searcher = choose(SPACE, evaluations=1000)
    assert isinstance(searcher, Predictor)
    assert searcher.children == 25


def test_few_evaluations_make_a_small_population() -> None:
    assert list(map(fitting_population, (None, 50, 200, 201))) == [50, 20, 20, 50]


def test_no_evaluations_are_refused() -> None:
    with pytest.raises(ValueError, match="evaluations must be at least 1, got 0"):
        choose(SPACE, evaluations=0)
