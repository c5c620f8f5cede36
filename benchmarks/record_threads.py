"""Record how much faster evaluation and training are with more threads than one.

    python -m benchmarks.record_threads benchmarks/results/threads.json [WORKLOADS]

The workloads are those of `bench_evaluate` and of `bench_train`, with fewer images. Numbers of threads take
turns in one process, whose seconds are those of a clock: nothing else should run. The record goes on with
what it lacks.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer

import lasfast
from benchmarks import _harness, bench_evaluate, bench_train

app = typer.Typer(help=__doc__, no_args_is_help=True)
PARTS = {"evaluation": bench_evaluate.WORKLOADS, "training": bench_train.WORKLOADS}


@app.command()
def record(
    path: Path,
    workloads: Annotated[list[str] | None, typer.Argument()] = None,
    precision: str = "bf16",
    images: Annotated[int, typer.Option(help="of calibration and of validation")] = 500,
    rounds: int = 5,
) -> None:
    """Measure, and write the record after each workload."""
    found: dict[str, Any] = {"record": "threads", "precision": precision, "machine": _harness.machine()}
    found |= {part: {} for part in PARTS}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["precision"] != precision:
            raise typer.BadParameter(f"path must be a record of {precision} or of none, got {path}")
    for part, known in PARTS.items():
        for name in known:
            if name in found[part] or (workloads and name not in workloads):
                continue
            torch.manual_seed(0)
            run = evaluation(name, precision, images) if part == "evaluation" else training(name, precision)
            # After ten random paths, most shapes have occurred, and ways were measured for them.
            random = part == "training" and not bench_train.WORKLOADS[name].before
            warm_up = 10 if random else 2
            found[part][name] = one = timed(run, os.cpu_count() or 1, rounds, warm_up)
            faster = f"{one['times_faster']:.2f} times faster with {one['threads']} threads"
            typer.echo(f"{part} of {name}: {faster}")
            _harness.write(found, path)


def evaluation(name: str, precision: str, images: int) -> Callable[[], Any]:
    """Return what evaluates the candidates of a workload."""
    workload = bench_evaluate.WORKLOADS[name]
    supernet = workload.make()
    bench_evaluate.shake(supernet)
    candidates = list(workload.candidates(supernet.space))
    size = bench_evaluate.IMAGE_SIZE
    calibration, validation = torch.randn(2 * images, 3, size, size).split(images)
    labels = torch.zeros(images, dtype=torch.int64)
    evaluator = lasfast.Evaluator(
        supernet,
        calibration,
        (validation, labels),
        "native",
        precision,
        calibration_batch=bench_evaluate.CALIBRATION_BATCH,
    )
    return lambda: evaluator(candidates)


def training(name: str, precision: str) -> Callable[[], Any]:
    """Return what trains a step of a workload, with an update for each path."""
    workload = bench_train.WORKLOADS[name]
    supernet = workload.make().train()
    images = bench_train.load_images(SimpleNamespace(data=None, device="cpu"), workload)
    run: Callable[[], Any] = bench_train.ours(workload, supernet, images, precision, "sequential", 1)
    return run


def timed(run: Callable[[], Any], threads: int, rounds: int, warm_up: int = 2) -> dict[str, Any]:
    """Return the seconds with one thread and with so many, and how many times faster the latter are."""

    def on(count: int) -> None:
        torch.set_num_threads(count)
        run()

    ways = {str(count): lambda count=count: on(count) for count in (1, threads)}
    seconds = _harness.paired(ways, rounds, warm_up)
    return {
        "threads": threads,
        "seconds": {count: statistics.median(times) for count, times in seconds.items()},
        "times_faster": _harness.ratio(seconds, "1", str(threads)),
    }


if __name__ == "__main__":
    app()
