"""Searches within costs of any kind: sums over layers, sums that interact, maxima, costs without order."""

import itertools
import logging
import random
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lasfast.constraints import Bound, Constraint, UnknownCostError
from lasfast.measurements.table import ArchitectureTable
from lasfast.searchers import NIR, Evolution, LayerNAS, Random, RegularizedEvolution, reach
from lasfast.spaces import ChoiceSpace, LayerAssignmentSpace, ProductSpace

KINDS = ("sum", "interactions", "maximum", "random")
ENUMERATED, TOO_LARGE = 10**5, 0  # what Reach enumerates: these small spaces, or none


def make_cost(kind: str, space: ProductSpace, seed: int):
    """A cost of some kind, as a function of an architecture."""
    rng = random.Random(seed)
    layers = [{option: rng.randint(0, 20) for option in options} for options in space.options]
    of = lambda one: [layer[option] for layer, option in zip(layers, one, strict=True)]  # noqa: E731
    if kind == "sum":
        return lambda one: sum(of(one))
    if kind == "maximum":
        return lambda one: max(of(one))
    # As measured latencies: neighbouring layers interact, and there is noise.
    noise = {one: rng.uniform(0, 5) for one in space.enumerate()}
    if kind == "random":
        return noise.__getitem__
    return lambda one: sum(of(one)) + sum((a * b) % 5 for a, b in itertools.pairwise(one)) + noise[one]


@st.composite
def problems(draw, assignments: bool = False):
    """A space, a cost, a target that some architecture meets (unless it is narrow), and values."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    space = LayerAssignmentSpace(len(counts), counts) if assignments else ChoiceSpace(counts)
    cost = make_cost(draw(st.sampled_from(KINDS)), space, draw(st.integers(0, 99)))
    rng = random.Random(draw(st.integers(0, 99)))
    low, high = sorted(cost(space.sample(rng)) for _ in range(2))
    shift = draw(st.sampled_from([0, 0, 0, 0.01, 100]))
    target = draw(st.sampled_from([(-1, high), (low, 1000), (low, high)]))
    values = {one: rng.randrange(10) for one in space.enumerate()}
    return space, cost, (target[0] + shift, target[1] + shift), values


def play(searcher, value=sum):
    """Run a searcher to its end; whatever the costs are like, nothing is raised on the way."""
    while candidates := searcher.ask():
        for candidate in candidates:
            searcher.tell(candidate, value(candidate))
    return searcher


WITHIN = {
    "evolution": lambda space, constraint: Evolution(
        space, constraint=constraint, population=4, generations=3, top=3
    ),
    "regularized evolution": lambda space, constraint: RegularizedEvolution(
        space, constraint=constraint, population=3, sample=2, evaluations=12, children=2
    ),
    "random": lambda space, constraint: Random(space, constraint=constraint, samples=10),
}


@pytest.mark.parametrize("make", WITHIN.values(), ids=WITHIN)
@settings(max_examples=40)
@given(problem=problems())
def test_searches_stay_within_bounds_on_costs_of_any_kind(make, problem):
    space, cost, target, values = problem
    searcher = make(space, Constraint([Bound("cost", *target)], {"cost": cost}))
    within = {one for one in space.enumerate() if target[0] <= cost(one) <= target[1]}
    if not within:
        with pytest.raises(ValueError, match=r"constraint must leave architectures of .* none that meets it"):
            searcher.ask()
        return
    play(searcher, values.__getitem__)
    assert {one for one, _ in searcher.results} <= within
    assert searcher.best[0] in within


@settings(max_examples=60)
@given(problems(assignments=True))
def test_nir_stays_within_bounds_on_costs_of_any_kind(problem):
    space, cost, target, values = problem
    if space.max_depth == space.min_depth:
        return
    constraint = Constraint([Bound("cost", *target)], {"cost": cost})
    searcher = NIR(space, depth=space.max_depth, beam=2, constraint=constraint)
    if not any(map(constraint, space.inherit(space.seed_architecture))):
        with pytest.raises(ValueError, match=r"constraint must leave assignments with one layer more .* got"):
            searcher.ask()
        return
    play(searcher, values.__getitem__)
    assert all(constraint(one) for one, _ in searcher.results)
    assert constraint(searcher.best[0])


SETTINGS = st.fixed_dictionaries(
    {
        "parents": st.sampled_from([None, 2]),
        "children": st.sampled_from([None, 2]),
        "buckets": st.sampled_from([2, 100]),
        "evaluations": st.sampled_from([None, 10]),
        "seed": st.integers(0, 3),
    }
)


@given(problems(), SETTINGS)
def test_layernas_within_costs_of_any_kind(problem, arguments):
    """Where the space is enumerated, all is exact: what is refused, dropped, and found."""
    space, cost, target, values = problem
    within = {one for one in space.enumerate() if target[0] <= cost(one) <= target[1]}
    if not within:
        with pytest.raises(ValueError, match=r"target must leave architectures of .* none that meets it"):
            LayerNAS(space, cost=cost, target=target, **arguments)
        return
    searcher = play(LayerNAS(space, cost=cost, target=target, **arguments), values.__getitem__)
    found = [(one, value) for one, value in searcher.results if one in within]
    if arguments["evaluations"] is None:
        assert found
    if found:
        assert searcher.best[0] in within
        assert searcher.best[1] == max(value for _, value in found)


@given(problems(), SETTINGS)
def test_layernas_within_costs_of_any_kind_in_spaces_that_are_not_enumerated(problem, arguments):
    """An option is dropped only where none of its completions meets the target, and no error comes late."""
    space, cost, target, values = problem
    within = {one for one in space.enumerate() if target[0] <= cost(one) <= target[1]}
    with mock.patch.object(reach, "ENUMERABLE", TOO_LARGE):
        if not within:
            with pytest.raises(ValueError, match=r"target must leave architectures of .* none that meets it"):
                LayerNAS(space, cost=cost, target=target, **arguments)
            return
        searcher = LayerNAS(space, cost=cost, target=target, **arguments)
    for beginning in {one[:length] for one in within for length in range(len(one) + 1)}:
        assert searcher.reach.reaches(beginning) is not False
    play(searcher, values.__getitem__)
    found = [(one, value) for one, value in searcher.results if one in within]
    if arguments["evaluations"] is None:
        assert found
    if found:
        assert searcher.best[0] in within


def test_layernas_comes_last_to_what_it_cannot_tell():
    """Each second layer's options cost what the layer before them says, so that they have no order."""
    space = ChoiceSpace([6] * 12)

    def cost(one):
        return sum(
            1 + width + (option + width) % 6 for width, option in zip(one[::2], one[1::2], strict=True)
        )

    searcher = LayerNAS(space, cost=cost, target=(0, 14), evaluations=60)
    assert searcher.reach.reaches((5, 5)) is None
    assert searcher.reach.reaches((0, 5)) is True
    assert cost(play(searcher).best[0]) <= 14


