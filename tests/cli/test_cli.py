"""The command line as a person uses it, on the digits, with next to no training."""

import html
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from lasfast import __version__, cli, data, deploy
from lasfast.cli.display import (
    Meter,
    WorkClock,
    format_seconds,
    make_console,
    watch,
)
from lasfast.cli.setup import say_if_slow
from lasfast.cli.terminal import IN_ASCII, print_anything
from lasfast.study.architecture_table import load_table
from lasfast.train import checkpoint
from lasfast.train.progress import Progress

ALONE = ["--limit", "200", "--standalone-epochs", "1", "--threads", "1"]
QUICK = ["--warm-up-epochs", "1", "--epochs-per-step", "1", *ALONE]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished search, as `lasfast search nir --retrain` leaves it, and what it printed."""
    directory = tmp_path_factory.mktemp("runs") / "nir"
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["search", "nir", "--depth", "5", "--retrain", "-o", str(directory), *QUICK]
        patch.setattr("sys.argv", ["lasfast", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return directory


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["search"],
        *(
            [name]
            for name in (
                "evaluate",
                "train",
                "export",
                "predict",
                "dataset",
                "report",
                "table",
                "verify",
                "info",
                "check",
            )
        ),
        ["search", "nir"],
        ["search", "itnas"],
        ["search", "random"],
        ["search", "layernas"],
        ["latency", "build"],
        ["latency", "check"],
    ],
)
def test_every_help_page_explains_itself(lasfast, arguments: list[str]) -> None:
    status, out, _ = lasfast(*arguments, "--help")
    assert status == 0
    assert "//" not in out  # what is in angle brackets is not shown
    assert not re.search(r"--\S*…", out)  # names of options are whole
    if (len(arguments) == 1 and arguments != ["search"]) or len(arguments) == 2:
        examples = out.partition("Examples")[2].partition("Options")[0]
        assert f"lasfast {' '.join(arguments)}" in examples


def test_a_search_leaves_all_it_says(searched, lasfast) -> None:
    names = {
        "journal.jsonl",
        "result.json",
        "search.png",
        "checkpoint.safetensors",
        "log.jsonl",
        "config.json",
    }
    assert names <= {path.name for path in searched.iterdir()}
    result = json.loads((searched / "result.json").read_text())
    assert [int(depth) for depth in result["winners"]] == [4, 5]
    best = result["best"]["text"]
    network = torch.export.load(searched / f"{best}.pt2").module()
    assert network(torch.zeros(3, 1, 8, 8, dtype=torch.uint8)).shape == (3, 10)
    assert (searched / "search.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_search_is_shown_again(searched, lasfast) -> None:
    before = (searched / "journal.jsonl").read_bytes()
    arguments = ["search", "nir", "--depth", 5, "--retrain", "-o", searched, *QUICK]
    status, out, err = lasfast(*arguments)
    assert status == 2
    assert f"error: {searched} holds a study already; resume it" in err
    status, out, err = lasfast(*arguments, "--resume")
    assert status == 0, err
    assert "images/s" not in out  # nothing was trained again
    for text in ("step 1, depth 4: 3 candidates", "the winner of each depth", "searched", "written to"):
        assert text in out
    assert (searched / "journal.jsonl").read_bytes() == before


def test_the_end_says_what_the_comparison_shows(searched, lasfast) -> None:
    result = json.loads((searched / "result.json").read_text())
    inherited, scratch = result["comparison"], result["from_scratch"]
    assert (inherited["weights"], inherited["cost"]) == ("inherited, trained for the candidates", "depth")
    assert [one["kind"] for one in inherited["baselines"]] == ["whole network", "even", "random"]
    assert [one["kind"] for one in scratch["baselines"]] == ["even"]
    assert inherited["winner"] == scratch["winner"] == result["best"]["text"]
    status, out, err = lasfast("report", searched, "--html")
    assert status == 0, err
    page = html.unescape((searched / "report.html").read_text())
    for text in (" ".join(out.split()), " ".join(page.split())):
        assert "The supernet was trained for the candidates of the search and the whole network." in text
        assert "Each was trained once." in text
        assert "What would help: `--retrain --retrain-random" in text


def test_more_random_ones_are_trained_later(searched, lasfast, tmp_path) -> None:
    """What was trained from scratch before is not trained again, and the best stays."""
    run = tmp_path / "run"
    shutil.copytree(searched, run)
    before = json.loads((run / "result.json").read_text())
    arguments = ["search", "nir", "--depth", 5, "--retrain", "-o", run, *QUICK, "--resume"]
    status, out, err = lasfast(*arguments, "--retrain-random", 2)
    assert status == 0, err
    after = json.loads((run / "result.json").read_text())
    kinds = {one["kind"]: one["architectures"] for one in after["from_scratch"]["baselines"]}
    assert len(kinds["random"]) == 2
    assert set(kinds["random"]) <= set(after["comparison"]["baselines"][-1]["architectures"])
    table = {row.architecture for row in load_table(searched / "scratch")}
    drawn = {tuple(map(int, one.split("-"))) for one in kinds["random"]}
    trained = set(re.findall(r"^(\S+) \(\d/\d\)  epoch", out, re.MULTILINE))
    assert trained == {"-".join(map(str, one)) for one in drawn - table}
    assert "random ones, as good as" in out
    del after["from_scratch"], before["from_scratch"]
    assert after == before
    assert lasfast(*arguments, "--retrain-random", 2)[0] == 0  # the same bytes


def test_other_settings_do_not_resume(searched, lasfast) -> None:
    status, _, err = lasfast("search", "nir", "--depth", 5, "-o", searched, *QUICK, "--seed", 1, "--resume")
    assert status == 2
    assert "seed" in err


def test_plain_lines_say_where_training_is(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    status, out, _ = lasfast("search", "nir", "--depth", 4, "-o", tmp_path / "run", *QUICK)
    assert status == 0
    line = r"epoch 1/1  loss \d+\.\d+  accuracy +\d+\.\d %  \d+ images/s  (\d+:\d\d|-:--) left"
    assert re.search("warm-up  " + line, out)
    assert re.search("step 1/1  " + line, out)
    assert "\x1b" not in out


def test_updates_are_joint_where_asked(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    status, _, err = lasfast("search", "nir", "--depth", 4, "--update", "joint", "-o", tmp_path, "-q", *QUICK)
    assert (status, err) == (0, "")
    header = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    assert header["trainer"]["update"] == "joint"


def test_quiet_prints_the_result_only(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    status, out, err = lasfast("search", "random", "--depth", 5, "--samples", 2, "-q", "-o", tmp_path, *QUICK)
    assert (status, err) == (0, "")
    costs = r"1\.3 MFLOPs  \d+\.\d+ [kM] params"
    assert re.fullmatch(rf"best: \d-\d-\d  top-1 \d+\.\d ± \d\.\d %  {costs}, with inherited weights\n", out)


def test_evaluate_measures_with_the_weights_of_the_run(searched, lasfast) -> None:
    result = json.loads((searched / "result.json").read_text())
    last = result["steps"][-1]
    texts = ["-".join(map(str, one["architecture"])) for one in last]
    status, out, err = lasfast("evaluate", *texts, "--run", searched, "--threads", 1)
    assert status == 0, err
    for text, one in zip(texts, last, strict=True):
        assert re.search(rf"{text} +{100 * one['top1']:.1f} ±", out)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files of a few validation images, in the folders of their classes."""
    folder = tmp_path_factory.mktemp("digits")
    for number, (image, label) in enumerate(zip(*data.load("digits").raw_validation, strict=True)):
        if number < 60:
            (folder / str(int(label))).mkdir(exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / str(int(label)) / f"{number}.png")
    return folder


