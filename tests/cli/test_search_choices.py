"""Searches of supernets of choices, on the command line: trained once, then searched."""

import json
import re

import pytest
import torch

from lasfast.deploy.formats import load_program
from lasfast.study.architecture_table import load_table

TINY = [
    "--supernet",
    "mobilenet-60m",
    "--width",
    0.25,
    "--limit",
    200,
    "--validation",
    100,
    "--calibration",
    60,
]
TINY += ["--supernet-epochs", 1]
SEARCHES = {
    "layernas": ["--buckets", 5, "--replicas", 1, "--evaluations", 12],
    "evolution": ["--population", 6, "--generations", 1, "--top", 3],
    "predictor": ["--initial", 4, "--evaluations", 10, "--children", 3],
    "local": ["--evaluations", 8, "--children", 4],
    "regularized": ["--population", 6, "--sample", 3, "--evaluations", 12, "--children", 3],
    "random": ["--samples", 8],
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_supernet_is_trained_and_searched(lasfast, without_exports, tmp_path, name: str) -> None:
    if name != "evolution":  # one search writes its network; all write theirs in the same way
        without_exports()
    arguments = ["search", name, *TINY, *SEARCHES[name], "--constraint", "flops<=600k", "-o", tmp_path]
    status, out, err = lasfast(*arguments, "--threads", 1)
    assert status == 0, err
    assert re.search(r"supernet +epoch 1/1 +loss [0-9.]+", out)
    best = json.loads((tmp_path / "result.json").read_text())["best"]
    assert best["flops"] <= 6e5
    assert f"best: {best['name']}  top-1 {100 * best['top1']:.1f}" in out
    assert f"\n{best['name']} is {best['text']}\n" in out
    for file in ("journal.jsonl", "checkpoint.safetensors", "search.png"):
        assert (tmp_path / file).exists()
    (network,) = tmp_path.glob("*.pt2")
    assert network.stem == best["name"]
    if name == "evolution":
        images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        assert torch.export.load(network).module()(images).shape == (2, 10)

    without_exports()
    before = (tmp_path / "journal.jsonl").read_bytes()
    assert "resume it" in lasfast(*arguments, "--threads", 1)[2]
    assert lasfast(*arguments, "--threads", 1, "--resume")[0] == 0
    assert (tmp_path / "journal.jsonl").read_bytes() == before

    for text in (best["text"], best["name"], "best"):
        status, out, err = lasfast("evaluate", text, "--run", tmp_path, "--threads", 1)
        assert status == 0, err
        assert re.search(rf"{best['name']} +{100 * best['top1']:.1f} ±", out)


def test_the_winner_is_trained_beside_a_random_one_that_costs_as_much(
    lasfast, without_exports, tmp_path
) -> None:
    without_exports()
    arguments = ["search", "random", *TINY, "--samples", 4, "-o", tmp_path, "--threads", 1]
    arguments += ["--retrain", "--standalone-epochs", 1, "--standalone-schedule", "cosine"]
    arguments += ["--supernet-schedule", "constant", "--label-smoothing", 0.1, "--no-bias-decay"]
    arguments += ["--sampling", "sandwich", "--distill", "full", "--distill-temperature", 2]
    status, out, err = lasfast(*arguments)
    assert status == 0, err
    header = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    assert header["trainer"]["distill"] == {"teacher": "full", "temperature": 2, "weight": 1}
    settings = {"label_smoothing": 0.1, "bias_decay": False, "supernet_schedule": "constant"}
    settings |= {"standalone_schedule": "cosine"}
    assert settings.items() <= header["trainer"]["settings"].items()
    trained = out.partition("trained from scratch, 1 epochs")[2]
    assert re.search(r" searched *$", trained, re.MULTILINE)
    assert re.search(r" random *$", trained, re.MULTILINE)
    last = r"\nbest: \S+  top-1 .* trained from scratch for 1 epoch \([0-9.]+ % with inherited weights\)\n"
    assert re.search(last, out)
    one, other = (row.flops for row in load_table(tmp_path / "scratch"))
    assert one == pytest.approx(other, rel=0.2)
    assert len(list((tmp_path / "scratch" / "weights").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["random", "--distill", "deepest"], "--distill must be one of 'full', got 'deepest'"),
        (["evolution", "--distill", "full"], "--sampling must be sandwich for --distill full, so"),
        (
            ["evolution", "--distill-weight", 0.5],
            "--distill-temperature and --distill-weight are of --distill or --teacher",
        ),
        (["itnas", "--distill", "full"], "No such option: --distill"),
        (["nir", "--supernet-schedule", "cosine"], "No such option: --supernet-schedule"),
    ],
)
def test_distillation_and_schedules_that_do_not_fit_are_named(lasfast, arguments, text) -> None:
    status, _, err = lasfast("search", *arguments)
    assert status != 0
    assert text in " ".join(err.replace("│", " ").split())


