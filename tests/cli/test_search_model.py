"""Searches of a user's own network, on the command line."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lasfast import data, deploy
from lasfast.cli.model import load_weights, make_model
from lasfast.cli.teacher import read_program
from lasfast.evaluation.measurer import Measurer
from lasfast.evaluation.scoring import evaluate_network
from lasfast.measurements.journal import Journal
from lasfast.spaces.names import short_name

FILE = """
from torch import nn

class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + self.bn(self.conv(x)).relu()

def make(num_classes, in_channels):
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes)
    return nn.Sequential(nn.Conv2d(in_channels, 16, 3), Block(16), Block(16), Block(16), *head)

def nothing():
    return 3
"""
TINY = ["--limit", 200, "--validation", 100, "--calibration", 60, "--threads", 1]


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(FILE)
    return f"{tmp_path / 'mine.py'}:make"


@pytest.fixture
def weights(tmp_path: Path, file: str) -> Path:
    torch.manual_seed(3)
    save_file(make_model(file, num_classes=10, in_channels=1).state_dict(), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_a_network_is_searched_with_its_weights(
    lasfast, without_exports, monkeypatch, tmp_path, file: str, weights: Path
) -> None:
    without_exports()
    monkeypatch.setattr("lasfast.cli.display.LINE_SECONDS", 0)
    run = tmp_path / "run"
    arguments = ["search", "evolution", "--model", file, "--weights", weights, *TINY, "-o", run]
    arguments += ["--population", 2, "--generations", 1, "--constraint", "flops<=70%", "--tune-epochs", 1]
    arguments += ["--importance", "taylor"]
    status, out, err = lasfast(*arguments)
    assert status == 0, err
    assert "  d1 d2 d3; may be left out: 2, 3\n" in out
    assert "supernet  epoch" not in out  # the supernet has the network's weights
    assert "4 architectures are measured, at most\n" in out
    assert re.search(r"measured  4 of 4 architectures  0:00 left\n", out)
    result = json.loads((run / "result.json").read_text())
    best, compared = result["best"], result["comparison"]
    [(tuned, _)] = re.findall(r"trained on for 1 epoch: top-1 ([0-9.]+) ± ([0-9.]+) %", out)
    line = rf"best: {short_name(best['text'])}  top-1 {tuned} ± .* trained on for 1 epoch \((\S+) % with inh"
    assert re.search(line, out)[1] == f"{100 * best['top1']:.1f}"
    for text in (out, lasfast("report", run)[1]):
        assert re.search(rf"winner +{short_name(best['text'])} +\S+ +{100 * best['top1']:.1f} ± ", text)
        assert re.search(r"whole network +16-d3 .* points +(better|worse|not told from noise)", text)
        assert "scaled alike" in text
        assert re.search(r"The winner is the best of \d on these", " ".join(text.split()))
    assert compared["winner"] == best["text"]
    status, out, err = lasfast("evaluate", best["text"], "--run", run, "--threads", 1)
    assert status == 0, err
    assert f"{100 * best['top1']:.1f} ±" in out

    status, out, err = lasfast("verify", run, "--threads", 1, "-q")
    assert status == 0, err
    assert re.search(r"the comparison with \d+ others agrees in every bit\n$", out)
    compared["baselines"][0]["lead_error"] += 0.01
    (run / "result.json").write_text(json.dumps(result))
    status, _, err = lasfast("verify", run, "--threads", 1, "--candidates", 1, "-q")
    assert status == 2
    assert "result.json must have the comparison that is measured again, got another baselines" in err


def write_program(network: nn.Module, path: Path) -> None:
    """Write a program of normalized images, as torch makes it."""
    batch = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(network.eval(), (torch.zeros(2, 1, 8, 8),), dynamic_shapes=batch), path
    )


def test_teachers_are_given_the_images_that_they_take(tmp_path, file: str) -> None:
    """Programs of lasfast's own take bytes, and others what a network is trained on."""
    digits = data.load("digits")
    network = make_model(file, num_classes=10, in_channels=1).eval()
    images, labels = (part[:50] for part in digits.validation)
    found = evaluate_network(network, (images, labels))
    names = {"architecture": "", "supernet": "", "weights": "", "costs": {}, "run": ""}
    card = deploy.ModelCard.of(digits, found, **names)
    deploy.save(network, card, tmp_path / "own.pt2", digits.samples(4))
    write_program(network, tmp_path / "torch.pt2")
    for path in (tmp_path / "own.pt2", tmp_path / "torch.pt2"):
        with torch.no_grad():
            torch.testing.assert_close(
                read_program(path, digits)(images), network(images), rtol=1e-4, atol=1e-5
            )


