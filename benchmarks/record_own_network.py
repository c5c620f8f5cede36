r"""Which channels a trained network can best do without: importances compared on the supernet of a model.

    python -m benchmarks.record_own_network record runs/own-network \
        benchmarks/results/own-network-cifar10.json
    python -m benchmarks.record_own_network page benchmarks/results/own-network-cifar10.json \
        docs/own-network.md

`record` trains the ResNet of `benchmarks.record_own_model` for each seed, here on twice as many images, makes
a supernet of each for each importance, and measures the same random widths with the weights that they
inherit, batch norms recalibrated. Some of them are trained on, all with the same images and settings. The
directory keeps the trained networks. What is in the record already is not done again. `page` writes the table
into the page.
"""

from __future__ import annotations

import json
import random
import statistics
import textwrap
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import typer

import lasfast
from benchmarks import _harness
from benchmarks.record_own_model import TITLES, TUNING, points, resnet, trained
from lasfast import costs
from lasfast.data import Dataset
from lasfast.evaluation.scoring import evaluate_network
from lasfast.spaces import Architecture
from lasfast.supernets import ModelSupernet, from_model
from lasfast.supernets.importance import IMPORTANCES, TAYLOR

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
HEADING = "## Which importance\n"
DEFAULT = "magnitude"
SHARES = ((0.2, 0.35), (0.35, 0.5), (0.5, 0.75))
"""The ranges of multiply-adds, as shares of the network's own, that widths are drawn in."""
TUNED = 1
"""The place of the range of which some networks are trained on."""
TAYLOR_BATCHES, TAYLOR_BATCH = 8, 64
"""How many training images gradients are taken on: batches, and images of each."""


def drawn(supernet: ModelSupernet, size: tuple[int, int], count: int, seed: int) -> list[list[Architecture]]:
    """Return random architectures, `count` in each of the ranges of multiply-adds."""
    flops = costs.functions(supernet, size)["flops"]
    full, rng = flops(supernet.full), random.Random(seed)
    found: list[list[Architecture]] = [[] for _ in SHARES]
    while min(map(len, found)) < count:
        architecture = supernet.space.sample(rng)
        for kept, (low, high) in zip(found, SHARES, strict=True):
            if low <= flops(architecture) / full < high and len(kept) < count:
                kept.append(architecture)
    return found


def judged(
    supernet: ModelSupernet, images: Dataset, count: int, tuned: int, tune_epochs: int, seed: int
) -> dict[str, Any]:
    """Return the top-1 of random architectures in each range, and that of some of them after tuning."""
    architectures = drawn(supernet, images.image_size, count, seed)
    evaluator = lasfast.Evaluator(supernet, images.calibration, images.validation, precision="bf16")
    before = [[one.top1 for one in evaluator(of_range)] for of_range in architectures]
    after = []
    for architecture in architectures[TUNED][:tuned]:
        network = supernet.extract(architecture)
        tuning: dict[str, Any] = {"standalone_epochs": tune_epochs, "seed": seed, **TUNING}
        for _ in lasfast.train.train_standalone(network, images.train, "small", **tuning):
            pass
        after.append(evaluate_network(network.eval(), images.test).top1)
    return {"before": before, "after": after}


