"""From one command to the next: what a run knows of itself, commands that follow it need not be told."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from examples.own_supernet import GatedNet
from lasfast import cli, costs, data
from lasfast.deploy.formats import load_program
from lasfast.measurements.journal import Journal
from lasfast.study.architecture_table import load_table

THREADS = ["--threads", 1]
NIR = ["search", "nir", "--limit", 100, "--validation", 60, "--calibration", 50, "--batch-size", 50]
NIR += [
    "--warm-up-epochs",
    1,
    "--epochs-per-step",
    1,
    "--supernet",
    "plain",
    "--max-layers",
    "3,3,3",
    *THREADS,
]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search to depth 5, and what it printed."""
    directory = tmp_path_factory.mktemp("runs") / "nir"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lasfast", *map(str, [*NIR, "--depth", 5, "-o", directory, "--test"])])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return directory


def test_the_winner_was_measured_on_the_test_split(searched) -> None:
    (network,) = searched.glob("*.pt2")
    _, card = load_program(network)
    assert card.accuracy["test_images"] == len(data.load("digits").test[1])
    assert 0 < card.accuracy["test_top1"] < 1


def test_every_candidate_is_in_a_csv_file(searched, lasfast, tmp_path) -> None:
    rows = list(csv.DictReader((searched / "candidates.csv").read_text().splitlines()))
    measured = {one.architecture: one for _, one in Journal.read(searched / "journal.jsonl")[1]}
    assert len(rows) == len(measured)
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    tops = [float(row["top1"]) for row in rows]
    assert tops == sorted(tops, reverse=True)
    result = json.loads((searched / "result.json").read_text())
    for row in rows:
        one = measured[tuple(map(int, row["architecture"].split("-")))]
        assert float(row["top1"]) == one.top1
        assert (row["is_best"] == "1") == (row["name"] == result["best"]["text"])
        assert float(row["flops"]) > 0
    lasfast("report", searched, "--csv", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (searched / "candidates.csv").read_bytes()


def test_any_candidate_is_exported_with_the_weights_that_it_inherits(searched, lasfast) -> None:
    result = json.loads((searched / "result.json").read_text())
    other = next(one for one in result["steps"][-1] if one["text"] != result["best"]["text"])
    arguments = ["export", searched, "--to", "torchscript", "--architecture", other["text"], *THREADS]
    status, out, err = lasfast(*arguments)
    assert status == 0, err
    assert f"{other['text']}  top-1 {100 * other['top1']:.1f} ±" in out
    assert (searched / f"{other['text']}.torchscript").exists()
    source = searched / f"{other['text']}.pt2"
    assert load_program(source)[1].weights == "with inherited weights"
    status, _, err = lasfast("export", source, "--to", "torchscript", "--architecture", "best")
    assert status == 2
    assert f"--architecture is of a run's directory, got the file {source}" in err
    for file in (source, source.with_suffix(".torchscript")):
        file.unlink()  # the winner's stays alone


def test_training_takes_images_supernet_and_settings_from_a_run(searched, lasfast, tmp_path) -> None:
    result = json.loads((searched / "result.json").read_text())
    arguments = ["train", "highest", "--run", searched, "--epochs", 1, "--test", *THREADS]
    status, out, err = lasfast(*arguments)
    assert status == 0, err
    name = result["highest"]["text"]
    directory = searched / f"train-{name}"
    assert f"training PlainNet {name} from scratch in {directory}" in out
    assert "train 100, validation 60)" in out
    (row,) = load_table(directory)
    assert row.epochs == 1
    assert load_program(directory / f"{name}.pt2")[1].accuracy["test_images"] > 0
    header = json.loads((directory / "journal.jsonl").read_text().splitlines()[0])
    assert header["dataset"]["settings"]["batch_size"] == 50

    before = (directory / "journal.jsonl").read_bytes()
    status, out, err = lasfast("resume", directory)
    assert status == 0, err
    assert out.startswith(f"lasfast train {name} ")
    assert (directory / "journal.jsonl").read_bytes() == before
    status, _, err = lasfast("train", "1-1-1", "--run", searched, "--supernet", "resnet50")
    assert status == 2
    assert f"--supernet must be that of --run {searched}, plain, got resnet50; leave it out" in err
    status, _, err = lasfast("train", "rank99", "--run", searched, *THREADS)
    assert status == 2
    assert f"'rank99' is not there: {searched} has measured 6 architectures" in err
    assert "ARCHITECTURE must be given, such as 2-4-3; or --run RUN" in lasfast("train")[2]


def test_a_finished_search_goes_on_to_more_depth(searched, lasfast, without_exports, tmp_path) -> None:
    without_exports()
    run, whole = tmp_path / "run", tmp_path / "whole"
    for depth, directory in ((4, run), (5, whole)):
        assert lasfast(*NIR, "--depth", depth, "-o", directory)[0] == 0
    status, _, err = lasfast("resume", run, "--depth", 4)
    assert status == 2
    assert "--depth must be more than the run's, 4, got 4" in err
    status, _, err = lasfast("resume", run, "--depth", 99)
    assert status == 2
    assert "depth must be from 4" in err
    status, _, err = lasfast("resume", run, "--depth", 5)
    assert status == 0, err
    for file in ("journal.jsonl", "checkpoint.safetensors", "result.json"):
        assert (run / file).read_bytes() == (whole / file).read_bytes()
    assert json.loads((run / "config.json").read_text())["depth"] == 5
    assert (
        "--generations 3 is not for a run of lasfast search nir"
        in lasfast("resume", run, "--generations", 3)[2]
    )


def test_a_run_that_was_stopped_leaves_its_best_and_is_resumed(tmp_path) -> None:
    run = tmp_path / "run"
    words = [*NIR, "--depth", 8, "--epochs-per-step", 12, "-o", run]
    command = [sys.executable, "-m", "lasfast", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = run / "log.jsonl"
    while process.poll() is None and not (log.exists() and '"epoch", "step": 2' in log.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    assert re.search(r"best so far: \d-\d-\d  top-1", out)
    assert f"`lasfast resume {run}` goes on" in out
    _, card = load_program(run / "best-so-far.pt2")
    assert card.weights == "with inherited weights, in the middle of their training"
    assert (run / "candidates.csv").read_text().count("\n") >= 4
    assert (run / "search.png").stat().st_size > 0
    assert not (run / "result.json").exists()


def test_an_own_supernet_is_searched_and_its_networks_trained(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    folder = tmp_path / "mine"
    folder.mkdir()
    example = Path(__file__).parents[2] / "examples" / "own_supernet.py"
    choices = "def choices(num_classes, in_channels):\n    from lasfast.supernets import MacroNet\n"
    choices += "    return MacroNet(num_classes, in_channels, stem='cifar', width=0.2)\n"
    (folder / "mynet.py").write_text(f"{example.read_text()}\n\n{choices}")
    before = Path.cwd()
    os.chdir(folder)
    try:
        tiny = ["--limit", 100, "--validation", 60, "--warm-up-epochs", 1, "--epochs", 1, *THREADS]
        alone = ["--limit", 100, "--validation", 60, "--epochs", 1, *THREADS]
        own = ["--supernet", "mynet.py:GatedNet"]
        status, out, err = lasfast("search", "nir", *own, "--depth", 4, *tiny, "-o", "run")
        assert status == 0, err
        assert "GatedNet, at most 4-4 layers" in out
        status, _, err = lasfast("search", "nir", *own, "--stem", "cifar", *tiny, "-o", "no")
        assert "--stem is no argument of --supernet mynet.py:GatedNet; leave it out" in err
        status, _, err = lasfast("search", "nir", "--supernet", "mynet.py:Gate", "-o", "no")
        assert "--supernet mynet.py:Gate must take no other arguments than num_classes, " in err
        assert "missing a required argument: 'channels'" in err
        status, _, err = lasfast("search", "evolution", "--supernet", "mynet.py:torch.zeros", "-o", "no")
        assert "mynet.py has no function 'torch.zeros'" in err
        table = ["dataset", "--depths", "3-4", *own, *alone]
        status, out, err = lasfast(*table, "--max-layers", "2,3", "-o", "table")
        assert status == 0, err
        assert "training 4 assignments of GatedNet from scratch" in out
        rows = {row.architecture: row for row in load_table(folder / "table")}
        assert list(rows) == [(1, 2), (2, 1), (1, 3), (2, 2)]
        assert rows[1, 2].params == costs.params(GatedNet((2, 3), 10, 1), (1, 2))
        status, _, err = lasfast("dataset", "--depths", "3-9", *own, "--max-layers", "2,3", "-o", "no")
        assert "--depths must be from 2 to 5, what LayerAssignmentSpace(" in err
        status, _, err = lasfast("dataset", "--supernet", "mynet.py:choices", *alone, "-o", "no")
        assert (
            "--supernet must be one of layer assignments, whose depths a table has, got mynet.py:choices"
            in err
        )
        status, _, err = lasfast("dataset", "--supernet", "proxyless", "-o", "no")
        assert "'mobilenet-v1', 'resnet50', got 'proxyless'" in err
        assert not (folder / "no").exists()
    finally:
        os.chdir(before)
    # From elsewhere, the run finds its files.
    run = folder / "run"
    status, out, err = lasfast("evaluate", "1-2", "--run", run, *THREADS)
    assert status == 0, err
    assert re.search(r"1-2 +\d+\.\d ±", out)
    status, out, err = lasfast("train", "2-1", "--run", run, "--epochs", 1, *THREADS)
    assert status == 0, err
    assert "training GatedNet 2-1 from scratch" in out


def test_layer_assignments_are_searched_by_any_searcher(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    tiny = ["--limit", 100, "--validation", 60, "--epochs", 1, "--max-layers", "3,3,3", *THREADS]
    for name, more in {
        "evolution": ["--population", 4, "--generations", 1, "--constraint", "flops<=2M"],
        "layernas": ["--evaluations", 6, "--constraint", "flops<=2M"],
    }.items():
        run = tmp_path / name
        status, out, err = lasfast("search", name, "--supernet", "residual", *more, *tiny, "-o", run)
        assert status == 0, err
        result = json.loads((run / "result.json").read_text())
        best, compared = result["best"], result["comparison"]
        assert (compared["weights"], compared["cost"]) == ("inherited", "flops")
        assert re.fullmatch(r"[123]-[123]-[123]", best["text"])
        assert best["flops"] <= 2e6
        status, out, err = lasfast("evaluate", "best", "--run", run, *THREADS)
        assert status == 0, err
        assert re.search(rf"{best['text']} +{100 * best['top1']:.1f} ±", out)
    before = Journal.read(tmp_path / "evolution" / "journal.jsonl")[1]
    status, out, err = lasfast("resume", tmp_path / "evolution", "--generations", 2)
    assert status == 0, err
    after = Journal.read(tmp_path / "evolution" / "journal.jsonl")[1]
    assert after[: len(before)] == before
    assert len(after) > len(before)


def test_a_missing_test_split_is_found_before_the_search(lasfast, tmp_path) -> None:
    for label in range(2):
        folder = tmp_path / "photos" / "train" / str(label)
        folder.mkdir(parents=True)
        for number in range(20):
            Image.new("L", (8, 8), 40 * label + number).save(folder / f"{number}.png")
    arguments = ["search", "nir", "--data", f"imagefolder:{tmp_path / 'photos'}", "--test", *THREADS]
    status, _, err = lasfast(*arguments, "-o", tmp_path / "run")
    assert status == 2
    assert "photos has no test images: expected class folders in" in err
    assert not (tmp_path / "run").exists()
    status, _, err = lasfast("search", "nir", "--data", tmp_path / "photos")
    assert status == 2
    assert "error: --data must be one of digits, " in err
    assert f"for the images in this folder, write imagefolder:{tmp_path / 'photos'}" in err


def test_a_run_finds_its_images_from_any_folder(lasfast, without_exports, tmp_path, monkeypatch) -> None:
    without_exports()
    lines = ["file,label"]
    (tmp_path / "photos").mkdir()
    for number in range(60):
        generator = torch.Generator().manual_seed(number)
        pixels = torch.randint(0, 100, (8, 8), generator=generator) + 100 * (number % 2)
        Image.fromarray(pixels.to(torch.uint8).numpy()).save(tmp_path / "photos" / f"{number}.png")
        lines.append(f"photos/{number}.png,{'ab'[number % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    arguments = ["search", "nir", "--data", "csv:labels.csv", "--depth", 4, "--warm-up-epochs", 1]
    status, _, err = lasfast(*arguments, "--epochs", 1, *THREADS, "-o", "run")
    assert status == 0, err
    monkeypatch.chdir("/")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"] == f"csv:{tmp_path / 'labels.csv'}"
    status, out, err = lasfast("evaluate", "1-1-1", "--run", tmp_path / "run", *THREADS)
    assert status == 0, err
    status, out, err = lasfast("resume", tmp_path / "run", "-q")
    assert status == 0, err
    assert out.startswith("best: ")