def test_an_exported_network_predicts_what_the_searched_one_did(
    searched, pictures, lasfast, tmp_path
) -> None:
    status, out, err = lasfast("export", searched, "--to", "torchscript", "--threads", 1)
    assert status == 0, err
    (source,) = searched.glob("*.pt2")
    path = source.with_suffix(".torchscript")
    assert re.fullmatch(
        rf"{path}: 0\.\d\d MB, \d+\.\d\d ms for one image \(1 thread\); logits differ from PyTorch's by "
        r"\de-\d\d of their norm, on 32 images\n",
        out,
    )
    arguments = ["--csv", tmp_path / "all.csv", "--confusion", tmp_path / "confusion.csv", "--threads", 1]
    status, out, err = lasfast("predict", path, pictures, *arguments)
    assert status == 0, err
    images, labels = data.load("digits").raw_validation
    found = torch.export.load(source).module()(images[:60]).argmax(1)
    right = int((found == labels[:60]).sum())
    assert re.search(rf"top-1 {100 * right / 60:.1f} ± \d\.\d %, 60 images\n$", out)
    assert "confusion matrix" in out
    lines = (tmp_path / "all.csv").read_text().splitlines()
    assert lines[0] == "file,label,class_1,probability_1,class_2,probability_2,class_3,probability_3"
    for line in lines[1:]:
        file, label, first, *_ = line.split(",")
        number = int(Path(file).stem)
        assert (label, first) == (str(int(labels[number])), str(int(found[number])))
    counts = [line.split(",") for line in (tmp_path / "confusion.csv").read_text().splitlines()]
    assert counts[0] == ["class", *map(str, range(10))]
    assert sum(int(row[label + 1]) for label, row in enumerate(counts[1:])) == right


