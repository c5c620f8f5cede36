"""Studies, and killing them. Run as a script, this file is the process whose children are killed."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import lasfast
from lasfast import costs
from lasfast.data.images import TensorImages
from lasfast.evaluation.evaluator import Evaluator
from lasfast.measurements.journal import JournalError
from lasfast.searchers import NIR, Random
from lasfast.study.comparison import FAVORED, INHERITED
from lasfast.study.result import format_params, format_top1
from lasfast.study.study import Callback, Study
from lasfast.supernets import ResidualNet
from lasfast.train import CheckpointError, SupernetTrainer, TrainSettings

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = TrainSettings(batch_size=16, warm_up_epochs=2, epochs_per_step=2)
FILES = ("journal.jsonl", "checkpoint.safetensors", "result.json")
KILLS = 12


def tiny_study(directory, *, settings=SETTINGS, depth=6, weights=0, searcher=None, train=True, **options):
    """A search of a tiny ResidualNet to depth 6, on 8x8 images."""
    with torch.random.fork_rng():
        torch.manual_seed(weights)
        supernet = ResidualNet((3, 3, 3), num_classes=3)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 3
    images = torch.randint(0, 200, (80, 3, 8, 8), generator=generator).to(torch.uint8)
    images[torch.arange(80), labels] += 50
    data = TensorImages(images[:48], labels[:48], [0.4] * 3, [0.3] * 3, pad=1)
    floats = (images / 255 - 0.4) / 0.3
    evaluator = Evaluator(supernet, floats[:32], (floats[48:], labels[48:]))
    trainer = SupernetTrainer(supernet, data, settings) if train else None
    searcher = searcher(supernet.space) if searcher else NIR(supernet.space, depth=depth)
    return Study(searcher, evaluator, trainer=trainer, directory=directory, **options)


def test_a_comparison_says_for_what_the_weights_were_trained() -> None:
    for train, weights in ((True, FAVORED), (False, INHERITED)):
        result = tiny_study(None, depth=4, train=train, baselines=3).run()
        assert result.comparison.weights == weights
        assert result.comparison.cost == "depth"


def contents(directory):
    return {name: (Path(directory) / name).read_bytes() for name in FILES}


def kill_at_random(directory, seed):
    """Run and kill studies until a dozen kills are done and the last study has finished; print what happened.

    Forking from here saves each attempt the seconds it takes to import torch; no thread runs before a fork.
    """
    tiny_study(None)  # what torch imports late, no attempt has to import
    rng = random.Random(seed)
    kills, within_writes, finished = 0, 0, 0
    while kills < KILLS:
        run = Path(directory) / f"killed{finished}"
        while True:
            started, ready = os.pipe()
            at_once = rng.random() < 0.25  # also while it sets itself up; else once it is under way
            interval = rng.choice([0.02, 0.1])
            child = os.fork()
            if not child:
                say = _Watch(on_start=lambda study, pipe=ready: os.write(pipe, b"."))
                if at_once:
                    say.on_start(None)
                tiny_study(run, checkpoint_seconds=interval, callbacks=[say]).run(resume=True)
                os._exit(0)
            os.read(started, 1)
            os.close(started)
            os.close(ready)
            if kills < KILLS or rng.random() < 0.5:
                time.sleep(rng.uniform(0, 0.7))
                if rng.random() < 0.4:
                    _wait_for(run / "checkpoint.safetensors.tmp")
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                break
            kills += 1
            within_writes += (run / "checkpoint.safetensors.tmp").exists()
        if os.WEXITSTATUS(status):
            sys.exit(1)
        finished += 1
    print(json.dumps({"kills": kills, "within_writes": within_writes, "finished": finished}))


def _wait_for(path):
    """Until a file is there, so that the kill comes in the middle of writing it; not for long."""
    end = time.monotonic() + 0.3
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.0002)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A study never interrupted: (directory, result)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("study") / "run"
    result = tiny_study(directory).run()
    torch.set_num_threads(threads)
    return directory, result


@pytest.fixture
def finished(reference, tmp_path):
    """A copy of the finished study, to be damaged."""
    shutil.copytree(reference[0], tmp_path / "run")
    return tmp_path / "run"


def test_killed_at_a_dozen_random_moments_the_result_is_identical(reference, tmp_path):
    root = Path(lasfast.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] >= KILLS
    expected, resumed = contents(reference[0]), 0
    for number in range(report["finished"]):
        for name, content in contents(tmp_path / f"killed{number}").items():
            assert content == expected[name], (name, report)
        left = {file.name for file in (tmp_path / f"killed{number}").iterdir()}
        assert left == {*FILES, "log.jsonl"}
        resumed += (tmp_path / f"killed{number}" / "log.jsonl").read_text().count('"event": "resume"')
    # They were killed on their way, not all before it began.
    assert resumed >= KILLS // 2


def test_the_loop(reference):
    directory, result = reference
    lines = [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]
    assert lines[0]["searcher"]["name"] == "nir"
    assert lines[0]["trainer"]["settings"]["warm_up_epochs"] == 2
    assert [line["step"] for line in lines[1:]] == [1, 1, 1, 2, 2, 2, 3, 3, 3][: len(lines) - 1]
    assert [tuple(line["architecture"]) for line in lines[1:]] == [
        m.architecture for m in result.measurements
    ]

    assert sorted(result.winners) == [4, 5, 6]
    parent = (1, 1, 1)
    for depth, step in zip((4, 5, 6), result.steps, strict=True):
        best = max(step, key=lambda m: m.top1)
        assert result.winners[depth].measurement == best
        assert {sum(m.architecture) for m in step} == {depth}
        assert all(sum(a - b for a, b in zip(m.architecture, parent, strict=True)) == 1 for m in step)
        parent = best.architecture
    # The one-standard-error rule, over all depths.
    highest = max(one.top1 for one in result.candidates)
    error = math.sqrt(highest * (1 - highest) / result.best.measurement.images)
    near = [one for one in result.candidates if one.top1 >= highest - error]
    assert result.highest.top1 == highest
    assert result.best in near
    assert result.best.flops == min(one.flops for one in near)


def test_the_result_says_accuracy_and_costs(reference):
    directory, result = reference
    best = result.best
    supernet = ResidualNet((3, 3, 3), num_classes=3)
    assert best.flops == costs.flops(supernet, best.architecture, (8, 8))
    network = supernet.extract(best.architecture)
    assert best.params == sum(parameter.numel() for parameter in network.parameters())
    assert best.params_without_batch_norm == costs.params(supernet, best.architecture, batch_norm=False)
    text = "-".join(map(str, best.architecture))
    assert str(best) == (
        f"{text}  top-1 {format_top1(best.measurement)}  {best.flops / 1e6:.1f} MFLOPs  "
        f"{format_params(best.params)} params"
    )
    saved = json.loads((directory / "result.json").read_text())
    assert saved == json.loads(json.dumps(result.to_json()))
    assert saved["best"]["text"] == text
    assert saved["winners"]["6"] == json.loads(json.dumps(result.winners[6].to_json()))
    assert saved["study"]["trainer"]["settings"]["batch_size"] == 16


def test_nothing_depends_on_the_clock(reference, tmp_path):
    tiny_study(tmp_path / "again", checkpoint_seconds=0.1).run()
    assert contents(tmp_path / "again") == contents(reference[0])


def test_the_log_has_times(reference):
    events = [json.loads(line) for line in (reference[0] / "log.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events][:3] == ["start", "epoch", "epoch"]
    assert events[-1]["event"] == "finish"
    assert all(event["time"] > 1e9 for event in events)
    assert sum(event["event"] == "evaluation" for event in events) == 3


def test_a_finished_study_is_read_again_weights_included(reference, finished):
    study = tiny_study(finished, weights=5)
    trained = []
    study.callbacks = (_Watch(on_progress=trained.append),)
    result = study.run(resume=True)
    assert result == reference[1]
    assert not trained
    assert contents(finished) == contents(reference[0])
    last = result.winners[6]  # measured with the weights of the end
    assert study.evaluator([last.architecture]) == [last.measurement]


class _Watch(Callback):
    def __init__(self, **methods):
        self.__dict__.update(methods)


def test_callbacks(tmp_path):
    seen = []
    watch = _Watch(
        on_start=lambda study: seen.append(("start", study.directory)),
        on_progress=lambda progress: seen.append(("progress", progress.step)),
        on_step=lambda step, measurements: seen.append(("step", step, len(measurements))),
        on_finish=lambda result: seen.append(("finish", result.best.text)),
    )
    result = tiny_study(None, depth=4, callbacks=[watch]).run()
    assert seen == [
        ("start", None),
        *[("progress", 0)] * 6,
        *[("progress", 1)] * 6,
        ("step", 1, 3),
        ("finish", result.best.text),
    ]


def test_without_trainer_and_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = tiny_study(None, train=False)
    result = study.run()
    assert sorted(result.winners) == [4, 5, 6]
    # What a search of fixed weights finds is what measuring the same candidates at once gives.
    assert study.evaluator([m.architecture for m in result.measurements]) == result.measurements
    assert not list(tmp_path.iterdir())


def test_without_trainer_a_study_resumes(tmp_path):
    result = tiny_study(tmp_path / "whole", train=False).run()
    study = tiny_study(tmp_path / "cut", train=False, callbacks=[_Watch(on_step=_stop_after(2))])
    with pytest.raises(ZeroDivisionError):
        study.run()
    assert tiny_study(tmp_path / "cut", train=False).run(resume=True) == result
    for name in ("journal.jsonl", "result.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "cut" / "checkpoint.safetensors").exists()


def test_a_kill_between_journal_and_checkpoint(reference, tmp_path):
    """The one moment that random kills seldom hit: measured and written, but no checkpoint of it yet."""
    study = tiny_study(tmp_path / "run", checkpoint_seconds=0)
    save = study._checkpoint
    study._checkpoint = lambda: _fail() if study._here()[1] == len(reference[1].measurements) else save()
    with pytest.raises(ZeroDivisionError):
        study.run()
    tiny_study(tmp_path / "run").run(resume=True)
    assert contents(tmp_path / "run") == contents(reference[0])


def _fail():
    raise ZeroDivisionError


def _stop_after(last):
    def stop(step, measurements):
        if step == last:
            raise ZeroDivisionError

    return stop


def test_random_search_with_uniform_paths(tmp_path):
    def build(directory):
        study = tiny_study(directory, searcher=lambda space: Random(space, samples=8, depth=range(4, 7)))
        study.trainer.paths = "uniform"
        return study

    result = build(tmp_path / "one").run()
    assert [len(step) for step in result.steps] == [8]
    assert result.highest.top1 == max(m.top1 for m in result.measurements)
    assert result.best.text in str(result)
    assert str(result).count("Measurement(") == 1 + len(result.winners)  # not all that were measured
    assert "correct=" not in str(result)  # bytes that nobody reads
    with pytest.raises(KeyboardInterrupt):
        _interrupted(build(tmp_path / "two"), batch=8)
    build(tmp_path / "two").run(resume=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def _interrupted(study, batch):
    """Press Ctrl-C while a batch is trained."""
    trained = []

    def press(progress):
        trained.append(progress)
        if len(trained) == batch:
            os.kill(os.getpid(), signal.SIGINT)

    study.callbacks = (_Watch(on_progress=press),)
    study.run()


def test_ctrl_c_leaves_a_study_that_resumes(reference, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    study = tiny_study(tmp_path / "run")
    with pytest.raises(
        KeyboardInterrupt, match=r"stopped in step 1, after batch 2 of 6; .*run holds everything"
    ):
        _interrupted(study, batch=8)
    assert signal.getsignal(signal.SIGINT) is handler
    assert study.trainer.position == (1, 2)
    # Also the same study object goes on, as in a notebook.
    study.callbacks = ()
    assert study.run(resume=True) == reference[1]
    assert contents(tmp_path / "run") == contents(reference[0])


def test_resuming_where_nothing_is_starts(reference, tmp_path):
    assert tiny_study(tmp_path / "new" / "run").run(resume=True) == reference[1]


def test_a_study_is_not_overwritten(finished):
    before = contents(finished)
    with pytest.raises(FileExistsError, match=r"run holds a study already; resume it \(resume=True"):
        tiny_study(finished).run()
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"settings": SETTINGS.replace(learning_rate=0.2)},
            r"trainer\.settings\.learning_rate is 0\.1 there and 0\.2",
        ),
        ({"depth": 5}, r"searcher\.depth is 6 there and 5 here"),
        ({"train": False}, r"trainer"),
    ],
    ids=["learning rate", "depth", "no trainer"],
)
def test_other_settings_are_named(finished, options, text):
    before = contents(finished)
    with pytest.raises(JournalError, match=r"journal\.jsonl belongs to a study with other settings.*" + text):
        tiny_study(finished, **options).run(resume=True)
    assert contents(finished) == before


def test_a_cut_journal_is_damage(finished):
    path = finished / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(JournalError, match=r"journal\.jsonl is damaged at line \d+"):
        tiny_study(finished).run(resume=True)


def test_a_flipped_byte_in_the_journal_is_damage(finished):
    path = finished / "journal.jsonl"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"journal\.jsonl is damaged at line \d+"):
        tiny_study(finished).run(resume=True)


def test_a_line_cut_by_a_kill_is_measured_again(reference, finished):
    """The weights of the beginning, and a journal that ends in half a line: everything is trained again."""
    (finished / "checkpoint.safetensors").unlink()
    path = finished / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert tiny_study(finished).run(resume=True) == reference[1]
    assert contents(finished) == contents(reference[0])


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_named_and_can_be_done_without(reference, finished, damage):
    path = finished / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[-1000:]
    content[len(content) // 2] ^= damage == "flipped"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.safetensors is damaged: .*delete it, and resuming trains"
    ):
        tiny_study(finished).run(resume=True)
    # As the text says:
    path.unlink()
    tiny_study(finished).run(resume=True)
    assert contents(finished) == contents(reference[0])


def test_without_checkpoint_the_initial_weights_have_to_be_the_same(finished):
    (finished / "checkpoint.safetensors").unlink()
    with pytest.raises(JournalError, match="initial_weights is"):
        tiny_study(finished, weights=1).run(resume=True)


def test_a_checkpoint_of_another_study_is_named(finished, tmp_path):
    tiny_study(tmp_path / "other", settings=SETTINGS.replace(seed=1)).run()
    shutil.copy(tmp_path / "other" / "checkpoint.safetensors", finished)
    with pytest.raises(CheckpointError, match=r"is of another study than .*journal\.jsonl"):
        tiny_study(finished).run(resume=True)


def test_a_missing_journal_is_named(finished):
    (finished / "journal.jsonl").unlink()
    for resume in (False, True):
        with pytest.raises(
            JournalError, match=r"journal\.jsonl is missing, but .*checkpoint\.safetensors is of"
        ):
            tiny_study(finished).run(resume=resume)


def test_one_study_runs_in_one_process(finished):
    held = lasfast.measurements.journal.Journal.open(finished / "journal.jsonl")
    with held, pytest.raises(JournalError, match="in use by another process"):
        tiny_study(finished).run(resume=True)


def test_half_a_line_in_the_log_is_ended(finished):
    log = finished / "log.jsonl"
    log.write_bytes(log.read_bytes() + b'{"event": "ha')
    tiny_study(finished).run(resume=True)
    assert log.read_text().splitlines()[-3] == '{"event": "ha'
    assert json.loads(log.read_text().splitlines()[-2])["event"] == "resume"


def test_arguments_that_do_not_fit_are_named(tmp_path):
    study, other = tiny_study(tmp_path / "run"), tiny_study(None)
    with pytest.raises(ValueError, match="must have the same supernet"):
        Study(study.searcher, study.evaluator, trainer=other.trainer)
    with pytest.raises(ValueError, match=r"asks for \(2, 1\), which is not in the supernet's space"):
        Study(NIR(lasfast.spaces.LayerAssignmentSpace(2, 3), depth=4), study.evaluator)
    with pytest.raises(ValueError, match="checkpoint_seconds must be 0 or more, got -1"):
        Study(study.searcher, study.evaluator, checkpoint_seconds=-1)
    with pytest.raises(ValueError, match="no directory to resume from"):
        other.run(resume=True)
    study.searcher.tell((2, 1, 1), 0.5)
    with pytest.raises(ValueError, match="was told results before"):
        study.run()
    list(other.trainer.train(0))
    with pytest.raises(ValueError, match="trainer has trained already, to batch 6 of step 0"):
        other.run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    kill_at_random(sys.argv[1], seed=1)


def test_a_finished_study_goes_on_to_more_depth_as_if_it_had_been_asked_for_it(reference, tmp_path):
    tiny_study(tmp_path, depth=5).run()
    tiny_study(tmp_path, depth=6).run(resume=True)
    assert contents(tmp_path) == contents(reference[0])
    with pytest.raises(JournalError, match=r"searcher\.depth is 6 there and 5 here"):
        tiny_study(tmp_path, depth=5).run(resume=True)
    with pytest.raises(JournalError, match=r"searcher\.beam is 1 there and 2 here"):
        tiny_study(tmp_path, searcher=lambda space: NIR(space, depth=7, beam=2)).run(resume=True)
    assert contents(tmp_path) == contents(reference[0])


def test_a_finished_study_goes_on_with_a_larger_budget(tmp_path):
    def study(directory, evaluations):
        return tiny_study(directory, train=False, evaluations=evaluations)

    study(tmp_path / "at once", 5).run()
    for evaluations in (2, 3, 5):
        study(tmp_path / "later", evaluations).run(resume=True)
    for name in ("journal.jsonl", "result.json"):
        assert (tmp_path / "later" / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()
    with pytest.raises(JournalError, match=r"budget\.evaluations is 5 there and 3 here"):
        study(tmp_path / "later", 3).run(resume=True)
