"""Whole NIR searches, trained and evaluated with lasfast's kernels and with PyTorch's operators, alternated.

    python -m benchmarks.bench_demo --output benchmarks/results/demo.json           # `make demo`
    python -m benchmarks.bench_demo demo-bf16 --output benchmarks/results/demo-bf16.json
    python -m benchmarks.bench_demo cifar10 --output benchmarks/results/search.json

Both run the same algorithm on the same images with the same seeds, in channels_last. `cifar10` runs in bf16,
and is the search of NIR's record with fewer epochs: 3 of warm-up and one for each step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import _harness
from lasfast.study.files import LOG

DEMO = ("--data", "digits", "--depth", "9", "--retrain")
SEARCHES = {
    "demo": DEMO,
    "demo-bf16": (*DEMO, "--precision", "bf16"),
    "cifar10": (
        *("--data", "imagefolder:data/cifar10", "--limit", "6000", "--validation", "6000"),
        *("--depth", "9", "--max-layers", "5,5,5", "--preset", "cifar100", "--precision", "bf16"),
        *("--warm-up-epochs", "3", "--epochs-per-step", "1"),
    ),
}
BACKENDS = ("native", "torch")


def main() -> None:
    """Run both searches; print and write their seconds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("search", nargs="?", choices=SEARCHES, default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="where to write the record")
    options = parser.parse_args()
    evaluation: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    runs = {
        backend: lambda backend=backend: evaluation[backend].append(run(SEARCHES[options.search], backend))
        for backend in BACKENDS
    }
    record: dict[str, Any] = {
        "benchmark": options.search,
        "options": SEARCHES[options.search],
        "machine": _harness.machine(),
    }
    record["seconds"] = _harness.paired(runs, options.rounds, warm_up=0)
    record["evaluation_seconds"] = evaluation
    record["times_faster"] = {
        part: _harness.ratio(record[part], "torch", "native") for part in ("seconds", "evaluation_seconds")
    }
    for part, ratio in record["times_faster"].items():
        medians = {backend: statistics.median(record[part][backend]) for backend in BACKENDS}
        print(f"{part}: native {medians['native']:.2f}, torch {medians['torch']:.2f}, {ratio:.2f}x")
    if options.output:
        _harness.write(record, options.output)


def run(arguments: tuple[str, ...], backend: str) -> float:
    """Search in a process of its own; return the seconds of its evaluations."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "lasfast", "search", "nir", *arguments, "--threads", "1", "--quiet"]
        operators = "auto" if backend == "native" else "torch"  # the default
        command += ["--backend", backend, "--operators", operators, "--directory", directory + "/run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        events = [
            json.loads(line)
            for line in (Path(directory) / "run" / LOG).read_text(encoding="utf-8").splitlines()
        ]
    return sum(event["seconds"] for event in events if event["event"] == "evaluation")


if __name__ == "__main__":
    main()
