"""Trained once, searched many times: `--weights RUN`, and what searches do with their best few at the end."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from lasfast import cli
from lasfast.measurements.journal import Journal
from lasfast.spaces.names import short_name
from lasfast.study.architecture_table import load_table
from lasfast.train import checkpoint

FEW = ["--limit", 100, "--validation", 100, "--calibration", 60, "--seed", 3]
SPACE = ["--supernet", "mobilenet-60m", "--width", 0.25, "--squeeze-excite", "--activation", "swish"]
THREADS = ["--threads", 1]


def start(directory, *arguments):
    """Run a search outside of any test's fixtures, without exporting its network."""
    with pytest.MonkeyPatch.context() as patch:
        words = ["lasfast", "search", *arguments, *THREADS, "-o", directory]
        patch.setattr("sys.argv", list(map(str, words)))
        patch.setattr("lasfast.deploy.save", lambda network, card, path, images: path.touch())
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished search of choices."""
    directory = tmp_path_factory.mktemp("runs") / "trained"
    arguments = [
        *SPACE,
        *FEW,
        "--supernet-epochs",
        1,
        "--samples",
        4,
        "--baselines",
        0,
        "--operators",
        "torch",
    ]
    return start(directory, "random", *arguments)


@pytest.fixture(scope="module")
def other_images(tmp_path_factory):
    """A folder of images of the shape of the digits."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label in range(10):
        (folder / str(label)).mkdir()
        for number in range(30):
            image = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
            image.save(folder / str(label) / f"{number}.png")
    return folder


def measured(directory):
    return {one.architecture: one.top1 for _, one in Journal.read(directory / "journal.jsonl")[1]}


def test_a_trained_supernet_is_searched_again(lasfast, without_exports, trained, tmp_path) -> None:
    """With other searchers, seeds and bounds, by the same weights on the same images."""
    without_exports()
    first = json.loads((trained / "result.json").read_text())["best"]
    bounded = ["--weights", trained, "--constraint", "flops<=600k", "--baselines", 0, *THREADS]
    evolution = ["search", "evolution", *bounded, "--population", 4, "--generations", 1, "--top", 2]
    status, out, err = lasfast(*evolution, "-o", tmp_path / "evolution")
    assert status == 0, err
    assert "supernet  epoch" not in out
    assert f"weights of {trained} as of step 0\n" in out
    assert f"evolution search of the supernet of {trained} within flops<=600000 in" in " ".join(out.split())
    config = json.loads((tmp_path / "evolution" / "config.json").read_text())
    assert (config["supernet"], config["width"], config["limit"], config["squeeze_excite"]) == (
        "mobilenet-60m",
        0.25,
        100,
        True,
    )
    before = (tmp_path / "evolution" / "journal.jsonl").read_bytes()
    assert lasfast(*evolution, "-o", tmp_path / "evolution", "--resume")[0] == 0
    assert (tmp_path / "evolution" / "journal.jsonl").read_bytes() == before

    # By the supernet of the first, whichever of the two is named; the seed is of the search alone.
    again = ["search", "random", "--weights", tmp_path / "evolution", "--samples", 4, "--seed", 9, *THREADS]
    again += ["--baselines", 0, "--retrain", "--retrain-best", 3, "--retrain-preset", "nir-cifar100"]
    again += ["--standalone-epochs", 1, "--batch-size", 50, "--operators", "torch"]
    status, out, err = lasfast(*again, "-o", tmp_path / "again")
    assert status == 0, err
    assert f"weights of {trained} as of step 0\n" in out
    assert not measured(tmp_path / "again").keys() <= measured(trained).keys()
    check_the_best_few(tmp_path / "again", out)

    # What was measured first is measured alike with the weights of all of them.
    for run in (trained, tmp_path / "again"):
        status, out, err = lasfast("evaluate", first["text"], "--run", run, *THREADS)
        assert status == 0, err
        assert f" {100 * first['top1']:.1f} ±" in out


