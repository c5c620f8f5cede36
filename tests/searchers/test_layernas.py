import math
import random
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lasfast.constraints import Constraint, NamedCost
from lasfast.searchers import LayerNAS, reach
from lasfast.searchers.limits import limit
from lasfast.searchers.reach import Reach
from lasfast.spaces import ChoiceSpace, ListedSpace, VirtualLayer


def run(searcher, value):
    while candidates := searcher.ask():
        for candidate in candidates:
            searcher.tell(candidate, value(candidate))
    return searcher


def additive(tables):
    return lambda architecture: sum(table[option] for table, option in zip(tables, architecture, strict=True))


@st.composite
def problems(draw, most=9):
    """A space, the cost and the value of each option, and a target that some architecture meets."""
    layers = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    table = lambda top: [[draw(st.integers(0, top)) for _ in range(options)] for options in layers]  # noqa: E731
    space, cost, value = ChoiceSpace(layers), additive(table(most)), additive(table(20))
    low, high = sorted(cost(space.sample(random.Random(draw(st.integers(0, 99))))) for _ in range(2))
    return space, cost, value, (low - draw(st.integers(0, 2)), high + draw(st.integers(0, 2)))


SETTINGS = st.fixed_dictionaries(
    {
        "parents": st.sampled_from([None, 1, 2]),
        "children": st.sampled_from([None, 1, 2]),
        "select": st.sampled_from(["random", "best"]),
        "replicas": st.integers(1, 3),
        "seed": st.integers(0, 3),
    }
)


def within(space, cost, target):
    return [a for a in space.enumerate() if target[0] <= cost(a) <= target[1]]


@given(problems(), SETTINGS)
def test_finds_the_optimum_where_its_assumption_holds(problem, settings):
    """Accuracies that add up layer by layer satisfy Assumption 4.2, with a bucket for each cost."""
    space, cost, value, target = problem
    searcher = LayerNAS(space, cost=cost, target=target, buckets=100, **settings)
    assert run(searcher, value).best[1] == max(map(value, within(space, cost, target)))


def test_finds_the_optimum_among_many_in_few_evaluations():
    rng = random.Random(0)
    costs, values = ([[rng.randrange(8) for _ in range(4)] for _ in range(9)] for _ in range(2))
    space, cost, value, target = ChoiceSpace([4] * 9), additive(costs), additive(values), (20, 24)
    searcher = run(LayerNAS(space, cost=cost, target=target, replicas=1, parents=None, children=None), value)
    assert searcher.best[1] == max(map(value, within(space, cost, target)))
    assert len(searcher.results) < space.count() / 250
    assert len(searcher.results) <= 64 * 4 * 9  # O(H |S| L): 64 costs at most


@given(problems(), st.sampled_from([None, 1, 2]))
def test_a_bucket_for_each_architecture_is_enumeration(problem, several):
    """Appendix E.1: with all candidates stored, the last layer has the whole space."""
    space, cost, value, target = problem
    searcher = LayerNAS(space, cost=cost, target=target, phi=tuple, parents=several, children=several)
    final = [a for a, _ in run(searcher, value).results if searcher.may_win(a)]
    assert sorted(final) == sorted(set(final))
    assert set(final) == set(within(space, cost, target))


def enumerating(most):
    """Spaces of up to so many are enumerated; 0 treats the small ones of these tests as large ones."""
    return mock.patch.object(reach, "ENUMERABLE", most)


@given(problems(), st.integers(0, 99), st.sampled_from([0, 10**5]))
def test_a_beginning_is_dropped_exactly_when_no_completion_meets_the_target(problem, seed, most):
    space, cost, _, target = problem
    with enumerating(most):
        within_reach = Reach(space, [limit(cost, *target)], lambda _: True)
    beginning = space.sample(random.Random(seed))
    for length in range(len(beginning) + 1):
        completions = [a for a in space.enumerate() if a[:length] == beginning[:length]]
        possible = any(target[0] <= cost(a) <= target[1] for a in completions)
        assert within_reach.reaches(beginning[:length]) == possible


@given(problems(), st.integers(0, 99), st.sampled_from([0, 10**5]))
def test_several_limits_are_met_together(problem, seed, most):
    space, cost, _, target = problem
    second = additive(
        [[(7 * option + 3 * layer) % 5 for option in range(4)] for layer in range(4)][: len(space.options)]
    )
    accept = lambda one: sum(one) % 3 != 1  # noqa: E731
    with enumerating(most):
        within_reach = Reach(space, [limit(cost, *target), limit(second, 2, 6)], accept)
    for beginning in [space.sample(random.Random(seed))[:length] for length in range(len(space.options) + 1)]:
        possible = any(
            target[0] <= cost(a) <= target[1] and 2 <= second(a) <= 6 and accept(a)
            for a in space.enumerate()
            if a[: len(beginning)] == beginning
        )
        assert within_reach.reaches(beginning) == possible


