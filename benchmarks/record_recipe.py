"""Measures what recipes gain and take: they train networks from scratch, which are tested then.

    python -m benchmarks.record_recipe record runs/recipes benchmarks/results/recipes-cifar10.json
    python -m benchmarks.record_recipe page benchmarks/results/recipes-cifar10.json docs/recipe-figures.md

`record` trains each network by each recipe with several seeds. A residual network stands for what NIR
searches, and the published network of ProxylessNAS, a winner of the size of MobileNetV2, for spaces of
inverted residuals. The first directory keeps the trained networks and the CPU seconds of each; a second run
goes on from them, in mid-network. Seconds are those of the processor, so that what else runs beside counts
little; of a run that was killed, the part of an epoch that was not written is lost. `page` writes the table
into the page.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import typer

import lasfast
from benchmarks import _harness
from lasfast import costs
from lasfast.core.files import atomic_write_json
from lasfast.data import Dataset
from lasfast.spaces import Architecture
from lasfast.study.table_builder import TableBuilder
from lasfast.supernets import ProxylessNAS, ResidualNet, Supernet
from lasfast.train import Progress, TrainSettings, preset

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
HEADING = "## What a recipe gains\n"
RECIPES = {
    "plain": "nir-cifar100: SGD with milestones, crop and flip",
    "full": "modern-small-images: SGD with a cosine and a warm-up, no decay of biases and norms, label "
    "smoothing, MixUp or CutMix, TrivialAugment, random erasing",
}
"""The recipes, and what they are."""
BEHIND = """
The full recipe is behind here: it makes images harder to learn and labels softer, which is meant for long
trainings. Take it where a network has learnt its training images by heart long before the end, and compare.
"""


def settings_of(recipe: str, epochs: int, precision: str) -> TrainSettings:
    """Return the settings of a recipe for so many epochs; those of its preset keep their places."""
    if recipe == "full":
        return preset("modern-small-images", standalone_epochs=epochs, precision=precision)
    return preset("nir-cifar100", standalone_epochs=epochs, precision=precision)


def networks(data: Dataset, width: float) -> dict[str, tuple[Supernet, Architecture]]:
    """Return the networks by name: the supernet that gives each, and its architecture."""
    torch.manual_seed(0)
    residual = ResidualNet((2, 4, 3), data.num_classes, data.channels, stem="cifar")
    mobile = ProxylessNAS(data.num_classes, data.channels, stem="cifar", width=width)
    found = mobile.space.parse(mobile.published["proxyless-r-mobile"])
    return {
        "ResidualNet 2-4-3": (residual, (2, 4, 3)),
        f"ProxylessNAS, published, width {width:g}": (mobile, found),
    }


class Stopwatch:
    """Adds up the CPU seconds of a training over the runs that it takes, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.exists() else 0.0
        self._began = time.process_time()

    def mark(self, architecture: Architecture, progress: Progress) -> None:
        """Write the seconds up to here, once an epoch."""
        if progress.last_of_epoch:
            now = time.process_time()
            self.seconds, self._began = self.seconds + now - self._began, now
            atomic_write_json(self.path, {"seconds": self.seconds})


@app.command()
def record(
    directory: Path,
    output: Path,
    data: str = "imagefolder:data/cifar10",
    limit: int = 4000,
    epochs: int = 30,
    width: float = 0.5,
    seeds: int = 3,
    precision: str = "bf16",
    threads: int = 1,
) -> None:
    """Train the networks by all recipes, and test them."""
    torch.set_num_threads(threads)
    images = lasfast.data.load(data, validation=1000, calibration=500, limit=limit)
    result: dict[str, Any] = {
        "benchmark": "recipes",
        "machine": _harness.machine() | {"threads": threads},
        "images": {"train": len(images.train), "test": images.test[1].numel()},
        "epochs": epochs,
        "precision": precision,
        "recipes": RECIPES,
        "networks": {},
    }
    for name, (supernet, architecture) in networks(images, width).items():
        found = {"flops": costs.flops(supernet, architecture, images.image_size)}
        found["params"] = costs.params(supernet, architecture)
        result["networks"][name] = found | {recipe: [] for recipe in RECIPES}
    for seed in range(seeds):
        for number, (name, (supernet, architecture)) in enumerate(networks(images, width).items()):
            for recipe in RECIPES:
                place = directory / f"network{number}-{recipe}-seed{seed}"
                place.mkdir(parents=True, exist_ok=True)
                settings = settings_of(recipe, epochs, precision).replace(seed=seed)
                watch = Stopwatch(place / "seconds.json")
                builder = TableBuilder(supernet, images.train, images.test, [architecture], place, settings)
                [row] = builder.run(resume=True, on_progress=watch.mark)
                result["networks"][name][recipe].append({"top1": row.top1, "cpu_seconds": watch.seconds})
                typer.echo(f"{name}, {recipe}, seed {seed}: {100 * row.top1:.2f} %, {watch.seconds:.0f} s")
                _harness.write(result, output)


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the table of a record into the page: in place of the text of its heading, or at the end."""
    found = json.loads(source.read_text(encoding="utf-8"))
    before, _, after = target.read_text(encoding="utf-8").partition(HEADING)
    _, next_heading, rest = after.partition("\n## ")
    rows, leads = [], []
    for name, one in found["networks"].items():
        plain = one["plain"]
        for recipe in found["recipes"]:
            accuracies = [100 * run["top1"] for run in one[recipe]]
            gains = [value - 100 * run["top1"] for value, run in zip(accuracies, plain, strict=True)]
            leads += [statistics.fmean(gains)] if recipe == "full" else []
            seconds, base = (
                statistics.fmean(run["cpu_seconds"] for run in runs) for runs in (one[recipe], plain)
            )
            rows.append(
                f"| {name} | {recipe} | {statistics.fmean(accuracies):.1f} ± {_error(accuracies):.1f} % | "
                + ("|" if recipe == "plain" else f"{statistics.fmean(gains):+.1f} ± {_error(gains):.1f} |")
                + f" {seconds:.0f} s | {seconds / base:.2f} |"
            )
    count = len(plain)
    described = "\n".join(f"- *{recipe}*: {what}." for recipe, what in found["recipes"].items())
    images = found["images"]
    text = f"""
{found["epochs"]} epochs on {images["train"]:,} images of CIFAR-10 (class-balanced, JPEG copies), tested on
{images["test"]:,} others; {found["precision"]}, {found["machine"]["threads"]} thread. Means of {count} seeds,
with standard errors; gains are over *plain* with the same seed. Time is the processor's. Made from
[the record](../benchmarks/results/{source.name}) by `python -m benchmarks.record_recipe page`.

{described}

| network | recipe | top-1 | points gained | time | times plain's |
|---|---|---|---|---|---|
{chr(10).join(rows)}
{BEHIND if max(leads) < 0 else ""}"""
    text = f"{before.rstrip()}\n\n{HEADING}{text}{next_heading}{rest}"
    target.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {target}")


def _error(values: list[float]) -> float:
    """Return the standard error of a mean; 0 of a single value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


if __name__ == "__main__":
    app()
