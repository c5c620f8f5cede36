"""The rule of a race by itself, on made-up answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from lasfast.measurements.racing import Race, _critical, _looks


def run(right, keep, error, step):
    """Race candidates with these answers [candidates, images]; return who was kept, and the images seen."""
    race = Race(len(right), right.shape[1], keep=keep, error=error, step=step)
    predicted = 0
    for start, stop in race.parts():
        predicted += len(race.alive) * (stop - start)
        race.see(right[race.alive, start:stop])
    return race.alive, predicted


def best(right, keep):
    """The true best, of equal ones the first, in the order of the candidates."""
    order = np.argsort(-right.sum(axis=1), kind="stable")
    return sorted(order[:keep].tolist())


def answers(accuracies, images, seed):
    """Answers that agree on easy and on hard images, as those of networks do."""
    rng = np.random.default_rng(seed)
    ease = rng.normal(size=images) + 0.5 * rng.normal(size=(len(accuracies), images))
    threshold = np.quantile(ease, 1 - np.asarray(accuracies), axis=1).diagonal()
    return ease > threshold[:, None]


@settings(deadline=None)
@given(
    candidates=st.integers(1, 8),
    images=st.integers(1, 60),
    step=st.integers(1, 70),
    seed=st.integers(0, 10_000),
    data=st.data(),
)
def test_without_error_the_best_are_always_kept(candidates, images, step, seed, data):
    keep = data.draw(st.integers(1, candidates))
    right = np.random.default_rng(seed).random((candidates, images)) < 0.5
    kept, predicted = run(right, keep, 0.0, step)
    assert kept == best(right, keep)
    assert keep * images <= predicted <= candidates * images


def wrong_races(right, error, races=250):
    rng = np.random.default_rng(1)
    orders = (rng.permutation(right.shape[1]) for _ in range(races))
    return sum(run(right[:, order], 2, error, 20)[0] != best(right, 2) for order in orders) / races


def test_the_error_rate_stays_below_what_is_stated():
    """Of the hardest kind: all are equally good, so that whoever is dropped is dropped by chance."""
    right = answers([0.7] * 10, 400, seed=0)
    for error in (0.3, 0.05):
        assert wrong_races(right, error) <= error


def test_tests_that_are_not_corrected_go_wrong_too_often(monkeypatch):
    """The correction for pairs and looks is needed: without it the same races fail."""
    right = answers([0.7] * 10, 400, seed=0)
    original = Race.__init__

    def uncorrected(self, *args, error, **options):
        original(self, *args, error=error, **options)
        self._level = error

    monkeypatch.setattr(Race, "__init__", uncorrected)
    assert wrong_races(right, 0.05) > 0.1


def test_those_far_behind_are_dropped_early():
    right = answers(np.linspace(0.4, 0.8, 40), 4000, seed=2)
    kept, predicted = run(right, 4, 0.05, 250)
    assert kept == best(right, 4) == [36, 37, 38, 39]
    assert predicted < 0.4 * right.size
    exact, more = run(right, 4, 0.0, 250)
    assert exact == kept
    assert predicted < more < right.size


def test_equal_candidates_rank_in_order():
    right = np.tile([True, False, True, True], (5, 3))
    assert run(right, 2, 0.05, 4)[0] == [0, 1]
    # A lead of one image, all others seen: who came first needs no more than a draw.
    race = Race(2, 5, keep=1, error=0.0, step=4)
    race.see(np.array([[1, 1, 0, 0], [0, 1, 0, 0]], dtype=bool))
    assert race.alive == [0]
    race = Race(2, 5, keep=1, error=0.0, step=4)
    race.see(np.array([[0, 1, 0, 0], [1, 1, 0, 0]], dtype=bool))
    assert race.alive == [0, 1]


@pytest.mark.parametrize("level", [0.49, 0.05, 1e-5])
@pytest.mark.parametrize("images", [61, 100, 3000])
def test_the_test_keeps_its_level_whatever_the_set(images, level):
    """Of sets in which as many images are one's own as are the other's, which must not be told apart.

    All that a look at 60 images may show is summed up, with its probability.
    """
    seen = 60
    split = np.arange(seen + 1)
    fewest = _critical(split.reshape(1, -1), seen, images, level)[0]
    assert (2 * fewest > split).all()  # never both of a pair
    assert fewest[0] == 1  # impossible
    for whole in {2, 10, 30, images // 2, images}:
        shown = hypergeom.pmf(split, images, whole, seen)
        wrong = hypergeom.sf(fewest - 1, whole, whole // 2, split)
        assert np.nansum(shown * np.where(split <= whole, wrong, 0)) <= level


def test_the_test_is_hardly_weaker_than_exact_ones():
    split = np.arange(20, 200)
    sign_test = binom.isf(0.001, split, 0.5) + 1  # of independent images
    assert (_critical(split, 500, 100_000, 0.001) - sign_test <= 2).all()
    exact = [next(b for b in range(151) if hypergeom.sf(b - 1, 166, 83, 150) <= 0.001)]  # 166 are known
    assert _critical(np.array([150]), 4500, 5000, 0.001) <= exact[0] + 7 < sign_test[130]


def test_more_images_to_come_make_a_long_lead_likelier():
    """What taking the upper bound rests on."""
    for drawn in range(1, 30):
        own = np.arange(drawn // 2 + 1, drawn + 1)
        wholes = range(drawn + drawn % 2, 120, 2)
        tails = np.array([hypergeom.sf(own - 1, whole, whole // 2, drawn) for whole in wholes])
        odd = np.array([hypergeom.sf(own - 1, whole + 1, whole // 2, drawn) for whole in wholes])
        assert (np.diff(tails, axis=0) >= -1e-12).all()
        assert (odd <= tails + 1e-12).all()


def test_looks_grow_and_end_with_all_images():
    assert _looks(5000, 250) == [250, 500, 750, 1000, 1500, 2250, 3500, 5000]
    assert _looks(41, 50) == [41]
    assert _looks(7, 3) == [3, 6, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": 0}, "candidates must be at least 1"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"keep": 4}, "keep must be at most the 3 candidates, got 4"),
        ({"error": 0.5}, "error must be a probability below 0.5"),
        ({"error": -0.1}, "error must be a probability"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"candidates": 3, "images": 10, "keep": 1, "error": 0.05, "step": 5, **change}
    with pytest.raises(ValueError, match=message):
        Race(**arguments)