def test_winners_learn_from_the_model_or_from_a_file(
    lasfast, without_exports, tmp_path, file: str, weights: Path
) -> None:
    teacher = make_model(file, num_classes=10, in_channels=1)
    write_program(teacher, tmp_path / "teacher.pt2")
    without_exports()
    arguments = ["search", "random", "--model", file, "--weights", weights, *TINY, "--samples", 2]
    arguments += ["--baselines", 0]
    taught = ["--distill-weight", 0.9, "--teacher"]
    ends = {
        "labels": ["--tune-epochs", 1],
        "model": ["--tune-epochs", 1, *taught, "model"],
        "file": ["--retrain", "--standalone-epochs", 1, *taught, tmp_path / "teacher.pt2"],
    }
    losses = {}
    for name, end in ends.items():
        status, out, err = lasfast(*arguments, *end, "-o", tmp_path / name)
        assert status == 0, err
        losses[name] = re.findall(r"loss ([0-9.]+)", out)
    assert losses["model"] != losses["labels"]
    header = json.loads((tmp_path / "file" / "scratch" / "journal.jsonl").read_text().partition("\n")[0])
    described = header["dataset"]["distill"]
    assert described["weight"] == 0.9
    assert len(described["teacher"]) == 32


def test_teachers_that_do_not_fit_are_named(lasfast, tmp_path, file: str) -> None:
    write_program(make_model(file, num_classes=4, in_channels=1), tmp_path / "four.pt2")
    (tmp_path / "broken.pt2").write_bytes(b"no program")
    model = ["--model", file, *TINY]
    for arguments, text in [
        ([*model, "--teacher", "model"], "--teacher teaches the winner in --retrain or --tune-epochs: give"),
        ([*model, "--tune-epochs", 1, "--teacher", "t.pt2"], "--teacher: there is no file t.pt2"),
        (
            [*model, "--retrain", "--teacher", tmp_path / "four.pt2"],
            "must give logits of 10 classes, got (4",
        ),
        (
            [*model, "--retrain", "--teacher", tmp_path / "broken.pt2"],
            "must be a torch.export program for",
        ),
        ([*model, "--distill-weight", 0.5], "are of --distill or --teacher: give that, too"),
    ]:
        status, _, err = lasfast("search", "random", *arguments, "-o", tmp_path / "run")
        assert status == 2
        assert text in err
        assert not (tmp_path / "run").exists()


def test_comparisons_are_left_out_where_asked(lasfast, without_exports, tmp_path, file: str) -> None:
    without_exports()
    arguments = ["search", "random", "--model", file, *TINY, "--samples", 2, "--baselines", 0, "-o", tmp_path]
    status, out, err = lasfast(*arguments, "--vary", "depth")
    assert status == 0, err
    assert "comparison" not in json.loads((tmp_path / "result.json").read_text())
    assert "beside" not in out


def test_ctrl_c_leaves_the_best_so_far(lasfast, monkeypatch, tmp_path, file: str) -> None:
    measure, calls = Measurer.measure, []

    def stopping(self, tree):
        calls.append(tree)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return measure(self, tree)

    monkeypatch.setattr(Measurer, "measure", stopping)
    arguments = ["search", "local", "--model", file, *TINY, "--evaluations", 3, "-o", tmp_path, "--resume"]
    stop = 1
    status, out, err = lasfast(*arguments)
    goes_on = f"stopped; {tmp_path} holds everything up to here: `lasfast resume {tmp_path}` goes on"
    assert (status, err) == (130, f"\n{goes_on}\n")
    assert "no network is exported: nothing was measured yet that may be the best" in out
    stop = 3
    status, out, err = lasfast(*arguments)
    assert status == 130
    found = re.search(r"best so far: (\S+)  top-1 [0-9.]+ %\n", out)
    left = tmp_path / "best-so-far.pt2"
    assert re.search(rf"best-so-far.pt2 +{found[1]}  top-1 .*, with inherited weights", out)
    channels = found[1].split("-")[0]
    assert torch.export.load(left).module().get_parameter("network.0.weight").shape[0] == int(channels)
    assert not (tmp_path / "result.json").exists()
    stop = 0
    status, out, err = lasfast(*arguments)
    assert status == 0, err
    assert not left.exists()


