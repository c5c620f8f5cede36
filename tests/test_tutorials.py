"""The tutorials' code runs as it stands: each block in order, on few images and for few epochs."""

from __future__ import annotations

import json
import re
import shlex
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from typer.core import TyperGroup

import lasfast
from benchmarks import record_cells
from lasfast import cli
from lasfast.train import presets

ROOT = Path(__file__).parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty folder to work in, whose modules can be imported; trainings are short, on one thread."""
    load, few = lasfast.data.load, {"limit": 100, "calibration": 50}
    monkeypatch.setattr("lasfast.data.load", lambda name, **given: load(name, **given | few))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    epochs = {"warm_up_epochs": 2, "epochs_per_step": 1, "supernet_epochs": 3, "standalone_epochs": 2}
    monkeypatch.setitem(presets.PRESETS, "small", presets.PRESETS["small"].replace(**epochs))
    known, threads = set(sys.modules), torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    for name in {"mynet", "mysupernet"} - known:
        sys.modules.pop(name, None)


def run(tutorial: str, monkeypatch: pytest.MonkeyPatch, smaller: str = "") -> dict[str, Any]:
    """Run a tutorial's blocks in order; return the names that the last one of Python has defined.

    Commands run in this process, where `smaller` replaces the option that it names, so that they are quicker.
    A block of Python that begins with the name of a file becomes that file.
    """
    names: dict[str, Any] = {}
    text = (TUTORIALS / f"{tutorial}.md").read_text()
    if smaller:
        text, count = re.subn(rf"{smaller.split()[0]} \S+", smaller, text)
        assert count
    for language, code in BLOCK.findall(text):
        named = re.match(r"# (\w+\.py)\n", code)
        if named:
            Path(named[1]).write_text(code)
        elif language == "python":
            names = {}
            exec(code, names)
        else:
            for line in code.replace("\\\n", "").splitlines():
                monkeypatch.setattr("sys.argv", shlex.split(line))
                with pytest.raises(SystemExit) as end:
                    cli.main()
                assert not end.value.code, line
    return names


def test_a_folder_becomes_a_network_that_onnxruntime_runs(place: Path, monkeypatch, capsys) -> None:
    images, labels = lasfast.data.load("digits").raw_validation
    for part, kept in (("train", slice(0, 120)), ("test", slice(120, 150))):
        for number, (image, label) in enumerate(zip(images[kept], labels[kept], strict=True)):
            path = place / "photos" / part / ("low" if label < 5 else "high") / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).resize((16, 16)).convert("RGB").save(path)
    names = run("folder", monkeypatch, "--image-size 16")
    out = capsys.readouterr().out
    assert (place / "runs" / "photos" / "report.html").exists()
    classify = names["classify"]
    right = [classify(path) == path.parent.name for path in sorted(place.glob("photos/test/*/*.png"))]
    assert f"top-1 {100 * statistics.fmean(right):.1f} " in out.splitlines()[-1]


def test_a_network_becomes_smaller_on_the_command_line_and_in_python(
    place: Path, monkeypatch, capsys
) -> None:
    names = run("smaller", monkeypatch)
    supernet, best = names["supernet"], names["result"].best
    assert lasfast.costs.flops(supernet, best.architecture) <= 0.5 * lasfast.costs.flops(
        supernet, supernet.full
    )
    assert isinstance(names["smaller"], torch.nn.Module)
    assert (place / "smaller.onnx").exists()


def test_a_space_and_a_supernet_of_ones_own_are_searched(place: Path, monkeypatch, capsys) -> None:
    names = run("own-space", monkeypatch)
    found = capsys.readouterr().out.splitlines()[0]
    assert found == "5x5-64-64 0.864"
    result, data = names["result"], names["data"]
    assert len(result.candidates) == 100
    assert names["network"](data.validation[0][:2]).shape == (2, 10)


def record(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values) / len(values) ** 0.5:.1f}"


CHOOSING = (TUTORIALS / "choosing.md").read_text()
COMMANDS = re.findall(r"^    (?:torchrun .* -m )?(lasfast .*)", CHOOSING.replace("\\\n", ""), re.MULTILINE)
CHOOSING_TEXT = " ".join(CHOOSING.split())


def test_the_standard_errors_are_those_of_the_formula() -> None:
    for percent in (50, 90, 99):
        variance = percent * (100 - percent)
        errors = (f"± {(variance / images) ** 0.5:.1f} points" for images in (100, 1000, 10_000))
        assert f"| {percent} % | {' | '.join(errors)} |" in CHOOSING


def test_the_regrets_are_those_of_the_record() -> None:
    problems = record("searchers-cells")["problems"]
    methods = problems["cifar100, no bound"]["methods"]
    rows = re.findall(
        r"^\| ([^|]+) \| (\d[^|]+) \| ([^|]+) \| ([^|]+) \|$",
        CHOOSING.partition("## Which searcher")[2],
        re.MULTILINE,
    )
    assert len(rows) == 4
    for name, *regrets in rows:
        assert regrets == [f"{mean:.2f} ± {error:.2f}" for mean, error in methods[name]["regret"][:3]]


def test_auto_is_level_with_the_best_searchers_as_often_as_is_said() -> None:
    problems = record("searchers-cells")["problems"]
    assert list(problems) == [problem.title for problem in record_cells.PROBLEMS]
    level = [
        record_cells.is_level(problem["methods"], record_cells.AUTO, at)
        for problem in problems.values()
        for at in range(len(record_cells.BUDGETS))
    ]
    assert f"in {sum(level)} of {len(level)} cases" in CHOOSING_TEXT
    assert f"in {sum(level)} of {len(level)} cases" in " ".join((ROOT / "README.md").read_text().split())


def test_the_figures_of_ten_thousand_images_are_those_of_the_records() -> None:
    for name in ("resnet", "mobilenet"):
        of_network = record(f"own-model-{name}")
        seeds = list(of_network["seeds"].values())
        assert of_network["images"]["train"] == 5_000
        ours, uniform = (
            spread([100 * seed[way]["after"] for seed in seeds]) for way in ("lasfast", "uniform")
        )
        assert ours in CHOOSING_TEXT
        assert uniform in CHOOSING_TEXT
        if name == "resnet":
            search, tune = (
                statistics.fmean(seed["lasfast"]["cpu_seconds"][part] for seed in seeds)
                for part in ("search", "tune")
            )
            assert f"search took {search:.0f} CPU seconds and tuning {tune:.0f}" in CHOOSING_TEXT
    searched = record("nir-cifar10")
    seconds, settings = searched["seconds"], searched["study"]["trainer"]["settings"]
    assert f"depth 9 in {seconds['total'] / 60:.0f} minutes" in CHOOSING_TEXT
    assert f"all of it but {seconds['evaluation']:.0f} seconds" in CHOOSING_TEXT
    warm_up, step = settings["warm_up_epochs"], settings["epochs_per_step"]
    assert f"{warm_up} epochs of warm-up and {step} in each step" in CHOOSING_TEXT


def test_the_figures_of_the_demo_and_of_reading_are_those_of_the_records() -> None:
    demo = record("demo")
    seconds, evaluation = (demo[what]["native"][0] for what in ("seconds", "evaluation_seconds"))
    assert f"takes {seconds:.0f} seconds of one core, of which {evaluation:.1f} are" in CHOOSING_TEXT
    rates = record("input")["kinds"]["500x375"]["images_per_second"]
    fastest, fast = rates["lasfast, fast_decode, simplejpeg"], rates["lasfast, fast_decode"]
    assert f"reads {fastest} JPEG files of 500x375 pixels" in CHOOSING_TEXT
    assert f"{fast} with `--fast-decode` alone, and {rates['lasfast']} with neither" in CHOOSING_TEXT
    assert f"is then {1e6 / fastest / 60:.0f} minutes of one core" in CHOOSING_TEXT


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_take_their_options(line: str) -> None:
    name, *words = shlex.split(line)[1:]
    command = typer.main.get_command(cli._app_of(name))
    if isinstance(command, TyperGroup):
        command, words = command.commands[words[0]], words[1:]
    assert command.make_context("lasfast", words).params