def test_images_without_labels_are_predicted_and_broken_ones_named(
    searched, pictures, lasfast, tmp_path
) -> None:
    (source,) = searched.glob("*.pt2")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    image = next(pictures.glob("0/*.png"))
    status, out, err = lasfast("predict", source, image, tmp_path / "broken.png", "--top", 2, "--threads", 1)
    assert status == 1
    assert re.fullmatch(rf"{image}  \d \d+\.\d %  \d \d+\.\d %\n", out)
    assert err == f"{tmp_path / 'broken.png'}: not an image, or broken\n"
    status, _, err = lasfast("predict", source, image, "--confusion", tmp_path / "confusion.csv")
    assert status == 2
    assert "--confusion needs images in folders that have the names of classes" in err


def test_export_says_what_it_lacks(searched, lasfast, tmp_path) -> None:
    (source,) = searched.glob("*.pt2")
    copied = shutil.copy(source, tmp_path / "copied.pt2")
    status, _, err = lasfast("export", copied, "--to", "torchscript")
    assert status == 2
    assert f"--images must be given: there is no run beside {copied}" in err
    status, _, err = lasfast("export", copied, "--to", "torchscript", "-o", tmp_path / "network.onnx")
    assert status == 2
    assert "--output must end in .torchscript for --to torchscript" in err
    shutil.copy(source, tmp_path / "again.pt2")
    status, _, err = lasfast("export", tmp_path, "--to", "torchscript")
    assert status == 2
    assert f"{tmp_path} holds 2 networks; name one of {tmp_path / 'again.pt2'}, {copied}" in err


def test_evaluate_says_where_no_weights_are(searched, lasfast, tmp_path) -> None:
    (tmp_path / "config.json").write_bytes((searched / "config.json").read_bytes())
    status, _, err = lasfast("evaluate", "1-1-1", "--run", tmp_path, "--threads", 1)
    assert status == 2
    assert f"{tmp_path} has no weights: there is no checkpoint.safetensors" in err


def test_train_exports_and_tests(lasfast, tmp_path) -> None:
    arguments = ["train", "1-1-1", "-o", tmp_path / "run", *ALONE]
    status, out, err = lasfast(*arguments, "--test")
    assert status == 0, err
    assert re.search(r"test: top-1 \d+\.\d ± \d\.\d %, 355 images", out)
    model = deploy.load(tmp_path / "run" / "1-1-1.pt2")
    assert model.card.weights == "trained from scratch for 1 epoch"
    images, labels = data.load("digits").raw_validation
    right = int((model(images).argmax(1) == labels).sum())
    assert abs(right / len(labels) - model.card.accuracy["top1"]) < 0.01  # rounding may decide an image
    status, _, err = lasfast(*arguments)
    assert status == 2
    assert "--resume" in err or "resume" in err


