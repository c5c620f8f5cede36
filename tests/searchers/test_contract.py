"""What every searcher must do. A new one is added to SEARCHERS and nowhere else."""

import inspect
import json
import math
import os
import random
import subprocess
import sys
import zlib

import numpy as np
import pytest

from lasfast import searchers
from lasfast.constraints import Constraint
from lasfast.measurements.measurement import Measurement
from lasfast.searchers import (
    ITNAS,
    NIR,
    Evolution,
    LayerNAS,
    LocalSearch,
    ParetoLocalSearch,
    Predictor,
    Random,
    RegularizedEvolution,
    Searcher,
)
from lasfast.spaces import CellSpace, ChoiceSpace, LayerAssignmentSpace, ListedAssignmentSpace, ListedSpace
from lasfast.spaces.transition import LearnedCell

CHOICES = ChoiceSpace([3, ["a", "b"], 4, 1, 3])
CELLS = CellSpace(2, ["skip_connect", "max_pool_3x3"])
SUM = Constraint("sum<=6", {"sum": sum})

LISTED = ListedSpace([one for one in CHOICES.enumerate() if sum(one) % 3])
TWINS = ListedSpace(
    list(CHOICES.enumerate()), keys=[(*sorted(one[:3]), *one[3:]) for one in CHOICES.enumerate()]
)


def learned():
    """What a training might have ended with."""
    rows = {edge: np.array([0.1 * edge[0], 1 - 0.1 * edge[0]]) for edge in CELLS.edges}
    return dict.fromkeys(("normal", "reduction"), LearnedCell(rows, {}, {}))


SEARCHERS = {
    "nir": lambda: NIR(LayerAssignmentSpace(3, 4), depth=8),
    "nir to the deepest": lambda: NIR(LayerAssignmentSpace(3, (1, 3, 4)), depth=8),
    "nir with a beam": lambda: NIR(LayerAssignmentSpace(3, 4), depth=9, beam=3),
    "nir from a start": lambda: NIR(LayerAssignmentSpace(4, 5), depth=12, beam=2, start=(2, 1, 3, 1)),
    "itnas": lambda: ITNAS(CELLS, learned=learned),
    "itnas, hard pruning": lambda: ITNAS(CELLS, learned=learned, pruning="hard"),
    "evolution of cells": lambda: Evolution(CELLS, population=6, generations=2, top=3),
    "random": lambda: Random(LayerAssignmentSpace(3, 4), samples=12, seed=3),
    "random at a depth": lambda: Random(LayerAssignmentSpace(3, 9), samples=10, depth=12),
    "random, the whole space": lambda: Random(LayerAssignmentSpace(2, 3), samples=100),
    "random choices": lambda: Random(CHOICES, samples=20, constraint=SUM),
    "evolution": lambda: Evolution(CHOICES, population=8, generations=3, top=4),
    "evolution that shares": lambda: Evolution(CHOICES, population=8, generations=3, top=4, share=0.7),
    "evolution within a constraint": lambda: Evolution(CHOICES, constraint=SUM, population=6, generations=4),
    "evolution to the last": lambda: Evolution(ChoiceSpace([2, 3]), population=4, generations=5, seed=2),
    "evolution of layer assignments": lambda: Evolution(
        LayerAssignmentSpace(3, 4), population=4, generations=2
    ),
    "layernas": lambda: LayerNAS(CHOICES, cost=sum, target=(4, 6)),
    "layernas, few buckets": lambda: LayerNAS(
        CHOICES, cost=sum, target=(0, 5), buckets=3, replicas=1, parents=3, children=1, select="best", seed=1
    ),
    "layernas, dynamic programming": lambda: LayerNAS(
        CHOICES, cost=sum, target=(3, 4), buckets=4, replicas=2, parents=None, children=None
    ),
    "layernas from the cheapest": lambda: LayerNAS(
        CHOICES, cost=sum, target=(0, 9), default=(0, 0, 0, 0, 0), constraint=SUM, evaluations=25
    ),
    "layernas of layer assignments": lambda: LayerNAS(LayerAssignmentSpace(3, 4), cost=sum, target=(6, 7)),
    "local search": lambda: LocalSearch(CHOICES, evaluations=60),
    "local search within a constraint": lambda: LocalSearch(
        CHOICES, constraint=SUM, evaluations=40, children=3, seed=1
    ),
    "pareto local search": lambda: ParetoLocalSearch(CHOICES, cost=sum, evaluations=30),
    "pareto local search within a constraint": lambda: ParetoLocalSearch(
        CHOICES, cost=sum, constraint=SUM, initial=4, evaluations=40, children=3, seed=1
    ),
    "nir of a list": lambda: NIR(ListedAssignmentSpace([(1, 2), (2, 2), (2, 3), (9, 9)]), depth=5),
    "random of functions": lambda: Random(TWINS, samples=30),
    "evolution of a list": lambda: Evolution(LISTED, constraint=SUM, population=6, generations=4),
    "evolution of functions": lambda: Evolution(TWINS, population=8, generations=5),
    "local search of functions": lambda: LocalSearch(TWINS, evaluations=40, children=4),
    "predictor of functions": lambda: Predictor(TWINS, initial=4, evaluations=12, children=4),
    "layernas of a list": lambda: LayerNAS(LISTED, cost=sum, target=(4, 6)),
    "predictor": lambda: Predictor(CHOICES, initial=4, evaluations=20, children=1),
    "predictor within a constraint": lambda: Predictor(CHOICES, constraint=SUM, initial=6, evaluations=30),
    "predictor to the last": lambda: Predictor(ChoiceSpace([2, 3]), initial=2, children=3, seed=2),
    "regularized evolution": lambda: RegularizedEvolution(CHOICES, population=5, sample=3, evaluations=20),
    "regularized evolution within a constraint": lambda: RegularizedEvolution(
        CHOICES, constraint=SUM, population=5, sample=3, evaluations=18, children=4, seed=1
    ),
}


