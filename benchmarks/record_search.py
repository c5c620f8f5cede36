"""Make the record of a whole search: what it found, how long it took, how well it ranks.

    lasfast search nir --data imagefolder:data/cifar10 ... --directory runs/nir-cifar10
    python benchmarks/record_search.py standalone runs/nir-cifar10 --depths 6,9 --epochs 30
    python benchmarks/record_search.py record runs/nir-cifar10 benchmarks/results/nir-cifar10.json
    python benchmarks/record_search.py plot benchmarks/results/nir-cifar10.json docs/nir-cifar10.png

`standalone` trains the candidates of some depths from scratch, so that `record` can compare their ranking
with the one-shot ranking that the search used. If it is interrupted, the same command continues.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from lasfast.cli import setup
from lasfast.cli.config import CONFIG, read_config
from lasfast.cli.from_scratch import train_from_scratch
from lasfast.cli.options import SearchOptions
from lasfast.measurements.measurement import Measurement, paired_difference
from lasfast.report import Run, candidates_of, plot_search
from lasfast.runtime.machine import gather
from lasfast.study.architecture_table import compare, load_table
from lasfast.study.files import LOG, RESULT

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
STAND_ALONE = "stand-alone"


@app.command()
def standalone(run: Path, depths: str = "9", epochs: int = 30, threads: int | None = None) -> None:
    """Train the candidates of `depths` (such as 6,9) from scratch; continue where it stopped."""
    options = read_config(run, SearchOptions)
    options = replace(options, threads=threads or options.threads, standalone_epochs=epochs)
    wanted = {int(depth) for depth in depths.split(",")}
    given = setup.TrainingSetup.of(options)
    max_layers = setup.parse_max_layers(options, options.depth)
    supernet = setup.make_supernet(options, given.data, max_layers, options.seed).to(given.device)
    candidates = [one for step in Run.load(run).steps for one in step if one.depth in wanted]
    train_from_scratch(
        given,
        supernet,
        [one.measurement.architecture for one in candidates],
        run / STAND_ALONE,
        keep_weights=False,
        resume=True,
    )


@app.command()
def record(run: Path, output: Path) -> None:
    """Write the record of a finished search."""
    study = Run.load(run)
    if not study.finished:
        raise typer.BadParameter(f"{run} is not finished")
    events = [json.loads(line) for line in (run / LOG).read_text(encoding="utf-8").splitlines() if line]
    result = json.loads((run / RESULT).read_text(encoding="utf-8"))
    options = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    del options["directory"]
    values: dict[str, Any] = {
        "record": "search",
        "machine": gather() | {"threads": options["threads"]},
        "options": options,
        "study": result["study"],
        "seconds": _seconds(events),
        "winners": result["winners"],
        "steps": [[_with_margin(one.measurement, step) for one in step] for step in study.steps],
    }
    if (run / STAND_ALONE).exists():
        table = load_table(run / STAND_ALONE)
        whole, by_depth = compare(table, [one.measurement for step in study.steps for one in step])
        values["stand_alone"] = [
            {"architecture": row.architecture, "top1": row.top1, "epochs": row.epochs} for row in table
        ]
        comparisons = {"all": whole, **{f"depth {depth}": one for depth, one in by_depth.items()}}
        values["one_shot_against_stand_alone"] = {
            name: {
                "count": one.count,
                "gap": one.gap,
                "kendall_tau": _number(one.tau),
                "spearman_rho": _number(one.rho),
            }
            for name, one in comparisons.items()
        }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(output)


@app.command()
def plot(source: Path, output: Path) -> None:
    """Draw the picture of a record."""
    values = json.loads(source.read_text(encoding="utf-8"))
    fields = ("architecture", "top1", "top5", "loss", "images")
    steps = [
        candidates_of(
            [Measurement(*(one[field] for field in fields)) for one in step], lambda _: (None, None)
        )
        for step in values["steps"]
    ]
    run = Run(source.parent, values["study"], tuple(map(tuple, steps)), finished=True)
    print(plot_search(run, output))


def _seconds(events: list[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of training and evaluation, over all parts of a resumed run."""
    training: dict[tuple[int, int], float] = {}
    previous = 0.0
    for event in events:
        if event["event"] != "epoch":
            continue
        restarted = event["seconds"] < previous
        training[event["step"], event["epoch"]] = event["seconds"] - (0.0 if restarted else previous)
        previous = event["seconds"]
    evaluation = sum(event["seconds"] for event in events if event["event"] == "evaluation")
    warm_up = sum(seconds for (step, _), seconds in training.items() if step == 0)
    total = sum(training.values()) + evaluation
    return {
        "warm_up": round(warm_up, 1),
        "steps": round(total - evaluation - warm_up, 1),
        "evaluation": round(evaluation, 1),
        "total": round(total, 1),
    }


def _number(value: float) -> float | None:
    """Return a number, or None for NaN, which JSON lacks."""
    return None if math.isnan(value) else value


def _with_margin(measurement: Measurement, step: Any) -> dict[str, Any]:
    """Return a measurement, and how far it is behind the step's winner on the same images."""
    winner = next(one.measurement for one in step if one.won)
    behind, error = paired_difference(winner, measurement)
    values = measurement.to_json()
    del values["correct"]
    return values | {"behind_winner": behind, "standard_error_of_that": error}


if __name__ == "__main__":
    app()
