"""A search of bit widths on images, against uniform bits and random architectures of equal bit operations.

    python -m benchmarks.record_bit_widths record runs/bit-widths benchmarks/results/bit-widths-cifar10.json
    python -m benchmarks.record_bit_widths page benchmarks/results/bit-widths-cifar10.json docs/bit-widths.md

`record` trains a quantized ResNet-18 supernet by uniform sampling and evolves architectures within the bit
operations of 2 bits everywhere (Single Path One-Shot, Table 6, "2W2A"). It stops after the first, random
generation where inherited accuracies do not tell its architectures apart. Else it trains from scratch and
tests the winner, 2W2A itself and a random architecture of as many bit operations, another one for each seed.
`page` writes what was found into the page. The first directory keeps weights and trained networks; a second
run continues from them.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import typer

import lasfast
from benchmarks import _harness
from benchmarks.record_one_shot import train
from lasfast import costs
from lasfast.searchers import Evolution
from lasfast.searchers.operators import sample_nearest
from lasfast.spaces import Architecture
from lasfast.study.table_builder import TableBuilder
from lasfast.supernets import QuantResNet
from lasfast.train import preset

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
HEADING = "## A small record\n"
TOLD_APART = 2
"""So many standard errors must inherited accuracies differ (their standard deviation) to choose by them."""


@app.command()
def record(
    directory: Path,
    output: Path,
    data: str = "imagefolder:data/cifar10",
    limit: int = 20_000,
    width: float = 0.25,
    epochs: int = 60,
    learning_rate: float = 0.1,
    population: int = 50,
    generations: int = 9,
    calibration: int = 1000,
    validation: int = 10_000,
    standalone_epochs: int = 15,
    seeds: int = 3,
    precision: str = "bf16",
    threads: int = 1,
) -> None:
    """Train the supernet, search, train from scratch."""
    torch.set_num_threads(threads)
    directory.mkdir(parents=True, exist_ok=True)
    images = lasfast.data.load(data, calibration=calibration, validation=validation, limit=limit)
    settings = preset(
        "small",
        learning_rate=learning_rate,
        supernet_epochs=epochs,
        standalone_epochs=standalone_epochs,
        precision=precision,
    )
    torch.manual_seed(0)
    supernet = QuantResNet(len(images.classes), stem="cifar", width=width)
    seconds = train(supernet, images, settings, directory / "supernet.safetensors")
    supernet.to(memory_format=torch.contiguous_format)
    space, bitops = supernet.space, costs.functions(supernet, images.image_size)["bitops"]
    uniform = space.parse("-".join(["1.0", "w2a2"] * (len(space.options) // 2)))
    bound = bitops(uniform)

    def within(architecture: Architecture) -> bool:
        return bitops(architecture) <= bound

    evaluator = lasfast.Evaluator(supernet, images.calibration, images.validation, precision=precision)
    evolution = Evolution(space, constraint=within, population=population, generations=generations)
    result: dict[str, Any] = {
        "benchmark": "bit-widths",
        "machine": _harness.machine(),
        "data": data,
        "precision": precision,
        "supernet": f"ResNet-18, width {width:g}",
        "images": {"train": len(images.train), "calibration": calibration, "validation": validation},
        "training": {"epochs": epochs, "seconds": seconds},
        "bitops": bound,
        "search": {"evaluations": 0, "seconds": 0.0, "backend": evaluator.backend.name},
        "standalone": {},
    }
    search = result["search"]
    began = time.perf_counter()
    while candidates := evolution.ask():
        measured = evaluator(candidates)
        for one in measured:
            evolution.tell(one.architecture, one)
        search["evaluations"] = len(evolution.results)
        search["seconds"] = time.perf_counter() - began
        if "first_generation" not in search:
            search["first_generation"] = [one.top1 for one in measured]
            search["spread"] = statistics.stdev(search["first_generation"])
            search["standard_error"] = statistics.fmean(one.standard_error for one in measured)
            _harness.write(result, output)
            if search["spread"] < TOLD_APART * search["standard_error"]:
                typer.echo(f"stopped: {len(measured)} random architectures are not told apart")
                return
    rng = random.Random("random")
    drawn = [sample_nearest(space, rng, bitops, bound, within) for _ in range(seeds)]
    others = [one for one in drawn if one is not None]
    trained = {"evolution": [evolution.best[0]] * seeds, "2W2A": [uniform] * seeds, "random": others}
    result["standalone_epochs"] = standalone_epochs
    result["test_images"] = len(images.test[1])
    result["standalone"] = {
        name: {
            "architectures": [space.format(one) for one in ones],
            "bitops": [bitops(one) for one in ones],
            "inherited": [one.top1 for one in evaluator(ones)],
            "top1": [],
        }
        for name, ones in trained.items()
    }
    typer.echo(f"winner: {space.format(evolution.best[0])} {evolution.best[1]:.4f}")
    _harness.write(result, output)
    for seed in range(seeds):
        chosen = {name: ones[seed] for name, ones in trained.items()}
        where = directory / f"seed{seed}"
        builder = TableBuilder(
            supernet, images.train, images.test, chosen.values(), where, settings, seed=seed
        )
        top1 = {row.architecture: row.top1 for row in builder.run(resume=True)}
        for name, one in chosen.items():
            result["standalone"][name]["top1"].append(top1[one])
        _harness.write(result, output)


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the text of a record into the page; it replaces everything from the heading on."""
    record = json.loads(source.read_text(encoding="utf-8"))
    before, heading, _ = target.read_text(encoding="utf-8").partition(HEADING)
    if not heading:
        raise typer.BadParameter(f"{target} has no heading {HEADING.strip()!r}")
    images, search = record["images"], record["search"]
    mean = 100 * statistics.fmean(search["first_generation"])
    told_apart = "apart" if record["standalone"] else "apart: the record stops there"
    text = f"""
{record["supernet"]}, trained on {images["train"]:,} images of CIFAR-10 by uniform sampling
({record["training"]["epochs"]} epochs, {record["training"]["seconds"]:.0f} s); then
{search["evaluations"]} architectures were measured with inherited weights
({images["calibration"]:,} images of calibration, {images["validation"]:,} of validation;
{search["seconds"]:.0f} s) within {record["bitops"] / 2**20:.0f} Mi bit operations, those of 2 bits
everywhere. {record["precision"]}, {record["machine"]["threads"]} thread of a busy machine.
Made from [the record](../benchmarks/results/{source.name}) by
`python -m benchmarks.record_bit_widths page`.

The {len(search["first_generation"])} architectures of the first generation are random. Their inherited
accuracies, {mean:.1f} % on average, have a standard deviation of
{100 * search["spread"]:.1f} points, where the standard error of one is {100 * search["standard_error"]:.2f}.
Less than {TOLD_APART} standard errors do not tell them {told_apart}.
{_standalone(record)}"""
    target.write_text(before + heading + text, encoding="utf-8")
    typer.echo(f"wrote {target}")


