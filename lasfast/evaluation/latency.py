"""Latencies: time each distinct layer of a supernet, and check how well sums of these times predict networks.

A layer that runs alone, again and again, finds its weights in the caches, which in a network the other layers
have filled with theirs. So before each run, as many bytes are read as a network's weights have. The sum of
the times is still not a network's time: `check` says how far off it is, and fits overhead + scale * sum.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lasfast.core.checks import as_int, check_choice, check_positive
from lasfast.costs.flops import model_input
from lasfast.costs.latency import LatencyTable, layer_key
from lasfast.costs.params import path_params
from lasfast.engine import NativeBackend
from lasfast.engine.native_backend import why_missing
from lasfast.execution.to_fx import extract
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Path, Shape, path_shapes
from lasfast.ir.precision import PRECISIONS
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.measurements.ranking import kendall_tau, spearman_rho
from lasfast.runtime.machine import gather
from lasfast.runtime.placement import device_of
from lasfast.runtime.precision import autocast, torch_dtype
from lasfast.searchers.operators import sample_distinct
from lasfast.spaces import Architecture, CellSpace
from lasfast.supernets import Supernet

Timer = Callable[[Callable[[], None], Callable[[], None]], float]
"""Runs the second function before each run of the first; returns the seconds of one run of the first."""
Progress = Callable[[int, int, str], None]
"""Is called with how many timings are done, how many there are in all, and what was timed."""

_MEAN = Layer("mean", (layers.GlobalAvgPool(),))
_FLATTEN = Layer("flatten", (layers.Flatten(),))
PATIENCE = 500
"""Drawing ends after so many random architectures, and twice the layers found, without a new layer."""


def least_seconds(seconds: float = 0.2, runs: int = 5) -> Timer:
    """Return a timer that runs for `seconds`, at least `runs` times, and takes the fastest run."""

    def timer(run: Callable[[], None], before: Callable[[], None]) -> float:
        run()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < runs or time.perf_counter() < end:
            before()
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    return timer


def build(
    supernet: Supernet,
    input_size: tuple[int, int],
    path: str | os.PathLike[str],
    *,
    name: str = "cpu",
    backend: str = "native",
    precision: str = "fp32",
    batch: int = 1,
    timer: Timer | None = None,
    announce: Callable[[int, int], None] | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Time the layers of a supernet that a table lacks, and write each to the table's file at once.

    Layers that differ in their names alone are timed once. If this is stopped at any moment, calling it again
    goes on from there.

    Args:
        supernet: the supernet; its parameters' device is where layers run.
        input_size: (height, width) of the images.
        path: the table's file, which may be there already.
        name: the name of the machine; the cost is `latency@NAME`.
        backend: "native", the compiled module; or "torch", stand-alone modules (channels_last).
        precision: "fp32" or "bf16".
        batch: images at a time.
        timer: measures; the default is `least_seconds()`.
        announce: is called beforehand, with how many layers will be timed, and in how many timings.
        progress: is called after each layer.

    Raises:
        ValueError: an argument is out of range, or the file is damaged, or was made with other settings or on
            another machine.
    """
    check_choice("backend", backend, ("native", "torch"))
    check_choice("precision", precision, tuple(PRECISIONS))
    check_positive(batch=batch)
    if not name or not name.replace("-", "_").replace(".", "_").isidentifier():
        raise ValueError(f"name must be one such as 'cpu' or 'cpu-torch', got {name!r}")
    device = device_of(supernet)
    why = why_missing(device) if backend == "native" else None
    if why is not None:
        raise ValueError(f"backend 'native' cannot be timed: {why}; take 'torch'")
    settings = {
        "backend": backend,
        "precision": precision,
        "batch": batch,
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    table = LatencyTable(name, settings, gather(), path=FilePath(path))
    if FilePath(path).exists():
        table = _same(table, LatencyTable.load(path))
    found = distinct_layers(supernet, input_size)
    missing = {key: one for key, one in found.items() if key not in table.seconds}
    runner = _Runner(supernet, settings)
    others = torch.ones(_weights(supernet), dtype=torch_dtype(precision))
    others = others.to(device)
    timer = timer or least_seconds()

    def read_others() -> None:
        others.sum()
        runner.synchronize()

    if announce is not None:
        announce(len(missing), sum(_timings(runner, layer, shape) for layer, shape in missing.values()))
    for done, (key, (layer, shape)) in enumerate(missing.items(), start=1):
        table.seconds[key] = _layer_seconds(runner, timer, read_others, layer, shape)
        table.save()
        if progress is not None:
            progress(done, len(missing), f"{layer.name} on {shape}: {1e3 * table.seconds[key]:.3f} ms")
    return table


def distinct_layers(supernet: Supernet, input_size: tuple[int, int]) -> dict[str, tuple[Layer, Shape]]:
    """Return a layer and its input's shape for each `layer_key` that architectures of the supernet have.

    Random architectures are drawn until they have no more new layers; one in thousands may still have one.

    Raises:
        ValueError: the supernet's layers are whole cells, of which there are too many.
    """
    if isinstance(supernet.space, CellSpace):
        raise ValueError(
            f"the layers of a {type(supernet).__name__} are whole cells, of which there are too many to "
            "time; bound flops, params or memory instead"
        )
    found: dict[str, tuple[Layer, Shape]] = {}
    shape = model_input(supernet, input_size)
    seen: set[Path] = set()
    idle = 0
    for architecture in _architectures(supernet):
        path = supernet.path(architecture)
        before = len(found)
        if path not in seen:
            seen.add(path)
            for layer, shapes in path_shapes(path, shape):
                found.setdefault(layer_key(layer, shapes[0]), (layer, shapes[0]))
        idle = 0 if len(found) > before else idle + 1
        if idle >= PATIENCE + 2 * len(found):
            break
    return found


@dataclass(frozen=True)
class Agreement:
    """The agreement of predicted latencies with measured ones.

    Attributes:
        error: mean absolute difference, relative to the measured latency.
        tau, rho: Kendall's and Spearman's rank correlations; NaN where all latencies are equal.
    """

    error: float
    tau: float
    rho: float


@dataclass(frozen=True)
class LatencyCheck:
    """Predicted and measured latencies of random architectures, in seconds.

    Attributes:
        architectures: the architectures.
        predicted: the sum of the times of each one's layers.
        measured: the time of each whole network.
        fitted: how many of the architectures, from the first, the fit is made on; the others validate it.
        overhead, scale: the fit, measured = overhead + scale * predicted.
    """

    architectures: list[Architecture]
    predicted: list[float]
    measured: list[float]
    fitted: int
    overhead: float
    scale: float

    def of_sum(self) -> Agreement:
        """Return the agreement of the plain sums, of all architectures."""
        return _agreement(self.predicted, self.measured)

    def of_sum_held_out(self) -> Agreement:
        """Return the agreement of the plain sums, of the architectures that the fit has not seen."""
        return _agreement(self.predicted[self.fitted :], self.measured[self.fitted :])

    def of_fit(self) -> Agreement:
        """Return the agreement of the fit, of the architectures that it has not seen."""
        predicted = [self.overhead + self.scale * one for one in self.predicted[self.fitted :]]
        return _agreement(predicted, self.measured[self.fitted :])


def check(
    supernet: Supernet,
    input_size: tuple[int, int],
    table: LatencyTable,
    *,
    architectures: int = 30,
    fitted: int = 10,
    rounds: int = 3,
    seed: int = 0,
    timer: Timer | None = None,
    progress: Progress | None = None,
) -> LatencyCheck:
    """Time whole random networks as the table's layers were timed, and compare them with the sums.

    Args:
        supernet: the supernet that the table was built for.
        input_size: (height, width) of the images.
        table: the table, whose settings say how networks are run.
        architectures: how many different ones to time, as far as the space has them; at least 4.
        fitted: on how many of them the fit is made; 2 to all but 2.
        rounds: how often each network is timed; its best time counts.
        seed: the seed of the random architectures.
        timer: measures; the default is `least_seconds()`.
        progress: is called after each timing.

    Raises:
        ValueError: an argument is out of range, the table lacks a layer, or it was made on another machine or
            with another number of threads.
    """
    architectures = as_int("architectures", architectures, minimum=4)
    check_positive(rounds=rounds)
    chosen = sample_distinct(supernet.space, random.Random(seed), architectures, lambda _: True)
    if not 2 <= fitted <= len(chosen) - 2:
        raise ValueError(
            f"fitted must be 2 to {len(chosen) - 2} of {len(chosen)} architectures, got {fitted}"
        )
    _check_here(supernet, table)
    shape = model_input(supernet, input_size)
    paths = [supernet.path(architecture) for architecture in chosen]
    predicted = [table.sum(path, shape) for path in paths]
    runner = _Runner(supernet, table.settings)
    timer = timer or least_seconds()
    measured = [float("inf")] * len(paths)
    # Round by round, so that no network alone is timed while the machine is busy with something else.
    for number in range(rounds * len(paths)):
        index = number % len(paths)
        measured[index] = min(measured[index], timer(runner(paths[index], shape), lambda: None))
        if progress is not None:
            text = f"{supernet.space.format(chosen[index])}: {1e3 * measured[index]:.3f} ms"
            progress(number + 1, rounds * len(paths), text)
    scale, overhead = _line(predicted[:fitted], measured[:fitted])
    return LatencyCheck(chosen, predicted, measured, fitted, overhead, scale)


class _Runner:
    """Makes functions that run a path once on random images, and wait for the result."""

    def __init__(self, supernet: Supernet, settings: Any) -> None:
        self.supernet, self.settings = supernet, settings
        self.device = device_of(supernet)
        self.native = None
        if settings["backend"] == "native":
            self.native = NativeBackend(supernet, settings["precision"])

    def __call__(self, path: Path, shape: Shape) -> Callable[[], None]:
        if self.native is not None and len(shape) == 1:
            path, shape = (_FLATTEN, *path), (*shape, 1, 1)
        images = torch.randn(self.settings["batch"], *shape, dtype=torch.float32, device=self.device)
        outputs = self._modules(path, images) if self.native is None else self._native(path, images)

        def run() -> None:
            next(outputs)
            self.synchronize()

        return run

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _native(self, path: Path, images: Tensor) -> Iterator[Any]:
        assert self.native is not None
        tree = PrefixTree([path])
        statistics = [
            {
                op.module: (
                    torch.zeros(op.channels, dtype=torch.float32, device=self.device),
                    torch.ones(op.channels, dtype=torch.float32, device=self.device),
                )
                for op in node.layer.ops
                if isinstance(op, layers.BatchNorm2d)
            }
            for node in tree.nodes
        ]
        return self.native.predict_batches(tree, statistics, repeat(images))

    def _modules(self, path: Path, images: Tensor) -> Iterator[Any]:
        network = extract(path, self.supernet).eval().to(memory_format=torch.channels_last)
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        while True:
            with torch.inference_mode(), autocast(self.device, self.settings["precision"]):
                output = network(images)
            yield output


def _layer_seconds(
    runner: _Runner, timer: Timer, before: Callable[[], None], layer: Layer, shape: Shape
) -> float:
    """Return the seconds of a layer alone.

    The compiled module runs paths from images to features. So a layer that gives images is timed with a mean
    over them, and the time of this mean by itself, the call included, is subtracted. The layer that ends a
    network keeps the time of the call, which a network makes once.
    """
    if _timings(runner, layer, shape) == 1:
        return timer(runner((layer,), shape), before)
    output = layer.shapes(shape)[-1]
    whole, rest = runner((layer, _MEAN), shape), runner((_MEAN,), output)
    return max(0.0, timer(whole, before) - timer(rest, before))


def _timings(runner: _Runner, layer: Layer, shape: Shape) -> int:
    """Return how many timings a layer takes: one, or two where a mean follows it."""
    return 2 if runner.native is not None and len(layer.shapes(shape)[-1]) == 3 else 1


def whole_seconds(
    supernet: Supernet,
    architecture: Architecture,
    input_size: tuple[int, int],
    table: LatencyTable,
    timer: Timer | None = None,
) -> float:
    """Return the seconds of a whole network, run as a table's layers were.

    Args:
        supernet: the supernet that the table was built for.
        architecture: the network's architecture.
        input_size: (height, width) of the images.
        table: the table, whose settings say how the network is run.
        timer: measures; the default is `least_seconds()`.

    Raises:
        ValueError: the table was made on another machine or with another number of threads.
    """
    _check_here(supernet, table)
    run = _Runner(supernet, table.settings)(supernet.path(architecture), model_input(supernet, input_size))
    return (timer or least_seconds())(run, lambda: None)


def _check_here(supernet: Supernet, table: LatencyTable) -> None:
    """Raise ValueError where a table was made on another machine, or with another number of threads."""
    here = {"threads": torch.get_num_threads(), "device": device_of(supernet).type}
    _same(LatencyTable(table.name, {**table.settings, **here}, gather()), table)


def _same(here: LatencyTable, table: LatencyTable) -> LatencyTable:
    """Return the table if it was made as one here would be; ValueError says what differs."""
    wanted = {"name": here.name, **here.settings, **here.machine}
    given = {"name": table.name, **table.settings, **table.machine}
    different = sorted(name for name in {*wanted, *given} if wanted.get(name) != given.get(name))
    if different:
        name = different[0]
        raise ValueError(
            f"{table.path} was made with {name} {given.get(name)!r}, but here it is {wanted.get(name)!r}; "
            "layers timed differently do not add up: use another file"
        )
    return table


def _weights(supernet: Supernet, architectures: int = 30) -> int:
    """Return how many weights a network of the supernet has in the mean."""
    rng = random.Random(0)
    paths = [supernet.path(supernet.space.sample(rng)) for _ in range(architectures)]
    return sum(map(path_params, paths)) // architectures


def _architectures(supernet: Supernet) -> Iterator[Architecture]:
    """Give the largest architecture where there is one, then random ones without end."""
    largest = supernet.space.largest()
    if largest is not None:
        yield largest
    rng = random.Random(0)
    while True:
        yield supernet.space.sample(rng)


def _agreement(predicted: list[float], measured: list[float]) -> Agreement:
    a, b = np.array(predicted), np.array(measured)
    return Agreement(
        float(np.mean(np.abs(a / b - 1))), kendall_tau(predicted, measured), spearman_rho(predicted, measured)
    )


def _line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Return slope and intercept of the line of least squares; of equal x, of a line through the origin."""
    if min(x) == max(x):
        return float(np.mean(y) / x[0]) if x[0] else 1.0, 0.0
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(intercept)
