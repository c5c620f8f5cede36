import random

import pytest

from lasfast import costs
from lasfast.searchers import LayerNAS
from lasfast.searchers.limits import limit
from lasfast.searchers.reach import TRIALS, Reach
from lasfast.spaces import ChoiceSpace
from lasfast.supernets import MobileNet


def counted(cost):
    """The cost, and the list of what it was asked about."""
    asked = []

    def count(architecture):
        asked.append(architecture)
        return cost(architecture)

    return count, asked


def random_sums(layers, options, seed):
    rng = random.Random(seed)
    table = [[rng.random() for _ in range(options)] for _ in range(layers)]
    return lambda architecture: sum(map(list.__getitem__, table, architecture))


def test_narrow_targets_are_met_in_a_few_hundred_trials():
    """A 10,000th of the range of costs: going through beginnings in order takes three times as many."""
    space = ChoiceSpace([8] * 20)
    trials = 0
    for seed in range(10):
        cost, asked = counted(random_sums(20, 8, seed))
        reach = Reach(space, [limit(cost, 10, 10.002)], lambda _: True)
        asked.clear()
        assert reach.reaches(())
        trials += len(asked)
        assert any(10 <= cost(one) <= 10.002 for one in asked[:])
    assert trials < 2500


def test_what_cannot_be_told_is_open():
    """No sum of odd numbers over an even number of layers is odd, but nothing short of trying all says so."""
    space = ChoiceSpace([20] * 10)
    cost, asked = counted(lambda architecture: sum(2 * option + 1 for option in architecture))
    reach = Reach(space, [limit(cost, 101, 101)], lambda _: True)
    assert reach.reaches(()) is None
    assert len(asked) < 25 * TRIALS
    assert reach.reaches((3,) * 9) is False
    assert reach.reaches((3,) * 8) is False


@pytest.mark.parametrize("design", ["60M", "220M", "300M", "600M"])
def test_layernas_searches_the_papers_spaces(design):
    supernet = MobileNet(design)
    cost, asked = counted(costs.functions(supernet, (224, 224))["flops"])
    most = float(design.removesuffix("M")) * 1e6
    searcher = LayerNAS(supernet.space, cost=cost, target=(0.98 * most, most), evaluations=150)
    asked.clear()
    while candidates := searcher.ask():
        for candidate in candidates:
            searcher.tell(candidate, sum(candidate))
    assert 0.98 * most <= cost(searcher.best[0]) <= most
    assert len(asked) < 15 * 150  # of a mean of some 1e30 completions of each candidate


def test_targets_out_of_a_spaces_reach_are_named():
    supernet = MobileNet("60M")
    flops = costs.functions(supernet, (224, 224))["flops"]
    with pytest.raises(ValueError, match=r"have 31\.2616M to 177\.833M flops; got 300M<=flops<=600M: none"):
        LayerNAS(supernet.space, cost=flops, target=(300e6, 600e6))