def value_of(architecture):
    """Arbitrary, the same in every process, and with ties."""
    return zlib.crc32(repr(architecture).encode()) % 16 / 16


def play(searcher, limit=1000):
    """Run a searcher to its end."""
    for _ in range(limit):
        for architecture in searcher.ask():
            searcher.tell(architecture, value_of(architecture))
        if searcher.finished:
            return searcher
    raise AssertionError(f"not finished after {limit} steps")


def saved(searcher):
    return json.loads(json.dumps(searcher.state(), allow_nan=False))


@pytest.fixture(params=SEARCHERS)
def make(request):
    return SEARCHERS[request.param]


@pytest.fixture
def searcher(make):
    return make()


def test_every_searcher_is_in_this_suite():
    public = {getattr(searchers, name) for name in searchers.__all__} - {Searcher}
    assert {type(make()) for make in SEARCHERS.values()} == public


def test_hyper_parameters_are_keyword_only(searcher):
    _, *others = inspect.signature(type(searcher)).parameters.values()
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in others)


def test_is_described_in_json_by_its_hyper_parameters(make):
    description = make().describe()
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    assert description == make().describe() == play(make()).describe()
    assert [other().describe() for other in SEARCHERS.values()].count(description) == 1


def test_knows_nothing_at_first(searcher):
    assert not searcher.finished
    assert searcher.step == 0
    assert searcher.history == []
    with pytest.raises(RuntimeError, match="there is no best architecture yet"):
        _ = searcher.best


def test_asks_for_distinct_architectures_of_its_space(searcher):
    while candidates := searcher.ask():
        assert len(set(candidates)) == len(candidates)
        for candidate in candidates:
            assert type(candidate) is tuple
            assert searcher.space.validate(candidate) == candidate
            searcher.tell(candidate, value_of(candidate))


def test_asking_changes_nothing(make):
    asked, unasked = make(), make()
    while candidates := asked.ask():
        before = saved(asked)
        for n in range(1, len(candidates) + 2):
            assert asked.ask(n) == candidates[:n]
        assert asked.ask() == candidates
        assert saved(asked) == before
        asked.ask().clear()
        for candidate in candidates:
            asked.tell(candidate, value_of(candidate))
            unasked.tell(candidate, value_of(candidate))
    assert asked.history == unasked.history
    assert unasked.finished


