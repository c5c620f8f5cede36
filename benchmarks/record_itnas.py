"""ITNAS on images: cells that searches found and random cells, all trained from scratch in the same way.

    python -m benchmarks.record_itnas record runs/itnas-record benchmarks/results/itnas-cifar10.json
    python -m benchmarks.record_itnas table benchmarks/results/itnas-cifar10.json

`record` searches once for each seed; prunes what was learned iteratively and hard; draws, for each
architecture found, the one of some hundred random ones whose FLOPs are nearest, and some more at random;
trains all of them from scratch with several seeds; and tests them. The first directory keeps searches and
networks; a second run continues from them.
"""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path
from typing import Any

import torch
import typer

import lasfast
from benchmarks import _harness
from lasfast import costs
from lasfast.data import Dataset
from lasfast.searchers import ITNAS
from lasfast.searchers.operators import sample_nearest
from lasfast.spaces import Architecture
from lasfast.study.table_builder import TableBuilder
from lasfast.supernets import CellNet
from lasfast.train import ITNASTrainer, checkpoint, preset

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
# The settings of `lasfast search itnas` with the preset small.
SEARCH: dict[str, Any] = {"architecture_learning_rate": 0.05, "temperature": (10.0, 0.5)}


@app.command()
def record(
    directory: Path,
    output: Path,
    data: str = "imagefolder:data/cifar10",
    image_size: int = 16,
    limit: int = 2000,
    cells: int = 3,
    channels: int = 8,
    epochs: int = 15,
    standalone_epochs: int = 15,
    searches: int = 3,
    randoms: int = 5,
    seeds: int = 2,
    threads: int = 1,
) -> None:
    """Search, draw, train from scratch, test; `limit` is the number of images of both halves of a search."""
    torch.set_num_threads(threads)
    directory.mkdir(parents=True, exist_ok=True)
    images = lasfast.data.load(data, limit=limit, image_size=image_size)
    result: dict[str, Any] = {
        "benchmark": "itnas",
        "machine": _harness.machine(),
        "data": data,
        "images": images.describe(),
        "supernet": f"CellNet, {cells} cells of {channels} channels, {image_size}x{image_size} pixels",
        "epochs": epochs,
        "standalone_epochs": standalone_epochs,
        "settings": {**SEARCH, "preset": "small"},
        "searches": [],
    }
    torch.manual_seed(0)
    supernet = CellNet(len(images.classes), images.channels, cells=cells, channels=channels)
    flops = costs.functions(supernet, images.image_size)["flops"]
    found: dict[str, list[Architecture]] = {"ITNAS": [], "ITNAS, hard pruning": []}
    for seed in range(searches):
        torch.manual_seed(seed)
        searched = CellNet(len(images.classes), images.channels, cells=cells, channels=channels)
        settings = preset("small", supernet_epochs=epochs, seed=seed)
        trainer = ITNASTrainer(searched, images.train, settings, **SEARCH)
        seconds = train(trainer, directory / f"search{seed}.safetensors")
        for name, pruning in zip(found, ("iterative", "hard"), strict=True):
            found[name] += ITNAS(supernet.space, learned=trainer.learned, pruning=pruning).ask()
        result["searches"].append({"seed": seed, "seconds": seconds})
        _harness.write(result, output)
    rng = random.Random("record")
    nearest = [
        sample_nearest(supernet.space, rng, flops, flops(one), lambda other: True) for one in found["ITNAS"]
    ]
    found["random, of as many FLOPs as ITNAS'"] = [one for one in nearest if one is not None]
    found["random"] = [supernet.space.sample(rng) for _ in range(randoms)]
    # Searches tend to wide, shallow cells, which train fast whatever their operations are.
    found["random, nodes read the cells before alone"] = [
        shallow(supernet.space.sample(rng)) for _ in range(searches)
    ]
    result["networks"] = [
        {
            "of": name,
            "architecture": supernet.space.format(one),
            "flops": flops(one),
            "params": costs.params(supernet, one),
            "top1": [],
        }
        for name, architectures in found.items()
        for one in architectures
    ]
    every = [one for architectures in found.values() for one in architectures]
    for seed in range(seeds):
        builder = from_scratch(supernet, images, every, directory / f"seed{seed}", standalone_epochs, seed)
        top1 = {row.architecture: row.top1 for row in builder.run(resume=True)}
        for one, network in zip(every, result["networks"], strict=True):
            network["top1"].append(top1[one])
        _harness.write(result, output)


def from_scratch(
    supernet: CellNet, images: Dataset, cells: list[Architecture], place: Path, epochs: int, seed: int
) -> TableBuilder:
    """Return what trains cells from scratch and tests them."""
    settings = preset("small", standalone_epochs=epochs, seed=seed)
    return TableBuilder(supernet, images.train, images.test, cells, place, settings)


def shallow(architecture: Architecture) -> Architecture:
    """Return the architecture in which all nodes read nodes 0 and 1, their first option."""
    return tuple(0 if index % 3 == 0 else option for index, option in enumerate(architecture))


def train(trainer: ITNASTrainer, path: Path) -> float:
    """Search, or load the search of an earlier run; return the seconds that it took."""
    if path.exists():
        tensors, values = checkpoint.load(path)
        trainer.load_state(tensors, values)
        return float(values["seconds"])
    seconds = 0.0
    for progress in trainer.train(0):
        seconds = progress.seconds
        if progress.last_of_epoch:
            typer.echo(f"epoch {progress.epoch + 1}: loss {progress.loss:.3f} ({seconds:.0f} s)")
    tensors, values = trainer.state()
    checkpoint.save(path, tensors, values | {"seconds": seconds})
    return seconds


@app.command()
def table(source: Path) -> None:
    """Print a record's table for a page: the networks by origin, each with the mean over its seeds."""
    typer.echo("\n".join(table_lines(json.loads(source.read_text(encoding="utf-8")))))


def table_lines(record: dict[str, Any]) -> list[str]:
    """Return the lines of the table."""
    lines = ["| cells of | MFLOPs | top-1 of each | mean |", "|---|---|---|---|"]
    for name in dict.fromkeys(network["of"] for network in record["networks"]):
        networks = [network for network in record["networks"] if network["of"] == name]
        means = [100 * statistics.fmean(network["top1"]) for network in networks]
        flops = [network["flops"] / 1e6 for network in networks]
        each = ", ".join(f"{mean:.1f}" for mean in means)
        lines.append(
            f"| {name} | {min(flops):.1f} to {max(flops):.1f} | {each} | {statistics.fmean(means):.1f} % |"
        )
    return lines


if __name__ == "__main__":
    app()
