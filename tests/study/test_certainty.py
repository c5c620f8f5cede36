"""Tests of how certain the order of a search is said to be."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lasfast.measurements import Measurement
from lasfast.report import certainty_text
from lasfast.study.certainty import Certainty, certainty_of
from lasfast.study.comparison import errors_of_a_lead


def measured(place: int, right: np.ndarray, tells: bool = True) -> tuple[str, Measurement]:
    correct = np.packbits(right).tobytes() if tells else b""
    return f"n{place}", Measurement((place,), float(right.mean()), 1.0, 1.0, len(right), correct)


def of_shares(*shares: float, images: int = 2000, seed: int = 0) -> list[tuple[str, Measurement]]:
    """Networks that are right on their shares of the images, the same ones but for a tenth at random."""
    rng = np.random.default_rng(seed)
    hard = rng.random(images)
    return [
        measured(place, (hard < share) ^ (rng.random(images) < 0.1)) for place, share in enumerate(shares)
    ]


def test_the_difference_is_that_on_the_same_images() -> None:
    winner, *others = of_shares(0.70, 0.69, 0.5, 0.3)
    found = certainty_of(winner, others)
    assert found is not None
    pair = winner[1].right().astype(float) - others[0][1].right()
    assert (found.winner, found.rival, found.measured, found.images) == ("n0", "n1", 4, 2000)
    assert found.difference == pytest.approx(pair.mean())
    assert found.error == pytest.approx(pair.std() / math.sqrt(2000))
    assert found.alike == 1
    assert found.rival_is_alike
    assert found.tau is not None
    assert found.tau > 0.6
    assert Certainty.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_the_images_that_are_needed_tell_the_difference() -> None:
    winner, rival = of_shares(0.71, 0.70, images=1000, seed=3)
    found = certainty_of(winner, [rival])
    assert found is not None
    assert found.images_needed is not None
    error = found.error * math.sqrt(found.images / found.images_needed)
    assert abs(found.difference) == pytest.approx(errors_of_a_lead(2) * error, rel=1e-3)
    assert found.images_needed > 1000


def test_what_is_far_apart_needs_no_more_images() -> None:
    winner, *others = of_shares(0.9, 0.6, 0.5)
    found = certainty_of(winner, others)
    assert found is not None
    assert (found.alike, found.images_needed, found.rival_is_alike) == (0, None, False)
    assert certainty_text(found).startswith("n0 differs from n1, the best of the others, by more than noise")
    assert "from none of 2 it is not distinguishable" in certainty_text(found)
    assert "What would help" not in certainty_text(found)


def test_equal_networks_are_seldom_told_apart() -> None:
    """The best of thirty that are alike; each search may err with a probability of 5 %."""
    erred = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        every = [measured(place, rng.random(300) < 0.7) for place in range(30)]
        winner = max(every, key=lambda one: one[1].top1)
        found = certainty_of(winner, [one for one in every if one is not winner])
        assert found is not None
        erred += not found.rival_is_alike
        assert abs(found.tau or 0) < 0.5
    assert erred <= 3


def test_nothing_is_said_where_nothing_is_known() -> None:
    winner, rival = of_shares(0.7, 0.6)
    assert certainty_of(winner, []) is None
    assert certainty_of(winner, [measured(1, rival[1].right(), tells=False)]) is None
    same = certainty_of(winner, [("n9", winner[1])])
    assert same is not None
    assert (same.difference, same.images_needed, same.tau, same.rival_is_alike) == (0, None, None, True)


def test_it_is_said_in_words() -> None:
    found = Certainty("5-3-1", 40, 13, "3-3-3", -0.011, 0.007, 1000, 3456, 0.351)
    assert certainty_text(found).splitlines() == [
        "5-3-1 is not distinguishable from 3-3-3 (difference -1.1 ± 0.7 points), nor from 12 others of 40.",
        "One half of the 1,000 validation images ranks them as the other half does with Kendall's tau 0.35: "
        "1 is the same order, 0 is chance.",
        "What would help: longer training, which spreads accuracies, or some 3,456 validation images, which "
        "tell these two apart.",
    ]
