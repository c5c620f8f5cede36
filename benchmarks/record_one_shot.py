"""A one-shot search on images: several searchers with equally many evaluations on one trained supernet.

    python -m benchmarks.record_one_shot record runs/one-shot benchmarks/results/one-shot-cifar10.json
    python -m benchmarks.record_one_shot page benchmarks/results/one-shot-cifar10.json docs/one-shot.md

`record` trains a MobileNet supernet (LayerNAS, Table 7) by uniform sampling, and searches it within a bound
on FLOPs. In some steps, to compare the times, the torch backend also measures the candidates, before or after
the native one. Then the winners, and a random architecture of as many FLOPs, are trained from scratch with
several seeds, and tested. The first directory keeps weights and trained networks; a second run continues from
them.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import typer
from safetensors.torch import load_model, save_model

import lasfast
from benchmarks import _harness
from lasfast import costs
from lasfast.constraints import Cost
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.searchers import Evolution, LayerNAS, Random, Searcher
from lasfast.searchers.operators import sample_nearest
from lasfast.spaces import Architecture, ChoiceSpace
from lasfast.study.table_builder import TableBuilder
from lasfast.supernets import MobileNet, Supernet
from lasfast.train import OneShotTrainer, preset

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
BOTH = 5  # in every fifth step, torch measures the candidates, too
TRAINED = ("evolution", "LayerNAS")  # whose winners are trained from scratch


def searchers(space: ChoiceSpace, flops: Cost, limit: float, evaluations: int) -> dict[str, Searcher]:
    """Return the searchers that are compared; each may evaluate `evaluations` architectures."""

    def within(architecture: Architecture) -> bool:
        return flops(architecture) <= limit

    target = (0.9 * limit, limit)
    return {
        "random": Random(space, samples=evaluations, constraint=within),
        "evolution": Evolution(space, constraint=within, population=evaluations // 10, generations=9),
        "LayerNAS": LayerNAS(space, cost=flops, target=target, evaluations=evaluations),
        "LayerNAS, best parents, default within the bound (ours)": LayerNAS(
            space,
            cost=flops,
            target=target,
            select="best",
            default=middle(space, flops, limit),
            evaluations=evaluations,
        ),
    }


def middle(space: ChoiceSpace, flops: Cost, limit: float) -> Architecture:
    """Return the dearest architecture within the limit whose options are equally dear in all layers."""
    ordered = space.by_cost(flops)
    shares = (tenth / 20 for tenth in range(21))
    alike = [tuple(options[round(share * (len(options) - 1))] for options in ordered) for share in shares]
    return max((one for one in alike if flops(one) <= limit), key=flops)


@app.command()
def record(
    directory: Path,
    output: Path,
    data: str = "imagefolder:data/cifar10",
    limit: int = 4000,
    width: float = 0.5,
    epochs: int = 20,
    learning_rate: float = 0.1,
    share: float = 0.4,
    evaluations: int = 200,
    calibration: int = 500,
    validation: int = 1000,
    standalone_epochs: int = 6,
    seeds: int = 3,
    threads: int = 1,
) -> None:
    """Train, search, train winners from scratch; the bound is `share` of the way from least to most FLOPs."""
    torch.set_num_threads(threads)
    directory.mkdir(parents=True, exist_ok=True)
    images = lasfast.data.load(data, calibration=calibration, validation=validation, limit=limit)
    settings = preset(  # fp32, because depthwise convolutions train slower in bf16 here
        "small",
        learning_rate=learning_rate,
        supernet_epochs=epochs,
        standalone_epochs=standalone_epochs,
    )
    torch.manual_seed(0)
    supernet = MobileNet("60M", len(images.classes), stem="cifar", width=width)
    seconds = train(supernet, images, settings, directory / "supernet.safetensors")
    supernet.to(memory_format=torch.contiguous_format)
    flops = costs.functions(supernet, images.image_size)["flops"]
    ordered = supernet.space.by_cost(flops)
    low, high = (flops(tuple(options[end] for options in ordered)) for end in (0, -1))
    bound = low + share * (high - low)
    evaluators = {
        backend: lasfast.Evaluator(supernet, images.calibration, images.validation, backend, "bf16")
        for backend in ("native", "torch")
    }
    evaluators["native"]([middle(supernet.space, flops, bound)])  # warm up
    result: dict[str, Any] = {
        "benchmark": "one-shot",
        "machine": _harness.machine(),
        "data": data,
        "supernet": f"MobileNet 60M, width {width:g}",
        "images": {"train": len(images.train), "calibration": calibration, "validation": validation},
        "training": {"epochs": epochs, "seconds": seconds},
        "flops": {"least": low, "most": high, "limit": bound},
        "evaluations": evaluations,
        "searches": {},
    }
    winners: dict[str, Architecture] = {}
    for name, searcher in searchers(supernet.space, flops, bound, evaluations).items():
        result["searches"][name] = search(searcher, evaluators, supernet)
        one = result["searches"][name]
        one["flops"] = flops(searcher.best[0])
        if name in TRAINED:
            winners[name] = searcher.best[0]
        typer.echo(f"{name}: {one['best']} {one['top1']:.4f}, {one['candidates_per_second']:.2f} a second")
        _harness.write(result, output)
    winner = winners["evolution"]
    rng = random.Random("baseline")
    nearest = sample_nearest(supernet.space, rng, flops, flops(winner), lambda one: flops(one) <= bound)
    assert nearest is not None  # evolution found some within the bound
    winners["a random architecture"] = nearest
    result["standalone_epochs"] = standalone_epochs
    result["standalone"] = {
        name: {"flops": flops(one), "architecture": supernet.space.format(one), "top1": []}
        for name, one in winners.items()
    }
    for seed in range(seeds):
        builder = TableBuilder(
            supernet,
            images.train,
            images.test,
            winners.values(),
            directory / f"seed{seed}",
            settings,
            seed=seed,
        )
        top1 = {row.architecture: row.top1 for row in builder.run(resume=True)}
        for name, one in winners.items():
            result["standalone"][name]["top1"].append(top1[one])
        _harness.write(result, output)


def train(supernet: Supernet, images: Any, settings: Any, path: Path) -> float:
    """Train the supernet, or load that of an earlier run; return the seconds that it took."""
    noted = path.with_suffix(".json")
    if noted.exists():
        load_model(supernet, path)
        return float(json.loads(noted.read_text(encoding="utf-8"))["seconds"])
    progress = None
    for progress in OneShotTrainer(supernet, images.train, settings).train(0):
        if progress.last_of_epoch:
            typer.echo(f"epoch {progress.epoch + 1}: loss {progress.loss:.3f} ({progress.seconds:.0f} s)")
    save_model(supernet, str(path))
    seconds = 0.0 if progress is None else progress.seconds
    noted.write_text(json.dumps({"seconds": seconds}), encoding="utf-8")
    return seconds


def search(
    searcher: Searcher, evaluators: dict[str, lasfast.Evaluator], supernet: Supernet
) -> dict[str, Any]:
    """Run a search with the native backend; in some of its steps, time torch, too."""
    seconds: list[float] = []
    ratios: list[float] = []
    layers = nodes = 0
    while candidates := searcher.ask():
        tree = PrefixTree([supernet.path(one) for one in candidates])
        layers, nodes = layers + sum(map(len, tree.paths)), nodes + len(tree.nodes)
        both = searcher.step % BOTH == 0
        order = ["native", "torch"] if both else ["native"]
        took: dict[str, float] = {}
        for backend in order[:: -1 if len(ratios) % 2 else 1]:
            began = time.perf_counter()
            measured = evaluators[backend](candidates)
            took[backend] = time.perf_counter() - began
            if backend == "native":
                measurements = measured
        seconds.append(took["native"])
        if both:
            ratios.append(took["torch"] / took["native"])
        for measurement in measurements:
            searcher.tell(measurement.architecture, measurement)
    architecture, value = searcher.best
    count = len(searcher.results)
    return {
        "best": supernet.space.format(architecture),
        "top1": value,
        "evaluations": count,
        "steps": len(seconds),
        "seconds": sum(seconds),
        "candidates_per_second": count / sum(seconds),
        "sharing_ratio": layers / nodes,
        "times_faster_than_torch": ratios,
    }


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the page of a record."""
    record = json.loads(source.read_text(encoding="utf-8"))
    flops, images = record["flops"], record["images"]
    shown = max(one["top1"] for one in record["searches"].values())
    error = 100 * math.sqrt(shown * (1 - shown) / images["validation"])
    text = f"""# One-shot search on images

{record["supernet"]}, trained on {images["train"]:,} images of CIFAR-10 by uniform sampling
({record["training"]["epochs"]} epochs, {record["training"]["seconds"]:.0f} s); then each searcher measured
{record["evaluations"]} architectures with inherited weights ({images["calibration"]:,} images of calibration,
{images["validation"]:,} of validation) within {flops["limit"] / 1e6:.1f} M multiply-adds; the space has
{flops["least"] / 1e6:.1f} to {flops["most"] / 1e6:.1f} M. bf16, {record["machine"]["threads"]} thread of a
busy machine. Made from [the record](../benchmarks/results/{source.name}) by
`python -m benchmarks.record_one_shot page`.

| searcher | steps | best, inherited weights | MFLOPs | candidates a second | sharing | x torch |
|---|---|---|---|---|---|---|
{chr(10).join(map(_search_line, *zip(*record["searches"].items(), strict=True)))}

*Sharing* is the layers of all candidates over those that ran. *X torch* is how many times faster the native
backend is than lasfast's torch backend, which shares, too: the median of every {BOTH}th step, where both
measured the same candidates. Small steps share little and leave kernels little to do at once: LayerNAS asks
for four candidates at a time.

Trained from scratch, {record["standalone_epochs"]} epochs, top-1 on the test images:

| architecture of | MFLOPs | each seed | mean |
|---|---|---|---|
{chr(10).join(map(_trained_line, *zip(*record["standalone"].items(), strict=True)))}

**What this does not show.** Accuracies with inherited weights have a standard error of {error:.1f} points
here, and networks trained this briefly differ as much from seed to seed as from each other: neither the
searchers nor their winners and the random architecture can be told apart. For that, see [the searchers on
a table of fully trained networks](tabular-macro.md). What it shows is how fast such a search runs, and how
much its candidates share.
"""
    target.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {target}")


def _search_line(name: str, one: dict[str, Any]) -> str:
    faster = statistics.median(one["times_faster_than_torch"])
    return (
        f"| {name} | {one['steps']} | {100 * one['top1']:.1f} % | {one['flops'] / 1e6:.1f} | "
        f"{one['candidates_per_second']:.1f} | {one['sharing_ratio']:.2f} | {faster:.1f} |"
    )


def _trained_line(name: str, one: dict[str, Any]) -> str:
    each = ", ".join(f"{100 * value:.1f}" for value in one["top1"])
    mean = 100 * statistics.fmean(one["top1"])
    return f"| {name} | {one['flops'] / 1e6:.1f} | {each} | {mean:.1f} % |"


if __name__ == "__main__":
    app()
