"""Architectures within bounds are drawn uniformly, however few there are."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from itertools import pairwise

import pytest
from scipy.stats import chisquare

from lasfast import supernets
from lasfast.constraints import Bound, BoundedSampler, parse_bounds
from lasfast.costs import functions
from lasfast.spaces import Architecture, ChoiceSpace

SPACE = ChoiceSpace([4, 3, 4, 2, 4])


def additive(architecture: Architecture) -> float:
    return sum((place + 1) * option for place, option in enumerate(architecture))


def coupled(architecture: Architecture) -> float:
    """Each layer reads as many channels as the layer before gives."""
    widths = [3, *(8 * (option + 1) for option in architecture)]
    return sum(one * other for one, other in pairwise(widths))


def fewest(architecture: Architecture) -> float:
    return min(architecture) + additive(architecture) / 100


@pytest.mark.parametrize(
    ("cost", "low", "high"),
    [
        (additive, -1, 9),
        (additive, 29, 50),
        (additive, 21, 22),
        (additive, 0, 100),
        (coupled, 0, 1100),
        (coupled, 1900, 9000),
        (fewest, 1, 2),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_each_within_the_bounds_comes_as_often(cost, low: float, high: float) -> None:
    within = [one for one in SPACE.enumerate() if low <= cost(one) <= high]
    sampler, rng = BoundedSampler(SPACE, [(Bound("cost", low, high), cost)]), random.Random(1)
    draws = Counter(sampler.draw(rng) for _ in range(20 * len(within)))
    assert set(draws) <= set(within)
    assert chisquare([draws[one] for one in within]).pvalue > 0.001


def test_several_bounds_at_once() -> None:
    limits = [(Bound("sum", high=14), additive), (Bound("product", low=1300), coupled)]
    within = [one for one in SPACE.enumerate() if additive(one) <= 14 and coupled(one) >= 1300]
    assert len(within) in range(10, SPACE.count() // 20)
    sampler, rng = BoundedSampler(SPACE, limits), random.Random(1)
    draws = Counter(sampler.draw(rng) for _ in range(20 * len(within)))
    assert set(draws) <= set(within)
    assert chisquare([draws[one] for one in within]).pvalue > 0.001


def test_a_single_one_is_found() -> None:
    space = ChoiceSpace([4] * 20)
    sampler = BoundedSampler(space, [(Bound("cost", high=0), sum)])
    assert sampler.draw(random.Random(0)) == (0,) * 20


def test_none_is_said_to_be_none() -> None:
    sampler = BoundedSampler(SPACE, [(Bound("cost", high=-1), additive)])
    assert sampler.share == 0
    assert sampler.draw(random.Random(0)) is None


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (supernets.ProxylessNAS, "flops<=320M"),
        (partial(supernets.QuantResNet, depth=18), "bitops<=6.32Gi"),
    ],
    ids=["proxyless", "quant-resnet18"],
)
def test_few_of_a_large_space_are_found_at_once(make, text: str) -> None:
    """Of random ones, 3 % of the first space and 2 % of the second meet the bounds."""
    supernet = make(1000, stem="imagenet")
    [bound] = parse_bounds(text)
    cost = functions(supernet, (224, 224))[bound.cost]
    sampler, rng = BoundedSampler(supernet.space, [(bound, cost)]), random.Random(0)
    assert sampler.share > 0.02
    draws = {sampler.draw(rng) for _ in range(50)}
    assert len(draws) == 50
    assert all(cost(one) <= bound.high for one in draws)
