"""Record what a parallel region costs, and what work takes one thread: what csrc/cpu/threads.h goes by.

    python -m benchmarks.record_grain benchmarks/results/grain.json

An empty region of GNU's runtime is timed with several numbers of threads, which sleep between regions, as
the command line has them do; 4 threads also take turns with fewer. Of a clock's seconds the lower quartile
counts, since what else runs only adds to them. Threads beyond the cores wait for each other, and take
longer than on more cores. Work is timed by one thread's own clock.
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer

from benchmarks import _harness
from benchmarks.record_waiting import WAYS
from lasfast.ops import bn_act_kernels
from lasfast.ops.bn_act_schema import BnActInputs
from lasfast.runtime import compiled
from lasfast.runtime.precision import DTYPES

app = typer.Typer(help=__doc__, no_args_is_help=True)
TEAMS = (1, 2, 4, 8, 16, 32)
"""The numbers of threads of which a region is timed."""
CALLS = 200
LAST = torch.channels_last


def regions() -> dict[str, float]:
    """Return the microseconds of an empty region of so many threads, and of 4 after one of 3 or of 1."""
    runtime = ctypes.CDLL(_runtime())
    nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # to free null does nothing

    def seconds(threads: int) -> float:
        began = time.perf_counter()
        runtime.GOMP_parallel(nothing, None, threads, 0)
        return time.perf_counter() - began

    found = {}
    for threads in TEAMS:
        found[str(threads)] = lower_quartile([seconds(threads) for _ in range(CALLS)])
    for other in (1, 3):
        after = [(seconds(other), seconds(4))[1] for _ in range(CALLS)]
        found[f"4 after {other}"] = lower_quartile(after)
    return {name: round(1e6 * value, 2) for name, value in found.items()}


def lower_quartile(values: list[float]) -> float:
    return statistics.quantiles(values, n=4)[0]


def _runtime() -> str:
    """Return the file of the OpenMP runtime that torch has loaded; others may have one of their own."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    files = {line.split()[-1] for line in lines if "libgomp" in line}
    of_torch = Path(torch.__file__).parent
    return next((file for file in sorted(files) if Path(file).is_relative_to(of_torch)), min(files))


def work() -> dict[str, float]:
    """Return the nanoseconds of a multiply-add, a byte and a weight that is packed, of one thread in fp32."""
    torch.set_num_threads(1)
    return {
        "multiply-add": _of_convolution(64, 32, 8, 0) / (64 * 8 * 8 * 32 * 32 * 9),
        "byte": (_of_bn_act(256) - _of_bn_act(128)) / (128 * 16 * 8 * 8 * 2 * 4),  # less what a call takes
        "weight": _of_convolution(1, 64, 1, 0) / (64 * 64 * 9),
        "weight, winograd": _of_convolution(1, 64, 1, 4) / (64 * 64 * 9),
    }


def _of_convolution(images: int, channels: int, size: int, tile: int) -> float:
    """Return the nanoseconds of a 3x3 convolution; of one output, packing the weight takes most of them."""
    module = compiled.load()
    x = torch.randn(images, channels, size, size).contiguous(memory_format=LAST)
    weight, y = torch.randn(channels, channels, 3, 3), torch.empty_like(x)
    shape, fp32 = (channels, size, size), DTYPES[torch.float32]
    params = module.Conv2dNhwcParams(images, shape, shape, 3, 1, 1, weight.stride(), fp32, fp32, tile=tile)
    where = (1, module.isa_names().index(compiled.isa()))
    size_of = module.conv2d_nhwc_workspace_cpu(params, module.Pass.forward, *where)
    space = torch.empty(size_of, dtype=torch.uint8)
    return _nanoseconds(
        lambda: module.conv2d_nhwc_forward_cpu(
            params, x.data_ptr(), weight.data_ptr(), space.data_ptr(), *where, y.data_ptr(), 0, 0
        )
    )


def _of_bn_act(images: int) -> float:
    """Return the nanoseconds of a batch norm and ReLU of values that a core's cache holds."""
    x = torch.randn(images, 16, 8, 8).contiguous(memory_format=LAST)
    zeros, ones = torch.zeros(16), torch.ones(16)
    inputs = BnActInputs(x, zeros, ones, ones, zeros, None, True, 1e-5, "relu")
    return _nanoseconds(lambda: bn_act_kernels.bn_act(inputs))


def _nanoseconds(run: Callable[[], Any]) -> float:
    seconds = _harness.paired({"run": run}, CALLS, warm_up=20, clock=time.thread_time)["run"]
    return 1e9 * lower_quartile(seconds)


@app.command()
def record(path: Path) -> None:
    """Measure, and write the record."""
    machine = _harness.machine()
    ask = "import json; from benchmarks.record_grain import regions; print(json.dumps(regions()))"
    said = subprocess.check_output([sys.executable, "-c", ask], env=os.environ | WAYS["sleeping"], text=True)
    found = json.loads(said)
    typer.echo(f"microseconds: {said.strip()}")
    took = {name: round(value, 4) for name, value in work().items()}
    typer.echo(f"nanoseconds: {took}")
    made = {"record": "grain", "machine": machine, "region_us": found, "one_thread_ns": took}
    _harness.write(made, path)


if __name__ == "__main__":
    app()
