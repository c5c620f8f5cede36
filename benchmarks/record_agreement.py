"""Does bf16 in native kernels change who wins? The native and the torch backend measure the same candidates.

    python -m benchmarks.record_agreement assignments benchmarks/results/agreement-assignments.json
    python -m benchmarks.record_agreement search runs/nir-cifar10 benchmarks/results/agreement-search.json

`assignments` trains a ResidualNet on paths drawn uniformly from the 91 assignments of depth 15, and ranks
them all. `search` repeats the training of a finished search (the same seeds and candidates give the same
weights), and measures the candidates of each step.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import torch
import typer
from safetensors.torch import load_model, save_model

import lasfast
from benchmarks import _harness
from benchmarks.bench_evaluate import WORKLOADS, train
from lasfast.cli import setup
from lasfast.cli.config import read_config
from lasfast.cli.display import make_console
from lasfast.cli.options import SearchOptions
from lasfast.measurements.measurement import Measurement, paired_difference
from lasfast.measurements.ranking import kendall_tau
from lasfast.report import Run
from lasfast.train import SupernetTrainer

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
TRUTH = "torch-fp32"
RUNS = {TRUTH: ("torch", "fp32"), "torch-bf16": ("torch", "bf16"), "native-bf16": ("native", "bf16")}


@app.command()
def assignments(
    output: Path,
    data: str = "imagefolder:data/cifar10",
    steps: int = 3000,
    validation: int = 5000,
    threads: int = 1,
    weights: Path | None = None,
) -> None:
    """Rank all assignments of depth 15 with the weights in `weights`, or with weights trained now."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    workload = WORKLOADS["assignments-15"]
    images = lasfast.data.load(data, calibration=workload.calibration, validation=validation)
    supernet = workload.make()
    candidates = workload.candidates(supernet.space)
    rng = random.Random(0)
    if weights is not None and weights.exists():
        load_model(supernet, weights)
    else:
        began = time.perf_counter()
        train(supernet, images.train, steps, lambda: rng.choice(candidates))
        print(f"trained in {time.perf_counter() - began:.0f} s", flush=True)
        if weights is not None:
            save_model(supernet, str(weights))
    measured = _measure_all(supernet, images, candidates)
    top1 = {
        count: {run: [_first(one, count) for one in all_of] for run, all_of in measured.items()}
        for count in (workload.validation, validation)
    }
    _harness.write(
        {
            "record": "agreement",
            "machine": _harness.machine(),
            "data": data,
            "training_steps": steps,
            "training_seed": 0,
            "calibration": workload.calibration,
            "architectures": candidates,
            "top1": top1[validation],
            "agreement": {
                count: {run: _agreement(parts[TRUTH], parts[run]) for run in RUNS if run != TRUTH}
                for count, parts in top1.items()
            },
        },
        output,
    )


@app.command()
def search(run: Path, output: Path) -> None:
    """Measure the candidates of each step of a finished search, with the weights that they had then."""
    options = read_config(run, SearchOptions)
    setup.make_device(options)
    data = setup.load_data(options, options.seed, make_console())
    supernet = setup.make_supernet(
        options, data, setup.parse_max_layers(options, options.depth), options.seed
    )
    trainer = SupernetTrainer(supernet, data.train, setup.make_settings(options))
    steps: list[dict[str, Any]] = []
    for step, recorded in enumerate([[], *Run.load(run).steps]):
        candidates = [one.measurement.architecture for one in recorded]
        for progress in trainer.train(step, candidates):
            if progress.last_of_epoch:
                print(f"step {step}, epoch {progress.epoch + 1}: loss {progress.loss:.3f}", flush=True)
        if not candidates:
            continue
        measured = _measure_all(supernet, data, candidates)
        steps.append(
            {
                "architectures": candidates,
                "recorded_top1": [one.measurement.top1 for one in recorded],
                "top1": {name: [one.top1 for one in all_of] for name, all_of in measured.items()},
                "winners": {name: _winner(measured[TRUTH], all_of) for name, all_of in measured.items()},
            }
        )
        print(json.dumps(steps[-1]["winners"]), flush=True)
    _harness.write(
        {
            "record": "agreement along a search",
            "machine": _harness.machine(),
            "data": options.data,
            "calibration": len(data.calibration),
            "validation": len(data.validation[1]),
            "steps": steps,
        },
        output,
    )


def _measure_all(supernet: Any, data: Any, candidates: list[Any]) -> dict[str, list[Measurement]]:
    """Return the candidates' measurements by each backend and precision."""
    measured = {}
    for run, (backend, precision) in RUNS.items():
        evaluator = lasfast.Evaluator(supernet, data.calibration, data.validation, backend, precision)
        measured[run] = evaluator(candidates)
    return measured


def _first(measurement: Measurement, images: int) -> float:
    """Return top-1 over the first images only."""
    return float(measurement.right()[:images].mean())


def _agreement(truth: list[float], other: list[float]) -> dict[str, float]:
    """Return Kendall's tau-b and the largest difference of top-1."""
    pairs = [
        tuple(float(getattr(one, "top1", one)) for one in pair) for pair in zip(truth, other, strict=True)
    ]
    return {
        "kendall_tau": kendall_tau([a for a, _ in pairs], [b for _, b in pairs]),
        "largest_difference": max(abs(a - b) for a, b in pairs),
    }


def _winner(truth: list[Measurement], measured: list[Measurement]) -> dict[str, Any]:
    """Return a backend's winner, and how far it is behind the true winner on the same images."""
    best = max(truth, key=lambda one: one.value)
    chosen = truth[max(range(len(measured)), key=lambda index: measured[index].value)]
    behind, error = paired_difference(best, chosen)
    return {"architecture": chosen.architecture, "behind": behind, "standard_error": error}


if __name__ == "__main__":
    app()