def test_the_deepest_assignment_teaches_the_candidates(lasfast, without_exports, tmp_path) -> None:
    without_exports()
    arguments = ["--depth", 4, "--limit", 100, "--warm-up-epochs", 1, "--epochs-per-step", 1, "--threads", 1]
    status, _, err = lasfast("search", "nir", *arguments, "--distill", "full", "-o", tmp_path)
    assert status == 0, err
    header = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    assert header["trainer"]["distill"]["teacher"] == "full"


def test_an_architecture_of_choices_is_trained_from_scratch(lasfast, tmp_path) -> None:
    text = "-".join(["k3e3-skip-skip-skip"] * 5 + ["k3e3"])
    arguments = [
        "--supernet",
        "proxyless",
        "--width",
        0.25,
        "--limit",
        100,
        "--validation",
        50,
        "--threads",
        1,
    ]
    status, out, err = lasfast("train", text, *arguments, "--standalone-epochs", 1, "-o", tmp_path)
    assert status == 0, err
    (network,) = tmp_path.glob("*.pt2")
    assert re.fullmatch("net-[0-9a-f]{8}", network.stem)
    assert f"training ProxylessNAS {network.stem} from scratch" in out
    assert load_program(network)[1].architecture == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--supernet", "vgg"], "--supernet must be one of 'residual', "),
        (["--supernet", "residual"], "--width 0.25 is for supernets of choices; leave it out"),
        (["--max-layers", 4], "--max-layers 4 is for supernets of layer assignments; leave it out"),
        (["--sampling", "often"], "--sampling must be one of 'uniform', 'uniform-cost', 'sandwich'"),
        (
            ["--sampling-range", "flops<=1G"],
            "--sampling-range is of --sampling uniform-cost alone, got uniform",
        ),
        (
            ["--sampling", "uniform-cost", "--sampling-range", "2G<=flops<=3G"],
            "low and high must be a range of costs that architectures have",
        ),
        (["--width", "-1"], "width must be greater than 0, got -1.0"),
        (["--constraint", "flops<=1"], "constraint must leave architectures"),
        (["--constraint", "price<=1"], "the cost must be one of flops"),
        (["--constraint", "bitops<=1G"], "path must have a convolution with quantized weights"),
    ],
)
def test_mistakes_are_named_before_training(lasfast, tmp_path, arguments, message: str) -> None:
    status, _, err = lasfast("search", "evolution", *TINY, *arguments, "-o", tmp_path / "run")
    assert status == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_spaces_are_listed_and_shown(lasfast) -> None:
    status, out, _ = lasfast("spaces")
    assert status == 0
    for name in ("residual", "shufflenet-v2", "proxyless", "mobilenet-600m"):
        assert name in out
    status, out, _ = lasfast("spaces", "mobilenet-220m", "--image-size", 224, "--num-classes", 1001)
    assert status == 0
    assert "(shared by the next 2)" in out
    assert "published as layernas, 228.9 MFLOPs" in out
    status, out, _ = lasfast("spaces", "quant-resnet18", "--image-size", 224, "--num-classes", 1000)
    assert status == 0
    assert "1.60 to 37.75 Gi bit operations" in out
    assert "published as 2W2A, 1814.1 MFLOPs, 6.32 Gi bit operations" in out
    assert "SUPERNET must be one of" in lasfast("spaces", "vgg")[2]


def test_bit_widths_are_searched_within_bit_operations(lasfast, tmp_path) -> None:
    arguments = [*TINY, "--supernet", "quant-resnet18", "--width", 0.125, "--constraint", "bitops<=2.1Mi"]
    arguments += ["--population", 4, "--generations", 1, "--top", 2, "--threads", 1, "-o", tmp_path]
    status, out, err = lasfast("search", "evolution", *arguments, "--retrain", "--standalone-epochs", 1)
    assert status == 0, err
    result = json.loads((tmp_path / "result.json").read_text())
    assert all(one["bitops"] <= 2.1 * 2**20 for step in result["steps"] for one in step)
    assert re.search(r"\n(net-\S{8}) is (\d\.\d-w\da\d-?){8}\nbest: \1  top-1 .* Mbitops", out)
    assert re.search(r"the Pareto front\s+architecture +top-1 +MFLOPs +params +Mbitops", out)
    assert re.search(r" searched *$", out.partition("trained from scratch, 1 epochs")[2], re.MULTILINE)
    (network,) = tmp_path.glob("*.pt2")
    assert torch.export.load(network).module()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 10)
