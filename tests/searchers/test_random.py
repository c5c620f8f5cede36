from collections import Counter
from itertools import combinations

import pytest

from lasfast.searchers import Random
from lasfast.spaces import LayerAssignmentSpace, SearchSpace


class Coins(SearchSpace):
    """A space that is no layer assignment: heads or tails, three times."""

    def __init__(self, claimed=8):
        self.claimed = claimed

    def validate(self, architecture):
        coins = tuple(architecture)
        if len(coins) != 3 or not set(coins) <= {0, 1}:
            raise ValueError(f"architecture must be three coins, got {coins}")
        return coins

    def sample(self, rng):
        return tuple(rng.randrange(2) for _ in range(3))

    def enumerate(self):
        return (tuple(number >> bit & 1 for bit in (2, 1, 0)) for number in range(8))

    def count(self):
        return self.claimed

    def describe(self):
        return {"name": "coins"}


def tell_all(searcher, value):
    for architecture in searcher.ask():
        searcher.tell(architecture, value(architecture))
    return searcher


def test_draws_all_its_samples_in_one_step():
    searcher = Random(LayerAssignmentSpace(3, 6), samples=20)
    assert len(searcher.ask()) == 20
    tell_all(searcher, sum)
    assert searcher.finished
    assert searcher.step == 1


def test_draws_from_the_depths_it_is_given():
    space = LayerAssignmentSpace(3, 6)
    assert {sum(a) for a in Random(space, samples=5, depth=7).ask()} == {7}
    assert {sum(a) for a in Random(space, samples=30, depth=range(6, 9)).ask()} == {6, 7, 8}


def test_a_small_space_is_given_whole():
    space = LayerAssignmentSpace(3, 6)
    candidates = Random(space, samples=1000, depth=5).ask()
    assert sorted(candidates) == sorted(space.enumerate(5))


def test_seeds_differ_and_repeat():
    space = LayerAssignmentSpace(3, 9)
    drawn = [tuple(Random(space, samples=10, seed=seed).ask()) for seed in (0, 1, 2, 0)]
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize("samples", [2, 4])
def test_every_subset_is_as_likely(samples):
    """Both ways of drawing: with repeats dropped (2 of 6), and from the whole list (4 of 6)."""
    space = LayerAssignmentSpace(2, 20)
    subsets = list(combinations(space.enumerate(7), samples))
    counts = Counter(
        tuple(sorted(Random(space, samples=samples, depth=7, seed=seed).ask())) for seed in range(3000)
    )
    assert set(counts) == set(subsets)
    expected = 3000 / len(subsets)
    chi_squared = sum((counts[subset] - expected) ** 2 / expected for subset in subsets)
    assert chi_squared < 36.1  # 14 degrees of freedom, p = 0.001


def test_the_best_and_the_winner_of_each_depth_while_it_runs():
    searcher = Random(LayerAssignmentSpace(2, 3), samples=9)
    searcher.tell((1, 3), 0.4)
    assert searcher.best == ((1, 3), 0.4)
    searcher.tell((2, 2), 0.6)
    searcher.tell((1, 1), 0.5)
    assert searcher.best == ((2, 2), 0.6)
    assert searcher.winners == {2: ((1, 1), 0.5), 4: ((2, 2), 0.6)}


def test_any_space_will_do():
    searcher = Random(Coins(), samples=3)
    assert len(set(searcher.ask())) == 3
    tell_all(searcher, sum)
    assert searcher.winners == {}
    assert sorted(Random(Coins(), samples=8).ask()) == list(Coins().enumerate())


def test_a_space_that_miscounts_is_found_out_and_does_not_hang():
    with pytest.raises(RuntimeError, match="gave only 8 distinct architectures of the 10 wanted"):
        Random(Coins(claimed=100), samples=10).ask()


@pytest.mark.parametrize(
    ("space", "arguments", "error", "text"),
    [
        (LayerAssignmentSpace(3, 4), {"samples": 0}, ValueError, "samples must be at least 1"),
        (LayerAssignmentSpace(3, 4), {"samples": 2.0}, TypeError, "samples must be an int"),
        (LayerAssignmentSpace(3, 4), {"samples": 2, "seed": -1}, ValueError, "seed must be at least 0"),
        (LayerAssignmentSpace(3, 4), {"samples": 2, "depth": 13}, ValueError, "depth must be from 3 to 12"),
        (Coins(), {"samples": 2, "depth": 3}, TypeError, "depth must be None for a Coins"),
        (3, {"samples": 2}, TypeError, "space must be a SearchSpace, got int"),
    ],
)
def test_impossible_searches_are_refused(space, arguments, error, text):
    with pytest.raises(error, match=text):
        Random(space, **arguments)