def decided_layers(searcher, architecture):
    """How many layers a candidate decides: up to the last that does not take the default."""
    places = zip(architecture, searcher.default, strict=True)
    return max((layer for layer, (option, default) in enumerate(places, 1) if option != default), default=1)


@given(problems(), st.integers(1, 12), st.integers(1, 3))
def test_all_that_is_asked_can_still_meet_the_target(problem, buckets, replicas):
    space, cost, value, target = problem
    searcher = LayerNAS(space, cost=cost, target=target, buckets=buckets, replicas=replicas)
    final = within(space, cost, target)
    for candidate, _ in run(searcher, value).results:
        decided = decided_layers(searcher, candidate)
        assert any(one[:decided] == candidate[:decided] for one in final)
    assert searcher.best[0] in final


@given(problems(), st.integers(1, 12))
def test_buckets_are_equation_4(problem, buckets):
    space, cost, _, target = problem
    searcher = LayerNAS(space, cost=cost, target=target, buckets=buckets)
    for layer in range(1, len(space.options) + 1):
        candidates = {a[:layer] for a in space.enumerate()}
        costs = {one: cost((*one, *searcher.default[layer:])) for one in candidates}
        least, most = min(costs.values()), max(costs.values())
        for one in candidates:
            h = math.floor((costs[one] - least) / (most - least) * buckets) if most > least else 0
            assert searcher.bucket(one) == min(h, buckets - 1)


@given(problems(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 5))
def test_a_bucket_keeps_the_best_replicas(problem, buckets, replicas, seed):
    space, cost, _, target = problem
    noise = random.Random(seed)
    values = {a: noise.randrange(6) for a in space.enumerate()}
    searcher = LayerNAS(
        space, cost=cost, target=target, buckets=buckets, replicas=replicas, parents=None, children=None
    )
    run(searcher, values.__getitem__)
    for layer, table in enumerate(searcher.table[1:], start=1):
        for bucket, kept in table.items():
            assert [one.value for one in kept] == sorted((one.value for one in kept), reverse=True)
            assert len(kept) <= replicas
            for one in kept:
                assert len(one.beginning) == layer
                assert searcher.bucket(one.beginning) == bucket
                assert one.value == values[searcher.complete(one.beginning)]
                assert not one.untried
    # Everything that was asked for at the last layer and is not kept there met better ones.
    asked = {a: v for a, v in searcher.results if a[-1] != searcher.default[-1] and len(a) > 1}
    for one, value in asked.items():
        kept = searcher.table[-1][searcher.bucket(one)]
        assert one in [k.beginning for k in kept] or (len(kept) == replicas and kept[-1].value >= value)


def test_dynamic_programming_goes_through_the_layers_once():
    """Algorithm 2: all candidates of a layer with all options, one layer after the other."""
    space = ChoiceSpace([3, 2, 4, 2])
    searcher = LayerNAS(space, cost=sum, target=(0, 7), replicas=1, parents=None, children=None)
    kept, layer = [()], 0
    while candidates := searcher.ask():
        expected = {(*beginning, option) for beginning in kept for option in space.options[layer]}
        if layer:  # a child that takes the default is its parent's network, measured before
            expected = {one for one in expected if one[-1] != searcher.default[layer]}
        layer += 1
        assert set(candidates) == {(*one, *searcher.default[layer:]) for one in expected}
        for candidate in candidates:
            searcher.tell(candidate, -abs(sum(candidate) - 4))
        kept = [one.beginning for bucket in searcher.table[layer].values() for one in bucket]
    assert layer == 4
    assert searcher.best[1] == 0


def test_a_step_is_a_few_children_of_a_few_parents():
    searcher = LayerNAS(ChoiceSpace([4] * 6), cost=sum, target=(6, 9), parents=3, children=2)
    run(searcher, sum)
    first, *steps = ([architecture for architecture, _ in step] for step in searcher.history)
    assert len(first) == 4
    assert max(map(len, steps)) == 6
    for step in steps:
        (layer,) = {decided_layers(searcher, one) for one in step}
        assert len({one[: layer - 1] for one in step}) <= 3


