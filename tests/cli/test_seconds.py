"""`--seconds` in searches of supernets, by a clock that goes on by a second whenever it is read."""

import itertools
import json
import shutil
from types import SimpleNamespace

import pytest

IMAGES = ["--limit", 100, "--validation", 60, "--calibration", 40, "--threads", 1]
CHOICES = ["--supernet", "mobilenet-60m", "--width", 0.25, "--epochs", 1, "--baselines", 0, *IMAGES]
STEPS = ["--depth", 5, "--warm-up-epochs", 1, "--epochs", 1, *IMAGES]


@pytest.fixture(autouse=True)
def clock(monkeypatch, without_exports):
    monkeypatch.setattr("lasfast.study.stopwatch.time", SimpleNamespace(monotonic=itertools.count().__next__))
    without_exports()


def measured(run):
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()[1:]]


def test_a_search_ends_when_its_seconds_are_spent(lasfast, tmp_path) -> None:
    run = tmp_path / "run"
    words = ["search", "evolution", *CHOICES, "--population", 4, "--generations", 7, "--top", 2, "-o", run]
    status, out, err = lasfast(*words, "--seconds", 20)
    assert status == 0, err
    assert "the search ends when 0:20 are spent, if not before" in out
    ended = "The search ended because its 20 seconds were spent"
    assert f"{ended}; `lasfast resume {run} --seconds ...` goes on with more" in " ".join(out.split())
    found = json.loads((run / "result.json").read_text())
    assert found["ended_by"] == "seconds"
    assert 0 < len(measured(run)) < 32

    (network,) = run.glob("*.pt2")
    network.unlink()
    status, out, err = lasfast("report", run, "--html")
    assert status == 0, err
    assert ended in out
    assert f"{ended}." in (run / "report.html").read_text()

    status, out, err = lasfast("verify", run, "--threads", 1)
    assert status == 0, err
    count = len(measured(run))
    assert f"{count} measurements read; the search by them is the same" in out
    assert f"{min(count, 20)} of {min(count, 20)} that were measured again agree" in out

    assert (
        "--seconds must be more than the run's, 20.0, got 20.0" in lasfast("resume", run, "--seconds", 20)[2]
    )
    status, out, err = lasfast("resume", run, "--seconds", 1000)
    assert status == 0, err
    assert len(measured(run)) == 32
    assert "The search ended because" not in out
    assert lasfast("report", run)[1].count("The search ended because") == 0


def test_nir_ends_within_the_training_of_a_step(lasfast, tmp_path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    status, out, err = lasfast("search", "nir", *STEPS, "-o", run, "--seconds", 16)
    assert status == 0, err
    assert "The search ended because its 16 seconds were spent" in out
    steps = measured(run)[-1]["step"]
    assert steps < 2
    status, out, err = lasfast("verify", run, "--threads", 1)
    assert status == 0, err
    assert "the search by them is the same" in out
    assert "none is measured again: the supernet was trained on after the last" in out
    assert lasfast("search", "nir", *STEPS, "-o", whole)[0] == 0
    status, out, err = lasfast("resume", run, "--seconds", 10_000)
    assert status == 0, err
    strip = [[{**line, "crc": 0} for line in measured(one)] for one in (run, whole)]
    assert strip[0] == strip[1]


def test_seconds_that_training_takes_whole_can_be_more_later(lasfast, tmp_path) -> None:
    run = tmp_path / "run"
    words = ["search", "evolution", *CHOICES, "--population", 3, "--generations", 1, "--top", 2, "-o", run]
    status, _, err = lasfast(*words, "--seconds", 2)
    assert status == 2
    assert f"error: 2 seconds were not enough to measure anything; resume {run} with more of them" in err
    shutil.copytree(run, tmp_path / "copy")
    assert "seconds were not enough" in lasfast("resume", run, "--seconds", 3)[2]
    for directory in (run, tmp_path / "copy"):
        status, _, err = lasfast("resume", directory, "--seconds", 1000)
        assert status == 0, err
        assert len(measured(directory)) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evolution", *CHOICES, "--seconds", 0], "error: --seconds must be above 0, got 0"),
        (["evolution", *CHOICES, "--seconds", "nan"], "error: --seconds must be a finite number, got nan"),
        (["itnas", "--seconds", 60], "No such option: --seconds"),
    ],
)
def test_seconds_that_cannot_be_are_refused_before_work(lasfast, tmp_path, words, message: str) -> None:
    status, _, err = lasfast("search", *words, "-o", tmp_path / "run")
    assert status == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


def test_a_run_without_seconds_does_not_go_on_by_them(lasfast, tmp_path) -> None:
    run = tmp_path / "run"
    assert lasfast("search", "random", *CHOICES, "--samples", 2, "-o", run)[0] == 0
    status, _, err = lasfast("resume", run, "--seconds", 60)
    assert status == 2
    assert "--seconds 60.0 is not for a run of lasfast search random; give --evaluations instead" in err