def test_layernas_ends_of_itself(lasfast, without_exports, tmp_path, file: str) -> None:
    without_exports()
    arguments = ["--model", file, *TINY, "--constraint", "flops<=90%", "--baselines", 1, "-o", tmp_path]
    status, out, err = lasfast("search", "layernas", *arguments)
    assert status == 0, err
    header = json.loads((tmp_path / "journal.jsonl").read_text().partition("\n")[0])
    assert header["searcher"]["evaluations"] == 1000
    assert re.search(r"beside +architecture +flops ", out)


def test_depth_is_searched_by_nir_after_adaptation(lasfast, without_exports, tmp_path, file: str) -> None:
    without_exports()
    arguments = ["search", "nir", "--model", file, *TINY, "--depth", 2, "--adapt-epochs", 1, "-o", tmp_path]
    arguments += ["--distill", "full", "--distill-temperature", 4]
    status, out, err = lasfast(*arguments)
    assert status == 0, err
    assert re.search(r"warm-up +epoch 1/1 ", out)
    assert "best: 2  top-1" in out
    assert json.loads((tmp_path / "config.json").read_text())["vary"] == "depth"
    assert json.loads((tmp_path / "result.json").read_text())["comparison"]["winner"] == "2"
    header = json.loads((tmp_path / "journal.jsonl").read_text().partition("\n")[0])
    assert '"temperature": 4' in json.dumps(header)
    status, out, err = lasfast("evaluate", 3, "--run", tmp_path, "--threads", 1)
    assert status == 0, err

    again = ["search", "random", "--weights", tmp_path, "--samples", 3, "--baselines", 0, "--threads", 1]
    again += ["--tune-epochs", 1, "--teacher", "model", "-o", tmp_path / "again"]
    status, out, err = lasfast(*again)
    assert status == 0, err
    found, before = (
        {one.architecture: one.top1 for _, one in Journal.read(run / "journal.jsonl")[1]}
        for run in (tmp_path / "again", tmp_path)
    )
    assert before.items() <= found.items()


