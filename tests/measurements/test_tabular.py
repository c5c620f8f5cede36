import itertools
import json
import math
import zlib

import numpy as np
import pytest

from lasfast.constraints import Constraint
from lasfast.measurements.table import ArchitectureTable
from lasfast.measurements.tabular import TabularEvaluator
from lasfast.report import comparison_text
from lasfast.searchers import Evolution, LayerNAS
from lasfast.study.comparison import UNSURE, Comparison
from lasfast.study.study import Study

ARCHITECTURES = list(itertools.product(range(2), range(3), range(2)))


def small_table(runs=3):
    rng = np.random.default_rng(0)
    accuracies = rng.uniform(0.5, 0.9, (len(ARCHITECTURES), runs))
    return ArchitectureTable(ARCHITECTURES, accuracies, {"macs": [10 * sum(a) for a in ARCHITECTURES]})


def test_measures_what_the_table_says():
    table = small_table()
    measurements = TabularEvaluator(table, images=500)([(1, 2, 0), (0, 0, 0), (1, 2, 0)])
    assert [m.architecture for m in measurements] == [(1, 2, 0), (0, 0, 0), (1, 2, 0)]
    assert measurements[0].top1 == pytest.approx(table.accuracies[table.row((1, 2, 0))].mean())
    assert measurements[0].top1 == measurements[2].top1
    assert measurements[0].images == 500
    assert math.isnan(measurements[0].top5)
    with pytest.raises(ValueError, match=r"architecture \(5, 0, 0\) must be one of the 12 of the table"):
        TabularEvaluator(table)([(5, 0, 0)])


def test_counts_what_training_would_have_cost():
    evaluator = TabularEvaluator(small_table(), training_cost="macs")
    evaluator([(1, 2, 1), (0, 0, 1)])
    assert evaluator.spent == 40 + 10
    evaluator([(1, 2, 1), (0, 1, 0)])  # the first is trained already
    assert evaluator.spent == 40 + 10 + 10
    assert TabularEvaluator(small_table()).spent == 0


def test_descriptions_tell_tables_apart():
    table = small_table()
    same, other = small_table(), small_table(runs=2)
    assert TabularEvaluator(table).describe() == TabularEvaluator(same).describe()
    texts = {
        json.dumps(one.describe())
        for one in (
            TabularEvaluator(table),
            TabularEvaluator(other),
            TabularEvaluator(table, run=1),
            TabularEvaluator(table, images=9),
        )
    }
    assert len(texts) == 4


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"run": 3}, ValueError, "run must be below 3, the runs of the table, got 3"),
        ({"run": -1}, ValueError, "run must be at least 0"),
        ({"images": 0}, ValueError, "images must be at least 1"),
        ({"training_cost": "flops"}, ValueError, "cost must be one of 'macs', got 'flops'"),
    ],
)
def test_impossible_evaluators_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        TabularEvaluator(small_table(), **arguments)
    with pytest.raises(TypeError, match="table must be an ArchitectureTable, got list"):
        TabularEvaluator([])


def chain_table(layers=5):
    """Every layer helps, each a little less than the one before; the dearer option a little more."""
    architectures = list(itertools.product(range(3), repeat=layers))
    rise = lambda a: sum(math.sqrt(option) / (layer + 1) for layer, option in enumerate(a))  # noqa: E731
    noise = lambda a: (zlib.crc32(bytes(a)) % 100) / 1e5  # noqa: E731
    accuracies = [0.5 + 0.1 * rise(a) + noise(a) for a in architectures]
    return ArchitectureTable(architectures, accuracies, {"flops": [100 * sum(a) + 50 for a in architectures]})


