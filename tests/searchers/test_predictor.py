"""The predictor-guided search and its Gaussian process."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.optimize import check_grad

from lasfast.constraints import Constraint
from lasfast.searchers import Predictor, Random, Searcher
from lasfast.searchers.gaussian_process import GaussianProcess, Kernel, _loss, likeliest_kernel
from lasfast.searchers.predictor import expected_improvement, normal_scores
from lasfast.spaces import Architecture, ChoiceSpace

SPACE = ChoiceSpace([4] * 8)
BEST = (3, 0, 2, 1, 3, 1, 0, 2)


def hits(architecture: Architecture) -> float:
    """How many decisions are the best ones; two in a row count once more."""
    right = [one == best for one, best in zip(architecture, BEST, strict=True)]
    return sum(right) + 0.5 * sum(a and b for a, b in pairwise(right))


def found(searcher: Searcher) -> float:
    while candidates := searcher.ask():
        for one in candidates:
            searcher.tell(one, hits(one))
    return searcher.best[1]


def test_it_finds_what_random_search_does_not() -> None:
    guided = [found(Predictor(SPACE, evaluations=80, seed=seed)) for seed in range(4)]
    assert min(guided) == hits(BEST) == 11.5
    assert max(found(Random(SPACE, samples=80, seed=seed)) for seed in range(4)) < 8


def test_it_searches_what_next_to_nothing_meets() -> None:
    """Two of a hundred thousand architectures cost so little."""
    space = ChoiceSpace([4] * 16)
    cheap = Constraint("sum<=9", {"sum": sum})
    searcher = Predictor(space, constraint=cheap, initial=8, evaluations=68, children=10)
    while candidates := searcher.ask():
        assert all(map(cheap, candidates))
        for one in candidates:
            searcher.tell(one, float(one[0] - one[-1]))
    assert len(searcher.results) == 68
    assert searcher.best[1] >= 2


def test_normal_scores_go_by_ranks() -> None:
    scores = normal_scores([0.1, 0.9, 0.5, 0.5])
    assert scores == pytest.approx(stats.norm.ppf([1 / 5, 4 / 5, 2.5 / 5, 2.5 / 5]))
    assert normal_scores([-1000, 2, 1.1, 1.1]) == pytest.approx(scores)


@pytest.mark.parametrize("spare", [1, 32])
def test_the_process_is_the_textbooks(monkeypatch: pytest.MonkeyPatch, spare: int) -> None:
    """Rasmussen and Williams 2006, Eqs. 2.25 and 2.26, by plain inversion; then with two values more."""
    monkeypatch.setattr("lasfast.searchers.gaussian_process.SPARE", spare)
    rng = random.Random(0)
    known, others = ([SPACE.sample(rng) for _ in range(count)] for count in (12, 5))
    values = normal_scores([hits(one) for one in known])
    kernel = Kernel(np.array([0.1, 0.7, *[0.3] * (len(known[0]) - 2)]), 0.05)
    process = GaussianProcess(kernel, known, values)
    prediction = process.predict(others)

    def expected(known: list[Architecture], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        between = lambda a, b: process.correlation(np.array(a), np.array(b))  # noqa: E731
        inverse = np.linalg.inv(between(known, known) + kernel.noise * np.eye(len(known)))
        cross = between(known, others)
        return cross.T @ inverse @ values, 1 - np.diag(cross.T @ inverse @ cross)

    mean, variance = expected(known, values)
    assert prediction.mean == pytest.approx(mean)
    assert prediction.variance == pytest.approx(variance)
    prediction.suppose(2)
    prediction.suppose(0)
    more, supposed = [*known, others[2], others[0]], np.append(values, mean[[2, 0]])
    mean, variance = expected(more, supposed)
    assert prediction.mean == pytest.approx(mean)
    assert prediction.variance == pytest.approx(variance)


def test_the_likeliest_decays_and_noise_are_taken() -> None:
    """Values that hang on one decision have its decay; values of chance alone are noise."""
    rng = random.Random(1)
    known = list(dict.fromkeys(SPACE.sample(rng) for _ in range(60)))
    of_one = likeliest_kernel(known, normal_scores([one[2] for one in known]))
    assert of_one.decays[2] > 3 * np.delete(of_one.decays, 2).max()
    chance = likeliest_kernel(known, normal_scores([rng.random() for _ in known]))
    assert chance.noise > 5 * of_one.noise


def test_the_gradient_of_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    known, values, first = rng.integers(0, 3, (9, 4)), rng.standard_normal(9), np.full(5, -1.0)
    differing = np.moveaxis(known[:, None] != known[None], 2, 0).astype(float)
    at = first + 0.3 * rng.standard_normal(5)
    assert check_grad(
        lambda x: _loss(x, first, differing, values)[0], lambda x: _loss(x, first, differing, values)[1], at
    ) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.7, 0.2), (2.0, 0.5), (-1.0, 0.3)])
def test_expected_improvement(mean: float, deviation: float) -> None:
    exact, _ = integrate.quad(
        lambda value: (value - 1) * stats.norm.pdf(value, mean, deviation), 1, 1 + 12 * deviation + abs(mean)
    )
    got = expected_improvement(np.array([mean]), np.array([deviation**2]), 1.0)
    assert got == pytest.approx(exact, abs=1e-9)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="initial must be at least 2"):
        Predictor(SPACE, initial=1)
    with pytest.raises(ValueError, match="evaluations must be at least 10"):
        Predictor(SPACE, evaluations=9)
    with pytest.raises(TypeError, match="space must be a ProductSpace"):
        Predictor("space")  # type: ignore[arg-type]
