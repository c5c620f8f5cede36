"""Examples, commands, links and figures of the README are right, and those of pages without own tests."""

import json
import re
import shlex
import statistics
from pathlib import Path

import pytest
import torch

import lasfast
from benchmarks.record_accelerate import times_faster
from benchmarks.record_itnas import table_lines
from benchmarks.record_tabular import cell, mean_and_error
from lasfast import cli
from lasfast.train import presets

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
COMMANDS = README + (DOCS / "commands.md").read_text()


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


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
    exec(blocks(README)[1], names)
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
        exec(blocks((DOCS / "evaluation.md").read_text())[0], plain)
    [measurement] = evaluator([architecture])
    assert int(plain["right"].sum()) == round(measurement.top1 * measurement.images)


def test_a_network_of_ones_own_becomes_smaller(quick, monkeypatch) -> None:
    load = lasfast.data.load
    monkeypatch.setattr("lasfast.data.load", lambda name: load("digits"))  # in place of a folder
    head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(24, 10)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 24, 3), torch.nn.ReLU(), *head)
    names = {"model": model}
    exec(blocks(README)[0], names)
    assert names["smaller"].get_parameter("0.weight").shape == (8, 1, 3, 3)


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"^    make (\w+)", README, re.MULTILINE)) <= targets
    assert "docs" in set(re.findall(r"`make (\w+)`", README)) <= targets


def test_what_is_checked_before_a_merge_is_what_the_readme_says() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "make test" in lines


def test_the_readme_is_one_screen_and_a_half() -> None:
    assert len(README.splitlines()) <= 100


@pytest.mark.parametrize("line", re.findall(r"^    (lasfast .*?) +#", COMMANDS, re.MULTILINE))
def test_every_command_takes_its_options(line: str, monkeypatch, capsys) -> None:
    words = shlex.split(line)
    monkeypatch.setattr("sys.argv", [*words, "--help"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    page = capsys.readouterr().out
    for word in words:
        assert not word.startswith("--") or word in page


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.stem
)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Headings that links name are checked where the site is built (`make docs`)."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose)
    assert links or page.parent == DOCS
    for link in links:
        assert re.match("https?://", link) or (page.parent / link).exists(), link


def test_the_front_door_has_what_it_names() -> None:
    for name in lasfast.__all__:
        getattr(lasfast, name)
    for name in re.findall(r"`lasfast\.(\w+)`", README):
        assert hasattr(lasfast, name), name


def test_the_figures_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "nir-cifar10.json").read_text())
    text = " ".join((DOCS / "nir.md").read_text().partition("[The record]")[2].split())
    winner = record["winners"]["9"]
    assert f"{record['options']['limit']:,} CIFAR-10 images" in text
    assert f"{record['options']['validation']:,} others for validation" in text
    assert f"It took {round(record['seconds']['total'] / 60)} minutes on one thread" in text
    assert record["options"]["threads"] == 1
    assert f"{round(record['seconds']['evaluation'])} seconds of which" in text
    assert f"winner of depth 9 is {winner['text']}, top-1 {100 * winner['top1']:.1f} ± 0.6 %" in text
    for depth, comparison in record["one_shot_against_stand_alone"].items():
        if depth == "depth 4":
            assert f"Kendall's tau {comparison['kendall_tau']:.1f}" in text
            assert f"accuracy gap {100 * comparison['gap']:.1f} points" in text
        elif depth == "depth 9":
            assert f"tau is {comparison['kendall_tau']:.2f}" in text


