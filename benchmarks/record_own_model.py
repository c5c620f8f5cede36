r"""A trained network at half of its multiply-adds: lasfast beside ModelOpt, Torch-Pruning, uniform scaling.

    python -m benchmarks.record_own_model outcomes runs/own-model benchmarks/results/own-model-resnet.json
    python -m benchmarks.record_own_model outcomes runs/own-model \
        benchmarks/results/own-model-mobilenet.json --network mobilenet
    python -m benchmarks.record_own_model rates benchmarks/results/own-model-rates.json
    python -m benchmarks.record_own_model page docs/own-network.md benchmarks/results/own-model-rates.json \
        benchmarks/results/own-model-resnet.json benchmarks/results/own-model-mobilenet.json

`outcomes` trains a network on CIFAR-10 for each seed, halves it in each way, and trains what came out on, all
with the same images, epochs and settings. The directory keeps the trained networks. What is in the record
already is not done again. `rates` measures how long a candidate takes in a ResNet-18. `page` writes all into
the page.

The peers are not among lasfast's extras: `pip install nvidia-modelopt==0.47 torchprofile==0.0.4 requests
huggingface_hub torch-pruning`.
"""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
import typer
from safetensors.torch import load_model, save_model
from scipy.stats import t as student
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

import lasfast
from benchmarks import _harness
from benchmarks._halved import METHODS, SHARE, Task, fastnas_seconds, multiply_adds, our_seconds
from lasfast.data import Dataset
from lasfast.evaluation.scoring import evaluate_network

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
TUNING = {"learning_rate": 0.01, "standalone_schedule": "cosine", "precision": "bf16"}


def resnet(classes: int) -> nn.Module:
    """Return timm's ResNet-10, 16 to 128 channels wide and with a stem for images of 32 pixels."""
    network = ResNet(
        BasicBlock,
        (1, 1, 1, 1),
        num_classes=classes,
        channels=(16, 32, 64, 128),
        stem_type="deep",
        stem_width=8,
    )
    network.conv1[0].stride, network.maxpool = (1, 1), nn.Identity()
    return network


def mobilenet(classes: int) -> nn.Module:
    """Return torchvision's MobileNetV2 of half the width, with a stem of stride 1 for images of 32 pixels."""
    network = torchvision.models.mobilenet_v2(num_classes=classes, width_mult=0.5, dropout=0.0)
    network.features[0][0].stride = (1, 1)
    return network


NETWORKS: dict[str, Callable[[int], nn.Module]] = {"resnet": resnet, "mobilenet": mobilenet}


# ---- the record


def trained(make: Callable[[int], nn.Module], data: Dataset, epochs: int, seed: int, path: Path) -> nn.Module:
    """Return the trained network, from the file if it is there."""
    torch.manual_seed(seed)
    network = make(data.num_classes)
    if path.exists():
        load_model(network, path)
        return network.eval()
    settings: dict[str, Any] = {"standalone_schedule": "cosine", "precision": "bf16", "seed": seed}
    training = lasfast.train.train_standalone(
        network, data.train, "small", standalone_epochs=epochs, **settings
    )
    for progress in training:
        if progress.last_of_epoch:
            typer.echo(f"epoch {progress.epoch + 1}/{epochs}: accuracy {100 * progress.accuracy:.1f} %")
    path.parent.mkdir(parents=True, exist_ok=True)
    network.to(memory_format=torch.contiguous_format)  # ModelOpt refuses the other
    save_model(network, str(path))
    return network.eval()


def judged(task: Task, method: str, test: Any, tune_epochs: int) -> dict[str, Any]:
    """Return what one way of halving a network gives, and what it takes."""
    found = METHODS[method](task)
    network = found.network.eval()
    share = multiply_adds(network, task.example) / (task.allowed / SHARE)
    lasfast.calibrate(network, task.calibration_batches())
    before = evaluate_network(network, test).top1
    with found.timing("tune"):
        tuning: dict[str, Any] = {"standalone_epochs": tune_epochs, "seed": task.seed, **TUNING}
        for _ in lasfast.train.train_standalone(network, task.data.train, "small", **tuning):
            pass
    after = evaluate_network(network.eval(), test).top1
    return {
        "share": share,
        "candidates": found.candidates,
        **({"drawn": found.drawn} if found.drawn else {}),
        "cpu_seconds": found.seconds,
        "before": before,
        "after": after,
    }