@pytest.mark.parametrize(
    ("n", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_asks_for_a_number_of_them(searcher, n, error):
    with pytest.raises(error, match=f"n must be .*got {n}"):
        searcher.ask(n)


def test_a_step_is_complete_when_all_its_candidates_were_told(searcher):
    steps = 0
    while candidates := searcher.ask():
        for told, candidate in enumerate(candidates):
            assert searcher.ask() == candidates[told:]
            assert searcher.step == steps
            searcher.tell(candidate, value_of(candidate))
        steps += 1
        assert searcher.step == steps
        assert searcher.history[-1] == [(candidate, value_of(candidate)) for candidate in candidates]


def test_ends(make):
    searcher = play(make())
    assert searcher.finished
    assert searcher.ask() == searcher.ask(1) == []
    (architecture, _), *_ = searcher.history[-1]
    before = saved(searcher)
    with pytest.raises(ValueError, match="is not a candidate"):
        searcher.tell(architecture, 1.0)
    assert saved(searcher) == before


def test_the_best_was_told(make):
    searcher = play(make())
    told = [result for step in searcher.history for result in step]
    assert searcher.best in told
    architecture, value = searcher.best
    assert type(architecture) is tuple
    assert type(value) is float
    assert value == value_of(architecture)


def test_the_order_of_telling_does_not_matter(make):
    in_order, shuffled = make(), make()
    rng = random.Random(0)
    while candidates := in_order.ask():
        assert shuffled.ask() == candidates
        for candidate in candidates:
            in_order.tell(candidate, value_of(candidate))
        for candidate in rng.sample(candidates, len(candidates)):
            shuffled.tell(candidate, value_of(candidate))
    assert shuffled.history == in_order.history
    assert shuffled.best == in_order.best


def test_of_equal_values_the_first_asked_wins(searcher):
    while candidates := searcher.ask():
        for candidate in reversed(candidates):
            searcher.tell(candidate, 0.5)
    # What NIR ends with is of the last depth, whatever came before.
    steps = searcher.history[-1:] if isinstance(searcher, NIR) else searcher.history
    first = next(one for step in steps for one, _ in step if searcher.may_win(one))
    assert searcher.best == (first, 0.5)


def test_the_front_is_what_nothing_beats(make):
    searcher = play(make())
    told = searcher.results
    beaten = [
        (a, v)
        for a, v in told
        if any(sum(b) <= sum(a) and w >= v and (sum(b), -w) != (sum(a), -v) for b, w in told)
    ]
    front = searcher.front(sum)
    assert {(sum(a), v) for a, v in front} == {(sum(a), v) for a, v in told if (a, v) not in beaten}
    assert [sum(a) for a, _ in front] == sorted({sum(a) for a, _ in front})
    if searcher.cost is None:
        with pytest.raises(ValueError, match="cost must be given"):
            searcher.front()


def test_asks_for_nothing_twice_and_nothing_outside_its_constraint(make):
    searcher = play(make())
    asked = [architecture for architecture, _ in searcher.results]
    assert len(set(asked)) == len(asked)
    # LayerNAS passes through architectures that cost more.
    final = [architecture for architecture in asked if searcher.may_win(architecture)]
    assert len(final) == len(asked) or isinstance(searcher, LayerNAS)
    assert all(map(searcher.admits, final))


def test_asks_for_what_is_in_the_space_and_once_for_each_function(make):
    searcher = play(make())
    asked = [architecture for architecture, _ in searcher.results]
    assert not any(map(searcher.space.lacks, asked))
    assert len(set(map(searcher.space.key, asked))) == len(asked)


def test_learns_from_measurements_as_from_numbers(make):
    with_numbers, with_measurements = make(), make()
    while candidates := with_numbers.ask():
        for candidate in candidates:
            top1 = value_of(candidate)
            with_numbers.tell(list(candidate), np.float32(top1))
            with_measurements.tell(candidate, Measurement(candidate, top1, 1.0, 0.1, 16))
    assert with_measurements.history == with_numbers.history


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (math.nan, ValueError),
        (math.inf, ValueError),
        (-math.inf, ValueError),
        (None, TypeError),
        ("0.5", TypeError),
        (True, TypeError),
        ([0.5], TypeError),
    ],
)
def test_refuses_what_is_no_finite_number(searcher, value, error):
    before = saved(searcher)
    with pytest.raises(error, match="value must be a"):
        searcher.tell(searcher.ask()[0], value)
    assert saved(searcher) == before
    assert searcher.step == 0


def test_refuses_to_be_told_twice(searcher):
    first, *others = searcher.ask()
    searcher.tell(first, 0.5)
    before = saved(searcher)
    with pytest.raises(ValueError, match=r"already told, with value 0\.5|is not a candidate of step 1"):
        searcher.tell(first, 0.6)
    assert saved(searcher) == before
    assert searcher.ask()[: len(others)] == others or not others