def check_the_best_few(directory, out) -> None:
    """The best three were trained from scratch, and the one that is best then was exported."""
    table = out.partition("trained from scratch, 1 epochs")[2]
    assert len(re.findall(r" searched *$", table, re.MULTILINE)) == 3
    result = json.loads((directory / "result.json").read_text())
    rows = {row.architecture: row.top1 for row in load_table(directory / "scratch")}
    ranked = sorted(result["steps"][0], key=lambda one: -one["top1"])
    chosen = [result["best"], *(one for one in ranked if one["text"] != result["best"]["text"])][:3]
    best = max(chosen, key=lambda one: rows[tuple(one["architecture"])])
    assert f"best: {short_name(best['text'])}  top-1 {100 * rows[tuple(best['architecture'])]:.1f} ±" in out
    assert f"({100 * best['top1']:.1f} % with inherited weights)" in out
    [network] = directory.glob("*.pt2")
    assert network.stem == short_name(best["text"])
    header = json.loads((directory / "scratch" / "journal.jsonl").read_text().splitlines()[0])
    settings = header["dataset"]["settings"]
    assert (settings["weight_decay"], settings["batch_size"]) == (5e-4, 50)  # the preset's, and the option's


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--width", 0.5], "--width must be that of --weights {trained}, 0.25, got 0.5; leave it out"),
        (["--limit", 120], "--limit must be that of --weights {trained}, 100, got 120; leave it out"),
        (
            ["--supernet-epochs", 3],
            "--supernet-epochs 3 trains a supernet, and that of --weights is trained already; leave it out",
        ),
        (
            ["--standalone"],
            "--standalone trains each candidate, --weights takes a trained supernet: give one",
        ),
        (["--distill-weight", 0.5], "--distill-temperature and --distill-weight are of --distill or"),
        (
            ["--weights", "nowhere"],
            "--weights must be the directory of an earlier search where no --model is",
        ),
        (
            ["--retrain-best", 2],
            "--retrain-best, --retrain-preset and --retrain-random are of --retrain: give",
        ),
        (
            ["--retrain-random", 2],
            "--retrain-best, --retrain-preset and --retrain-random are of --retrain: give",
        ),
        (["--retrain", "--retrain-random", -1], "--retrain-random must be 0 or more, got -1"),
        (["--retrain", "--retrain-best", 0], "--retrain-best must be 1 or more, got 0"),
        (["--retrain", "--retrain-preset", "spos"], "--retrain-preset must be one of 'small', "),
        (["--retrain", "--tune-epochs", 1], "--retrain trains the winner from scratch, --tune-epochs on"),
        (["--data", "imagefolder:{images}"], "got other calibration images: the supernet may have been"),
    ],
)
def test_what_does_not_fit_is_named(lasfast, trained, other_images, tmp_path, arguments, text) -> None:
    arguments = [str(one).format(images=other_images) for one in arguments]
    status, _, err = lasfast("search", "random", "--weights", trained, *arguments, "-o", tmp_path / "run")
    assert status == 2
    assert text.format(trained=trained) in err
    assert not (tmp_path / "run").exists()


def test_weights_that_are_in_training_or_were_changed_are_refused(lasfast, trained, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"activation": "relu"}))
    arguments = ["search", "random", "--weights", run, "-o", tmp_path / "new", *THREADS]
    assert "is of another supernet than the options beside it build" in lasfast(*arguments)[2]
    path = run / "checkpoint.safetensors"
    tensors, metadata = checkpoint.load(path)
    checkpoint.save(path, tensors, metadata | {"journal_entries": 0})
    assert f"--weights {run} is still in training: --resume it first" in lasfast(*arguments)[2]
    path.unlink()
    assert f"--weights {run} has no weights: there is no {path}" in lasfast(*arguments)[2]
    assert not (tmp_path / "new").exists()


def test_a_searcher_of_other_spaces_says_so(lasfast, trained, tmp_path) -> None:
    status, _, err = lasfast("search", "nir", "--weights", trained, "-o", tmp_path / "run", *THREADS)
    assert status == 2
    assert f"--weights {trained} is not for this search: space must be a LayerAssignmentSpace" in err


def test_assignments_are_searched_again(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    quick = ["--depth", 4, "--max-layers", 3, "--limit", 60, "--validation", 60, *THREADS]
    quick += ["--warm-up-epochs", 1, "--epochs-per-step", 1, "--operators", "torch"]
    assert lasfast("search", "nir", *quick, "-o", tmp_path / "nir")[0] == 0
    again = ["--weights", tmp_path / "nir", "--depth", 5, *THREADS]
    status, out, err = lasfast("search", "nir", *again, "-o", tmp_path / "deeper")
    assert status == 0, err
    assert "step 2, depth 5" in out
    assert "epoch 1/1" not in out
    assert "beside" not in out  # the weights were trained for the candidates of another search
    status, _, err = lasfast("search", "nir", *again, "--baselines", 2, "-o", tmp_path / "no")
    assert status == 2
    assert "--baselines 2 is not for weights that were trained for the candidates of a search" in err
    bounded = ["--constraint", "flops<=1.5M", "--population", 3, "--generations", 1, "--top", 2, *THREADS]
    status, out, err = lasfast("search", "evolution", *again[:2], *bounded, "-o", tmp_path / "evolution")
    assert status == 0, err
    result = json.loads((tmp_path / "evolution" / "result.json").read_text())
    assert all(one["flops"] <= 1.5e6 for step in result["steps"] for one in step)
