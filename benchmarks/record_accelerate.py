"""Is an accelerated network ever slower than the model? Networks of torchvision, fused and as measured.

    python -m benchmarks.record_accelerate record benchmarks/results/accelerate.json
    python -m benchmarks.record_accelerate page benchmarks/results/accelerate.json docs/any-network.md

`record` times training steps (forward, backward) and evaluations of one batch on one thread, in turns: of the
model as it comes and with its weights in channels_last; of `accelerate(model)`; and of `accelerate(model,
images)`, which chose before, for both of these. What the file has already is not done again. `page` writes
the table into the page.
"""

from __future__ import annotations

import copy
import json
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
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "shufflenet_v2_x1_0",
)
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
    model = torchvision.models.get_model(name, num_classes=10)
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
    """Return how many times faster a way is than the model, by the shortest times."""
    shortest = {name: min(values) for name, values in found["cpu_seconds"][mode].items()}
    return shortest[FIGURES[way]] / shortest[way]


def chosen_way(found: dict[str, Any], mode: str, way: str) -> str:
    """Return what was chosen for a mode: "own forward", the same "in channels_last", or "fused"."""
    return dict(part.split(": ") for part in found["chosen"][way].split(", "))[mode]


def summary(found: dict[str, Any]) -> str:
    """Return a line of what was measured."""
    return "; ".join(
        f"{mode} {way} {times_faster(found, mode, way):.2f}" for mode in MODES for way in FIGURES
    )


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the text of a record into the page, in the place of that section."""
    found = json.loads(source.read_text(encoding="utf-8"))
    before, heading, rest = target.read_text(encoding="utf-8").partition(HEADING)
    if not heading:
        raise typer.BadParameter(f"{target} has no heading {HEADING.strip()!r}")
    after = rest[rest.index("\n## ") :]
    rows, fused, same, other = [], [], [], []
    for name, precisions in found["networks"].items():
        for precision, one in precisions.items():
            by_mode = [[times_faster(one, mode, way) for way in FIGURES] for mode in MODES]
            for mode, (of_fused, *of_chosen) in zip(MODES, by_mode, strict=True):
                fused.append(of_fused)
                for way, figure in zip(WAYS[-2:], of_chosen, strict=True):
                    (same if chosen_way(one, mode, way) == "own forward" else other).append(figure)
            cells = (f"{figure:.2f}" for figures in by_mode for figure in figures)
            rows.append(f"| {name} | {precision} | {' | '.join(cells)} |")
    text = f"""\
How many times faster than the model networks of torchvision are on one thread, with {found["batch"]} images
of {found["size"]}x{found["size"]}: fused, compared with the model in channels_last; and as chosen with
`images`, for the model as it comes and for the model in channels_last (`model.to(memory_format=...)`),
compared with the same model. CPU time on a busy machine, the shortest of {found["rounds"]} rounds in turns.
Fused, they are {min(fused):.2f} to {max(fused):.2f} times as fast. In {len(other)} of
{len(same) + len(other)} cases another way than the model's own is chosen, {min(other):.2f} to
{max(other):.2f} times as fast; in the others the model runs as before, and the figures ({min(same):.2f} to
{max(same):.2f}) are the error of the measurement. Made from
[the record](../benchmarks/results/{source.name}) by `python -m benchmarks.record_accelerate page`.

| network | | training: fused | chosen | in channels_last | evaluation: fused | chosen | in channels_last |
|---|---|--:|--:|--:|--:|--:|--:|
{chr(10).join(rows)}
"""
    parts = (
        one if one.startswith("|") else textwrap.fill(one, 120, break_on_hyphens=False)
        for one in text.strip().split("\n\n")
    )
    target.write_text(before + heading + "\n" + "\n\n".join(parts) + "\n" + after, encoding="utf-8")
    typer.echo(f"wrote {target}")


if __name__ == "__main__":
    app()