def test_what_of_a_network_may_vary_is_told(lasfast, file: str) -> None:
    status, out, err = lasfast("info", "--model", file, "--image-size", 8, "--freeze", "1,6")
    assert status == 0, err
    assert "0 (16): '1.conv' is to be kept; '1.bn' is to be kept" in out
    assert re.search(r"flops: \S+ to \S+, the network's own", out)


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        ("resnet18", ValueError, "--model must be timm:NAME, torchvision:NAME, FILE.py:FUNCTION or"),
        ("torchvision:resnet17", ValueError, "torchvision.models has no such network"),
        ("nowhere.py:make", FileNotFoundError, "there is no file nowhere.py"),
        ("no_such_package.models:make", ImportError, "no_such_package.models cannot be imported"),
        ("torch.nn:make", ValueError, "torch.nn has no function 'make'"),
        ("FILE:nothing", ValueError, "must give a torch.nn.Module, got int"),
    ],
)
def test_a_network_that_is_not_there(file: str, model: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make_model(model.replace("FILE", file.rpartition(":")[0]), num_classes=10, in_channels=3)


def test_libraries() -> None:
    assert make_model("torchvision:resnet18", num_classes=7, in_channels=3).fc.out_features == 7
    pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    assert make_model("timm:resnet18", num_classes=7, in_channels=1).conv1.in_channels == 1
    with pytest.raises(ValueError, match="timm has no such network; it has legacy_seresnet18, "):
        make_model("timm:esnet18", num_classes=7, in_channels=3)


def test_a_missing_library_is_named(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match="--model timm:NAME needs timm, which cannot be imported"):
        make_model("timm:resnet18", num_classes=7, in_channels=3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("search", "evolution", "--weights", "w.pt"),
            "--weights must be the directory of an earlier search where no --model is given, got w.pt",
        ),
        (("search", "nir", "--adapt-epochs", "2"), "--adapt-epochs 2 says something of a --model, and none"),
        (("info", "--freeze", "layer1"), "--freeze layer1 says something of a --model, and none is given"),
        (("info", "--model", "FILE", "--width", "2"), "--width 2.0 is not for the search of a --model"),
        (
            ("search", "local", "--model", "FILE", "--sampling", "uniform-cost"),
            "--sampling uniform-cost is not",
        ),
        (
            ("search", "nir", "--model", "FILE", "--supernet", "plain"),
            "--supernet plain is not for the search",
        ),
        (("search", "nir", "--model", "FILE", "--vary", "widths"), "--vary must be depth or both for NIR"),
        (("search", "random", "--model", "FILE", "--distill", "full"), "--distill needs --adapt-epochs"),
        (
            ("search", "nir", "--model", "FILE", "--update", "joint"),
            "--update joint is for supernets of layer",
        ),
        (
            ("search", "random", "--model", "FILE", "--depth", "5"),
            "--depth 5 is for supernets of layer assign",
        ),
        (
            ("search", "random", "--depth", "5", "--supernet", "proxyless"),
            "--depth 5 is for supernets of layer",
        ),
        (("search", "random", "--width", "2"), "--width 2.0 is for supernets of choices; leave it out"),
        (
            ("search", "random", "--model", "FILE", "--epochs-per-step", "2"),
            "--epochs-per-step 2 is not for the search of a --model",
        ),
        (
            ("search", "random", "--supernet", "proxyless", "--warm-up-epochs", "2"),
            "--warm-up-epochs 2 is for supernets of layer assignments",
        ),
        (
            ("search", "local", "--model", "FILE", "--table", "t.npz"),
            "is not for the search of a --table; leave it out",
        ),
    ],
)
def test_options_that_nothing_would_read(lasfast, file: str, arguments: tuple[str, ...], text: str) -> None:
    status, _, err = lasfast(*(file if one == "FILE" else one for one in arguments))
    assert status == 2
    assert text in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--freeze", "conv9"], "error: --freeze must name modules of the model, such as 'layer1.0', got"),
        (["--vary", "all"], "error: --vary must be one of 'widths', 'depth', 'both', got 'all'"),
        (["--importance", "l3"], "error: --importance must be one of 'magnitude', 'readers', 'l1'"),
        (["--population", "1"], "error: --population must be at least 2, got 1"),
        (
            ["--constraint", "flops<=1k"],
            "error: --constraint must leave architectures of ChoiceSpace([2, 3]), ",
        ),
        (["--constraint", "flops<1k"], "error: --constraint must be bounds such as"),
        (["--baselines", "-1"], "error: --baselines must be at least 0, got -1"),
        (["--data", "mnist2"], "error: --data must be one of digits"),
    ],
)
def test_errors_name_options_as_they_are_written(
    lasfast, monkeypatch, tmp_path, file: str, arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = lasfast("search", "evolution", "--model", file, *TINY, *arguments)
    assert status == 2
    assert err.startswith(text)
    assert not (tmp_path / "runs").exists()


def test_weights_that_fit_other_images_are_told_from_the_default_ones(lasfast, tmp_path, file: str) -> None:
    path = tmp_path / "colour.safetensors"
    save_file(make_model(file, num_classes=4, in_channels=3).state_dict(), path)
    status, _, err = lasfast("search", "random", "--model", file, "--weights", path, *TINY)
    assert status == 2
    assert "it has in other shapes 0.weight (16, 3, 3, 3) for (16, 1, 3, 3)" in err
    assert "; without --data, the images are those of Dataset('digits': 10 classes, 1x8x8; " in err


def test_random_weights_are_not_searched(lasfast) -> None:
    status, _, err = lasfast("search", "random", "--model", "timm:resnet18", *TINY)
    assert status == 2
    assert "begins with random weights: give --weights FILE, or --adapt-epochs N to train it" in err


def test_weights_that_do_not_fit(tmp_path) -> None:
    network, path = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), tmp_path / "weights.pt"
    torch.save(network.state_dict(), path)
    with torch.no_grad():
        network[0].weight.zero_()
    load_weights(network, path)
    assert network[0].weight.any()
    torch.save({"0.weight": torch.zeros(2, 2), "2.bias": torch.zeros(1)}, path)
    with pytest.raises(
        ValueError, match=r"it lacks 0.bias, 1.bias, 1.weight; it has, but the network has not,"
    ):
        load_weights(network, path)
    with pytest.raises(ValueError, match=r"it has in other shapes 0.weight \(2, 2\) for \(3, 2\)"):
        load_weights(network, path)
    for content in (network, {"a": object()}):
        torch.save(content, path)
        with pytest.raises(ValueError, match="got another file, such as a whole module"):
            load_weights(network, path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as a state dict: it ends too early"):
        load_weights(network, path)
    torch.save([1], path)
    with pytest.raises(ValueError, match="must hold a state dict, got list"):
        load_weights(network, path)
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, path)
    with pytest.raises(ValueError, match="got a dict of state_dict, epoch"):
        load_weights(network, path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_weights(network, tmp_path / "none.safetensors")