def _standalone(record: dict[str, Any]) -> str:
    """Return what the page says of networks trained from scratch, if there are any."""
    if not record["standalone"]:
        return """
So nothing was searched, nor trained from scratch: evolution would have chosen by noise.
"""
    return f"""
Trained from scratch, {record["standalone_epochs"]} epochs, top-1 on {record["test_images"]:,} test images:

| architecture of | Mi bit operations | inherited weights | from scratch, each seed | mean |
|---|---|---|---|---|
{chr(10).join(_line(name, one) for name, one in record["standalone"].items())}

The random architectures are another one for each seed, of 200 drawn within the bound the one nearest to it.
Evolution's: `{record["standalone"]["evolution"]["architectures"][0]}`. From scratch, the winner is
{_against(record, "2W2A")} 2W2A and {_against(record, "random")} the random architectures.
"""


def _against(record: dict[str, Any], name: str) -> str:
    """Return how much better or worse than others the winner is, trained from scratch."""
    ours, theirs = (100 * statistics.fmean(record["standalone"][one]["top1"]) for one in ("evolution", name))
    return f"{abs(ours - theirs):.1f} points {'above' if ours > theirs else 'below'}"


def _line(name: str, one: dict[str, Any]) -> str:
    inherited, mean = (100 * statistics.fmean(one[which]) for which in ("inherited", "top1"))
    bitops = statistics.fmean(one["bitops"]) / 2**20
    each = ", ".join(f"{100 * value:.1f}" for value in one["top1"])
    return f"| {name} | {bitops:.1f} | {inherited:.1f} % | {each} | {mean:.1f} % |"


if __name__ == "__main__":
    app()
