"""ITNAS, taken apart: what transitions, Gumbel noise, DARTS' `none` and the pruning are each worth.

    python -m benchmarks.record_itnas_parts search runs/itnas-parts
    python -m benchmarks.record_itnas_parts train runs/itnas-parts
    python -m benchmarks.record_itnas_parts record runs/itnas-parts benchmarks/results/itnas-parts.json
    python -m benchmarks.record_itnas_parts page benchmarks/results/itnas-parts.json docs/itnas-parts.md

`search` learns cells on small images of CIFAR-10, by each way and with each seed, and keeps what pruning
leaves of them in both of its ways. `train` trains these cells from scratch, and random ones: half of them are
any, half have as many inner edges as those that were found, since cells without them are shallow and train
fast whatever their operations are. If one of the two is interrupted, the same command continues. `record`
compares what was found with the random cells, and ways with each other.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import typer
from scipy.stats import kendalltau

import lasfast
from benchmarks import _harness
from benchmarks.record_itnas import SEARCH, from_scratch
from benchmarks.record_tabular import markdown, mean_and_error
from lasfast.data import Dataset
from lasfast.searchers.itnas import prune
from lasfast.spaces import Architecture, CellSpace
from lasfast.spaces.cell import INPUTS, Cell
from lasfast.study.architecture_table import load_table
from lasfast.supernets import CellNet
from lasfast.train import ITNASTrainer, preset

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
WAYS: dict[str, dict[str, bool]] = {
    "ITNAS": {},
    "without transition": {"transition": False},
    "without Gumbel": {"gumbel": False},
    "DARTS": {"transition": False, "gumbel": False, "none": True},
}
UNTRAINED = "ITNAS, untrained"
"""The way that prunes the parameters which ITNAS begins with."""
PRUNINGS = ("iterative", "hard")
WHOLE = f"ITNAS, {PRUNINGS[0]} pruning"
RANDOM, MATCHED = "any", "as many inner edges"
DATA = "imagefolder:data/cifar10"


def load(data: str) -> Dataset:
    """Return the images, in half their height and width."""
    return lasfast.data.load(data, limit=2000, image_size=16)


def make(images: Dataset, seed: int) -> CellNet:
    """Return a supernet of three cells of 8 channels."""
    torch.manual_seed(seed)
    return CellNet(len(images.classes), images.channels, cells=3, channels=8)


def inner_edges(cell: Cell) -> int:
    """Return how many edges of a cell come from its own nodes."""
    return sum(edge.source >= INPUTS for node in cell for edge in node)


@app.command()
def search(directory: Path, seeds: int = 8, epochs: int = 15, data: str = DATA, threads: int = 1) -> None:
    """Learn cells by each way, with each seed."""
    torch.set_num_threads(threads)
    directory.mkdir(parents=True, exist_ok=True)
    images, path = load(data), directory / "found.json"
    found: dict[str, Any] = {"epochs": epochs, "seconds": {}, "cells": {}}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
    for seed, (way, options) in itertools.product(range(seeds), [*WAYS.items(), (UNTRAINED, {})]):
        key = f"{way}/{seed}"
        if key in found["cells"]:
            continue
        began = time.process_time()
        supernet = make(images, seed)
        settings = preset("small", supernet_epochs=epochs, seed=seed)
        trainer = ITNASTrainer(supernet, images.train, settings, **SEARCH, **options)
        for _ in trainer.train(0) if way != UNTRAINED else ():
            pass
        learned = trainer.learned()
        found["cells"][key] = {
            pruning: supernet.space.architecture(
                *(prune(supernet.space, learned[kind], iterative=pruning == "iterative") for kind in learned)
            )
            for pruning in PRUNINGS
        }
        found["seconds"][key] = round(time.process_time() - began, 1)
        path.write_text(json.dumps(found), encoding="utf-8")
        typer.echo(f"{key}: {found['seconds'][key]} CPU s")


def random_cells(space: CellSpace, like: list[Architecture], count: int) -> dict[str, list[Architecture]]:
    """Return random architectures, and as many of which each has the inner edges of one that was found."""
    rng = random.Random("cells")
    matched = []
    for one in itertools.islice(itertools.cycle(like), count):
        halves = []
        for part, cell in enumerate(space.cells(one)):
            wanted = inner_edges(cell)
            while inner_edges(drawn := space.cells(space.sample(rng))[part]) != wanted:
                pass
            halves.append(drawn)
        matched.append(space.architecture(*halves))
    return {RANDOM: [space.sample(rng) for _ in range(count)], MATCHED: matched}


def _cells(directory: Path, space: CellSpace, count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what searches found, with architectures as tuples, and random cells."""
    found = json.loads((directory / "found.json").read_text(encoding="utf-8"))
    for cells in found["cells"].values():
        for pruning, one in cells.items():
            cells[pruning] = tuple(one)
    like = [
        one for key, cells in found["cells"].items() if key.startswith("ITNAS/") for one in cells.values()
    ]
    return found, random_cells(space, like, count)