def test_the_search_prints_what_its_record_says() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "example.json").read_text())
    assert f"takes [{record['cpu_seconds']:.0f} seconds of one core]" in README
    assert f"\n\n    {record['printed']}\n" in README


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("evaluate-bf16", "**{:.1f} times faster** than PyTorch tuned by hand (channels_last, bf16)"),
        ("evaluate-fp32", "and **{:.1f} times** in fp32"),
        ("avx2-evaluate", "With AVX2 alone, these are **{:.1f}** and"),
    ],
)
def test_the_speeds_are_those_of_the_record(name: str, sentence: str) -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    ratios = [one["times_faster_than"] for one in record["workloads"].values()]
    assert len(ratios) == 5
    assert record["machine"]["threads"] == 1
    text = " ".join(README.split())
    tuned = statistics.geometric_mean(one["tuned"] for one in ratios)
    assert sentence.format(tuned) in text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("train-bf16", "training is **{:.1f} times faster**"),
        ("avx2-train", "and **{:.1f} times** in fp32. Accelerated"),
    ],
)
def test_the_speeds_of_training_are_those_of_the_record(name: str, sentence: str) -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    workloads = record["workloads"].values()
    assert len(workloads) == 5
    assert record["machine"]["threads"] == 1
    text = " ".join(README.split())

    tuned = statistics.geometric_mean(one["times_faster"]["sequential"]["tuned"] for one in workloads)
    assert sentence.format(tuned) in text


def test_the_speeds_of_accelerated_networks_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "accelerate.json").read_text())
    assert len(record["networks"]) == 10
    means = [
        statistics.geometric_mean(
            times_faster(one[precision], "evaluation", "chosen, channels_last")
            for one in record["networks"].values()
        )
        for precision in ("bf16", "fp32")
    ]
    said = "predict **{:.1f} times** as fast in bf16, and **{:.1f} times** in fp32".format(*means)
    assert said in " ".join(README.split())


def beside(network: str, other: str) -> str:
    """The points by which our networks end above or below another way's, paired by seed, with their error."""
    record = json.loads((ROOT / "benchmarks" / "results" / f"own-model-{network}.json").read_text())
    points = [100 * (one["lasfast"]["after"] - one[other]["after"]) for one in record["seeds"].values()]
    mean, error = statistics.fmean(points), statistics.stdev(points) / len(points) ** 0.5
    return f"{abs(mean):.1f} ± {error:.1f} points {'above' if mean >= 0 else 'below'}"


def test_the_figures_of_smaller_networks_are_those_of_the_records() -> None:
    text = " ".join(README.split())
    for network, ways, points, times in (
        (
            "resnet",
            ("lasfast", "fastnas", "autonas"),
            "ends {} what ModelOpt's FastNAS makes of it, and {} uniform widths",
            "searching took {} CPU seconds, FastNAS {}, and AutoNAS, which ends as high as FastNAS, {}.",
        ),
        ("mobilenet", ("lasfast", "fastnas"), "A MobileNetV2 ends {} and {} them", "in {} and {} seconds"),
    ):
        assert points.format(beside(network, "fastnas"), beside(network, "uniform")) in text
        record = json.loads((ROOT / "benchmarks" / "results" / f"own-model-{network}.json").read_text())
        assert len(record["seeds"]) == 3
        searching = (
            statistics.fmean(one[way]["cpu_seconds"]["search"] for one in record["seeds"].values())
            for way in ways
        )
        assert times.format(*(f"{one:.0f}" for one in searching)) in text


def test_what_the_page_of_nir_says_of_trained_networks_is_in_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "relation.json").read_text())["trained"][
        "residual"
    ]
    text = " ".join((DOCS / "nir.md").read_text().split())
    assert f"Among {len(record['networks'])} small residual networks" in text
    assert len(record["networks"][0]["top1"]) == 3
    assert min(record["relation"][name]["p"] for name in ("from_best", "regret")) > 0.05
    regret = record["relation"]["regret"]
    found, by_chance = (f"{100 * regret[name]:.2f}" for name in ("found", "by_chance"))
    assert f"the best heir loses {found} points on average, where chance has {by_chance}" in text
    behind: dict[str, dict[int, float]] = {"NIR": {}, "uniform": {}, "NIR, two parents": {}}
    for one in record["searches"]:
        behind[one["way"]][one["seed"]] = 100 * one["depths"][-1]["regret"]
    nir, uniform = behind["NIR"], behind["uniform"]
    assert len(nir) == 5
    assert f"was {cell(mean_and_error(list(nir.values())))} points behind the best (five seeds)" in text
    assert f"drawn at random ({100 * record['depths'][-1]['regret_of_any']:.2f})" in text
    assert (
        f"{cell(mean_and_error([nir[seed] - uniform[seed] for seed in nir]))} points further behind" in text
    )


