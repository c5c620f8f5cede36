"""Is an accelerated network ever slower than the model? Fused and as measured, of torchvision and timm.

    python -m benchmarks.record_accelerate record benchmarks/results/accelerate.json
    python -m benchmarks.record_accelerate record benchmarks/results/accelerate-224.json --size 224 --batch 2
    python -m benchmarks.record_accelerate page docs/any-network.md benchmarks/results/accelerate*.json

`record` times training steps (forward, backward) and evaluations of one batch on one thread, in turns: of the
model as it comes and with its weights in channels_last; of `accelerate(model)`; and of `accelerate(model,
images)`, which chose before, for both of these. What the file has already is not done again. `page` writes
the tables into the page.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import json
import math
import statistics
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
import typer
from torch import Tensor, nn

import lasfast
from benchmarks import _harness
from lasfast.runtime.precision import autocast

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
NETWORKS = (
    "resnet18",
    "resnet50",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "regnet_y_400mf",
    "shufflenet_v2_x1_0",
    "timm:convnext_atto",
    "timm:resnetv2_50",
)
"""Names of torchvision's networks, and of timm's."""
PRECISIONS = ("fp32", "bf16")
MODES = ("training", "evaluation")
HEADING = "## Appendix: how much faster\n"


WAYS = ("torch", "torch, channels_last", "fused", "chosen", "chosen, channels_last")
FIGURES = {
    "fused": "torch, channels_last",
    "chosen": "torch",
    "chosen, channels_last": "torch, channels_last",
}
"""The columns of the table: ways, each with the one that it is compared with."""


@app.command()
def record(output: Path, only: str = "", batch: int = 8, size: int = 64, rounds: int = 5) -> None:
    """Time all networks, or the one that is named."""
    torch.set_num_threads(1)
    settings = {"batch": batch, "size": size, "rounds": rounds}
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    found = known.get("networks", {})
    if known and {key: known[key] for key in settings} != settings:
        raise typer.BadParameter(f"{output} was made with other settings: {known}")
    for name in (only,) if only else NETWORKS:
        for precision in PRECISIONS:
            if precision in found.get(name, {}):
                continue
            found.setdefault(name, {})[precision] = timed(name, precision, batch, size, rounds)
            typer.echo(f"{name}, {precision}: {summary(found[name][precision])}")
            machine = _harness.machine() | {"threads": 1}
            _harness.write(
                {"record": "accelerate", "machine": machine, **settings, "networks": found}, output
            )


def timed(name: str, precision: str, batch: int, size: int, rounds: int) -> dict[str, Any]:
    """Return what was chosen for a network, and the CPU seconds of each way in each mode and round."""
    torch.manual_seed(0)
    model = make(name)
    images, labels = torch.randn(batch, 3, size, size), torch.randint(10, (batch,))
    laid_out = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with autocast(images.device, precision):
        chosen = [lasfast.accelerate(copy.deepcopy(one), images) for one in (model, laid_out)]
    networks = (model, laid_out, lasfast.accelerate(copy.deepcopy(model)), *chosen)
    seconds = {}
    for mode in MODES:
        for network in networks:
            network.train(mode == "training")
        runs = [partial(_step, network, images, labels, precision) for network in networks]
        seconds[mode] = in_turns(dict(zip(WAYS, runs, strict=True)), rounds)
    return {
        "chosen": {way: one.extra_repr() for way, one in zip(WAYS[-2:], chosen, strict=True)},
        "cpu_seconds": seconds,
    }


def make(name: str) -> nn.Module:
    """Return a network of `NETWORKS` with random weights."""
    library, _, plain = name.rpartition(":")
    if not library:
        model: nn.Module = torchvision.models.get_model(plain, num_classes=10)
        return model
    return importlib.import_module(library).create_model(plain, num_classes=10)  # type: ignore[no-any-return]


def _step(network: nn.Module, images: Tensor, labels: Tensor, precision: str) -> None:
    with torch.set_grad_enabled(network.training):
        with autocast(images.device, precision):
            logits = network(images)
        if network.training:
            network.zero_grad()
            F.cross_entropy(logits.float(), labels).backward()


def in_turns(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return this thread's seconds in each run of each way, after one to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            begun = time.thread_time()
            runs[name]()
            seconds[name].append(time.thread_time() - begun)
    return seconds


def times_faster(found: dict[str, Any], mode: str, way: str) -> float:
    """Return how many times faster a way is than the model: the median over rounds."""
    seconds = found["cpu_seconds"][mode]
    return statistics.median(
        theirs / ours for theirs, ours in zip(seconds[FIGURES[way]], seconds[way], strict=True)
    )


def chosen_way(found: dict[str, Any], mode: str, way: str) -> str:
    """Return what was chosen for a mode: "own forward", the same "in channels_last", or "fused"."""
    return dict(part.split(": ") for part in found["chosen"][way].split(", "))[mode]


def summary(found: dict[str, Any]) -> str:
    """Return a line of what was measured."""
    return "; ".join(
        f"{mode} {way} {times_faster(found, mode, way):.2f}" for mode in MODES for way in FIGURES
    )


INTRODUCTION = """\
How many times faster than the model networks of torchvision and timm are on one thread: fused, compared with
the model in channels_last; and as chosen with `images`, for the model as it comes and for the model in
channels_last (`model.to(memory_format=...)`), compared with the same model. CPU time on a busy machine: ways
take turns, and the median of the quotients counts. Where the model's own forward is chosen, the figure is the
error of the measurement. Made by `python -m benchmarks.record_accelerate page`.
"""


@app.command()
def page(target: Path, sources: list[Path]) -> None:
    """Write the text of records into the page, in the place of that section."""
    before, heading, rest = target.read_text(encoding="utf-8").partition(HEADING)
    if not heading:
        raise typer.BadParameter(f"{target} has no heading {HEADING.strip()!r}")
    after = rest[rest.index("\n## ") :]
    parts = [INTRODUCTION]
    for source in sources:
        parts += _section(source)
    filled = (
        one if one.startswith(("|", "#")) else textwrap.fill(one, 120, break_on_hyphens=False)
        for one in map(str.strip, parts)
    )
    target.write_text(before + heading + "\n" + "\n\n".join(filled) + "\n" + after, encoding="utf-8")
    typer.echo(f"wrote {target}")


def _section(source: Path) -> list[str]:
    """Return the heading, the text and the table of a record."""
    found = json.loads(source.read_text(encoding="utf-8"))
    rows = []
    for name, precisions in found["networks"].items():
        for precision, one in precisions.items():
            cells = (f"{times_faster(one, mode, way):.2f}" for mode in MODES for way in FIGURES)
            rows.append(f"| {name} | {precision} | {' | '.join(cells)} |")
    means = []
    for mode, precision in itertools.product(MODES, PRECISIONS):
        every = [one[precision] for one in found["networks"].values() if precision in one]
        fused, chosen = (
            math.exp(statistics.fmean(math.log(times_faster(one, mode, way)) for one in every))
            for way in ("fused", "chosen, channels_last")
        )
        means.append(f"{mode} in {precision} {fused:.2f} fused and {chosen:.2f} chosen")
    every_case = [
        (chosen_way(one, mode, way), times_faster(one, mode, way))
        for precisions in found["networks"].values()
        for one in precisions.values()
        for mode, way in itertools.product(MODES, WAYS[-2:])
    ]
    other = [figure for chosen, figure in every_case if chosen != "own forward"]
    same = [figure for chosen, figure in every_case if chosen == "own forward"]
    return [
        f"### {found['batch']} images of {found['size']}x{found['size']}",
        f"Geometric means over {len(found['networks'])} networks, beside the model in channels_last: "
        f"{'; '.join(means)}. In {len(other)} of {len(every_case)} cases another way than the model's own is "
        f"chosen, {min(other):.2f} to {max(other):.2f} times as fast; in the others the model runs as before "
        f"({min(same):.2f} to {max(same):.2f}, the error of the measurement). From "
        f"[the record](../benchmarks/results/{source.name}).",
        "\n".join(
            [
                "| network | | training: fused | chosen | in channels_last "
                "| evaluation: fused | chosen | in channels_last |",
                "|---|---|--:|--:|--:|--:|--:|--:|",
                *rows,
            ]
        ),
    ]


if __name__ == "__main__":
    app()
