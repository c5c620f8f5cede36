"""Studies that may take so many seconds, by a clock that stands still but for batches and measurements."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from lasfast.measurements.journal import Journal, JournalError
from lasfast.measurements.table import ArchitectureTable
from lasfast.measurements.tabular import TabularEvaluator
from lasfast.searchers import ITNAS, Random
from lasfast.spaces import CellSpace
from lasfast.study.study import Callback, Study
from lasfast.train import checkpoint
from tests.study.test_study import contents, tiny_study

pytestmark = pytest.mark.usefixtures("one_thread")
EVERY = 20


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests put forward."""
    now = SimpleNamespace(seconds=100.0)
    now.monotonic = lambda: now.seconds
    monkeypatch.setattr("lasfast.study.stopwatch.time", now)
    return now


class Counted:
    """An evaluator whose every candidate takes a second."""

    def __init__(self, evaluator, clock):
        self._evaluator, self._clock, self.parts = evaluator, clock, []

    def __getattr__(self, name):
        return getattr(self._evaluator, name)

    def __call__(self, architectures):
        self._clock.seconds += len(architectures)
        self.parts.append(len(architectures))
        return self._evaluator(architectures)


class Batches(Callback):
    """Lets every batch of training take a second; Ctrl-C is pressed after some."""

    def __init__(self, clock, stop_after=None):
        self._clock, self._left = clock, stop_after

    def on_progress(self, progress):
        self._clock.seconds += 1
        if self._left is not None:
            self._left -= 1
            if not self._left:
                raise KeyboardInterrupt


def sample(space):
    return Random(space, samples=EVERY, seed=1)


def random_study(directory, clock, **options):
    """A search that asks for all its architectures at once."""
    study = tiny_study(directory, train=False, searcher=sample, **options)
    study.evaluator = Counted(study.evaluator, clock)
    return study


def measured(directory):
    return [measurement for _, measurement in Journal.read(directory / "journal.jsonl")[1]]


def test_candidates_are_measured_until_the_seconds_are_spent(clock, tmp_path):
    study = random_study(tmp_path, clock, seconds=7.5)
    clock.seconds += 1000  # before the search: it does not count
    result = study.run()
    assert study.evaluator.parts == [1, 6, 1], "one tells how long it takes, six fit, and half of one is left"
    assert len(result.candidates) == 8
    assert result.ended_by_seconds
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["ended_by"] == "seconds"
    assert saved["study"]["budget"] == {"seconds": 7.5}
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"seconds": 8}


def test_one_that_ends_earlier_does_not_say_so(clock, tmp_path):
    study = random_study(tmp_path, clock, seconds=1000)
    result = study.run()
    assert study.evaluator.parts == [1, EVERY - 1]
    assert not result.ended_by_seconds
    assert "ended_by" not in json.loads((tmp_path / "result.json").read_text())
    fewer = random_study(tmp_path / "fewer", clock, seconds=1000, evaluations=4).run()
    assert len(fewer.candidates) == 4
    assert not fewer.ended_by_seconds


def test_it_resumes_to_the_same_and_goes_on_with_more_seconds(clock, tmp_path):
    whole = random_study(tmp_path / "whole", clock).run()
    random_study(tmp_path / "run", clock, seconds=7.5).run()
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    again = random_study(tmp_path / "run", clock, seconds=7.5)
    assert again.run(resume=True).ended_by_seconds
    assert again.evaluator.parts == []
    for name in ("journal.jsonl", "result.json", "seconds.json"):
        assert (tmp_path / "run" / name).read_bytes() == before[name]
    with pytest.raises(JournalError, match=r"budget\.seconds is 7\.5 there and 7 here"):
        random_study(tmp_path / "run", clock, seconds=7).run(resume=True)
    farther = random_study(tmp_path / "run", clock, seconds=12)
    assert farther.run(resume=True).ended_by_seconds
    assert sum(farther.evaluator.parts) == 4, "8 seconds were spent"
    found = random_study(tmp_path / "run", clock, seconds=1000).run(resume=True)
    assert measured(tmp_path / "run") == measured(tmp_path / "whole")
    assert found.best == whole.best
    assert not found.ended_by_seconds