def test_what_spinning_threads_cost_is_that_of_the_record() -> None:
    ways = json.loads((ROOT / "benchmarks" / "results" / "waiting.json").read_text())["ways"]
    text = " ".join((DOCS / "workflow.md").read_text().split())
    spinning, sleeping = (ways[f"2 {way}"]["median"] for way in ("spinning", "sleeping"))
    assert f"took {spinning:.0f} seconds with spinning threads, and {sleeping:.0f} with sleeping ones" in text
    alone = {round(ways[f"1 {way}"]["median"]) for way in ("spinning", "sleeping")}
    assert alone == {int(*re.findall(r"one alone took (\d+) in both ways", text))}


def test_the_rates_of_processes_are_those_of_the_record() -> None:
    ways = json.loads((ROOT / "benchmarks" / "results" / "processes.json").read_text())["ways"]
    one, threads, two = (way["images_per_second"] for way in ways.values())
    page = " ".join((ROOT / "docs" / "distributed.md").read_text().split())
    assert f"one process of one thread trained {one} images a second" in page
    assert f"one of two threads {threads}, and two processes of one thread {two}" in page


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


def test_the_reference_has_every_public_module() -> None:
    listed = (DOCS / "reference.rst").read_text().split()
    assert set(lasfast._MODULES.values()) <= set(listed)


def test_the_figures_of_installing_are_those_of_the_record() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "install.json").read_text())
    build, code = record["builds"]["off"], record["machine_code"]
    minutes = build["cpu_seconds"] / 60
    cuda = sum(record["cuda_libraries"].values()) / 1e9
    assert f"CPU kernels alone: {minutes:.1f} minutes of one core" in README
    assert f"saves {cuda:.1f} GB of CUDA" in README
    assert f"each takes {code['100']['cpu_seconds'] / 60:.1f} more" in README
    page = (DOCS / "install.md").read_text()
    assert f"| CPU kernels alone | {minutes:.1f} minutes | {build['wheel_bytes'] / 1e6:.1f} MB |" in page
    assert f"{cuda:.1f} GB" in page
    release = record["builds"]["80;90a;100;120;90-virtual"]
    minutes, wheel = release["cpu_seconds"] / 60, release["wheel_bytes"] / 1e6
    assert f"for `80;90a;100;120;90-virtual` | {minutes:.1f} minutes | {wheel:.1f} MB |" in page
    releasing = " ".join((DOCS / "releasing.md").read_text().split())
    [built] = release["libraries"].values()
    assert f"has {wheel:.1f} MB, its module {built / 1e6:.1f} MB; it took {minutes:.1f} minutes" in releasing
    module = record["module"]
    size, packed = (f"{module[name] / 1e6:.0f} MB" for name in ("bytes", "bytes_in_wheel"))
    for text in (page, (DOCS / "releasing.md").read_text()):
        text = " ".join(text.split())
        assert f"`{';'.join(module['archs'])}` has {size}" in text
        assert f"takes {packed}" in text
    for chip in ("80", "90", "100", "120", "90-virtual"):
        name = {"90": "90a"}.get(chip, chip)
        seconds = code[chip].get("cpu_seconds")
        taken = "not recorded" if seconds is None else f"{seconds / 60:.1f} minutes"
        assert f"| and for `{name}` | {taken} | {code[chip]['bytes'] / 1e6:.1f} MB |" in page


def test_the_changelog_begins_with_this_version_or_with_what_comes_after_it() -> None:
    first, *others = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert lasfast.__version__ in (first, *others[:1])