@app.command()
def outcomes(
    directory: Path,
    output: Path,
    network: str = "resnet",
    data: str = "imagefolder:data/cifar10",
    limit: int = 5000,
    calibration: int = 250,
    validation: int = 1000,
    epochs: int = 15,
    adapt_epochs: int = 1,
    tune_epochs: int = 3,
    candidates: int = 100,
    seeds: int = 3,
    threads: int = 1,
) -> None:
    """Halve a trained network in each way, for some seeds."""
    torch.set_num_threads(threads)
    directory.mkdir(parents=True, exist_ok=True)
    images = lasfast.data.load(data, calibration=calibration, validation=validation, limit=limit)
    test = images.test
    settings = {
        "network": network,
        "images": {
            "train": limit,
            "calibration": calibration,
            "validation": validation,
            "test": len(test[1]),
        },
        "epochs": {"trained": epochs, "adapted": adapt_epochs, "tuned": tune_epochs},
        "candidates": candidates,
        "share": SHARE,
    }
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else settings | {"seeds": {}}
    if {key: known[key] for key in settings} != settings:
        raise typer.BadParameter(f"{output} was made with other settings: {known}")
    tasks = []
    for seed in range(seeds):
        model = trained(NETWORKS[network], images, epochs, seed, directory / f"{network}-{seed}.safetensors")
        tasks.append(Task(model, images, seed, candidates, adapt_epochs))
        top1 = evaluate_network(model, test).top1
        if (before := known["seeds"].setdefault(str(seed), {"whole": top1})["whole"]) != top1:
            raise typer.BadParameter(
                f"{output} was made with another network of seed {seed}: top-1 {before}, and now {top1}"
            )
    *others, last = METHODS
    for task, method in [(task, method) for task in tasks for method in others] + [
        (task, last) for task in tasks
    ]:
        entry = known["seeds"][str(task.seed)]
        if method in entry:
            continue
        entry[method] = judged(task, method, test, tune_epochs)
        typer.echo(f"seed {task.seed}, {method}: {json.dumps(entry[method])}")
        machine = _harness.machine() | {"threads": threads}
        kept = {key: value for key, value in known.items() if key not in ("time", "machine")}
        _harness.write(kept | {"machine": machine}, output)


# ---- how long a candidate takes


def resnet18(classes: int) -> nn.Module:
    """Return timm's ResNet-18 with a stem for images of 32 pixels."""
    network: nn.Module = timm.create_model("resnet18", num_classes=classes)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return network