@app.command()
def record(
    directory: Path,
    output: Path,
    data: str = "imagefolder:data/cifar10",
    limit: int = 10000,
    epochs: int = 15,
    calibration: int = 500,
    validation: int = 1000,
    count: int = 6,
    tuned: int = 2,
    tune_epochs: int = 1,
    seeds: int = 3,
    threads: int = 1,
) -> None:
    """Measure narrower versions of trained networks by each importance."""
    torch.set_num_threads(threads)
    images = lasfast.data.load(data, calibration=calibration, validation=validation, limit=limit)
    settings = {
        "images": {"train": limit, "calibration": calibration, "validation": validation},
        "epochs": {"trained": epochs, "tuned": tune_epochs},
        "shares": [list(share) for share in SHARES],
    }
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else settings | {"seeds": {}}
    if {key: known[key] for key in settings} != settings:
        raise typer.BadParameter(f"{output} was made with other settings: {known}")
    for seed in range(seeds):
        model = trained(resnet, images, epochs, seed, directory / f"resnet-{seed}.safetensors")
        entry = known["seeds"].setdefault(str(seed), {"whole": evaluate_network(model, images.test).top1})
        for importance in (*IMPORTANCES, TAYLOR):
            if importance in entry:
                continue
            batches = islice(images.train.batches(TAYLOR_BATCH, seed=seed), TAYLOR_BATCHES)
            supernet = from_model(
                model,
                (images.channels, *images.image_size),
                vary="widths",
                importance=importance,
                batches=batches if importance == TAYLOR else None,
            )
            entry[importance] = judged(supernet, images, count, tuned, tune_epochs, seed)
            typer.echo(f"seed {seed}, {importance}: {json.dumps(entry[importance])}")
            machine = _harness.machine() | {"threads": threads}
            _harness.write(settings | {"seeds": known["seeds"], "machine": machine}, output)


def _means(found: dict[str, Any], importance: str) -> list[list[float]]:
    """Return the means of each seed in each range, then those after tuning."""
    entries = [seed[importance] for seed in found["seeds"].values()]
    before = [[statistics.fmean(one["before"][place]) for one in entries] for place in range(len(SHARES))]
    return [*before, [statistics.fmean(one["after"]) for one in entries]]


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the text of a record into the page; it replaces everything from the heading on."""
    found = json.loads(source.read_text(encoding="utf-8"))
    before, heading, _ = target.read_text(encoding="utf-8").partition(HEADING)
    if not heading:
        raise typer.BadParameter(f"{target} has no heading {HEADING.strip()!r}")
    ranges = [f"{100 * low:.0f} to {100 * high:.0f} %" for low, high in found["shares"]]
    means = {
        importance: _means(found, importance)
        for importance in (*IMPORTANCES, TAYLOR)
        if all(importance in seed for seed in found["seeds"].values())
    }
    rows = [f"| `{name}` | {' | '.join(map(points, of_name))} |" for name, of_name in means.items()]
    lines = []
    for name in ("l1", "batch_norm", TAYLOR):
        differences = [
            points([one - default for one, default in zip(*pair, strict=True)])
            for pair in ((means[name][place], means[DEFAULT][place]) for place in (TUNED, -1))
        ]
        lines.append(f"`{name}` is {differences[0]} points from it before, and {differences[1]} after")
    seeds, images, epochs = list(found["seeds"].values()), found["images"], found["epochs"]
    one = seeds[0][DEFAULT]
    text = f"""
The network is {TITLES["resnet"]}, trained for {epochs["trained"]}
epochs on {images["train"]:,} images of CIFAR-10: {len(seeds)} seeds, top-1
{points([seed["whole"] for seed in seeds])} % on the test images. These are the top-1 of
{len(one["before"][0])} random networks in each range of multiply-adds (shares of the network's own), the same
ones for each importance, with inherited weights and recalibrated batch norms, without adaptation, on
{images["validation"]:,} images. In the last column, {len(one["after"])} of those of {ranges[TUNED]} were
trained on ({epochs["tuned"]} epoch), and are measured on the test images. Means and standard errors are over
seeds. Made from [the record](../benchmarks/results/{source.name}) by
`python -m benchmarks.record_own_network page`.

| importance | {" | ".join(ranges)} | {ranges[TUNED]}, tuned |
|---|{"---|" * (len(ranges) + 1)}
{chr(10).join(rows)}

The default is `{DEFAULT}`. Paired by seed, in the range of {ranges[TUNED]}, {"; ".join(lines)}. One network
and one dataset settle no ranking of importances in general.
"""
    text = "\n\n".join(
        part if part.startswith("|") else textwrap.fill(part, 120, break_on_hyphens=False)
        for part in text.strip().split("\n\n")
    )
    target.write_text(f"{before}{heading}\n{text}\n", encoding="utf-8")
    typer.echo(f"wrote {target}")


if __name__ == "__main__":
    app()
