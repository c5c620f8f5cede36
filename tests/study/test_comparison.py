"""What a search found, compared with what costs the same."""

import dataclasses
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

import lasfast
from lasfast.constraints import Constraint, NamedCost
from lasfast.measurements.measurement import Measurement
from lasfast.searchers import NIR, Random
from lasfast.spaces import ChoiceSpace
from lasfast.study.comparison import (
    AHEAD,
    BEHIND,
    BETTER,
    EVEN,
    FAVORED,
    INHERITED,
    ITSELF,
    RANDOM,
    SCALED,
    SCRATCH,
    UNSURE,
    WHOLE,
    WORSE,
    Comparison,
    compare,
    compare_from_scratch,
    fewest_random,
    random_of_same_cost,
)
from lasfast.study.study import Study
from lasfast.supernets import PlainNet, from_model
from tests.supernets.elastic_networks import shaken

IMAGES = 400
SPACE = ChoiceSpace([4] * 6, largest=[3] * 6)


class Judge:
    """An evaluation of a space in which each architecture is right with a probability of its own."""

    def __init__(self, shares, tells: bool = True, supernet=None) -> None:
        self.shares, self.tells, self.asked = shares, tells, []
        self.supernet, self.space = supernet, SPACE if supernet is None else supernet.space

    def __call__(self, architectures):
        self.asked.append(list(architectures))
        return [self.measure(one) for one in architectures]

    def measure(self, architecture) -> Measurement:
        generator = np.random.default_rng(architecture)
        right = np.sort(np.random.default_rng(0).random(IMAGES)) < self.shares(architecture)
        right ^= generator.random(IMAGES) < 0.02
        correct = np.packbits(right).tobytes() if self.tells else b""
        return Measurement(architecture, float(right.mean()), 1.0, 1.0, IMAGES, correct)

    def costs(self, architecture):
        return {"flops": float(1000 + sum(architecture))}


def within(text: str) -> Constraint:
    return Constraint(text, {"flops": lambda one: float(1000 + sum(one))})


def of(comparison: Comparison, kind: str):
    (found,) = (one for one in comparison.baselines if one.kind == kind)
    return found


WINNER = (3, 0, 1, 2, 0, 1)


def test_leads_are_those_on_the_same_images() -> None:
    judge = Judge(lambda one: 0.5 + sum(one) / 50)
    comparison = compare(judge, Random(SPACE, samples=1), WINNER, 1, 7)
    assert len(judge.asked) == 1  # all in one pass
    assert (comparison.cost, comparison.winner_cost) == ("flops", 1007)
    winner, whole = judge.measure(WINNER), judge.measure((3,) * 6)
    assert comparison.top1 == winner.top1
    found = of(comparison, WHOLE)
    differences = winner.right().astype(float) - whole.right()
    assert found.architectures == ("3-3-3-3-3-3",)
    assert found.lead == pytest.approx(differences.mean())
    assert found.lead_error == pytest.approx(differences.std() / math.sqrt(IMAGES))
    assert found.standard_error == pytest.approx(whole.standard_error)
    assert found.verdict == WORSE
    drawn = of(comparison, RANDOM)
    others = [judge.measure(SPACE.parse(text)) for text in drawn.architectures]
    assert len(others) == len(set(drawn.architectures)) == 7
    assert drawn.top1 == pytest.approx(statistics.fmean(one.top1 for one in others))
    assert drawn.deviation == pytest.approx(statistics.stdev(one.top1 for one in others))
    assert drawn.better == sum(one.top1 > winner.top1 for one in others)
    assert drawn.paired


def test_random_ones_cost_as_much_and_might_have_won() -> None:
    judge = Judge(lambda one: 0.5)
    searcher = Random(SPACE, samples=1, constraint=within("flops<=1008,flops>=1006"))
    searcher.cost = lambda one: float(sum(one))  # of which 5 % are less than 1
    found = of(compare(judge, searcher, WINNER, 1, 10), RANDOM)
    assert found.costs == (7, 7)
    assert SPACE.format(WINNER) not in found.architectures


def test_the_best_of_many_is_flattered() -> None:
    """The same lead is one where a single architecture was measured, and none where 100,000 were."""
    judge = Judge(lambda one: 0.72 if one == WINNER else 0.7)
    few, many = (
        of(compare(judge, Random(SPACE, samples=1), WINNER, measured, 5), WHOLE) for measured in (1, 100_000)
    )
    assert few.lead / few.lead_error == pytest.approx(many.lead / many.lead_error)
    assert 2 < few.lead / few.lead_error < 4.5
    assert (few.verdict, many.verdict) == (BETTER, UNSURE)
    assert of(compare(judge, Random(SPACE, samples=1), (3,) * 6, 9, 5), WHOLE).verdict == ITSELF