def test_dataset_trains_every_assignment_and_compares(searched, lasfast, tmp_path) -> None:
    status, out, err = lasfast(
        "dataset", "--depths", "3-4", "-o", tmp_path / "table", "--relation", "--compare", searched, *ALONE
    )
    assert status == 0, err
    table = (tmp_path / "table" / "table.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1:]] == ["1-1-1", "1-1-2", "1-2-1", "2-1-1"]
    assert "is an heir of the best of the depth before in 1 of 1 depths, by chance in 1.0 (p = 1)" in out
    assert (tmp_path / "table" / "relation.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"depth 4: 3 assignments, accuracy gap \(Eq\. 7\) \d+\.\d points", out)
    status, _, err = lasfast("report", tmp_path / "table")
    assert status == 2
    assert f"no search; their table is {tmp_path / 'table' / 'table.csv'}" in err


def test_a_table_may_be_of_the_test_split(lasfast, tmp_path) -> None:
    arguments = ["dataset", "--depths", 3, "--test", "-o", tmp_path, *ALONE]
    status, out, err = lasfast(*arguments)
    assert status == 0, err
    assert "1 networks trained from scratch, on the test split" in out
    [row] = load_table(tmp_path)
    right = 355 * row.top1
    assert right == pytest.approx(round(right))
    assert 360 * row.top1 != pytest.approx(round(360 * row.top1))  # there are 360 validation images
    status, _, err = lasfast(*(one for one in arguments if one != "--test"), "--resume")
    assert status == 2
    assert "validation" in err


def test_report_draws_a_running_study_too(searched, lasfast, tmp_path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(
        b"".join((searched / "journal.jsonl").read_bytes().splitlines(keepends=True)[:4])
    )
    status, out, err = lasfast("report", tmp_path, "--candidates", "--plot", tmp_path / "plot.svg")
    assert status == 0, err
    assert "(not finished)" in out
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_a_report_is_a_page_that_says_how_to_do_it_again(searched, lasfast) -> None:
    status, out, err = lasfast("report", searched, "--html")
    assert status == 0, err
    assert f"page: {searched / 'report.html'}" in out
    page = (searched / "report.html").read_text(encoding="utf-8")
    [command] = re.findall(r"<pre>(.*)</pre>", page)
    words = shlex.split(html.unescape(command))
    assert words[:3] == ["lasfast", "search", "nir"]
    given = dict(itertools.pairwise(words))
    assert (given["--depth"], given["--warm-up-epochs"], given["--threads"]) == ("5", "1", "1")
    assert "--retrain" in words
    assert "--beam" not in words  # it is at its default
    for text in (
        "10 classes, 1x8x8",
        "trained from scratch for 1 epoch: top-1",
        "<td>classifier</td>",
        "</svg>",
    ):
        assert text in page


def test_info_says_what_is_here(lasfast) -> None:
    status, out, _ = lasfast("info")
    assert status == 0
    for name in ("lasfast", "torch", "torchvision", "CPU kernels", "CUDA kernels", "GPUs"):
        assert re.search(rf"^ *{name} ", out, re.MULTILINE)
    facts = json.loads(lasfast("info", "--json")[1])
    assert facts["torch"] == torch.__version__
    assert facts["native"]["isa"]["compiled"]


def test_info_says_how_a_plan_would_run(lasfast) -> None:
    status, out, err = lasfast("info", "--prefix-tree", "2-1-1,1-2-1,1-1-2")
    assert status == 0, err
    assert re.search(r"layers +18 in all, 13 to run", out)
    assert re.search(r"sharing +1\.38x", out)
    assert re.search(r"calibration +\d+ native operations", out)
    assert re.search(r"run by PyTorch +no layer", out)


def test_info_says_how_a_plan_of_choices_would_run(lasfast) -> None:
    blocks = ["3x3"] * 20
    plan = ",".join("-".join([*blocks[:19], last]) for last in ("3x3", "xception"))
    status, out, err = lasfast("info", "--plan", plan, "--supernet", "shufflenet-v2", "--width", 0.25)
    assert status == 0, err
    assert re.search(r"prefix tree +2 architectures of ShuffleNetV2, 32x32", out)
    assert re.search(r"run by PyTorch +no layer", out)


def test_info_says_why_torchvision_does_not_import(lasfast, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    status, out, _ = lasfast("info")
    assert status == 0
    assert "which does not import with torch" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "nir", "--supernet", "vgg"], "--supernet must be one of 'residual', 'plain'"),
        (
            ["search", "nir", "--max-layers", "3,3"],
            "--max-layers must be one positive number for each of the 3",
        ),
        (["search", "nir", "--update", "all"], "--update must be one of 'sequential', 'joint', got 'all'"),
        (["search", "nir", "--depth", "40", "--max-layers", "5"], "--depth must be from 4"),
        (["search", "nir", "--preset", "large"], "--preset must be one of small"),
        (["search", "nir", "--data", "mnist2"], "--data must be one of digits"),
        (["search", "nir", "--data", "imagefolder:/nowhere"], "/nowhere"),
        (["search", "nir", "--threads", "0"], "--threads must be 1 or more"),
        (["search", "nir", "--device", "tpu"], "--device must be one of 'auto', 'cpu', 'cuda'"),
        (["search", "nir", "--supernet", "plain", "--stem", "cifar"], "the plain network has none"),
        (["search", "random", "--samples", "0"], "samples"),
        (["dataset", "--depths", "6-4"], "--depths must be a depth or a range"),
        (["dataset", "--depths", "x"], "--depths must be a depth or a range"),
        (["dataset", "--shard", "3/2"], "--shard must be a part and how many there are, as 3/16, got '3/2'"),
        (["dataset", "--shard", "4/4", *ALONE], "--shard 4/4: there are fewer networks than parts"),
        (["dataset", "--shard", "1/2", "--compare", "run"], "--compare is of a whole table"),
        (["dataset", "--shard", "1/2", "--relation"], "--relation is of a whole table"),
        (["dataset", "--depths", "4", "--relation"], "--relation needs two depths or more, as --depths 4-6"),
        (["dataset", "--test", "--standalone-keep-best"], "--test must be without --standalone-keep-best"),
        (["train", "1-1-1", "--fast-decode"], "--fast-decode must be False for digits, whose images are"),
        (["train", "1-1-1", "--batch-norm", "none"], "--batch-norm must be one of 'global', 'local'"),
        (["train", "2-2"], "ARCHITECTURE must be one positive number for each of the 3 groups"),
        (["evaluate", "1-1-1", "--run", "/nowhere"], "/nowhere holds no run"),
        (["info", "--plan", "2-2"], "--prefix-tree must be one positive number for each of the 3 groups"),
        (["report", "/nowhere"], "/nowhere holds no study"),
        (["export", "/nowhere", "--to", "h5"], "--to must be one of 'pt2', 'onnx', 'torchscript'"),
        (["export", "/nowhere", "--to", "torchscript"], "/nowhere: there is no such run or file"),
        (["export", ".", "--to", "torchscript"], "holds no network: there is no .pt2 file"),
        (["predict", "/nowhere.pt2", "a.png"], "/nowhere.pt2: there is no such file"),
        (["predict", "/nowhere.pt2", "a.png", "--top", "0"], "--top must be 1 or more, got 0"),
        (
            ["latency", "build", "--table", "/nowhere/t.json", "--batch", "0"],
            "--batch must be a positive int",
        ),
        (["latency", "build", "--name", "a b"], "--name must be one such as 'cpu'"),
        (["latency", "build", "--image-size", "64x"], "--image-size must be a number of pixels, or HEIGHTx"),
        (["latency", "check", "--table", "/nowhere/t.json"], "/nowhere/t.json: no such table"),
        (
            ["search", "nir", "--latency-table", "/nowhere/t.json", "--constraint", "flops<=9M"],
            "no such table",
        ),
    ],
)
def test_mistakes_are_named_in_a_line(lasfast, tmp_path, monkeypatch, arguments, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = lasfast(*arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())  # nothing was written before the mistake was found


def test_a_gpu_that_is_not_there_is_named(lasfast, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = lasfast("search", "nir", "--device", "cuda")
    assert status == 2
    assert err.startswith("error: --device cuda: torch finds no usable NVIDIA GPU here; use --device cpu\n")


@pytest.mark.parametrize(
    ("isa", "precision", "slow"),
    [("generic", "bf16", True), ("avx512", "bf16", True), ("generic", "fp32", False), ("amx", "bf16", False)],
)
def test_a_precision_that_is_slow_here_is_said(isa: str, precision: str, slow: bool, monkeypatch) -> None:
    monkeypatch.setattr("lasfast.runtime.compiled.isa", lambda: isa)
    monkeypatch.setattr("lasfast.runtime.compiled.available", lambda: True)
    written = io.StringIO()
    say_if_slow(Console(file=written, width=200), torch.device("cpu"), precision)
    text = f"--precision bf16 is slower than fp32 here: the processor ({isa}) has no instructions for it\n"
    assert written.getvalue() == (text if slow else "")


def test_the_traceback_is_there_for_who_asks(lasfast, monkeypatch) -> None:
    monkeypatch.setenv("LASFAST_TRACEBACK", "1")
    monkeypatch.setattr("sys.argv", ["lasfast", "report", "/nowhere"])
    with pytest.raises(FileNotFoundError):
        cli.main()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("stopped in step 1; resume it to go on", "stopped in step 1; resume it to go on"),
        ("", "stopped; --resume goes on from what is written"),  # Python's own, in the midst of an evaluation
    ],
)
def test_ctrl_c_says_where_it_stopped(lasfast, monkeypatch, said: str, shown: str) -> None:
    def stop(*_):
        raise KeyboardInterrupt(*[said] if said else [])

    monkeypatch.setattr(cli.search, "search_assignments", stop)
    status, _, err = lasfast("search", "nir")
    assert (status, err) == (130, f"\n{shown}\n")


