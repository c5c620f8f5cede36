"""Would inverted bottlenecks be faster as one operation, whose values never leave the cache?

    python -m benchmarks.record_bottlenecks benchmarks/results/bottlenecks.json

An inverted bottleneck is three layers: a 1x1 convolution to six times the channels, a depthwise 3x3, and a
1x1 back. Run one after another, they write and read the wide values. Run as one, in tiles of rows, these
would stay in the cache. What that could gain is measured with the layers as they are: four bottlenecks
predict images of several sizes, as many positions in all, one image at a time. The wide values of the
smallest images stay in the first or second level of cache, as a tile's would; those of the largest do not. So
the ratio of their times is what tiles could gain at most, without the rows that tiles would compute twice.
One thread; seconds are the processor's.
"""

from __future__ import annotations

import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual

from benchmarks import _harness
from benchmarks._roof import cache_sizes
from lasfast.engine.cpu_layout import Cut
from lasfast.evaluation.one_pass import _Ready
from lasfast.runtime.precision import torch_dtype

app = typer.Typer(help=__doc__, no_args_is_help=True)
CHANNELS = (16, 24, 32, 64, 96)
"""Those between the bottlenecks; the stages of MobileNetV2 have as many."""
SIDES = (8, 16, 32, 64, 128)
POSITIONS = SIDES[-1] ** 2
"""All images of a size have so many positions together."""
EXPANSION = 6
BLOCKS = 4


@app.command()
def record(path: Path, precision: str = "fp32", rounds: int = 9) -> None:
    """Measure, and write the record."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "record": "bottlenecks",
        "precision": precision,
        "machine": _harness.machine(),
        "clock": "process_time",
        "cache_bytes": cache_sizes()["L2"],
        "channels": {},
    }
    for channels in CHANNELS:
        found["channels"][channels] = one = timed(channels, precision, rounds)
        typer.echo(f"{channels} channels: {json.dumps(one)}")
    _harness.write(found, path)


def timed(channels: int, precision: str, rounds: int) -> dict[str, Any]:
    """Return what the images of each size take, and the bytes of an image's wide values."""
    torch.manual_seed(0)
    bottlenecks = [InvertedResidual(channels, channels, 1, EXPANSION) for _ in range(BLOCKS)]
    network = nn.Sequential(
        nn.Conv2d(3, channels, 1),
        *bottlenecks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 10),
    ).eval()
    seconds = _harness.paired(
        {str(side): prepared(network, side, precision) for side in SIDES}, rounds, clock=time.process_time
    )
    return {
        "seconds": {side: statistics.median(times) for side, times in seconds.items()},
        "wide_bytes": {
            str(side): side * side * channels * EXPANSION * torch_dtype(precision).itemsize for side in SIDES
        },
        "could_gain": {str(side): _harness.ratio(seconds, str(side), str(SIDES[0])) for side in SIDES[1:]},
    }


def prepared(network: nn.Module, side: int, precision: str) -> Any:
    """Return what predicts images of a size, one at a time."""
    images = torch.randn(POSITIONS // side**2, 3, side, side)
    ready = _Ready.of(network, images, precision)
    assert ready is not None, "the network can be read"
    ready._load()
    return partial(ready.executor._predict, images, Cut(threads=1, block=1, images=len(images)))


if __name__ == "__main__":
    app()