@app.command()
def rates(
    output: Path,
    data: str = "imagefolder:data/cifar10",
    calibration: int = 500,
    validation: int = 1000,
    theirs: int = 2,
    ours: int = 8,
    rounds: int = 1,
) -> None:
    """Time candidates of a ResNet-18 on one thread, in turns."""
    torch.set_num_threads(1)
    images = lasfast.data.load(data, calibration=calibration, validation=validation, limit=1000)
    torch.manual_seed(0)
    task = Task(resnet18(images.num_classes).eval(), images, 0, ours, 0)
    runs: dict[str, Callable[[], float]] = {
        "fastnas": partial(fastnas_seconds, task, theirs),
        "lasfast fp32": partial(our_seconds, task, "fp32", ours),
        "lasfast bf16": partial(our_seconds, task, "bf16", ours),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            seconds[name].append(runs[name]())
            typer.echo(f"{name}: {seconds[name][-1]:.2f} CPU seconds a candidate")
    _harness.write(
        {
            "machine": _harness.machine() | {"threads": 1},
            "images": {"calibration": calibration, "validation": validation},
            "candidates": {"theirs": theirs, "ours": ours},
            "cpu_seconds": seconds,
        },
        output,
    )


# ---- the page

HEADING = "## Beside other tools\n"
PEAK = Path(__file__).parent / "results" / "without-amx-evaluate.json"
"""The record with the multiply-adds a second of large products in bf16, on a processor of the same kind."""
NAMES = {
    "uniform": "uniform widths",
    "torch-pruning": "Torch-Pruning",
    "fastnas": "ModelOpt FastNAS",
    "autonas": "ModelOpt AutoNAS",
    "lasfast": "lasfast",
    "lasfast, adapted": "lasfast, adapted",
}
JUDGED = tuple(method for method in NAMES if method != "autonas")
"""The methods that every seed must have; AutoNAS may take too long."""
TITLES = {
    "resnet": "timm's ResNet-10 of 16 to 128 channels, with a stem for small images",
    "mobilenet": "torchvision's MobileNetV2 of half the width, with a stem of stride 1",
}


AUTONAS = """\
ModelOpt's AutoNAS trains one sub-network a batch, for four times as many epochs as `adapt`, which trains
four. Then it draws and recalibrates networks until it has measured as many as lasfast; it measures those that
have 85 to 100 % of the allowed multiply-adds. It takes the longest: it was not run for networks and seeds
that the tables lack."""


def points(values: list[float]) -> str:
    """Return mean and standard error of shares of 1, in points."""
    if len(values) < 2:
        return f"{100 * values[0]:.1f}"
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{100 * statistics.fmean(values):.1f} ± {100 * error:.1f}"


def _rows(seeds: list[dict[str, Any]]) -> list[str]:
    rows = []
    for method, name in NAMES.items():
        entries = [seed[method] for seed in seeds if method in seed]
        if not entries:
            continue
        seconds = {
            part: statistics.fmean(one["cpu_seconds"].get(part, 0.0) for one in entries)
            for part in ("adapt", "search", "tune")
        }
        if len(entries) < len(seeds):
            name += f" ({len(entries)} seed{'s' if len(entries) > 1 else ''})"
        candidates = f"{statistics.fmean(one['candidates'] for one in entries):.0f}"
        if "drawn" in entries[0]:
            candidates += f" of {statistics.fmean(one['drawn'] for one in entries):.0f}"
        rows.append(
            f"| {name} | {100 * statistics.fmean(one['share'] for one in entries):.0f} % "
            f"| {candidates} "
            f"| {seconds['adapt']:.0f} + {seconds['search']:.0f} + {seconds['tune']:.0f} "
            f"| {points([one['before'] for one in entries])} "
            f"| {points([one['after'] for one in entries])} |"
        )
    return rows


def _seconds(seeds: list[dict[str, Any]], method: str) -> float:
    """Return the CPU seconds that a method takes in all, on average."""
    return statistics.fmean(sum(seed[method]["cpu_seconds"].values()) for seed in seeds)


def _verdict(seeds: list[dict[str, Any]]) -> str:
    """Return sentences that say who is ahead: our ways beside the best of the others that all seeds have."""
    others = [one for one in NAMES if not one.startswith("lasfast") and all(one in seed for seed in seeds)]
    best = max(others, key=lambda method: statistics.fmean(seed[method]["after"] for seed in seeds))
    needed = student.ppf(0.975, len(seeds) - 1)
    parts = []
    for method, name in (("lasfast", "lasfast"), ("lasfast, adapted", "with `adapt`, it")):
        leads = [100 * (seed[method]["after"] - seed[best]["after"]) for seed in seeds]
        mean, error = statistics.fmean(leads), statistics.stdev(leads) / len(leads) ** 0.5
        parts.append(
            f"{name} ends {abs(mean):.1f} ± {error:.1f} points {'ahead' if mean >= 0 else 'behind'} in "
            f"{_seconds(seeds, method):.0f} seconds ({abs(mean) / error:.1f} standard errors: "
            f"{'this is more than' if abs(mean) >= needed * error else 'this may be'} chance)"
        )
    rates = {
        method: statistics.fmean(
            seed[method]["cpu_seconds"]["search"] / seed[method]["candidates"] for seed in seeds
        )
        for method in ("fastnas", "lasfast")
    }
    return (
        f"Of the others, {NAMES[best]} ends highest, in {_seconds(seeds, best):.0f} CPU seconds in all. "
        f"Beside it, paired by seed, {'; '.join(parts)}. With {len(seeds)} seeds, {needed:.1f} standard "
        "errors or more are more than chance (in 95 of 100 cases). "
        f"Searching takes FastNAS {rates['fastnas']:.2f} CPU seconds a candidate, and lasfast "
        f"{rates['lasfast']:.2f}: {rates['fastnas'] / rates['lasfast']:.0f} times less."
    )


def _section(found: dict[str, Any]) -> str:
    """Return the text of one network's outcomes."""
    seeds = [seed for seed in found["seeds"].values() if all(method in seed for method in JUDGED)]
    images, epochs = found["images"], found["epochs"]
    return f"""\
The network is {TITLES[found["network"]]}: {len(seeds)} seeds of it. It was trained for {epochs["trained"]}
epochs on {images["train"]:,} images of CIFAR-10, and has a top-1 of
{points([seed["whole"] for seed in seeds])} % on the {images["test"]:,} test images. Searches recalibrate on
{images["calibration"]:,} images and measure on {images["validation"]:,}. Epochs of `adapt`:
{epochs["adapted"]};
of tuning: {epochs["tuned"]}.

| | multiply-adds left | candidates | seconds: adapt + search + tune | top-1 before | top-1 tuned |
|---|---|---|---|---|---|
{chr(10).join(_rows(seeds))}

{_verdict(seeds)}"""


@app.command()
def page(target: Path, rates: Path, outcomes: list[Path]) -> None:
    """Write the text of the records into the page, in the place of that section."""
    speed = json.loads(rates.read_text(encoding="utf-8"))
    before, heading, rest = target.read_text(encoding="utf-8").partition(HEADING)
    if not heading:
        raise typer.BadParameter(f"{target} has no heading {HEADING.strip()!r}")
    after = rest[rest.index("\n## ") :] if "\n## " in rest else ""
    found = [json.loads(one.read_text(encoding="utf-8")) for one in outcomes]
    seconds = {name: statistics.median(values) for name, values in speed["cpu_seconds"].items()}
    ratios = {name: seconds["fastnas"] / seconds[f"lasfast {name}"] for name in ("fp32", "bf16")}
    work = multiply_adds(resnet18(10), torch.zeros(1, 3, 32, 32)) * sum(speed["images"].values())
    peak = json.loads(PEAK.read_text(encoding="utf-8"))["peak_flops"]
    least = {"fp32": 2 * work / peak, "bf16": work / peak}
    per_candidate = f"{speed['images']['calibration']:,} images of calibration and "
    per_candidate += f"{speed['images']['validation']:,} of validation"
    has_autonas = any("autonas" in seed for one in found for seed in one["seeds"].values())
    autonas = AUTONAS if has_autonas else "ModelOpt's AutoNAS was not run."
    files = ", ".join(f"[{one.stem}](../benchmarks/results/{one.name})" for one in (*outcomes, rates))
    written = f"""\
Each way halves the multiply-adds of a trained network, and what came out is trained on with the same
settings. Torch-Pruning goes by the magnitude of groups over the whole network, lasfast by `from_model` and
evolution in bf16 to the most accurate within the bound (`result.highest`). ModelOpt's searches choose from
the same widths, and recalibrate each candidate on the same images as lasfast's. (As shipped, it recalibrates
on 50 batches, and not at all if it is given fewer; it was told how many there are.)
{autonas}
The tables have means and standard errors over seeds, and CPU seconds on one thread of a busy machine. The
networks are small and were trained for a short time, so they show no more than what happens there.

{(chr(10) * 2).join(map(_section, found))}

In a ResNet-18 with a stem for small images, a candidate ({per_candidate}) takes FastNAS
{seconds["fastnas"]:.1f} CPU seconds, and lasfast {seconds["lasfast fp32"]:.1f} in fp32 and
{seconds["lasfast bf16"]:.1f} in bf16: {ratios["fp32"]:.1f} and {ratios["bf16"]:.1f} times less. Candidates
are the whole network with one width changed, as FastNAS measures them: its first
{speed["candidates"]["theirs"]}, and {speed["candidates"]["ours"]} random ones of ours, which share the layers
before that width. The limit is multiplication: a candidate takes {work / 1e9:.0f} G multiply-adds, less
what is shared. In bf16, large products take {peak / 1e9:.0f} G a second on such a processor without AMX
([record](../benchmarks/results/{PEAK.name})), and half as many in fp32, whose numbers are twice as wide. At
these rates, a candidate would take {least["fp32"]:.1f} seconds in fp32 and {least["bf16"]:.1f} in bf16, and
FastNAS {seconds["fastnas"] / least["fp32"]:.1f} and {seconds["fastnas"] / least["bf16"]:.1f} times as long.
Smaller networks gain more, as the texts below their tables say.

Made from {files} by `python -m benchmarks.record_own_model page`.
"""
    parts = (
        one if one.startswith("|") else textwrap.fill(one, 120, break_on_hyphens=False)
        for one in written.split("\n\n")
    )
    text = "\n" + "\n\n".join(parts) + "\n"
    target.write_text(before + heading + text + after, encoding="utf-8")
    typer.echo(f"wrote {target}")


if __name__ == "__main__":
    app()
