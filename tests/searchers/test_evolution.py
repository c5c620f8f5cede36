import random

import pytest

from lasfast.constraints import Constraint
from lasfast.searchers import NIR, Evolution, Random, RegularizedEvolution
from lasfast.searchers.operators import ranked
from lasfast.spaces import ChoiceSpace, LayerAssignmentSpace

SPACE = ChoiceSpace([4] * 8)


def value(architecture):
    """One peak, and decisions that matter differently."""
    return sum((place + 1) * option for place, option in enumerate(architecture)) / 108


def run(searcher, of=value):
    while candidates := searcher.ask():
        for candidate in candidates:
            searcher.tell(candidate, of(candidate))
    return searcher


def differences(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True))


def test_has_the_papers_settings():
    searcher = Evolution(SPACE)
    assert (searcher.population, searcher.generations) == (50, 20)
    assert (searcher.top, searcher.probability) == (10, 0.1)
    run(searcher)
    assert [len(step) for step in searcher.history] == [50] * 21


def test_half_are_crossovers_of_the_best_and_half_are_mutations():
    searcher = Evolution(ChoiceSpace([40] * 12), population=20, generations=6, top=5)
    told = []
    for generation in range(7):
        candidates = searcher.ask()
        if generation:
            parents = [architecture for architecture, _ in ranked(told)[:5]]
            assert [architecture for architecture, _ in searcher.parents] == parents
            for child in candidates[:10]:
                assert any(
                    all(x in pair for x, *pair in zip(child, first, second, strict=True))
                    for first in parents
                    for second in parents
                    if first != second
                )
            # So many options that a mutation is told from a crossover by taking one that no parent has.
            mutated = [min(differences(child, parent) for parent in parents) for child in candidates[10:]]
            assert min(mutated) >= 1
            assert sum(mutated) / 10 < 3
        for candidate in candidates:
            searcher.tell(candidate, value(candidate))
            told.append((candidate, value(candidate)))
    assert searcher.finished


def common_beginning(one, other):
    return next((at for at, pair in enumerate(zip(one, other, strict=True)) if len({*pair}) > 1), len(one))


def test_children_begin_as_a_parent_does_where_they_are_to_share():
    """With so many options, a child and a parent begin with the same one by inheriting it alone."""
    kept = {}
    for share in (0.0, 1.0):
        searcher = Evolution(
            ChoiceSpace([40] * 12), population=40, generations=8, share=share, probability=0.9, seed=3
        )
        lengths = []
        while candidates := searcher.ask():
            parents = [architecture for architecture, _ in searcher.parents]
            lengths += [
                max(common_beginning(child, parent) for parent in parents)
                for child in (candidates if parents else [])
            ]
            for candidate in candidates:
                searcher.tell(candidate, value(candidate))
        kept[share] = lengths
    # A few are random, where no new child is found.
    assert kept[1.0].count(0) < 0.1 * len(kept[1.0]) < 0.3 * len(kept[0.0]) < kept[0.0].count(0)
    assert sum(kept[1.0]) / len(kept[1.0]) > 2 * sum(kept[0.0]) / len(kept[0.0])


def test_sharing_children_mutate_as_many_decisions():
    parent = (0,) * 12

    def changed(share):
        searcher = Evolution(ChoiceSpace([1000] * 12), population=400, generations=1, top=1, share=share)
        for candidate in searcher.ask():
            searcher.tell(candidate, 0.0)
        searcher.parents = [(parent, 1.0)]
        return [differences(parent, child) for child in searcher.propose()]

    plain, sharing = changed(0.0), changed(1.0)
    assert sum(sharing) / len(sharing) == pytest.approx(sum(plain) / len(plain), rel=0.15)


def test_without_sharing_nothing_is_drawn_otherwise():
    """Journals of searches that did not know of it are gone on with."""
    assert "share" not in Evolution(SPACE).describe()
    assert Evolution(SPACE, share=0.5).describe()["share"] == 0.5


def test_the_last_generation_is_ranked_too():
    searcher = Evolution(SPACE, population=6, generations=3)
    while candidates := searcher.ask():
        last = searcher.step == 3
        for candidate in candidates:
            searcher.tell(candidate, 2.0 if last else 1.0)
    assert searcher.step == 4
    assert searcher.best == (searcher.history[3][0][0], 2.0)


def test_no_generations_is_random_search():
    assert len(run(Evolution(SPACE, population=10, generations=0)).results) == 10


def test_finds_more_than_random_search():
    evolved = [run(Evolution(SPACE, population=20, generations=9, seed=seed)).best[1] for seed in range(10)]
    aged = [
        run(RegularizedEvolution(SPACE, population=20, evaluations=200, seed=seed)).best[1]
        for seed in range(10)
    ]
    drawn = [run(Random(SPACE, samples=200, seed=seed)).best[1] for seed in range(10)]
    assert min(evolved) > max(drawn)
    assert sum(aged) / 10 > sum(drawn) / 10 + 0.05