def test_version(lasfast) -> None:
    status, out, _ = lasfast("--version")
    assert (status, out.strip()) == (0, __version__)


def test_time_left_follows_the_work(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = WorkClock([10.0, 30.0, 60.0])
    assert format_seconds(clock.left(0, 0.5)) == "-:--"  # no work seen yet to go by
    now[0] += 5  # 5 units of work in 5 seconds
    assert clock.left(0, 1.0) == pytest.approx(90)
    now[0] += 30
    assert clock.left(1, 1.0) == pytest.approx(60)
    assert format_seconds(clock.left(5, 0.1)) == "-:--"
    assert format_seconds(3723.9) == "1:02:03"


def test_the_time_left_of_a_resumed_training_counts_its_own_batches():
    shown = []

    class Watched(Meter):
        def show(self, what, progress, seconds_left):
            shown.append((what, seconds_left))

    show = watch(Watched(Console(quiet=True)), str)
    for batch, seconds in ((80, 2.0), (81, 4.0), (0, 3.0)):  # the last one is of a second training
        show((1, 2), Progress(0, 0, 1, batch, 100, 0.1, 1.0, 0.5, 64.0, seconds))
    assert shown == [("(1, 2)", 2.0 * 19), ("(1, 2)", 2.0 * 18), ("(1, 2)", 3.0 * 99)]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "cp932", "utf-8"])