def test_a_run_that_is_stopped_counts(clock, tmp_path):
    def study(stop_after=None):
        callbacks = [Batches(clock, stop_after)]
        return tiny_study(tmp_path, callbacks=callbacks, seconds=20, checkpoint_seconds=1000)

    with pytest.raises(KeyboardInterrupt):
        study(stop_after=5).run()
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"seconds": 5}
    clock.seconds += 1000  # while nothing runs: it does not count
    assert study().run(resume=True).ended_by_seconds
    assert json.loads((tmp_path / "seconds.json").read_text()) == {"seconds": 20}


def test_training_ends_after_a_batch_and_goes_on_to_the_same(clock, tmp_path):
    """6 batches are of the warm-up, and 6 of each step."""
    whole = tiny_study(tmp_path / "whole").run()

    def study(seconds):
        return tiny_study(tmp_path / "run", callbacks=[Batches(clock)], seconds=seconds)

    found = study(15).run()
    assert list(found.winners) == [4]
    assert found.steps == whole.steps[:1]
    assert found.ended_by_seconds
    position = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")[1]["position"]
    assert list(position) == [2, 3]
    before = contents(tmp_path / "run")
    study(15).run(resume=True)
    assert contents(tmp_path / "run") == before
    found = study(1000).run(resume=True)
    assert found.steps == whole.steps
    assert found.best == whole.best
    ends = [checkpoint.load(tmp_path / name / "checkpoint.safetensors")[0] for name in ("run", "whole")]
    assert all((ends[0][name] == ends[1][name]).all() for name in ends[1])


@pytest.mark.parametrize("seconds", [4, 6])
def test_seconds_that_training_takes_whole_are_an_error_that_can_be_resumed(clock, tmp_path, seconds):
    def study(seconds):
        return tiny_study(tmp_path, train=True, depth=4, callbacks=[Batches(clock)], seconds=seconds)

    with pytest.raises(TimeoutError, match=f"{seconds} seconds were not enough .*; resume .* with more"):
        study(seconds).run()
    assert not (tmp_path / "result.json").exists()
    assert list(study(100).run(resume=True).winners) == [4]


def test_without_a_directory_seconds_count_too(clock):
    assert len(random_study(None, clock, seconds=3).run().candidates) == 3


@pytest.mark.parametrize("content", [None, "", "{}", '{"seconds": -1}'])
def test_a_clock_that_cannot_be_read_is_named(clock, tmp_path, content):
    random_study(tmp_path, clock, seconds=3).run()
    file = tmp_path / "seconds.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(JournalError, match=r"seconds\.json is missing or damaged .*as \{\"seconds\": 60\}"):
        random_study(tmp_path, clock, seconds=3).run(resume=True)
    file.write_text('{"seconds": 3}')
    random_study(tmp_path, clock, seconds=3).run(resume=True)


def test_seconds_that_cannot_be_are_refused():
    for seconds, problem in ((0, "above 0, got 0"), (float("nan"), "a finite number, got nan")):
        with pytest.raises(ValueError, match=f"seconds must be {problem}"):
            tiny_study(None, train=False, seconds=seconds)
    table = ArchitectureTable([(0, 0), (0, 1)], np.array([[0.5], [0.6]]), {})
    evaluator = TabularEvaluator(table)
    with pytest.raises(ValueError, match=r"without training times \(--time-column\), got 9"):
        Study(Random(table.space(), samples=2), evaluator, seconds=9)
    supernet = tiny_study(None, train=False).evaluator
    with pytest.raises(ValueError, match="seconds must be None for a searcher that asks only once training"):
        Study(ITNAS(CellSpace(), learned=dict), supernet, seconds=9)