def test_the_best_parents_are_selected_where_asked_for():
    space = ChoiceSpace([4] * 5)
    searcher = LayerNAS(space, cost=sum, target=(5, 8), parents=2, children=1, select="best", seed=3)
    value = lambda a: sum(option * (layer + 1) for layer, option in enumerate(a))  # noqa: E731
    while candidates := searcher.ask():
        if searcher.step:
            layer = max(decided_layers(searcher, one) for one in candidates) - 1
            went_on = [one[:layer] for one in candidates]
            # Candidates that still have options are no better than the parents, which have just lost one.
            left = [one for bucket in searcher.table[layer].values() for one in bucket if one.untried]
            chosen = [
                one for bucket in searcher.table[layer].values() for one in bucket if one.beginning in went_on
            ]
            others = [one.value for one in left if one.beginning not in went_on]
            if len(chosen) == 2:
                assert min(one.value for one in chosen) >= max(others, default=-1)
        for candidate in candidates:
            searcher.tell(candidate, value(candidate))


def test_the_default_child_is_its_parents_network():
    searcher = LayerNAS(ChoiceSpace([2, 2]), cost=sum, target=(0, 2))
    assert sorted(searcher.ask()) == [(0, 1), (1, 1)]
    asked = [a for a, _ in run(searcher, sum).results]
    assert sorted(asked) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert sorted(one.beginning for bucket in searcher.table[2].values() for one in bucket) == sorted(asked)


def test_the_papers_example():
    """Appendix I: options A to D cost 1 to 4; 8 to 9 are wanted; 4 buckets of up to 2 candidates.

    As far as it follows its own rules: it also drops CC (10), which CCB (8) completes.
    """
    space = ChoiceSpace([list("ABCD")] * 3)
    searcher = LayerNAS(space, cost=lambda a: sum(a) + 3, target=(8, 9), buckets=4, replicas=2)
    assert sorted(map(space.format, searcher.ask())) == ["A-D-D", "B-D-D", "C-D-D", "D-D-D"]

    def reaches(text):
        return searcher.reach.reaches(space.parse("-".join(text) + "-D" * (3 - len(text)))[: len(text)])

    assert [text for text in ("AC", "AB", "AA", "CA", "CB", "BA", "BC", "BB") if not reaches(text)] == [
        "AB",
        "AA",
        "BA",
    ]
    assert [text for text in ("ACA", "ACB", "CDC", "CDB", "CDA", "BCC") if reaches(text)] == [
        "CDB",
        "CDA",
        "BCC",
    ]


def test_virtual_layers_are_searched_before_what_they_decide():
    """The cost of a layer depends on a shared width: not a sum, but each layer has its extremes."""
    space = ChoiceSpace([VirtualLayer((64, 96), 2), [(3, 2), (3, 6), (7, 2)], [(3, 2), (3, 6), (7, 2)]])

    def cost(architecture):
        return sum(
            width * expansion * (width + kernel**2)
            for (kernel, expansion), width in space.chosen(architecture)
        )

    everything = {a: cost(a) for a in space.enumerate()}
    target = (50_000, 60_000)
    searcher = LayerNAS(space, cost=cost, target=target, phi=tuple)
    run(searcher, cost)
    found = {a for a, _ in searcher.results if searcher.may_win(a)}
    assert found == {a for a, c in everything.items() if target[0] <= c <= target[1]} != set()


def test_constraints_prune_as_the_target_does():
    space = ChoiceSpace([3] * 5)
    last = lambda a: a[3] + a[4]  # noqa: E731
    constraint = Constraint("last<=1", {"last": last})
    searcher = run(LayerNAS(space, cost=sum, target=(4, 6), constraint=constraint, phi=tuple), sum)
    assert searcher.best[0][3] + searcher.best[0][4] <= 1
    assert all(last(a) <= 1 for a, _ in searcher.results if a[4] != searcher.default[4])
    final = {a for a, _ in searcher.results if searcher.may_win(a)}
    assert final == {a for a in space.enumerate() if 4 <= sum(a) <= 6 and last(a) <= 1}
    plain = run(LayerNAS(space, cost=sum, target=(4, 6), constraint=lambda a: last(a) <= 1, phi=tuple), sum)
    assert {a for a, _ in plain.results if plain.may_win(a)} == final


def test_stops_after_so_many_evaluations():
    searcher = LayerNAS(ChoiceSpace([3] * 8), cost=sum, target=(4, 6), evaluations=50)
    assert len(run(searcher, sum).results) == 50