@pytest.mark.parametrize("name", ["layernas", "evolution"])
def test_a_study_of_a_table_resumes_to_the_same_bytes(tmp_path, name):
    table = chain_table()
    flops = table.cost("flops")

    def study(directory, callbacks=()):
        if name == "layernas":
            searcher = LayerNAS(table.space(), cost=flops, target=(400, 550), buckets=20)
        else:
            within = Constraint("flops<=550", {"flops": flops})
            searcher = Evolution(table.space(), constraint=within, population=10, generations=4)
        return Study(searcher, TabularEvaluator(table), directory=directory, callbacks=callbacks)

    result = study(tmp_path / "whole").run()
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    for keep in (1, len(lines) // 3, len(lines) - 1):
        (tmp_path / "cut" / "journal.jsonl").write_bytes(b"".join(lines[:keep]) + lines[keep][:20])
        again = study(tmp_path / "cut").run(resume=True)
        assert again.best.text == result.best.text
        for file in ("journal.jsonl", "result.json"):
            assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert result.best.costs["flops"] <= 550
    front = result.front()
    assert [one.flops for one in front] == sorted(one.flops for one in front)
    best = table.best(lambda one: flops(one) <= 550)[1]
    assert result.best.top1 > best - 0.01
    written = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert written["study"]["supernet"] is None
    assert written["steps"][0][0]["flops"] == flops(tuple(written["steps"][0][0]["architecture"]))
    assert len([one for step in written["steps"] for one in step]) == len(lines) - 1


def test_a_searcher_of_another_space_is_refused():
    searcher = Evolution(chain_table(4).space(), population=4)
    with pytest.raises(ValueError, match="which is not in the table's space"):
        Study(searcher, TabularEvaluator(chain_table(3)))


def test_noise_is_told_where_it_is_known():
    one, several = small_table(runs=1), small_table(runs=3)
    first = ARCHITECTURES[:1]
    assert math.isnan(TabularEvaluator(one)(first)[0].standard_error)
    [of_images] = TabularEvaluator(one, images=400)(first)
    assert of_images.standard_error == math.sqrt(of_images.top1 * (1 - of_images.top1) / 400)
    runs = several.accuracies[0]
    [of_runs] = TabularEvaluator(several, images=400)(first)
    assert of_runs.standard_error == pytest.approx(runs.std(ddof=1) / math.sqrt(3))
    assert math.isnan(TabularEvaluator(several, run=0)(first)[0].standard_error)
    runs[1:] = np.nan
    assert math.isnan(TabularEvaluator(several)(first)[0].standard_error), "one run was made"


def test_the_standing_counts_functions_by_the_accuracies_that_are_searched():
    accuracies = np.array([[0.5, 0.9], [0.7, 0.1], [0.8, 0.2], [0.6, 0.3]])
    architectures = [(0, 0), (0, 1), (1, 0), (1, 1)]
    tests = [0.4, 0.3, 0.2, 0.1]
    table = ArchitectureTable(architectures, accuracies, {}, keys="abba", test_accuracies=tests)
    standing = TabularEvaluator(table, run=0).standing((0, 1))
    assert (standing.best, standing.top1, standing.best_test) == ((1, 0), 0.8, (0, 0))
    assert (standing.architectures, standing.functions) == (4, 2)
    assert (standing.better, standing.computes_best) == (0, True), "(1, 0) computes the same"
    by_mean = TabularEvaluator(table).standing((1, 1))
    assert (by_mean.best, by_mean.better, by_mean.computes_best) == ((0, 0), 1, True)
    few = TabularEvaluator(table, run=1).standing((1, 0), lambda one: one != (0, 0))
    assert (few.best, few.architectures, few.functions, few.better) == ((1, 1), 3, 2, 1)
    with pytest.raises(ValueError, match="accept must take at least one architecture of the table"):
        TabularEvaluator(table).standing((1, 0), lambda _: False)


def test_a_comparison_in_a_table_tells_no_lead_from_noise_that_is_not_known(tmp_path):
    table = chain_table()
    within = Constraint("flops<=550", {"flops": table.cost("flops")})
    searcher = Evolution(table.space(), constraint=within, population=10, generations=1)
    comparison = Study(searcher, TabularEvaluator(table), directory=tmp_path, baselines=5).run().comparison
    assert {one.verdict for one in comparison.baselines} == {UNSURE}
    assert all(math.isnan(one.lead_error) for one in comparison.baselines)
    written = json.loads((tmp_path / "result.json").read_text())["comparison"]
    assert written["standard_error"] == "nan"
    read = Comparison.from_json(written)
    assert math.isnan(read.standard_error)
    assert json.loads(json.dumps(read.to_json())) == written
    assert "on how many images is not known, so that no lead is told from noise" in comparison_text(read)
