"""The native backend: the whole plan in one call of the compiled module for each batch of images.

Calibration runs a schedule whose convolutions sum their output's statistics as they store it. Prediction
runs another, with the statistics applied as each value is stored: every thread walks all candidates over a
block of images small enough for its cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lasfast import _native
from lasfast.engine.backend import Backend, NodeStatistics, too_few_values
from lasfast.engine.lowering import lower
from lasfast.engine.plan import Plan
from lasfast.engine.schedule import SIZES, STORAGES, BatchNorm, Schedule
from lasfast.engine.statistics import CONVENTIONS, RunningStatistics
from lasfast.supernets import Supernet
from lasfast.supernets.layers import Shape
from lasfast.supernets.run import leading

SLACK = 4096
"""Bytes behind weights and arenas that kernels may read beyond the end."""


def why_missing(device: torch.device) -> str | None:
    """Why there is no native code for this device, or None where there is."""
    if device.type != "cpu":
        return f"there are no native kernels for {device.type} yet"
    if not _native.available():
        return "lasfast's compiled module is missing (lasfast info says why)"
    if not hasattr(_native.load(), "schedule_calibrate"):
        return "lasfast's compiled module is older than this code; build it again with `pip install .`"
    return None


class NativeBackend(Backend):
    """Runs plans through the compiled module, on the CPU; "bf16" stores values and weights in bfloat16.

    Blocks of images to predict are cut to `memory_budget` bytes of workspace. Raises NotLowerableError when
    a plan holds an op that has no native operation.
    """

    name = "native"

    def __init__(self, supernet: Supernet, precision: str = "fp32", memory_budget: int | None = None) -> None:
        super().__init__(supernet, precision)
        self.memory_budget = memory_budget
        self.module = _native.load()
        self._workspace = torch.empty(0, dtype=torch.uint8)

    @property
    def storage(self) -> int:
        """How the native code stores values."""
        return STORAGES[self.precision]

    @property
    def itemsize(self) -> int:
        """Bytes of a stored element."""
        return 4 if self.precision == "fp32" else 2

    def calibrate(self, plan: Plan, batches: Iterable[Tensor], convention: str) -> list[NodeStatistics]:
        """Return the statistics of every node (see `Backend.calibrate`)."""
        programs: dict[Shape, _Program] = {}
        running: RunningStatistics | None = None
        batch_norms: tuple[BatchNorm, ...] = ()
        for images in batches:
            images = _prepared(images)
            shape = tuple(images.shape[1:])
            if shape not in programs:
                programs[shape] = self._calibration_program(plan, shape, len(images))
                programs[shape].load_parameters()
            program = programs[shape]
            batch_norms = program.schedule.batch_norms
            for norm in batch_norms:
                if len(images) * norm.positions < 2:
                    raise too_few_values(norm.module, len(images))
            if running is None:
                running = CONVENTIONS[convention](program.channels, images.device)
            if batch_norms:
                program.calibrate(images)
                count = program.positions * len(images)
                unbiased = program.variance * (count / (count - 1))
                running.update(program.mean, unbiased, len(images), count)
        statistics: list[NodeStatistics] = [{} for _ in plan.nodes]
        if running is not None:
            sizes = [norm.channels for norm in batch_norms]
            split = (part.split(sizes) for part in running.result())
            for norm, mean, variance in zip(batch_norms, *split, strict=True):
                statistics[norm.node][norm.module] = (mean, variance)
        return statistics

    def predict_batches(
        self, plan: Plan, statistics: list[NodeStatistics], batches: Iterable[Tensor]
    ) -> Iterator[dict[int, Tensor]]:
        """Give the logits of every leaf for each batch (see `Backend.predict_batches`)."""
        programs: dict[Shape, _Program] = {}
        for images in batches:
            images = _prepared(images)
            shape = tuple(images.shape[1:])
            if shape not in programs:
                programs[shape] = _Program(self, lower(plan, shape, calibration=False))
                programs[shape].load_parameters()
                programs[shape].load_statistics(statistics)
            program = programs[shape]
            logits = program.predict(images)
            yield dict(zip(program.schedule.leaves, logits, strict=True))

    def peak_bytes(self, plan: Plan, image_shape: Shape, images: int) -> int:
        """Return the bytes of workspace of a calibration batch, or of predicting where that needs more."""
        calibration = _Program(self, lower(plan, image_shape, calibration=True))
        prediction = _Program(self, lower(plan, image_shape, calibration=False))
        return max(calibration.calibration_bytes(images), prediction.prediction_bytes(1, 1, 1))

    def prediction_batch(self, plan: Plan, image_shape: Shape, budget: int) -> int:
        """Return how many images' logits fit beside the smallest workspace."""
        program = _Program(self, lower(plan, image_shape, calibration=False))
        rest = budget - program.prediction_bytes(0, 1, 1)
        return max(1, rest // max(1, program.logits_bytes(1)))

    def _calibration_program(self, plan: Plan, image_shape: Shape, images: int) -> _Program:
        """Run some operations together, to wait less often for the slowest thread, if memory allows."""
        threads = torch.get_num_threads()
        if threads > 1:
            program = _Program(self, lower(plan, image_shape, calibration=True, width=2 * threads))
            if self.memory_budget is None or program.calibration_bytes(images) <= self.memory_budget:
                return program
        return _Program(self, lower(plan, image_shape, calibration=True))

    @property
    def held_bytes(self) -> int:
        """Bytes of the workspace, which is kept from call to call."""
        return self._workspace.numel()

    def workspace(self, size: int) -> Tensor:
        """Return at least `size` bytes, 64-byte aligned, the same memory as long as it is large enough."""
        if self._workspace.numel() < size:
            self._workspace = torch.empty(0, dtype=torch.uint8)  # give back the old before taking the new
            self._workspace = torch.empty(size, dtype=torch.uint8)
        return self._workspace


class _Program:
    """A schedule with its parameters and tables, ready to run."""

    def __init__(self, backend: NativeBackend, schedule: Schedule) -> None:
        self.backend = backend
        self.schedule = schedule
        self.module = backend.module
        self.storage, self.isa = backend.storage, _native.isa_number()
        self.operations = schedule.operations.copy()
        self.channels = sum(norm.channels for norm in schedule.batch_norms)
        self.positions = torch.tensor(
            [norm.positions for norm in schedule.batch_norms], dtype=torch.float64
        ).repeat_interleave(torch.tensor([norm.channels for norm in schedule.batch_norms], dtype=torch.int64))
        self.offsets = self._place_weights()
        self.tables = torch.zeros(6, max(1, self.channels))
        self.gamma, self.beta, self.scale, self.shift, self.mean, self.variance = self.tables
        self.biases = torch.zeros(max(1, sum(count for _, count in schedule.biases)))
        self.weights = torch.empty(int(self.offsets[-1]) + SLACK, dtype=torch.uint8)
        self.native_tables = self.module.ScheduleTables(
            values=schedule.values.ctypes.data,
            value_count=len(schedule.values),
            norms=schedule.norms.ctypes.data,
            norm_count=len(schedule.norms),
            operations=self.operations.ctypes.data,
            operation_count=len(self.operations),
            weights=self.weights.data_ptr(),
            weight_bytes=self.weights.numel(),
            biases=self.biases.data_ptr(),
            bias_count=self.biases.numel(),
            gamma=self.gamma.data_ptr(),
            beta=self.beta.data_ptr(),
            scale=self.scale.data_ptr(),
            shift=self.shift.data_ptr(),
            mean=self.mean.data_ptr(),
            variance=self.variance.data_ptr(),
            channel_count=self.tables.shape[1],
        )

    def load_parameters(self) -> None:
        """Pack the weights, and copy biases, scales and shifts, as the supernet has them now."""
        modules = dict(self.backend.supernet.named_modules())
        schedule = self.schedule
        with torch.no_grad():
            for (op, _, index), offset in zip(schedule.weights, self.offsets, strict=False):
                weight: Any = modules[op.module].weight
                weight = weight.detach().float()
                strides = (*weight.stride(), 1, 1)[:4]
                packed = self.weights.data_ptr() + int(offset)
                where = self._operation(index)
                self.module.schedule_pack(*where, self.storage, self.isa, weight.data_ptr(), strides, packed)
            if schedule.biases:
                biases = [leading(modules[name].bias, count) for name, count in schedule.biases]
                torch.cat(biases, out=self.biases)
            if schedule.batch_norms:
                norms = [(modules[norm.module], norm.channels) for norm in schedule.batch_norms]
                torch.cat([leading(module.weight, channels) for module, channels in norms], out=self.gamma)
                torch.cat([leading(module.bias, channels) for module, channels in norms], out=self.beta)

    def load_statistics(self, statistics: list[NodeStatistics]) -> None:
        """Make the scale and shift of every norm from its statistics."""
        norms = self.schedule.batch_norms
        if not norms:
            return
        kept = [statistics[norm.node][norm.module] for norm in norms]
        mean, variance = (torch.cat(parts).double() for parts in zip(*kept, strict=True))
        eps = torch.tensor([norm.eps for norm in norms], dtype=torch.float64)
        eps = eps.repeat_interleave(torch.tensor([norm.channels for norm in norms]))
        scale = self.gamma.double() / (variance + eps).sqrt()
        self.scale.copy_(scale)
        self.shift.copy_(self.beta - mean * scale)

    def calibrate(self, images: Tensor) -> None:
        """Run one batch; `mean` and `variance` (biased) are then those of its batch norms."""
        arena = self._arena_bytes(len(images))
        threads = torch.get_num_threads()
        start = self.backend.workspace(self.calibration_bytes(len(images))).data_ptr()
        self.module.schedule_calibrate(
            self.native_tables,
            self.storage,
            self.isa,
            threads,
            images.data_ptr(),
            len(images),
            start,
            arena,
            start + arena,
        )

    def predict(self, images: Tensor) -> Tensor:
        """Return logits [leaves, N, classes]."""
        count = len(images)
        threads, block = self._blocks(count)
        arena = self._arena_bytes(block)
        logits = torch.empty(len(self.schedule.leaves), count, self.schedule.classes)
        size = self.prediction_bytes(0, threads, block)
        start = self.backend.workspace(size).data_ptr()
        self.module.schedule_predict(
            self.native_tables,
            self.storage,
            self.isa,
            threads,
            images.data_ptr(),
            count,
            block,
            start,
            arena,
            start + arena * threads,
            logits.data_ptr(),
        )
        return logits

    def calibration_bytes(self, images: int) -> int:
        """Bytes of workspace for a calibration batch."""
        return self._arena_bytes(images) + self._scratch_bytes(images, torch.get_num_threads(), True)

    def prediction_bytes(self, images: int, threads: int, block: int) -> int:
        """Bytes of workspace and logits for a batch to predict, in blocks."""
        scratch = self._scratch_bytes(block, threads, False)
        return threads * self._arena_bytes(block) + scratch + self.logits_bytes(images)

    def logits_bytes(self, images: int) -> int:
        """Bytes of the logits of so many images."""
        return 4 * len(self.schedule.leaves) * images * self.schedule.classes

    def _blocks(self, images: int) -> tuple[int, int]:
        """Return how many threads work on a batch, and how many images each takes at a time."""
        threads = min(torch.get_num_threads(), images)
        per_image = max(1, self.schedule.arena * self.backend.itemsize)
        # The arena counts values that wait for another candidate, too, so several times the cache is right;
        # and each block reads the weights once, so that very small blocks read little else.
        block = min(max(4, 4 * cache_bytes() // per_image), -(-images // threads))
        budget = self.backend.memory_budget
        if budget is not None:
            while block > 1 and self.prediction_bytes(images, threads, block) > budget:
                block //= 2
            while threads > 1 and self.prediction_bytes(images, threads, block) > budget:
                threads -= 1
        # As many blocks for each thread, all of about the same size.
        rounds = -(-images // (block * threads))
        return threads, -(-images // (rounds * threads))

    def _arena_bytes(self, images: int) -> int:
        return self.schedule.arena * images * self.backend.itemsize + SLACK

    def _scratch_bytes(self, images: int, threads: int, calibration: bool) -> int:
        size = self.module.schedule_scratch_bytes(
            self.native_tables, self.storage, self.isa, images, threads, calibration
        )
        return int(size)

    def _place_weights(self) -> np.ndarray:
        """Lay the packed weights out; return where each begins, and the end."""
        sizes = [
            self.module.schedule_packed_bytes(*self._operation(index), self.storage, self.isa)
            for _, _, index in self.schedule.weights
        ]
        offsets = np.cumsum([0, *(-(-size // 64) * 64 for size in sizes)])
        column = self.operations["weight"]
        self.operations["weight"] = np.where(column < 0, column, offsets[column])
        return offsets

    def _operation(self, index: int) -> tuple[int, int]:
        """Return the addresses of an operation and of its input value."""
        values, (_, _, operation_bytes) = self.schedule.values, SIZES
        input = int(self.operations["input"][index])
        return (
            self.operations.ctypes.data + index * operation_bytes,
            values.ctypes.data + input * values.itemsize,
        )


def cache_bytes() -> int:
    """Return the size of a core's own cache (level 2) in bytes, or a common one where it is not known."""
    name = "SC_LEVEL2_CACHE_SIZE"
    size = os.sysconf(name) if name in getattr(os, "sysconf_names", {}) else 0
    return size if size > 0 else 1 << 20


def _prepared(images: Tensor) -> Tensor:
    """Images as the native code reads them: float32, [N, C, H, W] in this order."""
    return images.detach().to(torch.float32).contiguous()
