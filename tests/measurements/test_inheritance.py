"""The inheritance relation, held against a plain loop and against every permutation."""

import itertools
import random
from math import prod

import pytest

from lasfast.measurements.inheritance import inheritance


def assignments(depth, groups=3):
    return [one for one in itertools.product(range(1, depth), repeat=groups) if sum(one) == depth]


def random_table(depths, seed, groups=3):
    draw = random.Random(seed)
    return {one: draw.random() for depth in depths for one in assignments(depth, groups)}


def is_heir(deep, shallow):
    return sum(deep) == sum(shallow) + 1 and all(a >= b for a, b in zip(deep, shallow, strict=True))


def walk(table, depths, beam):
    """Return the regret at each depth but the first, by Algorithm 1 as it is written."""
    kept = sorted((one for one in table if sum(one) == depths[0]), key=lambda one: -table[one])[:beam]
    regrets = []
    for depth in depths[1:]:
        level = [one for one in table if sum(one) == depth]
        heirs = {one for one in level if any(is_heir(one, parent) for parent in kept)}
        kept = sorted(heirs, key=lambda one: -table[one])[:beam]
        regrets.append(max(map(table.get, level)) - table[kept[0]])
    return regrets


@pytest.mark.parametrize("seed", range(5))
def test_steps_are_those_of_a_plain_loop(seed):
    depths = range(4, 8)
    table = random_table(depths, seed)
    found = inheritance(table, top=2, draws=10, seed=seed)
    for step, depth in zip(found.steps, depths[1:], strict=True):
        before = sorted((one for one in table if sum(one) == depth - 1), key=lambda one: -table[one])
        best = max((one for one in table if sum(one) == depth), key=table.get)
        assert (step.depth, step.networks) == (depth, len(assignments(depth)))
        assert (step.best, step.top1) == (best, table[best])
        assert step.inherits_from_best == is_heir(best, before[0])
        assert step.inherits_from_top == any(is_heir(best, one) for one in before[:2])
    assert [step.regret for step in found.steps] == pytest.approx(walk(table, depths, 1))
    assert [step.regret_of_two for step in found.steps] == pytest.approx(walk(table, depths, 2))
    assert found.from_best.found == sum(step.inherits_from_best for step in found.steps)


def test_random_heirs_are_weighed_by_every_way_that_leads_to_them():
    table = {(1, 1): 0.5, (1, 2): 0.6, (2, 1): 0.9, (1, 3): 0.2, (2, 2): 0.4, (3, 1): 0.8}
    shallow, deep = inheritance(table, draws=1).steps
    assert shallow.regret_of_random == pytest.approx(0.9 - (0.6 + 0.9) / 2)
    assert deep.regret_of_random == pytest.approx(0.8 - (0.2 + 2 * 0.4 + 0.8) / 4)


def test_chance_is_that_of_all_permutations():
    """Of two depths, 1! * 3! * 6! tables can be shuffled: they are counted, with one place for the best."""
    table = random_table(range(4, 6), 1)
    found = inheritance(table, top=2, draws=20_000)
    pairs = list(itertools.product(assignments(4), assignments(5)))
    share = sum(is_heir(deep, shallow) for shallow, deep in pairs) / len(pairs)
    assert found.from_best.by_chance == pytest.approx(share, abs=0.015)
    tops = list(itertools.product(itertools.combinations(assignments(4), 2), assignments(5)))
    share = sum(any(is_heir(deep, one) for one in top) for top, deep in tops) / len(tops)
    assert found.from_top.by_chance == pytest.approx(share, abs=0.015)
    assert found.from_top.p == pytest.approx(share if found.from_top.found else 1, abs=0.015)


def test_a_table_that_inherits_is_told_from_chance():
    """The best of each depth adds a layer to the first group, accuracy falls with the distance from it."""
    table = {one: 1 - sum(one[1:]) / 100 for depth in range(3, 9) for one in assignments(depth)}
    found = inheritance(table)
    assert found.from_best.found == found.from_top.found == len(found.steps) == 5
    assert found.regret.found == 0 < found.regret.by_chance
    assert max(found.from_best.p, found.regret.p) < 0.01
    shuffled = inheritance(random_table(range(3, 9), 0))
    assert shuffled.regret.p > 0.05


def test_the_same_seed_gives_the_same():
    table = random_table(range(3, 7), 3)
    assert inheritance(table, draws=50, seed=1) == inheritance(table, draws=50, seed=1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "two or more depths, one after the other, got none"),
        ({(1, 1): 0.5}, r"two or more depths, one after the other, got \[2\]"),
        ({(1, 1): 0.5, (2, 2): 0.5}, r"got \[2, 4\]"),
        ({(1, 1): 0.5, (1, 1, 1): 0.5}, "the same number of groups"),
        ({(1, 2): 0.5, (2, 1): 0.5, (3, 1): 0.5}, r"one layer more than \(1, 2\)"),
        ({(1, 1): 0.5, (1, 2): float("nan")}, "accuracies must be a finite number, got nan"),
    ],
)
def test_tables_that_cannot_be_judged_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        inheritance(table)


def test_shuffles_keep_to_their_depth():
    """With one assignment a depth, nothing can be shuffled: chance is the table itself."""
    table = {(1,): 0.1, (2,): 0.2, (3,): 0.15}
    found = inheritance(table, draws=20)
    assert found.from_best.found == found.from_best.by_chance == 2
    assert found.from_best.p == found.regret.p == 1
    assert prod(step.networks for step in found.steps) == 1