def test_every_text_can_be_printed_in_every_encoding(monkeypatch, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print_anything()
    name = os.fsdecode(b"caf\xe9")
    texts = ["93.1 \u00b1 0.5 %", "run \u2026", "jos\u00e9 \u4eac", name, "[bold]a[/nothing] :smile:"]
    console = make_console()
    for text in texts:
        print(text)
        console.print(text)
    table = Table(title="\u00b1")
    table.add_column("accuracy")
    table.add_row(texts[0])
    console.print(table)
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).split("\n")
    assert lines[0:10:2] == lines[1:10:2]
    assert lines[6] == "caf\\udce9"
    assert lines[8] == texts[4]
    if encoding == "ascii":
        assert lines[0:6:2] == ["93.1 +- 0.5 %", "run ...", "jos\\xe9 \\u4eac"]
    assert all(text.isascii() for text in IN_ASCII.values())


def test_a_search_prints_in_ascii_and_in_a_directory_of_any_name(
    searched, lasfast, monkeypatch, tmp_path
) -> None:
    directory = tmp_path / os.fsdecode(b"[red]caf\xe9")
    shutil.copytree(searched, directory)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    arguments = ["search", "nir", "--depth", 5, "--retrain", "-o", directory, *QUICK, "--resume"]
    status, _, err = lasfast(*arguments)
    assert (status, err) == (0, "")
    stream.flush()
    out = stream.buffer.getvalue().decode("ascii")
    assert " +- " in out
    assert "[red]caf\\udce9" in out


