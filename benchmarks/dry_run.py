"""Runs a module of the benchmarks, lasfast or pytest without a GPU: CUDA's kernels on the CPU, on tiny sizes.

    python -m benchmarks.dry_run benchmarks.smoke --device cpu
    python -m benchmarks.dry_run --serve SOCKET

`benchmarks/gpu.sh --dry-run` runs each of its steps so. It starts a server, which forks for each step
(`benchmarks/dry_client.py`), so that what takes longest of a step, its imports, is done once. The kernels
are those of `lasfast._emulated`, on the CPU's tensors. What only a GPU has (CUDA graphs, its clock) is left
out as with `--device cpu` elsewhere, and `torch.compile` compiles nothing.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

import torch

from benchmarks import (
    _fused,
    _harness,
    _tuned,
    bench_batch_norm,
    bench_bn_act,
    bench_conv,
    bench_conv_train,
    bench_depthwise,
    bench_depthwise_train,
    bench_evaluate,
    bench_limits,
    bench_sgd,
    bench_train,
    profile_kernels,
    smoke,
)
from lasfast import selfcheck, supernets
from lasfast.engine import conv_tiles
from lasfast.engine.cuda_executor import CudaExecutor
from lasfast.engine.native_backend import EXECUTORS
from lasfast.runtime import compiled, placement
from lasfast.runtime.precision import fp32_products_as
from lasfast.selfcheck import training

ENTRIES = {"lasfast": ("lasfast.cli", "main"), "pytest": ("pytest", "main")}
"""The functions that `python -m` calls, where they are not `main` of the module of that name."""
SLOW = ("torch._dynamo", "torchvision", "pytest")
"""What most modules import on their way, which the server has ready."""
HOPPER = (9, 0)
NARROW = (40, 40, 4, 3, 1, 1)  # a convolution of training that is not too narrow for warpgroups
SMALLEST = {
    "make": lambda: supernets.ResidualNet((1, 1, 1)),
    "candidates": lambda space: [(1, 1, 1)],
    "calibration": 2,
    "validation": 2,
}
SIZES: dict[ModuleType, dict[str, Any]] = {
    _harness: {"PEAK_SIZES": {"cpu": (64, 1)}},
    _tuned: {"PREDICTION_BATCHES": (2,)},
    _fused: {"UNCACHED": 1},
    bench_conv_train: {
        "IMAGES": 2,
        "ROUNDS": 1,
        "SHAPES": dict.fromkeys(bench_conv_train.SHAPES, NARROW),
    },
    bench_evaluate: {
        "IMAGE_SIZE": 8,
        "WORKLOADS": {name: replace(one, **SMALLEST) for name, one in bench_evaluate.WORKLOADS.items()},
    },
    bench_train: {
        "BATCH": 2,
        "IMAGES": 4,
        "WORKLOADS": {
            name: bench_train.Workload(
                lambda: supernets.ResidualNet((2, 2, 2)), one.before and (1, 1, 1), image_size=8
            )
            for name, one in bench_train.WORKLOADS.items()
        },
    },
    bench_batch_norm: {"SHAPES": dict.fromkeys(bench_batch_norm.SHAPES, (8, 4, 1))},
    bench_bn_act: {"SHAPES": dict.fromkeys(bench_bn_act.SHAPES, (1, 8, 4, 4)), "ROUNDS": 1},
    bench_conv: {"SHAPES": dict.fromkeys(bench_conv.SHAPES, (8, 4, 1))},
    bench_depthwise: {"SHAPES": dict.fromkeys(bench_depthwise.SHAPES, (8, 4, 1))},
    bench_depthwise_train: {
        "SHAPES": dict.fromkeys(bench_depthwise_train.SHAPES, (8, 4, 3, 1)),
        "BATCH": 1,
        "ROUNDS": 1,
    },
    bench_sgd: {"NETWORKS": dict.fromkeys(bench_sgd.NETWORKS, (SMALLEST["make"], bench_sgd.deepest))},
    bench_limits: {"SIZES": {"cpu": 64}, "COPIED": 4096},
    conv_tiles: {"POSITIONS": 1, "SIDE": 4},
    profile_kernels: {"CALIBRATION": 2, "IMAGES": 2, "SIZE": 8, "BATCH_NORM": (2, 8, 4)},
    smoke: {"SIZES": (conv_tiles.Size(1, 64, 64),), "ROUNDS": 1, "SIDE": 4},
    training: {
        "WIDE": [
            replace(one, input=(2, 16, 8, 8), weight=(24, 16, 1, 1), c_out=24, padding=0)
            for one in training.WIDE
        ]
    },
}
"""By module, the constants that say how much is computed, as they are here."""


def main() -> None:
    _, name, *arguments = sys.argv
    stand_in()
    for module, values in SIZES.items():
        put(module, **values)
    if name == "--serve":
        serve(*arguments)
    else:
        run(name, *arguments)


def run(name: str, *arguments: str) -> None:
    """Run a module, and end as it ends."""
    sys.argv = [name, *arguments]
    where, function = ENTRIES.get(name, (name, "main"))
    with fp32_products_as("exact"):  # as PyTorch multiplies on the CPU
        sys.exit(getattr(importlib.import_module(where), function)())


def serve(address: str) -> None:
    """Run modules for clients, each in a process of its own, until the process that started this one ends."""
    parent = os.getppid()
    for name in SLOW:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # clients are told how those ended
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.new")
        server.listen()
        os.rename(f"{address}.new", address)
        server.settimeout(1)
        while os.getppid() == parent:
            try:
                client, _ = server.accept()
            except TimeoutError:
                continue
            with client:
                if os.fork() == 0:
                    answer(client)


def answer(client: socket.socket) -> NoReturn:
    """Run what a client asks for in its place, tell it the status, and end this process."""
    status = 1
    try:
        client.settimeout(None)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _, outputs, *_ = socket.recv_fds(client, 3, 2)
        for number, output in enumerate(outputs, start=1):
            os.dup2(output, number)
        text = b"".join(iter(partial(client.recv, 1 << 16), b""))
        job = json.loads(text)
        os.setpgid(0, job["group"])
        os.chdir(job["directory"])
        os.environ.clear()
        os.environ.update(job["environment"])
        run(*job["command"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(OSError):  # the client was stopped
            client.sendall(bytes([status % 256]))
        os._exit(status)


def stand_in() -> None:
    """Let lasfast run CUDA's kernels on the CPU in this process, and check itself by a case of each kind."""
    emulated = importlib.import_module("lasfast._emulated")
    put(compiled, load=lambda: emulated)
    put(placement, of=lambda tensor: placement.Placement("cuda", (0, 0)))
    EXECUTORS["cpu"] = CudaExecutor
    put(torch.cuda, get_device_capability=lambda device=None: HOPPER)
    put(torch, compile=lambda network, **options: network)
    for name in ("tile_cases", "training_cases"):
        put(selfcheck, **{name: partial(first, getattr(selfcheck, name))})
    put(selfcheck, evaluation_cases=lambda device: ())  # which `bench_evaluate` makes up for


def first(cases: Any, device: torch.device) -> Iterator[selfcheck.Case]:
    """Give the first of some cases of the self-check."""
    return itertools.islice(cases(device), 1)


def put(where: Any, **values: Any) -> None:
    """Replace attributes, which have to exist."""
    for name, value in values.items():
        getattr(where, name)
        setattr(where, name, value)


if __name__ == "__main__":
    main()