def test_the_best_of_noise_alone_is_seldom_called_better() -> None:
    """Winners of many equal architectures; each comparison may err with a probability of 5 %."""
    rng, called = np.random.default_rng(0), 0
    for _ in range(200):
        rights = rng.random((50, IMAGES)) < 0.7
        best = int(rights[1:].sum(1).argmax()) + 1
        lead = (rights[best].astype(float) - rights[0]).mean()
        error = (rights[best].astype(float) - rights[0]).std() / math.sqrt(IMAGES)
        called += lead > Comparison("flops", "", 0, 0, 0, 49, ()).errors_of_a_lead * error
    assert called <= 15


def test_where_nothing_says_which_images_were_right_errors_are_greater() -> None:
    shares = lambda one: 0.5 + sum(one) / 50  # noqa: E731
    paired, apart = (
        of(compare(Judge(shares, tells), Random(SPACE, samples=1), WINNER, 1, 5), WHOLE)
        for tells in (True, False)
    )
    assert apart.lead == pytest.approx(paired.lead)
    assert apart.lead_error > 1.2 * paired.lead_error
    assert not apart.paired


@pytest.fixture(scope="module")
def assignments():
    """A supernet of layer assignments: six others have the depth of 3-1-1, and as many FLOPs do few."""
    return PlainNet((4, 4, 4), num_classes=3)


def test_layer_assignments_are_compared_with_those_of_the_same_depth(assignments) -> None:
    judge = Judge(lambda one: 0.5, supernet=assignments)
    searcher = NIR(assignments.space, depth=7)
    comparison = compare(judge, searcher, (3, 1, 1), 9, 20)
    assert (comparison.cost, comparison.winner_cost, comparison.others) == ("depth", 5, 5)
    assert of(comparison, EVEN).architectures == ("1-2-2",)
    assert sorted(of(comparison, RANDOM).architectures) == ["1-1-3", "1-2-2", "1-3-1", "2-1-2", "2-2-1"]
    assert of(comparison, WHOLE).architectures == ("4-4-4",)
    assert len(judge.asked) == 1
    assert of(compare(judge, searcher, (1, 2, 2), 9, 20), EVEN).verdict == ITSELF


def test_layer_assignments_within_a_bound_are_compared_with_those_of_the_same_cost(assignments) -> None:
    judge = Judge(lambda one: 0.5, supernet=assignments)
    costs = {"weight": NamedCost("weight", lambda one: float(one[0] + 2 * one[1] + 4 * one[2]))}
    searcher = NIR(assignments.space, depth=7, constraint=Constraint("weight<=11", costs))
    comparison = compare(judge, searcher, (3, 2, 1), 9, 20)
    assert (comparison.cost, comparison.winner_cost, comparison.others) == ("weight", 11, None)
    assert sorted(of(comparison, RANDOM).architectures) == ["1-1-2", "1-3-1"]
    assert len(of(comparison, EVEN).architectures) == 1


def test_weights_trained_for_candidates_make_a_winner_ahead_and_not_better(assignments) -> None:
    """The whole network is trained, too, so that it compares as ever; and nothing excuses a lag."""
    winner, searcher = (3, 2, 2), NIR(assignments.space, depth=7)
    for own, others in ((0.9, 0.5), (0.5, 0.9), (0.7, 0.7)):
        judge = Judge(
            lambda one, own=own, others=others: own if one == winner else others, supernet=assignments
        )
        fair, favored = (
            {one.kind: one.verdict for one in compare(judge, searcher, winner, 9, 9, weights).baselines}
            for weights in (INHERITED, FAVORED)
        )
        word = BETTER if own > others else UNSURE if own == others else WORSE
        assert fair == dict.fromkeys((WHOLE, EVEN, RANDOM), word)
        assert favored == fair | (dict.fromkeys((EVEN, RANDOM), AHEAD) if own > others else {})


def scratch(winner: float, even: float, drawn: list[float], finalists: int = 1) -> Comparison:
    """A comparison of networks that were trained from scratch, with these shares of right answers."""
    judge = Judge(lambda one: shares[one])
    architectures = [(0, 0, 0, a, b, c) for a in range(4) for b in range(4) for c in range(4)]
    shares = dict(zip(architectures, [winner, even, *drawn], strict=False))
    trained = {one: Measurement(one, top1, 1.0, 1.0, IMAGES) for one, top1 in shares.items()}
    best, middle, *others = shares
    searcher = Random(SPACE, samples=1)
    return compare_from_scratch(judge, searcher, best, trained, {EVEN: [middle], RANDOM: others}, finalists)


@pytest.mark.parametrize(
    ("winner", "drawn", "finalists", "word", "chance"),
    [
        (0.9, [0.5] * 19, 1, BETTER, 1 / 20),
        (0.9, [0.5] * 18, 1, UNSURE, 1 / 19),
        (0.9, [0.5] * 18 + [0.9], 1, UNSURE, 2 / 20),
        (0.9, [0.5] * 38 + [0.95], 1, BETTER, 2 / 40),
        (0.9, [0.5] * 19, 2, UNSURE, 2 / 20),
        (0.5, [0.9] * 19, 1, WORSE, 1),
        (0.5, [0.9] * 18 + [0.5], 1, UNSURE, 1),
        (0.9, [0.1], 1, UNSURE, 1 / 2),
    ],
)
def test_from_scratch_the_rank_among_random_ones_decides(winner, drawn, finalists, word, chance) -> None:
    comparison = scratch(winner, 0.7, drawn, finalists)
    found = of(comparison, RANDOM)
    assert (comparison.weights, comparison.measured) == (SCRATCH, finalists)
    assert found.verdict == word
    assert found.chance(finalists) == pytest.approx(chance)
    assert found.level == drawn.count(winner)
    assert of(comparison, EVEN).verdict == (AHEAD if winner > 0.7 else BEHIND)
    assert (word == BETTER) <= (len(drawn) >= fewest_random(finalists))


