"""What does it cost that idle threads spin, or sleep? One search and two at once, of a thread for each core.

    python -m benchmarks.record_waiting benchmarks/results/waiting.json

OpenMP's threads wait for each other at the end of each loop. GNU's runtime lets them spin there for 3 ms by
default, which takes the processor from others; `lasfast` lets them sleep. Both ways take turns, alone and
beside a second search of the same kind. The record has seconds, of the slower search, and processor seconds
of all.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import typer

from benchmarks import _harness
from benchmarks.bench_demo import used

app = typer.Typer(help=__doc__, no_args_is_help=True)
WAYS = {"spinning": {"GOMP_SPINCOUNT": "300000"}, "sleeping": {"OMP_WAIT_POLICY": "passive"}}
"""The environment of each way; the number is the default of GNU's runtime."""
SEARCH = ["search", "nir", "--data", "digits", "--depth", "4", "--quiet", "--threads", str(os.cpu_count())]


def searched(way: str, searches: int) -> tuple[float, float]:
    """Return the seconds, and the processor seconds, of so many searches at once."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with tempfile.TemporaryDirectory() as directory:
        began, before = time.perf_counter(), used()
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "lasfast", *SEARCH, "--directory", f"{directory}/{number}"],
                env=clean | WAYS[way],
                stdout=subprocess.DEVNULL,
            )
            for number in range(searches)
        ]
        statuses = [one.wait() for one in running]
        if any(statuses):
            raise SystemExit("a search failed; what it wrote says why")
        return time.perf_counter() - began, used() - before


@app.command()
def record(path: Path, rounds: int = 3) -> None:
    """Measure, and write the record."""
    machine = _harness.machine()
    searched("sleeping", 1)  # which measures what the others know
    found: dict[str, Any] = {}
    for number in range(rounds):
        for searches in (1, 2):
            for way in list(WAYS)[:: -1 if number % 2 else 1]:
                seconds, used = searched(way, searches)
                one = found.setdefault(f"{searches} {way}", {"seconds": [], "processor_seconds": []})
                one["seconds"].append(round(seconds, 1))
                one["processor_seconds"].append(round(used, 1))
                typer.echo(f"{searches} {way}: {seconds:.1f} s, {used:.1f} of processors")
    for one in found.values():
        one["median"] = statistics.median(one["seconds"])
    _harness.write({"record": "waiting", "search": " ".join(SEARCH), "machine": machine, "ways": found}, path)


if __name__ == "__main__":
    app()
