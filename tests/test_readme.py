"""The README's examples, commands, links and figures are right."""

import json
import re
import shlex
import statistics
from pathlib import Path

import pytest
import torch

import lasfast
from benchmarks.record_itnas import table_lines
from lasfast import cli
from lasfast.train import presets

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def quick(few_images, monkeypatch, tmp_path):
    """Epochs of a few images, one thread, in an empty folder."""
    small = presets.PRESETS["small"].replace(warm_up_epochs=1, epochs_per_step=1)
    monkeypatch.setitem(presets.PRESETS, "small", small)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_example_runs_and_the_plain_pytorch_says_the_same(quick, capsys) -> None:
    names: dict = {}
    exec(BLOCKS[0], names)
    line = r"\d-\d-\d  top-1 \d+\.\d ± \d\.\d %  \d\.\d MFLOPs  \d+\.\d+ [kM] params"
    assert re.match(line, capsys.readouterr().out)
    assert (Path("runs/nir") / "result.json").exists()
    architecture, evaluator = names["result"].best.architecture, names["evaluator"]
    assert sum(architecture) <= 12
    validation_images, validation_labels = names["data"].validation
    calibration = names["data"].calibration
    plain = {
        "torch": torch,
        "supernet": names["supernet"],
        "architecture": architecture,
        "calibration_batches": calibration.split(125),
        "validation_images": validation_images,
        "validation_labels": validation_labels,
    }
    with torch.no_grad():
        exec(BLOCKS[2], plain)
    [measurement] = evaluator([architecture])
    assert int(plain["right"].sum()) == round(measurement.top1 * measurement.images)


def test_a_network_of_ones_own_becomes_smaller(quick) -> None:
    head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(24, 10)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 24, 3), torch.nn.ReLU(), *head)
    names = {"lasfast": lasfast, "model": model, "data": lasfast.data.load("digits")}
    exec(BLOCKS[1], names)
    assert names["smaller"].get_parameter("0.weight").shape == (8, 1, 3, 3)


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"^    make (\w+)", README, re.MULTILINE)) <= targets


@pytest.mark.parametrize("line", re.findall(r"^    (lasfast .*?) +#", README, re.MULTILINE))
def test_every_command_takes_its_options(line: str, monkeypatch, capsys) -> None:
    words = shlex.split(line)
    monkeypatch.setattr("sys.argv", [*words, "--help"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    page = capsys.readouterr().out
    for word in words:
        assert not word.startswith("--") or word in page


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_front_door_has_what_it_names() -> None:
    for name in lasfast.__all__:
        getattr(lasfast, name)
    for name in re.findall(r"`lasfast\.(\w+)`", README):
        assert hasattr(lasfast, name), name


def test_the_figures_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "nir-cifar10.json").read_text())
    text = " ".join(README.partition("[The record]")[2].partition("\n## ")[0].split())
    winner = record["winners"]["9"]
    assert f"{record['options']['limit']:,} CIFAR-10 images" in text
    assert f"{record['options']['validation']:,} others for validation" in text
    assert f"in {round(record['seconds']['total'] / 60)} minutes on one thread" in text
    assert record["options"]["threads"] == 1
    assert f"{round(record['seconds']['evaluation'])} seconds of which" in text
    assert f"winner of depth 9 is {winner['text']}, top-1 {100 * winner['top1']:.1f} ± 0.6 %" in text
    for depth, comparison in record["one_shot_against_stand_alone"].items():
        if depth == "depth 4":
            assert f"Kendall's tau {comparison['kendall_tau']:.1f}" in text
            assert f"accuracy gap {100 * comparison['gap']:.1f} points" in text
        elif depth == "depth 9":
            assert f"tau is {comparison['kendall_tau']:.2f}" in text


def test_the_speeds_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "evaluate-bf16.json").read_text())
    ratios = [one["times_faster_than"] for one in record["workloads"].values()]
    assert len(ratios) == 5
    assert record["machine"]["threads"] == 1
    text = " ".join(README.split())
    tuned = statistics.geometric_mean(one["tuned"] for one in ratios)
    sequential = statistics.geometric_mean(one["sequential"] for one in ratios)
    assert f"**{tuned:.1f} times faster** than PyTorch tuned by hand" in text
    assert f"{sequential:.0f} times faster than eager PyTorch" in text


def test_the_speeds_of_training_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "train-bf16.json").read_text())
    workloads = record["workloads"].values()
    assert len(workloads) == 5
    assert record["machine"]["threads"] == 1
    text = " ".join(README.split())

    def mean(update: str, other: str) -> float:
        ratios = (one["times_faster"].get(update, {}).get(other) for one in workloads)
        return statistics.geometric_mean(ratio for ratio in ratios if ratio)

    assert f"**{mean('sequential', 'tuned'):.1f} times faster** than the same tuned PyTorch" in text
    assert f"{mean('sequential', 'eager'):.1f} times faster than eager" in text
    assert f"{mean('joint', 'tuned'):.1f} times with one update for all candidates" in text


def beside(network: str, other: str) -> str:
    """The points by which our networks end above or below another way's, paired by seed, with their error."""
    record = json.loads((ROOT / "benchmarks" / "results" / f"own-model-{network}.json").read_text())
    points = [100 * (one["lasfast"]["after"] - one[other]["after"]) for one in record["seeds"].values()]
    mean, error = statistics.fmean(points), statistics.stdev(points) / len(points) ** 0.5
    return f"{abs(mean):.1f} ± {error:.1f} points {'above' if mean >= 0 else 'below'}"


def test_the_figures_of_smaller_networks_are_those_of_the_records() -> None:
    text = " ".join(README.split())
    for network, points, times in (
        (
            "resnet",
            "ends {} what ModelOpt's FastNAS makes of it, and {} uniform widths",
            "searching took {} CPU seconds, and FastNAS {}",
        ),
        ("mobilenet", "A MobileNetV2 ends {} and {} them", "in {} and {} seconds"),
    ):
        assert points.format(beside(network, "fastnas"), beside(network, "uniform")) in text
        record = json.loads((ROOT / "benchmarks" / "results" / f"own-model-{network}.json").read_text())
        assert len(record["seeds"]) == 3
        searching = (
            statistics.fmean(one[way]["cpu_seconds"]["search"] for one in record["seeds"].values())
            for way in ("lasfast", "fastnas")
        )
        assert times.format(*(f"{one:.0f}" for one in searching)) in text
    record = json.loads((ROOT / "benchmarks" / "results" / "own-model-rates.json").read_text())
    seconds = {name: statistics.median(values) for name, values in record["cpu_seconds"].items()}
    ratios = (seconds["fastnas"] / seconds[f"lasfast {precision}"] for precision in ("fp32", "bf16"))
    assert "takes {:.1f} times less than in FastNAS in fp32, and {:.1f} times in bf16".format(*ratios) in text


def test_the_table_of_cells_is_that_of_its_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "itnas-cifar10.json").read_text())
    page = (ROOT / "docs" / "itnas.md").read_text()
    assert "\n".join(table_lines(record)) in page
    text = " ".join(page.split())
    assert f"{record['images']['train']:,} images" in text
    assert f"{record['epochs']} epochs" in text
    minutes = [one["seconds"] / 60 for one in record["searches"]]
    assert f"{min(minutes):.0f} to {max(minutes):.0f} minutes" in text
    assert record["machine"]["threads"] == 1