def test_costs_of_known_candidates_are_not_worked_out_again():
    asked = []

    def cost(architecture):
        asked.append(architecture)
        return sum(architecture)

    searcher = LayerNAS(ChoiceSpace([3] * 6), cost=cost, target=(4, 6))
    asked.clear()
    run(searcher, sum)
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            {"target": (9, 12)},
            ValueError,
            "target must leave architectures of .*, which have 0 to 6 cost; got 9<=cost<=12: none that meets",
        ),
        ({"target": (3.2, 3.8)}, ValueError, "got 3.2<=cost<=3.8: none that meets"),
        ({"target": (6, 3)}, ValueError, r"\(low, high\) with low <= high"),
        ({"target": (math.nan, 3)}, ValueError, "low <= high"),
        ({"target": 6}, TypeError, r"target must be \(low, high\)"),
        ({"target": (0, "6")}, TypeError, "target must be a real number"),
        ({"cost": 3}, TypeError, "cost must be a function"),
        ({"cost": lambda _: math.nan}, ValueError, "cost must be a finite number"),
        ({"constraint": lambda _: False}, ValueError, "got 2<=cost<=4,.*lambda>: none that meets"),
        ({"buckets": 0}, ValueError, "buckets must be at least 1"),
        ({"replicas": 0}, ValueError, "replicas must be at least 1"),
        ({"parents": 0}, ValueError, "parents must be at least 1"),
        ({"children": 0}, ValueError, "children must be at least 1"),
        ({"evaluations": 0}, ValueError, "evaluations must be at least 1"),
        ({"select": "worst"}, ValueError, "select must be one of 'random', 'best', got 'worst'"),
        ({"default": (3, 0, 0)}, ValueError, "layer 0 must take option 0 to 2"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_impossible_searches_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        LayerNAS(ChoiceSpace([3, 3, 3]), **{"cost": sum, "target": (2, 4), **arguments})


def test_needs_independent_decisions():
    with pytest.raises(TypeError, match="space must be a ProductSpace such as ChoiceSpace, got int"):
        LayerNAS(3, cost=sum, target=(0, 1))


def test_the_costs_of_target_and_constraint_have_their_names():
    cost = NamedCost("latency@cpu", sum)
    within = Constraint("params<=9", {"params": sum})
    searcher = LayerNAS(ChoiceSpace([3, 3]), cost=cost, target=(0, 4), constraint=within)
    assert searcher.named_costs == {"latency@cpu": cost, "params": sum}
    assert LayerNAS(ChoiceSpace([3, 3]), cost=sum, target=(0, 4)).named_costs == {}


@given(problems(), st.data())
def test_lists_with_many_holes_are_searched_to_the_end(problem, data):
    """Where all are kept, all that is listed is found, whatever networks with default options are missing."""
    space, cost, value, target = problem
    everything = list(space.enumerate())
    listed = data.draw(st.lists(st.sampled_from(everything), min_size=1, unique=True))
    meeting = [one for one in listed if target[0] <= cost(one) <= target[1]]
    make = lambda **settings: LayerNAS(ListedSpace(listed), cost=cost, target=target, **settings)  # noqa: E731
    if not meeting:
        with pytest.raises(ValueError, match="target must leave architectures of ListedSpace"):
            make()
        return
    searcher = run(make(replicas=len(listed)), value)
    assert {*meeting} <= {one for one, _ in searcher.results} <= {*listed}
    assert searcher.best[1] == max(map(value, meeting))
    assert run(make(replicas=1, buckets=1), value).best[0] in meeting


def test_the_listed_network_that_is_most_like_a_candidate_stands_for_it():
    searcher = LayerNAS(ListedSpace([(2, 2, 2), (0, 2, 0), (0, 0, 2), (1, 0, 0)]), cost=sum, target=(0, 9))
    assert searcher.default == (2, 2, 2)
    assert searcher.complete((2,)) == (2, 2, 2)
    assert searcher.complete((0,)) == (0, 0, 2), "as dear and as like as (0, 2, 0), and before it"
    assert searcher.complete((1,)) == (1, 0, 0)
    assert searcher.complete((0, 2)) == (0, 2, 0)


def test_evaluations_that_are_left_over_are_explained():
    searcher = run(LayerNAS(ChoiceSpace([2, 2]), cost=sum, target=(0, 2), evaluations=30), sum)
    assert searcher.ended_early == (
        "The search measured 4 of the 30 architectures that it might: no candidate has an option left that "
        "may meet 0<=cost<=2."
    )
