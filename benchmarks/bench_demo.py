"""The demo (`make demo`) with native kernels and with PyTorch's operators, alternated.

python -m benchmarks.bench_demo --output benchmarks/results/demo.json
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
from lasfast.study import LOG

DEMO = ("--data", "digits", "--depth", "9", "--retrain", "--threads", "1", "--quiet")
BACKENDS = ("native", "torch")


def main() -> None:
    """Run both, print and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="where to write the record")
    options = parser.parse_args()
    evaluation: dict[str, list[float]] = {backend: [] for backend in BACKENDS}
    runs = {
        backend: lambda backend=backend: evaluation[backend].append(demo(backend)) for backend in BACKENDS
    }
    record: dict[str, Any] = {"benchmark": "demo", "options": DEMO, "machine": _harness.machine()}
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


def demo(backend: str) -> float:
    """Run the demo in a process of its own; return the seconds of its evaluations."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "lasfast", "search", "nir", *DEMO, "--backend", backend]
        subprocess.run([*command, "--directory", directory + "/run"], check=True, stdout=subprocess.DEVNULL)
        events = [json.loads(line) for line in (Path(directory) / "run" / LOG).read_text().splitlines()]
    return sum(event["seconds"] for event in events if event["event"] == "evaluation")


if __name__ == "__main__":
    main()