@pytest.mark.parametrize("size", [8, 120])
def test_broken_test_images_are_found_before_training(lasfast, tmp_path, size: int) -> None:
    for part in ("train", "test"):
        for number in range(20):
            place = tmp_path / "images" / part / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (size, size), (number, 0, 0)).save(place / f"{number}.png")
    (tmp_path / "images" / "test" / "a" / "4.png").write_bytes(b"")
    arguments = [
        "train",
        "1-1-1",
        "--data",
        f"imagefolder:{tmp_path / 'images'}",
        "-o",
        tmp_path / "run",
        *ALONE,
    ]
    status, out, err = lasfast(*arguments, "--test")
    assert status == 2
    assert "4.png: an empty file" in err
    assert "images/s" not in out


def test_the_list_of_commands_says_what_their_help_says_and_imports_no_torch() -> None:
    for name, (_, text) in cli.COMMANDS.items():
        command = typer.main.get_command(cli._app_of(name))
        if name in cli.GROUPS:
            assert command.commands.keys() == cli.GROUPS[name].keys()
            for below, own in cli.GROUPS[name].items():
                assert " ".join(command.commands[below].help.split()).startswith(own), below
        else:
            assert text.rstrip(".") in " ".join(command.help.split()), name
    for words, listed in (([], cli.COMMANDS), *(([name], below) for name, below in cli.GROUPS.items())):
        code = f"import sys; from lasfast.cli import app; app({[*words, '--help']}, standalone_mode=False)"
        command = [sys.executable, "-c", f"{code}; print(*sys.modules)"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert all(name in printed for name in listed)
        assert "torch" not in printed.splitlines()[-1].split(), words


@pytest.mark.parametrize("policy", [None, "active"])
def test_idle_threads_sleep_unless_the_environment_says_otherwise(policy) -> None:
    code = "import os, sys; from lasfast import cli; sys.argv = ['lasfast', '--version']; "
    code += "os.environ.pop('OMP_WAIT_POLICY', None); " if policy is None else ""
    code += "import atexit; atexit.register(lambda: print(os.environ['OMP_WAIT_POLICY'])); cli.main()"
    environment = os.environ | ({} if policy is None else {"OMP_WAIT_POLICY": policy})
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [__version__, policy or "passive"]


def test_a_search_is_verified_to_the_bit(searched, lasfast, tmp_path) -> None:
    status, out, err = lasfast("verify", searched, "--threads", 1, "-q")
    assert status == 0, err
    assert re.search(r"\d+ measurements read; the search by them is the same, and finds \d-\d-\d\n", out)
    assert re.search(r"\n(\d) of \1 that were measured again agree in every bit\n", out)
    run = tmp_path / "run"
    shutil.copytree(searched, run)
    tensors, metadata = checkpoint.load(run / "checkpoint.safetensors")
    name = next(name for name in tensors if name.startswith("weights.") and tensors[name].ndim == 4)
    tensors[name] = -tensors[name]
    checkpoint.save(run / "checkpoint.safetensors", tensors, metadata)
    status, out, _ = lasfast("verify", run, "--threads", 1, "--candidates", 2, "-q")
    assert status == 1
    assert "0 of 2 that were measured again agree" in out
    assert "that is no rounding" in out
    (run / "checkpoint.safetensors").unlink()
    status, out, err = lasfast("verify", run, "--threads", 1)
    assert (status, out) == (2, ""), "the supernet is not trained again"
    assert "has no weights" in err
    (run / "result.json").unlink()
    status, _, err = lasfast("verify", run)
    assert status == 2
    assert "has not finished: --resume it first" in err