def test_nothing_is_concluded_behind_a_beginning_that_contradicts_the_order_of_options():
    """No layer of the architectures that are tried first shows that the order does not hold everywhere."""
    space = ChoiceSpace([8] * 10)

    def cost(one):
        return sum(one) + (100 if one[:3] == (3, 1, 4) and one[3] != 2 else 0)

    searcher = LayerNAS(space, cost=cost, target=(0, 20), evaluations=60)
    assert searcher.reach.reaches((3, 1, 4)) is True  # by (3, 1, 4, 2, ...)
    assert searcher.reach.reaches((7, 7, 7)) is False
    assert cost(play(searcher).best[0]) <= 20


def incomplete(space, rows):
    """A table that lacks the other architectures of the space."""
    known = [one for row, one in enumerate(space.enumerate()) if row in rows]
    latencies = {"latency": np.array([1e-3 * (1 + sum(one)) for one in known])}
    return ArchitectureTable(np.array(known), np.linspace(0, 1, len(known)), latencies)


def test_costs_that_a_table_lacks_are_named_before_layernas_asks():
    space = ChoiceSpace([3, 3, 3])
    latency = incomplete(space, range(20)).cost("latency")
    with pytest.raises(UnknownCostError, match=r"latency: architecture \(2, 1, 0\) must be one of the 20"):
        LayerNAS(space, cost=latency, target=(0, 0.005))


def test_layernas_leaves_out_what_has_no_known_cost_in_a_large_space(monkeypatch):
    monkeypatch.setattr(reach, "ENUMERABLE", TOO_LARGE)
    space = ChoiceSpace([4] * 8)
    lacking = []

    def cost(one):
        if (one[0], one[1], one[7]) == (3, 2, 2):
            lacking.append(one)
            raise UnknownCostError("not timed")
        return sum(one)

    searcher = play(LayerNAS(space, cost=cost, target=(0, 12), parents=None, evaluations=400))
    assert lacking
    assert not set(lacking) & {one for one, _ in searcher.results}
    assert cost(searcher.best[0]) <= 12
    assert searcher.front()


@pytest.mark.parametrize("make", WITHIN.values(), ids=WITHIN)
def test_what_has_no_known_cost_is_not_proposed(make, caplog):
    space = ChoiceSpace([3, 3, 3])
    table = incomplete(space, set(range(0, 27, 2)))
    within = Constraint("latency<=5ms", {"latency": table.cost("latency")})
    with caplog.at_level(logging.WARNING, "lasfast"):
        searcher = play(make(space, within))
    assert searcher.results
    assert all(one in table and within(one) for one, _ in searcher.results)
    (message,) = {record.message for record in caplog.records if "unknown cost" in record.message}
    assert "latency: architecture" in message


@pytest.mark.parametrize("make", WITHIN.values(), ids=WITHIN)
def test_a_bound_on_what_is_nowhere_known_is_refused(make):
    def cost(one):
        raise UnknownCostError("layer 'stem' was not timed")

    with pytest.raises(ValueError, match=r"which have unknown latency@cpu \(layer 'stem' was not timed\)"):
        make(ChoiceSpace([3, 3]), Constraint("latency<=5ms@cpu", {"latency@cpu": cost})).ask()


@pytest.mark.parametrize("make", WITHIN.values(), ids=WITHIN)
def test_what_nothing_meets_is_refused_with_what_there_is(make):
    costs = {"flops": lambda one: 85.1e6 + 10e6 * sum(one), "params": lambda one: 1e6 + one[0]}
    for layers in (3, 12):  # 12 are too many to be enumerated
        constraint = Constraint("flops<=20M,1M<=params<=2M", costs)
        with pytest.raises(ValueError, match=r"have 85\.1M to .*M flops, 1M params; got flops<=20M,1M<="):
            make(ChoiceSpace([4] * layers), constraint).ask()