def test_a_winner_drawn_at_random_is_seldom_called_better_whatever_the_noise() -> None:
    """Trainings that differ by far more than the noise of their images, in a skewed way."""
    rng, called = np.random.default_rng(0), 0
    for _ in range(300):
        winner, *drawn = 1 - 0.5 * rng.random(20) ** 4
        called += of(scratch(winner, 0.7, drawn), RANDOM).verdict == BETTER
    assert 5 <= called <= 25


def test_from_scratch_the_spread_of_random_ones_counts_as_noise_of_the_winner() -> None:
    drawn = [0.6, 0.7, 0.8]
    found, images = of(scratch(0.8, 0.7, drawn), RANDOM), of(scratch(0.8, 0.7, [0.7]), RANDOM)
    assert found.deviation == pytest.approx(0.1)
    assert found.lead_error > 0.1 * math.sqrt(1 + 1 / 3) > 3 * images.lead_error


def test_the_first_random_ones_are_those_that_are_measured_with_inherited_weights(assignments) -> None:
    judge, searcher = Judge(lambda one: 0.5, supernet=assignments), NIR(assignments.space, depth=7)
    drawn = [assignments.space.format(one) for one in random_of_same_cost(judge, searcher, (3, 2, 2), 4)]
    assert list(of(compare(judge, searcher, (3, 2, 2), 9, 8), RANDOM).architectures)[:4] == drawn


def test_a_comparison_of_an_older_version_is_read() -> None:
    written = scratch(0.9, 0.7, [0.5]).to_json()
    assert Comparison.from_json(json.loads(json.dumps(written))).to_json() == written
    del written["weights"], written["others"]
    for one in written["baselines"]:
        del one["level"]
    assert Comparison.from_json(written).weights == INHERITED


def study(directory: Path, baselines: int = 0, constraint: str = "flops<=60%") -> Study:
    """A search of the narrower versions of a small network."""
    supernet = from_model(shaken(3), (3, 12, 12))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(80, 3, 12, 12, generator=generator)
    evaluator = lasfast.Evaluator(supernet, images[:20], (images[20:], torch.arange(60) % 7))
    searcher = Random(supernet.space, samples=6, constraint=supernet.constraint(constraint))
    return Study(searcher, evaluator, directory=directory, baselines=baselines)


def contents(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in ("journal.jsonl", "result.json")}


def test_a_study_compares_its_winner_and_changes_nothing_else(tmp_path, one_thread: None) -> None:
    plain = study(tmp_path / "plain").run()
    assert plain.comparison is None
    result = study(tmp_path / "compared", 5).run()
    first, second = contents(tmp_path / "plain"), contents(tmp_path / "compared")
    assert first["journal.jsonl"] == second["journal.jsonl"]
    written = json.loads(second["result.json"])
    assert Comparison.from_json(written.pop("comparison")) == result.comparison
    assert written == json.loads(first["result.json"])
    again = study(tmp_path / "compared", 5).run(resume=True)
    assert again.comparison == result.comparison
    assert contents(tmp_path / "compared") == second
    assert dataclasses.replace(result, comparison=None).to_json() == plain.to_json()
    certainty = result.certainty
    assert certainty is not None
    assert (certainty.winner, certainty.measured) == (result.best.name, 6)
    comparison = result.comparison
    assert comparison is not None
    assert comparison.top1 == result.best.top1
    assert [one.kind for one in comparison.baselines] == [WHOLE, SCALED, RANDOM]
    supernet = study(tmp_path / "other").evaluator.supernet
    limit = supernet.constraint("flops<=60%")
    assert all(limit(supernet.space.parse(text)) for text in of(comparison, SCALED).architectures)
    drawn = of(comparison, RANDOM)
    assert all(limit(supernet.space.parse(text)) for text in drawn.architectures)
    assert max(drawn.costs) <= 1.05 * comparison.winner_cost
    assert min(drawn.costs) >= 0.95 * comparison.winner_cost


def test_killed_before_the_comparison_the_result_is_there(tmp_path, monkeypatch, one_thread: None) -> None:
    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lasfast.study.study.compare", stop)
        with pytest.raises(KeyboardInterrupt):
            study(tmp_path / "run", 5).run()
    assert "comparison" not in json.loads((tmp_path / "run" / "result.json").read_text())
    study(tmp_path / "run", 5).run(resume=True)
    study(tmp_path / "whole", 5).run()
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
