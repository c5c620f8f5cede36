r"""Which channels a trained network can best do without: importances compared on the supernet of a model.

    python -m benchmarks.record_own_network record runs/own benchmarks/results/own-network-cifar10.json
    python -m benchmarks.record_own_network page benchmarks/results/own-network-cifar10.json \
        docs/own-network.md

`record` trains a small residual network, written in plain PyTorch, makes a supernet of it for each
importance, and measures the same random widths with the weights that they inherit, batch norms recalibrated.
The first directory keeps the trained network; a second run takes it from there. `page` writes the table into
the page.
"""

from __future__ import annotations

import json
import random
import statistics
from itertools import islice
from pathlib import Path

import torch
import typer
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

import lasfast
from benchmarks import _harness
from lasfast import costs
from lasfast.data import Dataset
from lasfast.spaces import Architecture
from lasfast.supernets import ModelSupernet, from_model
from lasfast.supernets.importance import IMPORTANCES, TAYLOR

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
HEADING = "## Which importance\n"
SHARES = ((0.2, 0.35), (0.35, 0.5), (0.5, 0.75))
"""The ranges of multiply-adds, as shares of the network's own, that widths are drawn in."""
TAYLOR_BATCHES, TAYLOR_BATCH = 8, 64
"""How many training images gradients are taken on: batches, and images of each."""


class Block(nn.Module):
    """ResNet's basic block (He et al. 2016), with a projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3, 1), nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, [N, outputs, H', W']."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """A residual network of three stages of two blocks, 32, 64 and 128 channels wide."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv, self.bn = _conv(channels, 32, 3, 1), nn.BatchNorm2d(32)
        shapes = ((32, 32, 1), (32, 64, 2), (64, 128, 2))
        self.stages = nn.ModuleList(
            nn.Sequential(Block(inputs, outputs, stride), Block(outputs, outputs, 1))
            for inputs, outputs, stride in shapes
        )
        self.fc = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, channels, H, W]."""
        x = torch.relu(self.bn(self.conv(x)))
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def trained(data: Dataset, epochs: int, path: Path) -> ResNet:
    """Return the trained network, from the file if it is there."""
    torch.manual_seed(0)
    network = ResNet(data.channels, data.num_classes)
    if path.exists():
        load_model(network, path)
        return network
    training = lasfast.train.train_standalone(
        network, data.train, "small", standalone_epochs=epochs, precision="bf16"
    )
    for progress in training:
        if progress.last_of_epoch:
            typer.echo(f"epoch {progress.epoch + 1}/{epochs}: accuracy {100 * progress.accuracy:.1f} %")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(network, str(path))
    return network


def drawn(supernet: ModelSupernet, size: tuple[int, int], count: int) -> list[list[Architecture]]:
    """Return random architectures, `count` in each of the ranges of multiply-adds."""
    flops = costs.functions(supernet, size)["flops"]
    full, rng = flops(supernet.full), random.Random(0)
    found: list[list[Architecture]] = [[] for _ in SHARES]
    while min(map(len, found)) < count:
        architecture = supernet.space.sample(rng)
        for kept, (low, high) in zip(found, SHARES, strict=True):
            if low <= flops(architecture) / full < high and len(kept) < count:
                kept.append(architecture)
    return found


@app.command()
def record(
    directory: Path,
    output: Path,
    data: str = "imagefolder:data/cifar10",
    limit: int = 6000,
    epochs: int = 9,
    calibration: int = 500,
    validation: int = 2000,
    count: int = 6,
    threads: int = 1,
) -> None:
    """Train the network, and measure narrower ones by each importance."""
    torch.set_num_threads(threads)
    images = lasfast.data.load(data, calibration=calibration, validation=validation, limit=limit)
    model = trained(images, epochs, directory / "network.safetensors")
    accuracies: dict[str, list[list[float]]] = {}
    whole = 0.0
    for importance in (*IMPORTANCES, TAYLOR):
        batches = islice(images.train.batches(TAYLOR_BATCH, seed=0), TAYLOR_BATCHES)
        supernet = from_model(
            model,
            (images.channels, *images.image_size),
            vary="widths",
            importance=importance,
            batches=batches if importance == TAYLOR else None,
        )
        evaluator = lasfast.Evaluator(supernet, images.calibration, images.validation, precision="bf16")
        whole = evaluator([supernet.full])[0].top1
        accuracies[importance] = [
            [one.top1 for one in evaluator(architectures)]
            for architectures in drawn(supernet, images.image_size, count)
        ]
        means = ", ".join(f"{100 * statistics.fmean(one):.1f}" for one in accuracies[importance])
        typer.echo(f"{importance}: {means} %; whole {100 * whole:.1f} %")
    _harness.write(
        {
            "machine": _harness.machine() | {"threads": threads},
            "images": {"train": limit, "calibration": calibration, "validation": validation},
            "epochs": epochs,
            "whole": whole,
            "shares": SHARES,
            "top1": accuracies,
        },
        output,
    )


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the text of a record into the page; it replaces everything from the heading on."""
    found = json.loads(source.read_text(encoding="utf-8"))
    before, heading, _ = target.read_text(encoding="utf-8").partition(HEADING)
    if not heading:
        raise typer.BadParameter(f"{target} has no heading {HEADING.strip()!r}")
    ranges = [f"{100 * low:.0f} to {100 * high:.0f} %" for low, high in found["shares"]]
    rows = [
        f"| `{name}` | {' | '.join(f'{100 * statistics.fmean(one):.1f} %' for one in top1)} |"
        for name, top1 in found["top1"].items()
    ]
    count = len(found["top1"]["order"][0])
    images = found["images"]
    text = f"""
A small residual network, trained for {found["epochs"]} epochs on {images["train"]:,} images of CIFAR-10, has
a top-1 of {100 * found["whole"]:.1f} % on {images["validation"]:,} others. These are the means of {count}
random networks in each range of multiply-adds (shares of the network's own), the same ones for each
importance, with inherited weights and recalibrated batch norms, without adaptation; bf16. Made from
[the record](../benchmarks/results/{source.name}) by `python -m benchmarks.record_own_network page`.

| importance | {" | ".join(ranges)} |
|---|{"---|" * len(ranges)}
{chr(10).join(rows)}

The default, `magnitude`, was chosen after these figures were seen. One network and one dataset settle no
ranking of importances in general.
"""
    target.write_text(before + heading + text, encoding="utf-8")
    typer.echo(f"wrote {target}")


if __name__ == "__main__":
    app()
