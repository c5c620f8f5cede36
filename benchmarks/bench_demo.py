"""Whole NIR searches, trained and evaluated with lasfast's kernels and with PyTorch's operators, alternated.

    python -m benchmarks.bench_demo --output benchmarks/results/demo.json           # `make demo`
    python -m benchmarks.bench_demo demo-bf16 --output benchmarks/results/demo-bf16.json
    python -m benchmarks.bench_demo cifar10 --output benchmarks/results/search.json

All run the same algorithm on the same images in channels_last, with a seed for each round. `cifar10` runs in
bf16, and is the search of NIR's record with fewer epochs: 3 of warm-up and one for each step; `cifar10-fp32`
is the same in fp32, for processors without bf16. In both, lasfast searches twice: with an update for each
candidate, as PyTorch's operators do, and with one for all (`joint`). Seconds are the processor's, of one
thread: what else the machine does counts less. With an output that exists, rounds that it lacks are run.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import _harness
from lasfast.study.files import LOG, RESULT

DEMO = ("--data", "digits", "--depth", "9", "--retrain")
CIFAR10 = (
    *("--data", "imagefolder:data/cifar10", "--limit", "6000", "--validation", "6000"),
    *("--depth", "9", "--max-layers", "5,5,5", "--preset", "cifar100"),
    *("--warm-up-epochs", "3", "--epochs-per-step", "1"),
)
SEARCHES = {
    "demo": DEMO,
    "demo-bf16": (*DEMO, "--precision", "bf16"),
    "cifar10": (*CIFAR10, "--precision", "bf16"),
    "cifar10-fp32": CIFAR10,
}
WAYS = {
    "native": ("--backend", "native", "--operators", "auto"),
    "torch": ("--backend", "torch", "--operators", "torch"),
    "joint": ("--backend", "native", "--operators", "auto", "--update", "joint"),
}
"""The options that the runs differ in, by their names."""


def main() -> None:
    """Run the searches; print and write their seconds, and the accuracy of what they find."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("search", nargs="?", choices=SEARCHES, default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="where to write the record")
    options = parser.parse_args()
    ways = [way for way in WAYS if way != "joint" or options.search.startswith("cifar10")]
    record: dict[str, Any] = {
        "benchmark": options.search,
        "options": SEARCHES[options.search],
        "machine": _harness.machine(),
        **{part: {way: [] for way in ways} for part in Found._fields},
    }
    if options.output and Path(options.output).exists():
        record = json.loads(Path(options.output).read_text(encoding="utf-8"))
        if record["benchmark"] != options.search:
            parser.error(f"--output must be a record of {options.search} or of none, got {options.output}")
    for seed in range(len(record["seconds"]["torch"]), options.rounds):
        for way in ways[:: -1 if seed % 2 else 1]:
            found = run((*SEARCHES[options.search], "--seed", str(seed), *WAYS[way]))
            for part, value in found._asdict().items():
                record[part][way].append(value)
        record["times_faster"] = {
            way: {part: _harness.ratio(record[part], "torch", way) for part in Found._fields[:2]}
            for way in ways
            if way != "torch"
        }
        for way, ratios in record["times_faster"].items():
            seconds, top1 = (statistics.fmean(record[part][way]) for part in ("seconds", "top1"))
            faster = f"{ratios['seconds']:.2f} times faster than torch"
            print(f"seeds to {seed}, {way}: {seconds:.2f} s, {faster}, {top1:.2%}", flush=True)
        if options.output:
            _harness.write(record, options.output)


class Found(NamedTuple):
    """A search has taken so many seconds, and evaluated for so many; its winner has this accuracy."""

    seconds: float
    evaluation_seconds: float
    top1: float


def used() -> float:
    """Return the processor seconds of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(arguments: tuple[str, ...]) -> Found:
    """Search in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        where = Path(directory) / "run"
        command = [sys.executable, "-m", "lasfast", "search", "nir", *arguments, "--threads", "1", "--quiet"]
        began = used()
        subprocess.run([*command, "--directory", str(where)], check=True, stdout=subprocess.DEVNULL)
        seconds = used() - began
        events = [json.loads(line) for line in (where / LOG).read_text(encoding="utf-8").splitlines()]
        result = json.loads((where / RESULT).read_text(encoding="utf-8"))
    evaluations = sum(event["seconds"] for event in events if event["event"] == "evaluation")
    return Found(seconds, evaluations, result["best"]["top1"])


if __name__ == "__main__":
    main()
