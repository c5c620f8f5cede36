"""Whole NIR searches, trained and evaluated with lasfast's kernels and with PyTorch's operators, alternated.

    python -m benchmarks.bench_demo --output benchmarks/results/demo.json           # `make demo`
    python -m benchmarks.bench_demo demo-bf16 --output benchmarks/results/demo-bf16.json
    python -m benchmarks.bench_demo cifar10 --output benchmarks/results/search.json

All run the same algorithm on the same images in channels_last, with a seed for each round. `cifar10` runs in
bf16, and is the search of NIR's record with fewer epochs: 3 of warm-up and one for each step. There, lasfast
searches twice: with an update for each candidate, as PyTorch's operators do, and with one for all (`joint`).
Seconds are the processor's, of one thread: what else the machine does counts less.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import _harness
from lasfast.study.files import LOG, RESULT

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
    ways = [way for way in WAYS if way != "joint" or options.search == "cifar10"]
    found: dict[str, list[Found]] = {way: [] for way in ways}

    def search(way: str) -> None:
        seed = ("--seed", str(len(found[way])))
        found[way].append(run((*SEARCHES[options.search], *seed, *WAYS[way])))

    record: dict[str, Any] = {
        "benchmark": options.search,
        "options": SEARCHES[options.search],
        "machine": _harness.machine(),
    }
    record["seconds"] = _harness.paired(
        {way: partial(search, way) for way in ways}, options.rounds, warm_up=0, clock=used
    )
    record["evaluation_seconds"] = {way: [one.evaluation_seconds for one in found[way]] for way in ways}
    record["top1"] = {way: [one.top1 for one in found[way]] for way in ways}
    record["times_faster"] = {
        way: {part: _harness.ratio(record[part], "torch", way) for part in ("seconds", "evaluation_seconds")}
        for way in ways
        if way != "torch"
    }
    for way, ratios in record["times_faster"].items():
        seconds, top1 = (statistics.fmean(record[part][way]) for part in ("seconds", "top1"))
        print(f"{way}: {seconds:.2f} s, {ratios['seconds']:.2f} times faster than torch, {top1:.2%}")
    if options.output:
        _harness.write(record, options.output)


class Found(NamedTuple):
    """A search has evaluated for so many seconds; its winner has this accuracy with inherited weights."""

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
        subprocess.run([*command, "--directory", str(where)], check=True, stdout=subprocess.DEVNULL)
        events = [json.loads(line) for line in (where / LOG).read_text(encoding="utf-8").splitlines()]
        result = json.loads((where / RESULT).read_text(encoding="utf-8"))
    seconds = sum(event["seconds"] for event in events if event["event"] == "evaluation")
    return Found(seconds, result["best"]["top1"])


if __name__ == "__main__":
    main()
