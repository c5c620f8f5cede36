import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lasfast.measurements.measurement import Measurement
from lasfast.measurements.ranking import accuracy_gap, kendall_tau, spearman_rho

ALL = [accuracy_gap, kendall_tau, spearman_rho]
accuracy_pairs = st.lists(
    st.tuples(st.integers(0, 20).map(lambda n: n / 20), st.integers(0, 20).map(lambda n: n / 20)), min_size=2
)


def test_gap_is_equation_7():
    assert accuracy_gap([0.7, 0.8, 0.9], [0.5, 0.9, 0.9]) == pytest.approx((0.2 + 0.1 + 0.0) / 3)
    assert accuracy_gap([0.7], [0.5]) == pytest.approx(0.2)


@pytest.mark.parametrize("correlation", [kendall_tau, spearman_rho])
def test_correlations_look_at_the_order_alone(correlation):
    stand_alone = [0.61, 0.64, 0.7, 0.72]
    assert correlation(stand_alone, [0.1, 0.3, 0.31, 0.32]) == pytest.approx(1)
    assert correlation(stand_alone, [0.9, 0.8, 0.5, 0.1]) == pytest.approx(-1)


@given(accuracy_pairs)
def test_kendall_tau_counts_pairs(pairs):
    """tau-b from its definition, ties corrected for."""
    concordant = discordant = left_ties = right_ties = 0
    for i, (a, b) in enumerate(pairs):
        for c, d in pairs[:i]:
            product = (a - c) * (b - d)
            concordant += product > 0
            discordant += product < 0
            left_ties += a == c
            right_ties += b == d
    total = len(pairs) * (len(pairs) - 1) / 2
    norm = math.sqrt((total - left_ties) * (total - right_ties))
    expected = (concordant - discordant) / norm if norm else math.nan
    assert kendall_tau(*zip(*pairs, strict=True)) == pytest.approx(expected, nan_ok=True)


@given(accuracy_pairs)
def test_spearman_rho_is_the_correlation_of_ranks(pairs):
    def ranks(values):
        return [sum(w < v for w in values) + (values.count(v) + 1) / 2 for v in values]

    a, b = (ranks(side) for side in zip(*pairs, strict=True))
    mean = (len(pairs) + 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True))
    norm = math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))
    expected = covariance / norm if norm else math.nan
    assert spearman_rho(*zip(*pairs, strict=True)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("statistic", ALL)
def test_mappings_are_matched_by_architecture(statistic):
    rng = random.Random(0)
    stand_alone = {(1, group): rng.random() for group in range(1, 9)}
    one_shot = {architecture: rng.random() for architecture in stand_alone}
    shuffled = dict(rng.sample(sorted(one_shot.items()), len(one_shot)))
    assert list(shuffled) != list(stand_alone)
    in_order = statistic(list(stand_alone.values()), list(one_shot.values()))
    assert statistic(stand_alone, shuffled) == pytest.approx(in_order)


def test_measurements_are_accuracies():
    measurements = [Measurement((layers,), layers / 4, 1.0, 0.1, 4) for layers in (1, 2, 3)]
    assert accuracy_gap(measurements, [0.25, 0.5, 0.25]) == pytest.approx(0.5 / 3)


@pytest.mark.parametrize("correlation", [kendall_tau, spearman_rho])
def test_equal_accuracies_rank_nothing(correlation):
    assert math.isnan(correlation([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]))
    assert math.isnan(correlation([0.1, 0.2, 0.3], [0.5, 0.5, 0.5]))


@pytest.mark.parametrize("statistic", ALL)
@pytest.mark.parametrize(
    ("stand_alone", "one_shot", "error", "text"),
    [
        ([], [], ValueError, "at least"),
        ([0.1, 0.2], [0.1, 0.2, 0.3], ValueError, "got 2 and 3"),
        ([0.1, math.nan], [0.1, 0.2], ValueError, "each of stand_alone must be a finite number, got nan"),
        ([0.1, 0.2], [0.1, math.inf], ValueError, "each of one_shot must be a finite number, got inf"),
        ([0.1, 0.2], [0.1, "0.2"], TypeError, "each of one_shot must be a real number"),
        ({(1,): 0.1, (2,): 0.2}, {(1,): 0.1, (3,): 0.2}, ValueError, r"\(2,\) is in only one"),
        ({(1,): 0.1, (2,): 0.2}, [0.1, 0.2], TypeError, "both be mappings"),
    ],
)
def test_what_cannot_be_compared_is_refused(statistic, stand_alone, one_shot, error, text):
    with pytest.raises(error, match=text):
        statistic(stand_alone, one_shot)


@pytest.mark.parametrize("correlation", [kendall_tau, spearman_rho])
def test_one_architecture_has_no_rank(correlation):
    with pytest.raises(ValueError, match="at least 2; got 1 and 1"):
        correlation([0.5], [0.5])