@app.command()
def train(
    directory: Path, count: int = 50, seeds: int = 2, epochs: int = 15, data: str = DATA, threads: int = 1
) -> None:
    """Train all cells that were found from scratch, and `count` random ones of each kind."""
    torch.set_num_threads(threads)
    images = load(data)
    supernet = make(images, 0)
    found, drawn = _cells(directory, supernet.space, count)
    every = [one for cells in found["cells"].values() for one in cells.values()]
    every = list(dict.fromkeys([*every, *itertools.chain(*drawn.values())]))
    for seed in range(seeds):
        builder = from_scratch(supernet, images, every, directory / f"seed{seed}", epochs, seed)
        builder.run(resume=True, on_row=lambda row: typer.echo(f"{row.top1:.4f}, {row.architecture}"))


@app.command()
def record(directory: Path, output: Path, count: int = 50, data: str = DATA) -> None:
    """Compare what searches found with random cells, and ways with ITNAS."""
    images = load(data)
    space = make(images, 0).space
    found, drawn = _cells(directory, space, count)
    tables = [
        {row.architecture: row.top1 for row in load_table(path)} for path in sorted(directory.glob("seed*"))
    ]

    def top1(one: Architecture) -> float:
        return 100 * statistics.fmean(table[one] for table in tables)

    # Training may have been stopped: random cells that it did not come to are left out.
    drawn = {
        name: [one for one in cells if all(one in table for table in tables)] for name, cells in drawn.items()
    }
    values = {name: sorted(map(top1, cells)) for name, cells in drawn.items()}
    result: dict[str, Any] = {
        "benchmark": "itnas-parts",
        "machine": _harness.machine(),
        "images": images.describe(),
        "epochs": found["epochs"],
        "trainings": len(tables),
        "random": {name: {"cells": len(some), "top1": mean_and_error(some)} for name, some in values.items()},
        "inner_edges": _of_inner_edges(space, drawn[RANDOM], top1),
        "ways": {},
    }
    of: dict[str, list[float]] = {}
    for way, pruning in itertools.product([*WAYS, UNTRAINED], PRUNINGS):
        cells = [one[pruning] for key, one in found["cells"].items() if key.rpartition("/")[0] == way]
        name = f"{way}, {pruning} pruning"
        of[name] = list(map(top1, cells))
        differences = [ours - full for ours, full in zip(of[name], of[WHOLE], strict=True)]
        result["ways"][name] = {
            "searches": len(cells),
            "inner_edges": statistics.fmean(inner_edges(cell) for one in cells for cell in space.cells(one)),
            "top1": mean_and_error(of[name]),
            "percentile": {kind: _percentile(of[name], some) for kind, some in values.items()},
            "difference": mean_and_error(differences),
            "seconds": statistics.fmean(
                seconds for key, seconds in found["seconds"].items() if key.rpartition("/")[0] == way
            ),
        }
    _harness.write(result, output)


def _percentile(values: list[float], among: list[float]) -> list[float]:
    """Return which share of random cells, in percent, a value exceeds (half of those that are equal): the
    mean over values and its standard error."""
    return mean_and_error(
        [
            100 * statistics.fmean((value > other) + (value == other) / 2 for other in among)
            for value in values
        ]
    )


