"""The operations of an evaluation's schedules, one by one: what each has to do, and what it takes."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._roof import CLOCK, Machine, Sums, Work, convolution_kind, count, products_by, touched
from lasfast.engine.cpu_executor import CpuExecutor
from lasfast.engine.cpu_layout import CpuLayout
from lasfast.engine.layout import PARAMETERS
from lasfast.engine.lower import lower
from lasfast.engine.native_backend import NativeBackend
from lasfast.engine.schedule import NONE, Kind, Schedule
from lasfast.ir.prefix_tree import PrefixTree

IMAGE = 4
"""The bytes of an element of an image, and of a logit: float32."""
PREPARING = "preparing"
SUMS = "batch norm, sum"
KINDS = {
    Kind.INPUT: "layout of images",
    Kind.MAX_POOL: "pool",
    Kind.AVG_POOL: "pool",
    Kind.GLOBAL_POOL: "global pool",
    Kind.COMBINE: SUMS,
    Kind.LINEAR: "linear",
    Kind.GATE: "gate",
    Kind.ARRANGE: "order of channels",
}


def kind_of(schedule: Schedule, index: int) -> str:
    """Return the kind of an operation, as the record names it."""
    operation = schedule.operations[index]
    if operation["kind"] != Kind.CONV2D:
        return KINDS[Kind(operation["kind"])]
    kernel = int(operation["kernel"])
    channels = int(schedule.values[operation["input"]]["channels"])
    return convolution_kind((kernel, kernel), channels, int(operation["groups"]))


def work_of(schedule: Schedule, index: int, images: int, itemsize: int) -> Work:
    """Return what an operation has to do on so many images; the weight is read once for all of them."""
    operation, values = schedule.operations[index], schedule.values
    kind = Kind(operation["kind"])
    out = _shape(values, operation["output"]) or (int(operation["out_channels"]), 1, 1)
    out_channels, out_height, out_width = out
    written = out_channels * out_height * out_width * (IMAGE if operation["leaf"] >= 0 else itemsize)
    if kind == Kind.INPUT:
        read = int(operation["out_channels"]) * out_height * out_width * IMAGE
        return Work(0, images * (read + written))
    source = _shape(values, operation["input"])
    assert source is not None
    channels, height, width = source
    other = _shape(values, operation["other"])
    added = 0 if other is None else other[0] * other[1] * other[2] * itemsize
    kernel, stride = int(operation["kernel"]), int(operation["stride"])
    positions = touched(height, width, out_height, out_width, kernel, stride)
    read, weights, products = channels * positions * itemsize, 0, 0
    if kind == Kind.CONV2D:
        weights = out_channels * channels // int(operation["groups"]) * kernel**2
        products = products_by(int(operation["tile"]), weights * out_height * out_width)
    elif kind == Kind.LINEAR:
        weights = products = out_channels * channels * height * width
        read = channels * height * width * itemsize
    elif kind == Kind.GLOBAL_POOL:
        read = channels * height * width * itemsize
    elif kind == Kind.ARRANGE:  # of both together it reads what it writes
        read, added = written, 0
    return Work(images * products, images * (read + added + written) + weights * itemsize)


def _shape(values: np.ndarray, number: int) -> tuple[int, int, int] | None:
    if number == NONE:
        return None
    value = values[number]
    return int(value["channels"]), int(value["height"]), int(value["width"])


class Probe:
    """Runs the operations of an executor's schedule one by one, on one thread, in the order of the pass.

    Each finds in memory and in the caches what it finds in the pass: only the clock is read in between. An
    operation alone is a schedule of its own, so that checking it takes no longer where there are many.
    """

    def __init__(self, executor: CpuExecutor) -> None:
        if executor.schedule.calls:
            raise ValueError("the schedule must have native operations alone")
        self.executor, self.layout, self.schedule = executor, executor.layout, executor.schedule
        self.native, self.storage = executor.native, executor.target.storage
        parameters = {name: getattr(executor, name).data_ptr() for name in PARAMETERS}
        self._alive: list[Any] = []
        self._tables = [self._table(index, parameters) for index in range(len(executor.operations))]

    def _table(self, index: int, parameters: dict[str, int]) -> Any:
        """Return the tables of a schedule that has one of the operations, on the values that it names."""
        operation = self.executor.operations[index : index + 1].copy()
        names = [name for name in ("input", "other", "output") if operation[name][0] != NONE]
        values = self.schedule.values[[operation[name][0] for name in names]]
        for number, name in enumerate(names):
            operation[name] = number
        operation["level"] = 0
        operation["leaf"] = np.minimum(operation["leaf"], 0)
        self._alive += [operation, values]
        return self.layout.tables(values, operation, parameters)

    def predict(self, images: Tensor) -> tuple[list[float], float]:
        """Return the seconds of each operation in a block of images, and of the whole pass over them."""
        count, layout = len(images), self.layout
        cut = layout.cut(count)._replace(threads=1, block=count, images=count)
        logits = torch.empty(len(self.schedule.leaves), count, self.schedule.classes, dtype=torch.float32)
        arena = layout.arena_bytes(count)
        start = self.executor.buffer.reserve(layout.prediction_bytes(cut)).data_ptr()

        def run(tables: Any, last: int) -> None:
            self.native.schedule_predict(
                *(tables, self.storage, layout.isa, 1, (0, last), images.data_ptr(), count, count, 0, 0),
                *(start, arena, start + arena, logits.data_ptr()),
            )

        return self._timed(run)

    def calibrate(self, images: Tensor) -> tuple[list[float], float]:
        """Return the seconds of each operation on a batch of calibration, and of the whole pass."""
        count, layout = len(images), self.layout
        arena = layout.arena_bytes(count)
        start = self.executor.buffer.reserve(layout.batch_bytes(count)).data_ptr()

        def run(tables: Any, last: int) -> None:
            self.native.schedule_calibrate(
                *(tables, self.storage, layout.isa, 1, (0, last), images.data_ptr(), count),
                *(start, arena, start + arena),
            )

        return self._timed(run)

    def _timed(self, run: Callable[[Any, int], None]) -> tuple[list[float], float]:
        times = []
        whole = _seconds(lambda: run(self.executor.native_tables, len(self._tables)))
        for tables in self._tables:
            start = CLOCK()
            run(tables, 1)
            times.append(CLOCK() - start)
        empty = statistics.median(_seconds(lambda: run(self._tables[0], 0)) for _ in range(100))
        return [max(0.0, one - empty) for one in times], whole


def _seconds(run: Callable[[], Any]) -> float:
    start = CLOCK()
    run()
    return CLOCK() - start


def executor_of(
    backend: NativeBackend, tree: PrefixTree, image_shape: Any, *, calibration: bool
) -> CpuExecutor:
    """Return what runs a pass over the tree on one thread, with its weights packed."""
    schedule = lower(tree, image_shape, calibration=calibration, width=1)
    executor = CpuExecutor(
        backend.target, backend.buffer, CpuLayout(backend.target, schedule, calibration=calibration)
    )
    executor.load_parameters()
    return executor


def measure(
    backend: NativeBackend,
    tree: PrefixTree,
    machine: Machine,
    batch: Tensor,
    images: Tensor,
    counts: tuple[int, int],
    rounds: int = 3,
) -> dict[str, Any]:
    """Return the sums by kind of operation for a calibration and a prediction of `counts` images.

    A batch of calibration is run `rounds` times, and each block of the images to predict once; the medians
    stand for all of them.
    """
    shape, found = tuple(images.shape[1:]), {}
    began = CLOCK()
    calibrating = executor_of(backend, tree, shape, calibration=True)
    predicting = executor_of(backend, tree, shape, calibration=False)
    preparing = CLOCK() - began
    statistics_ = backend.calibrate(tree, [batch], "cumulative")
    began = CLOCK()
    predicting.load_statistics(statistics_)
    preparing += CLOCK() - began
    block = predicting.layout.cut(len(images)).block
    blocks = [one for one in images.split(block) if len(one) == block]
    for name, executor, parts, total in (
        ("calibration", calibrating, [batch] * rounds, counts[0]),
        ("prediction", predicting, blocks, counts[1]),
    ):
        probe = Probe(executor)
        run = probe.calibrate if name == "calibration" else probe.predict
        if name == "prediction":  # a batch of calibration has been run
            run(parts[0])
        seconds, wholes = zip(*(run(part) for part in parts), strict=True)
        size = len(parts[0])
        held = executor.layout.arena_bytes(size)
        sums: Sums = {}
        for index, times in enumerate(zip(*seconds, strict=True)):
            if name == "calibration" and executor.operations[index]["leaf"] >= 0:
                continue
            work = replace(work_of(executor.schedule, index, size, executor.layout.itemsize), held=held)
            kind, took = kind_of(executor.schedule, index), statistics.median(times)
            count(sums, kind, machine, work, took, total / size)
        ratios = [sum(one) / whole for one, whole in zip(seconds, wholes, strict=True)]
        found[name] = {
            "images": size,
            "arena_bytes": held,
            "operations": len(executor.operations),
            "whole_seconds": statistics.median(wholes) * total / size,
            "sum / whole": statistics.median(ratios),
            "kinds": sums,
        }
    return {"preparing_seconds": preparing, **found}
