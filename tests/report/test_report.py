import io
import json
import math

import pytest
from rich.console import Console

from lasfast.measurements.journal import Journal
from lasfast.measurements.measurement import Measurement
from lasfast.report import (
    Run,
    candidates_of,
    front_table,
    plot_regret,
    plot_search,
    ranking_table,
    winners_table,
)
from lasfast.study.result import format_params

STEPS = [
    {(1, 1, 2): 0.50, (1, 2, 1): 0.60, (2, 1, 1): 0.60},
    {(1, 2, 2): 0.70, (1, 3, 1): 0.65, (2, 2, 1): 0.55},
]
HEADER = {"searcher": {"name": "nir"}, "supernet": {"supernet": "ResidualNet"}}


@pytest.fixture
def directory(tmp_path):
    with Journal.create(tmp_path / "journal.jsonl", HEADER) as journal:
        for number, step in enumerate(STEPS, start=1):
            journal.append(number, [Measurement(a, top1, 1.0, 1.5, 100) for a, top1 in step.items()])
    return tmp_path


def text_of(table) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


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
    assert "0.27 M" in text_of(winners_table("winners", run.winners.values()))


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_damaged_result_is_named(directory, content: str) -> None:
    (directory / "result.json").write_text(content)
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        Run.load(directory)


def test_no_study_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no study"):
        Run.load(tmp_path)


def test_the_ranking_has_the_best_first(directory) -> None:
    lines = text_of(ranking_table("step 1", Run.load(directory).steps[0])).splitlines()
    order = [line.split()[1] for line in lines if "±" in line]
    assert order == ["1-2-1", "2-1-1", "1-1-2"]
    assert "60.0 ± 4.9 %" in "\n".join(lines)


def test_winners_of_several_depths_in_one_step() -> None:
    measurements = [Measurement(a, v, 1, 1, 10) for a, v in {(1, 1): 0.2, (2, 1): 0.1, (1, 2): 0.3}.items()]
    won = [one.text for one in candidates_of(measurements, lambda one: (1, 1)) if one.won]
    assert won == ["1-1", "1-2"]


def test_the_picture_shows_every_winner(directory) -> None:
    svg = plot_search(Run.load(directory), directory / "plot.svg").read_text()
    for text in ("1-2-1", "1-2-2", "group 3", "depth (layers)"):
        assert f"<!-- {text} -->" in svg


def test_nothing_measured_is_no_picture(tmp_path) -> None:
    Journal.create(tmp_path / "journal.jsonl", HEADER).close()
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_search(Run.load(tmp_path), tmp_path / "plot.png")


def test_units() -> None:
    assert [format_params(count) for count in (12_345, 272_474, 4_210_088)] == ["12.3 k", "0.27 M", "4.21 M"]


CHOICES = {
    "searcher": {"name": "layernas", "default": [1, 1], "space": {"name": "ChoiceSpace"}},
    "supernet": None,
}


@pytest.fixture
def of_choices(tmp_path):
    """A finished search in a table of four networks, in two steps."""
    steps = [{(0, 1): 0.5, (1, 1): 0.7}, {(0, 0): 0.6, (1, 0): 0.65}]
    with Journal.create(tmp_path / "journal.jsonl", CHOICES) as journal:
        for number, step in enumerate(steps, start=1):
            journal.append(number, [Measurement(a, v, math.nan, math.nan, 100) for a, v in step.items()])
    flops = {(0, 1): 2e6, (1, 1): 4e6, (0, 0): 1e6, (1, 0): 3e6}
    written = [
        [{"architecture": a, "text": f"opt{a[0]}-{a[1]}", "flops": flops[a], "params": 1e6} for a in step]
        for step in steps
    ]
    (tmp_path / "result.json").write_text(
        json.dumps({"best": written[1][1], "winners": {}, "steps": written})
    )
    return tmp_path


def test_a_search_without_depths_has_a_front_and_a_best(of_choices) -> None:
    run = Run.load(of_choices)
    assert not run.has_depths
    assert run.title == "LayerNAS search of a table"
    assert [one.text for one in run.front] == ["opt0-0", "opt1-0", "opt1-1"]
    assert run.best.text == "opt1-0"
    lines = text_of(front_table("front", run.front)).splitlines()
    assert [line.split()[0] for line in lines if "±" in line] == ["opt0-0", "opt1-0", "opt1-1"]
    svg = plot_search(run, of_choices / "plot.svg").read_text()
    for text in ("front", "opt1-0", "multiply-adds (M)", "layer searched"):
        assert f"<!-- {text} -->" in svg


def test_without_costs_the_picture_shows_how_it_goes(of_choices) -> None:
    (of_choices / "result.json").unlink()
    run = Run.load(of_choices)
    assert run.best is None
    assert run.front == []
    svg = plot_search(run, of_choices / "plot.svg").read_text()
    assert "<!-- best so far -->" in svg
    assert "<!-- layer searched -->" not in svg


def test_regret_is_drawn_for_each_problem_and_searcher(tmp_path) -> None:
    points = [(1, None, None), (10, 0.5, 0.1), (100, 0.1, 0.0)]
    panels = {"40 %": {"random": points, "ours": points[1:]}, "60 %": {"random": points, "ours": points}}
    svg = plot_regret(panels, tmp_path / "plot.svg").read_text()
    for text in ("40 %", "60 %", "random", "ours", "architectures measured"):
        assert f"<!-- {text} -->" in svg
    with pytest.raises(ValueError, match="panels must be at least one"):
        plot_regret({}, tmp_path / "nothing.svg")
