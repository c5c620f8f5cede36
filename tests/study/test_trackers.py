"""Callbacks that write the course of a study, and functions as callbacks."""

import io
import re

import pytest
from rich.console import Console

from lasfast.study.progress_bar import ProgressBar
from lasfast.study.study import Study
from lasfast.study.trackers import MLflow, TensorBoard, Tracker
from tests.study.test_study import tiny_study

pytestmark = pytest.mark.usefixtures("one_thread")


class _Numbers(Tracker):
    def __init__(self):
        self.numbers = []

    def write(self, name, value, at):
        self.numbers.append((name, at, value))


def test_epochs_and_steps_are_numbered_through(tmp_path):
    tracker, seen = _Numbers(), []
    result = tiny_study(
        tmp_path, depth=5, callbacks=[tracker, lambda step, found: seen.append((step, len(found)))]
    ).run()
    assert seen == [(1, 3), (2, 3)]
    places = {name: [at for one, at, _ in tracker.numbers if one == name] for name, *_ in tracker.numbers}
    assert places["train/loss"] == places["train/learning_rate"] == [1, 2, 3, 4, 5, 6]
    assert places["search/top1"] == places["search/top1_of_step"] == [3, 6]
    values = {(name, at): value for name, at, value in tracker.numbers}
    assert values["search/top1", 6] == result.highest.top1
    assert values["best/top1", 6] == result.best.top1
    assert values["best/flops", 6] == result.best.flops

    again = _Numbers()
    tiny_study(tmp_path, depth=6, callbacks=[again]).run(resume=True)
    numbers = [(name, at) for name, at, _ in again.numbers if name in ("train/loss", "search/top1")]
    assert numbers[:2] == [("search/top1", 3), ("search/top1", 6)]
    assert numbers[2:] == [("train/loss", 7), ("train/loss", 8), ("search/top1", 9)]


@pytest.mark.parametrize("given", [3, Study, "print"])
def test_what_is_no_callback_is_named(given):
    with pytest.raises(TypeError, match="callbacks must be Callback objects, or functions of a step and its"):
        tiny_study(None, callbacks=[given])


@pytest.mark.parametrize(("kind", "package"), [(TensorBoard, "tensorboard"), (MLflow, "mlflow")])
def test_a_missing_package_is_named_before_the_search(kind, package, monkeypatch, tmp_path):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("lasfast.study.trackers.import_module", missing)
    with pytest.raises(
        ImportError, match=rf"{package} is not installed .* pip install 'lasfast\[{package}\]'"
    ):
        kind(tmp_path)


@pytest.mark.filterwarnings("ignore")  # of other packages
def test_tensorboard_reads_what_is_written(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = tiny_study(None, depth=4, callbacks=[TensorBoard(tmp_path)]).run()
    events = EventAccumulator(str(tmp_path)).Reload()
    (last,) = events.Scalars("search/top1")
    assert (last.step, last.value) == (3, pytest.approx(result.highest.top1))
    assert [one.step for one in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert events.Tensors("best/text_summary")[0].tensor_proto.string_val[0].decode() == str(result.best)


@pytest.mark.filterwarnings("ignore")  # of other packages
def test_mlflow_reads_what_is_written(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    pytest.importorskip("alembic", reason="the extra mlflow is not installed")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = tiny_study(tmp_path / "run", depth=4, callbacks=[MLflow(uri)]).run()
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("lasfast")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["search/top1"] == pytest.approx(result.highest.top1)
    assert run.data.params["depth"] == "4"
    assert run.data.tags["best"] == str(result.best)


@pytest.mark.parametrize("notebook", [False, True])
def test_bars_show_training_and_architectures(notebook):
    if notebook:
        pytest.importorskip("ipywidgets", reason="the extra notebook is not installed")
    text = io.StringIO()
    console = Console(file=text, force_terminal=not notebook, force_jupyter=notebook, width=120)
    tiny_study(None, depth=4, callbacks=[ProgressBar(console)]).run()
    if not notebook:
        assert "training, step 1" in text.getvalue()
        assert "epoch 2 of 2" in text.getvalue()
        assert re.search(r"3/\?.*highest top-1 \d+\.\d %", text.getvalue())


def test_a_notebook_without_widgets_has_lines(monkeypatch):
    monkeypatch.setattr("lasfast.study.progress_bar.find_spec", lambda name: None)
    shown = []
    monkeypatch.setattr(Console, "print", lambda self, text: shown.append(text))
    tiny_study(None, depth=5, callbacks=[ProgressBar(Console(force_jupyter=True))]).run()
    assert [re.sub(r"\d+\.\d %", "P", text) for text in shown] == [
        "step 1: 3 architectures, highest top-1 P",
        "step 2: 6 architectures, highest top-1 P",
    ]


def test_bars_end_where_a_study_fails():
    stopped = []

    class Watch(ProgressBar):
        def on_stop(self):
            super().on_stop()
            stopped.append(self._bars.live.is_started)

    def fail(step, measurements):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_study(None, depth=4, callbacks=[Watch(Console(file=io.StringIO())), fail]).run()
    assert stopped == [False]


def test_a_notebook_shows_the_best_and_the_front():
    result = tiny_study(None, depth=4, train=False).run()
    page = result._repr_html_()
    assert page.startswith(f"<p>The best is {result.best}: it ")
    assert page.count("<tr>") == 1 + len(result.front())
    assert f"<td>{result.front()[0].name}</td>" in page
