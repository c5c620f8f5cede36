"""What is read of a study's directory."""

import json

import pytest

from lasfast.measurements.journal import Journal
from lasfast.measurements.measurement import Measurement
from lasfast.report.run import Run, candidates_of
from lasfast.spaces import ChoiceSpace, VirtualLayer


def test_a_run_is_read_while_it_is_not_finished(directory) -> None:
    run = Run.load(directory)
    assert not run.finished
    assert run.title == "NIR search of ResidualNet"
    assert [[one.text for one in step] for step in run.steps] == [
        ["1-1-2", "1-2-1", "2-1-1"],
        ["1-2-2", "1-3-1", "2-2-1"],
    ]
    # Of equal values the first asked wins, as the searcher has it.
    assert {depth: one.text for depth, one in run.winners.items()} == {4: "1-2-1", 5: "1-2-2"}


def test_costs_come_from_the_result(directory) -> None:
    winner = {"architecture": [1, 2, 2], "flops": 2_000_000, "params": 270_000}
    (directory / "result.json").write_text(json.dumps({"winners": {"5": winner}}))
    run = Run.load(directory)
    assert run.finished
    assert (run.winners[5].flops, run.winners[5].params) == (2_000_000, 270_000)
    assert run.winners[4].flops is None


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_result_is_named(directory, content: str) -> None:
    (directory / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        Run.load(directory)


def test_no_study_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no study"):
        Run.load(tmp_path)


def test_a_table_of_trained_networks_is_no_study(tmp_path) -> None:
    Journal.create(tmp_path / "journal.jsonl", {"dataset": {}}).close()
    with pytest.raises(ValueError, match=r"and no search; their table is .*table\.csv"):
        Run.load(tmp_path)


def test_winners_of_several_depths_in_one_step() -> None:
    measurements = [Measurement(a, v, 1, 1, 10) for a, v in {(1, 1): 0.2, (2, 1): 0.1, (1, 2): 0.3}.items()]
    costs = {"flops": 1, "params": 2, "params_without_batch_norm": 2}
    candidates = candidates_of(measurements, lambda one: costs)
    assert [one.text for one in candidates if one.won] == ["1-1", "1-2"]
    assert {(one.flops, one.params, one.bitops) for one in candidates} == {(1, 2, None)}


def test_a_search_without_depths_has_a_front_and_a_best(of_choices) -> None:
    run = Run.load(of_choices)
    assert not run.has_depths
    assert not run.is_derived
    assert run.title == "LayerNAS search of a table"
    assert [one.text for one in run.front] == ["opt0-0", "opt1-0", "opt1-1"]
    assert run.best is not None
    assert run.best.text == "opt1-0"


def test_without_costs_there_is_no_front(of_choices) -> None:
    (of_choices / "result.json").unlink()
    run = Run.load(of_choices)
    assert run.best is None
    assert run.front == []


@pytest.mark.parametrize(
    ("space", "has_depths"),
    [({}, True), ({"name": "LayerAssignmentSpace"}, True), ({"name": "ChoiceSpace"}, False)],
)
def test_random_search_has_depths_where_its_space_has(tmp_path, space: dict, has_depths: bool) -> None:
    searcher = {"name": "random", **({"space": space} if space else {})}
    Journal.create(tmp_path / "journal.jsonl", {"searcher": searcher, "supernet": None}).close()
    run = Run.load(tmp_path)
    assert run.has_depths == has_depths
    assert run.title == "Random search of a table"


def test_options_have_their_names_while_nothing_is_finished(tmp_path) -> None:
    space = ChoiceSpace([["3x3", "5x5"], VirtualLayer((16, 32), 1), ["relu", "swish"]])
    header = {"searcher": {"name": "evolution", "space": space.describe()}, "supernet": None}
    with Journal.create(tmp_path / "journal.jsonl", header) as journal:
        journal.append(1, [Measurement((1, 0, 1), 0.5, 1.0, 1.5, 100)])
    run = Run.load(tmp_path, known_costs=lambda architecture: {"flops": 3e6})
    assert [one.text for one in run.steps[0]] == ["5x5-16-swish"]
    assert (run.steps[0][0].flops, run.steps[0][0].costs) == (3e6, {"flops": 3e6})