@pytest.mark.parametrize("make", [Evolution, RegularizedEvolution])
def test_proposes_within_several_constraints_only(make):
    constraint = Constraint("sum<=10,first<=1", {"sum": sum, "first": lambda one: one[0]})
    searcher = run(make(SPACE, constraint=constraint))
    assert all(sum(a) <= 10 and a[0] <= 1 for a, _ in searcher.results)
    assert searcher.best[1] > 0.5
    assert searcher.front() == searcher.front(sum)


@pytest.mark.parametrize("make", [Evolution, RegularizedEvolution])
def test_a_small_space_is_asked_for_once_and_ends(make):
    searcher = run(make(ChoiceSpace([2, 3, 2]), population=5))
    assert sorted(a for a, _ in searcher.results) == list(searcher.space.enumerate())
    only = run(make(ChoiceSpace([1, 1]), population=5))
    assert only.best[0] == (0, 0)
    single = run(make(ChoiceSpace([3, 3]), constraint=lambda one: one == (1, 2), population=5))
    assert [a for a, _ in single.results] == [(1, 2)]


def test_a_child_differs_from_a_member_by_one_decision_and_the_oldest_leaves():
    searcher = RegularizedEvolution(SPACE, population=8, sample=3, evaluations=40)
    told = []
    while candidates := searcher.ask():
        if told:
            assert searcher.members == told[-8:]
            assert [min(differences(child, a) for a, _ in told[-8:]) for child in candidates] == [1]
        for candidate in candidates:
            searcher.tell(candidate, value(candidate))
            told.append((candidate, value(candidate)))
    assert len(told) == 40


def test_a_greedy_sample_varies_the_best_member():
    searcher = RegularizedEvolution(SPACE, population=8, sample=200, evaluations=20)
    while candidates := searcher.ask():
        if searcher.history:
            best = ranked(searcher.members)[0][0]
            assert differences(candidates[0], best) == 1
        for candidate in candidates:
            searcher.tell(candidate, value(candidate))


def test_several_children_a_step():
    searcher = run(RegularizedEvolution(SPACE, population=8, sample=3, evaluations=21, children=5))
    assert [len(step) for step in searcher.history] == [8, 5, 5, 3]


@pytest.mark.parametrize(
    "make",
    [
        lambda constraint: Evolution(SPACE, constraint=constraint),
        lambda constraint: RegularizedEvolution(SPACE, constraint=constraint),
        lambda constraint: Random(SPACE, samples=5, constraint=constraint),
    ],
)
def test_constraints_that_cannot_be_used_are_refused(make):
    with pytest.raises(ValueError, match="constraint must leave architectures of"):
        make(lambda _: False).ask()
    with pytest.raises(TypeError, match="constraint must say True or False, got 3"):
        make(lambda _: 3).ask()
    with pytest.raises(TypeError, match="constraint must be a function"):
        make("flops<=3M")


def test_other_searchers_keep_within_constraints_too():
    assert all(
        a[0] == 0 for a, _ in run(Random(SPACE, samples=30, constraint=lambda one: one[0] == 0)).results
    )
    assert len(run(Random(SPACE, samples=30, constraint=lambda one: sum(one) <= 1)).results) == 9
    nir = run(NIR(LayerAssignmentSpace(3, 4), depth=9, constraint=lambda one: one[1] <= 2 and sum(one) <= 7))
    assert {sum(a) for a, _ in nir.results} == {4, 5, 6, 7}
    assert max(a[1] for a, _ in nir.results) == 2


@pytest.mark.parametrize(
    ("make", "arguments", "error", "text"),
    [
        (Evolution, {"population": 1}, ValueError, "population must be at least 2"),
        (Evolution, {"generations": -1}, ValueError, "generations must be at least 0"),
        (Evolution, {"top": 0}, ValueError, "top must be at least 1"),
        (Evolution, {"probability": 0}, ValueError, "probability must be above 0"),
        (Evolution, {"share": 1.5}, ValueError, "share must be from 0 to 1, got 1.5"),
        (Evolution, {"probability": 1.5}, ValueError, "probability must be above 0 and at most 1"),
        (Evolution, {"seed": 1.0}, TypeError, "seed must be an int"),
        (RegularizedEvolution, {"sample": 0}, ValueError, "sample must be at least 1"),
        (RegularizedEvolution, {"evaluations": 20}, ValueError, "evaluations must be at least 50"),
        (RegularizedEvolution, {"children": 0}, ValueError, "children must be at least 1"),
    ],
)
def test_impossible_searches_are_refused(make, arguments, error, text):
    with pytest.raises(error, match=text):
        make(SPACE, **arguments)


def test_needs_independent_decisions():
    with pytest.raises(TypeError, match="space must be a ProductSpace such as ChoiceSpace, got Random"):
        Evolution(random.Random())
