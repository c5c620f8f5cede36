"""Measures what each option of a recipe takes: processor time of training with it, beside training without.

    python -m benchmarks.record_recipe_costs record benchmarks/results/recipe-costs.json
    python -m benchmarks.record_recipe_costs page benchmarks/results/recipe-costs.json docs/recipe-figures.md

A residual network trains from scratch on random images of 32 pixels, which are cropped and flipped, in
batches of 128 and one thread. In each round each option is compared with a training without any just before.
The images are in memory, so what varies them counts, too. `page` writes the table into the page.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import typer

from benchmarks import _harness
from lasfast.data import Augmentation, TensorImages
from lasfast.supernets import ResidualNet
from lasfast.train import StandaloneTrainer, preset

app = typer.Typer(help=__doc__, no_args_is_help=True)
HEADING = "## What an option costs\n"
BATCH, WARM_UP = 128, 1
OPTIONS: dict[str, dict[str, Any]] = {
    "`--optimizer adamw`": {"optimizer": "adamw"},
    "`--optimizer rmsprop`": {"optimizer": "rmsprop"},
    "`--no-bias-decay`": {"bias_decay": False},
    "`--clip-norm 5`": {"clip_norm": 5.0},
    "`--label-smoothing 0.1`": {"label_smoothing": 0.1},
    "`--class-weights balanced`": {"class_weights": "balanced"},
    "`--mixup 0.2`": {"mixup": 0.2},
    "`--cutmix 1`": {"cutmix": 1.0},
    "`--crop resized`": {"augmentation": Augmentation(crop="resized")},
    "`--color-jitter 0.4,0.4,0.4`": {"augmentation": Augmentation(color_jitter=(0.4, 0.4, 0.4))},
    "`--auto-augment randaugment`": {"augmentation": Augmentation(auto_augment="randaugment")},
    "`--auto-augment trivialaugment`": {"augmentation": Augmentation(auto_augment="trivialaugment")},
    "`--random-erasing 0.25`": {"augmentation": Augmentation(random_erasing=0.25)},
    "`--cutout 16`": {"augmentation": Augmentation(cutout=16)},
    "`--dropout 0.5`": {"dropout": 0.5},
    "`--standalone-drop-path 0.2`": {"standalone_drop_path": 0.2},
    "`--standalone-auxiliary 0.4`": {"standalone_auxiliary": 0.4},
    "`--standalone-ema 0.999`": {"standalone_ema": 0.999},
}


def images(count: int) -> TensorImages:
    """Return random images, which are padded by 4 pixels to be cropped, and flipped."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator).to(torch.uint8)
    return TensorImages(pixels, torch.arange(count) % 10, (0.5,) * 3, (0.25,) * 3)


def seconds_a_batch(data: TensorImages, overrides: Mapping[str, Any]) -> float:
    """Return the processor seconds of a batch, without the first of an epoch, which times and prepares."""
    torch.manual_seed(0)
    settings = preset("nir-cifar100", batch_size=BATCH, standalone_epochs=1, **overrides)
    supernet = ResidualNet((2, 2, 2), num_classes=10)
    training = StandaloneTrainer.of(supernet, (2, 2, 2), data, settings).train()
    for _ in range(WARM_UP):
        next(training)
    began, batches = time.process_time(), sum(1 for _ in training)
    return (time.process_time() - began) / batches


@app.command()
def record(path: Path, rounds: int = 3, batches: int = 5, precision: str = "fp32") -> None:
    """Measure, and write the record."""
    torch.set_num_threads(1)
    machine, data = _harness.machine(), images(BATCH * (batches + WARM_UP))
    plain: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in OPTIONS}
    ratios: dict[str, list[float]] = {name: [] for name in OPTIONS}
    for number in range(rounds):
        for name in list(OPTIONS)[:: -1 if number % 2 else 1]:
            beside = seconds_a_batch(data, {"precision": precision})
            own = seconds_a_batch(data, {"precision": precision} | OPTIONS[name])
            plain.append(beside)
            found[name].append(own)
            ratios[name].append(own / beside)
        print(f"round {number + 1} of {rounds}", flush=True)
    content = {
        "record": "recipe-costs",
        "network": "ResidualNet 2-2-2",
        "batch": BATCH,
        "batches": batches,
        "rounds": rounds,
        "precision": precision,
        "plain_seconds": statistics.median(plain),
        "options": {
            name: {
                "seconds": statistics.median(found[name]),
                "times_plain": round(statistics.median(ratios[name]), 3),
                "rounds": [round(one, 3) for one in ratios[name]],
            }
            for name in OPTIONS
        },
        "machine": machine,
    }
    _harness.write(content, path)


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the table of a record into the page: in place of the text of its heading, or at the end."""
    found = json.loads(source.read_text(encoding="utf-8"))
    before, _, after = target.read_text(encoding="utf-8").partition(HEADING)
    _, next_heading, rest = after.partition("\n## ")
    rows = [
        f"| {name} | {one['times_plain']:.2f} | {min(one['rounds']):.2f} to {max(one['rounds']):.2f} |"
        for name, one in found["options"].items()
    ]
    text = f"""
Processor time of training {found["network"]} from scratch by the preset `nir-cifar100` on images of 32
pixels in memory, in batches of {found["batch"]} ({found["precision"]}, one thread): with the option, as a
multiple of that without any. Medians of {found["rounds"]} rounds, and their range. Made from
[the record](../benchmarks/results/{source.name}) by `python -m benchmarks.record_recipe_costs page`. What is
done to the images takes a larger share of smaller networks' time.

| option | times plain | rounds |
|---|---|---|
{chr(10).join(rows)}
"""
    target.write_text(f"{before.rstrip()}\n\n{HEADING}{text}{next_heading}{rest}", encoding="utf-8")
    typer.echo(f"wrote {target}")


if __name__ == "__main__":
    app()