def test_refuses_what_it_did_not_ask_for(searcher):
    unasked = next((a for a in searcher.space.enumerate() if a not in searcher.ask()), None)
    before = saved(searcher)
    if unasked is not None:
        with pytest.raises(
            ValueError, match=r"is not a candidate of step 0; tell those that ask\(\) gives: \("
        ):
            searcher.tell(unasked, 0.5)
    with pytest.raises(ValueError, match="architecture"):
        searcher.tell((99,) * len(searcher.ask()[0]), 0.5)
    with pytest.raises(TypeError, match="architecture"):
        searcher.tell("1-1-1", 0.5)
    assert saved(searcher) == before


def test_refuses_another_architectures_measurement(searcher):
    architecture = searcher.ask()[0]
    other = Measurement((*architecture, 1), 0.5, 1.0, 0.1, 2)
    with pytest.raises(ValueError, match="must be the measurement of architecture"):
        searcher.tell(architecture, other)


def test_continues_alike_from_a_state_saved_at_any_point(make):
    whole = play(make())
    searcher = make()
    states = [saved(searcher)]
    while candidates := searcher.ask():
        for candidate in reversed(candidates):
            searcher.tell(candidate, value_of(candidate))
            states.append(saved(searcher))
    for state in states:
        restored = make()
        restored.load_state(state)
        assert saved(restored) == state
        play(restored)
        assert restored.history == whole.history
        assert restored.best == whole.best


def test_a_loaded_state_takes_the_place_of_what_was_learned(make):
    searcher = play(make())
    searcher.load_state(make().state())
    assert searcher.step == 0
    assert searcher.ask() == make().ask()


def test_a_saved_state_does_not_change_any_more(searcher):
    state = searcher.state()
    before = json.dumps(state)
    play(searcher)
    assert json.dumps(state) == before


def test_refuses_the_state_of_another_searcher(make):
    for other in SEARCHERS.values():
        if other is not make:
            with pytest.raises(ValueError, match="but this searcher is"):
                make().load_state(other().state())


@pytest.mark.parametrize(
    "damage",
    [
        lambda state: None,
        lambda state: {},
        lambda state: {**state, "told": None},
        lambda state: {**state, "told": [[]]},
        lambda state: {**state, "told": state["told"] + state["told"][:1]},
        lambda state: {**state, "told": [[[99, 99, 99], 0.5]]},
        lambda state: {**state, "told": [[state["told"][0][0], None]]},
    ],
)
def test_a_damaged_state_is_refused_and_leaves_the_searcher_as_it_was(make, damage):
    searcher = make()
    searcher.tell(searcher.ask()[-1], 0.25)
    before = saved(searcher)
    with pytest.raises(ValueError, match="state"):
        searcher.load_state(damage(saved(play(make()))))
    assert saved(searcher) == before


@pytest.mark.parametrize("children", [1, 3, 20])
def test_goes_on_to_a_greater_extent_as_if_it_had_had_that_from_the_first(make, children):
    def results(extent):
        searcher = make()
        setattr(searcher, searcher.extent, extent)
        if hasattr(searcher, "children"):
            searcher.children = children
        return play(searcher).results

    if make().extent is None:
        assert isinstance(make(), ITNAS)
        return
    longest = results(25)
    lengths = set()
    for extent in (1, 2, 3, 5, 8, 12, 13, 19, 22):
        found = results(extent)
        assert found == longest[: len(found)]
        lengths.add(len(found))
    assert len(lengths) > 1 or len(longest) == make().space.count()


def test_leaves_the_global_generators_alone(make):
    random.seed(0)
    np.random.seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = play(make()).history
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.seed(1)
    assert play(make()).history == first


def test_repeats_in_another_process():
    """All of them at once, under another hash seed: starting a process takes a while."""
    here = {
        name: [[list(a), v] for step in play(make()).history for a, v in step]
        for name, make in SEARCHERS.items()
    }
    there = (
        "import json, runpy, sys; suite = runpy.run_path(sys.argv[1])\n"
        "play = suite['play']\n"
        "print(json.dumps({name: play(make()).state()['told'] for name, make in suite['SEARCHERS'].items()}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", there, __file__],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert json.loads(output) == here
