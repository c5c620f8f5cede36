import itertools
import logging
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lasfast.constraints import Constraint
from lasfast.searchers import operators
from lasfast.searchers.limits import limits_of
from lasfast.spaces import ChoiceSpace

results = st.lists(
    st.tuples(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.integers(0, 5)),
    max_size=12,
    unique_by=lambda result: result[0],
)


@given(results)
def test_ranks_the_best_first_and_equal_ones_as_they_came(results):
    ranked = operators.ranked(results)
    assert Counter(ranked) == Counter(results)
    for (a, one), (b, other) in itertools.pairwise(ranked):
        assert one >= other
        if one == other and a != b:
            assert results.index((a, one)) < results.index((b, other))


def test_crossover_takes_every_decision_from_either():
    rng = random.Random(0)
    children = Counter(operators.crossover((0, 0, 5), (1, 2, 5), rng) for _ in range(4000))
    assert set(children) == {(a, b, 5) for a in (0, 1) for b in (0, 2)}
    assert min(children.values()) > 800


def test_a_tournament_is_won_by_the_best_of_a_sample():
    population = [((number,), number / 10) for number in range(10)]
    rng = random.Random(0)
    won = Counter(operators.tournament(population, 3, rng)[0] for _ in range(6000))
    for number in range(10):
        expected = ((number + 1) ** 3 - number**3) / 1000  # the greatest of three draws
        assert won[number] / 6000 == pytest.approx(expected, abs=0.025)
    assert operators.tournament([((1,), 0.5), ((2,), 0.5)], 1, rng) in [(1,), (2,)]


@given(results)
def test_the_front_is_what_nothing_beats(results):
    front = operators.pareto_front(results, sum)

    def beats(one, other):
        better = sum(one[0]) <= sum(other[0]) and one[1] >= other[1]
        return better and (sum(one[0]), one[1]) != (sum(other[0]), other[1])

    kept = {(sum(a), v) for a, v in results if not any(beats(other, (a, v)) for other in results)}
    assert [(sum(a), v) for a, v in front] == sorted(kept)
    for result in front:
        assert result == next(r for r in results if (sum(r[0]), r[1]) == (sum(result[0]), result[1]))


def test_draws_new_ones_within_bounds():
    rng = random.Random(0)
    draw = lambda: (rng.randrange(4),)  # noqa: E731
    assert sorted(operators.draw_distinct(draw, 3, lambda one: one != (2,))) == [(0,), (1,), (3,)]
    assert operators.draw_distinct(draw, 0, lambda _: True) == []
    tried = []
    assert operators.draw_distinct(draw, 2, lambda one: bool(tried.append(one))) == []
    assert len(tried) == 2 * operators.ATTEMPTS


def test_drawing_ends_where_patience_does():
    drawn = [(0,), (1,), (1,), (0,), (2,), (2,), (1,), (0,), (3,)]
    assert operators.draw_distinct(iter(drawn).__next__, 4, lambda _: True, patience=4) == [
        (0,),
        (1,),
        (2,),
        (3,),
    ]
    draws = iter(drawn)
    assert operators.draw_distinct(draws.__next__, 4, lambda _: True, patience=3) == [(0,), (1,), (2,)]
    assert list(draws) == [(3,)]


@pytest.mark.parametrize("wanted", [2, 3])
def test_samples_every_subset_alike(wanted):
    """By drawing (2 of 8, 5 of which are accepted) and from the whole space (3 of 5)."""
    space = ChoiceSpace([8]) if wanted == 2 else ChoiceSpace([5])
    accepted = [one for one in space.enumerate() if one[0] < 5]
    counts = Counter(
        tuple(sorted(operators.sample_distinct(space, random.Random(seed), wanted, accepted.__contains__)))
        for seed in range(2000)
    )
    assert len(counts) == 10
    assert min(counts.values()) > 140
    assert max(counts.values()) < 260


@pytest.mark.parametrize("share", [1, 0.5, 0.02])
@pytest.mark.parametrize("options", [[8], [3] * 5, [4] * 20])
def test_a_smaller_sample_is_the_beginning_of_a_larger(monkeypatch, share, options):
    """From spaces that are listed where draws find too few, and from one too large for that."""
    monkeypatch.setattr(operators, "DRAWS", 50)
    space = ChoiceSpace(options)
    listed = space.count() < 1000
    cost = (lambda one: random.Random(str(one)).random()) if listed else sum
    cheap = Constraint(f"cost<={share if listed else max(2, 30 * share)}", {"cost": cost})

    def draw(wanted):
        return operators.sample_distinct(space, random.Random(1), wanted, cheap, limits_of(cheap))

    longest = draw(200)
    accepted = sum(map(cheap, space.enumerate())) if listed else 200
    assert len(longest) == len(set(longest)) == min(200, accepted)
    for wanted in range(0, 200, 7):
        assert draw(wanted) == longest[:wanted]


def test_a_rare_kind_is_found_where_the_space_can_be_gone_through(monkeypatch):
    monkeypatch.setattr(operators, "ATTEMPTS", 2)
    space = ChoiceSpace([10] * 4)
    rare = lambda one: sum(one) <= 1  # noqa: E731
    found = operators.sample_distinct(space, random.Random(0), 4, rare)
    assert len(set(found)) == 4
    assert all(map(rare, found))
    assert len(operators.sample_distinct(space, random.Random(0), 40, rare)) == 5


def test_a_rare_kind_is_found_by_its_limits() -> None:
    """Of 4^20 architectures, 231 have costs of at most 2: no draw from all of them is one."""
    space, cheap = ChoiceSpace([4] * 20), Constraint("cost<=2", {"cost": lambda one: sum(one)})
    found = operators.initial_sample(space, random.Random(0), 40, cheap, cheap)
    assert len(set(found)) == 40
    assert all(map(cheap, found))
    rest = lambda one: cheap(one) and one not in found  # noqa: E731
    assert not set(found) & set(operators.initial_sample(space, random.Random(0), 40, rest, cheap))


def test_says_when_it_finds_too_few(monkeypatch, caplog):
    monkeypatch.setattr(operators, "ENUMERABLE", 100)
    space = ChoiceSpace([10] * 4)
    with caplog.at_level(logging.WARNING, "lasfast"):
        found = operators.initial_sample(space, random.Random(0), 3, lambda one: one[:3] == (0, 0, 0))
    assert 0 < len(found) < 3
    assert f"gave only {len(found)} new architectures that meet the constraint, of 3 wanted" in caplog.text
    caplog.clear()
    with pytest.raises(ValueError, match="constraint must leave architectures of"):
        operators.initial_sample(space, random.Random(0), 1, lambda _: False)
    assert not caplog.text  # the error says it all