def _of_inner_edges(
    space: CellSpace, cells: list[Architecture], top1: Callable[[Architecture], float]
) -> dict[str, float]:
    """Return the mean number of inner edges of random cells, and how it goes with their accuracies."""
    edges = [sum(map(inner_edges, space.cells(one))) for one in cells]
    tau = kendalltau(edges, [top1(one) for one in cells])
    return {"mean": statistics.fmean(edges) / 2, "tau": float(tau.statistic), "p": float(tau.pvalue)}


INTRODUCTION = """# ITNAS, taken apart

What are the parts of ITNAS each worth? Its cells were learned on {train:,} images of CIFAR-10 with 16x16
pixels, in {epochs} epochs and 3 cells of 8 channels, with {searches} seeds; once whole, and with one part
left out. Both prunings were applied to what was learned. Each pair of cells was then trained from scratch and
tested (trainings of each: {trainings}), and so were {cells} random ones. Half of these are any; half have as
many inner edges as those that ITNAS found. A cell without inner edges is shallow, and in so short a training
that may count for more than its operations. Made from [the record](../benchmarks/results/{record}) by
`python -m benchmarks.record_itnas_parts page`.

*Above* is the share of random cells that a cell is better than, 50 % by chance. Errors are standard errors
over searches.
"""


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the page of a record."""
    found = json.loads(source.read_text(encoding="utf-8"))
    some = next(iter(found["ways"].values()))
    heads = ["cells of", "inner edges of 8", "top-1", "above any random", "above matched random"]
    rows = [
        [
            name,
            f"{one['inner_edges']:.1f}",
            _points(one["top1"]),
            *(f"{value:.0f} ± {error:.0f} %" for value, error in one["percentile"].values()),
            _points(one["difference"]),
        ]
        for name, one in found["ways"].items()
    ]
    rows += [
        [f"random, {name}", "", _points(one["top1"]), "", "", ""] for name, one in found["random"].items()
    ]
    lines = [
        INTRODUCTION.format(
            train=found["images"]["train"],
            searches=some["searches"],
            record=source.name,
            cells=sum(one["cells"] for one in found["random"].values()),
            **found,
        ),
        *markdown([*heads, "difference from the first, by seed"], rows),
        "",
        _in_words(found),
    ]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    typer.echo(f"wrote {target}")


def _in_words(found: dict[str, Any]) -> str:
    """Return what the table shows and what it does not, in sentences."""
    ways, some, edges = found["ways"], found["random"], found["inner_edges"]
    above = ways[WHOLE]["percentile"][MATCHED][0]
    error = _pooled(one["percentile"][MATCHED][1] for one in ways.values())
    better = "better" if above - 2 * error > 50 else "not told apart"
    gap = some[MATCHED]["top1"][0] - some[RANDOM]["top1"][0]
    gap_error = math.hypot(some[MATCHED]["top1"][1], some[RANDOM]["top1"][1])
    others = {name: one["difference"] for name, one in ways.items() if name != WHOLE}
    least = 2 * _pooled(error for _, error in others.values())
    told = [name for name, (mean, _) in others.items() if abs(mean) > least]
    minutes = sum(one["seconds"] * one["searches"] for one in ways.values()) / 60 / len(PRUNINGS)
    difference = (
        f"these make a difference: {'; '.join(told)}" if told else "no part makes a difference that is told"
    )
    return (
        f"In words: beside random cells with as many inner edges, those of ITNAS are {better} "
        f"({above:.0f} ± {error:.0f} % are worse). Random cells with as few inner edges as ITNAS' have "
        f"{gap:.2f} ± {gap_error:.2f} points more than any random ones, which have {edges['mean']:.1f} inner "
        f"edges; among these, fewer edges go with more accuracy by a tau of {-edges['tau']:.2f} "
        f"(p = {edges['p']:.2g}). Left out, {difference}; differences of less than some {least:.1f} points "
        f"could not be told (two standard errors, taken from all ways together). The searches took "
        f"{minutes:.0f} minutes of one core. These networks are tiny "
        "and far from trained to the end, and searches are few."
    )


def _pooled(errors: Iterable[float]) -> float:
    """Return the standard error of any way, by those of all: a few searches do not tell each way's own."""
    return math.sqrt(statistics.fmean(error**2 for error in errors))


def _points(value: list[float]) -> str:
    """Return a mean in points with its standard error."""
    return f"{value[0]:.2f} ± {value[1]:.2f}"


if __name__ == "__main__":
    app()
