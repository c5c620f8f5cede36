"""Schedules on CUDA: a whole batch level by level, all operations of a level at once.

Predictions of small images may go another way: a few images at a time through all operations, without leaving
a multiprocessor.

Nothing here waits for the device. What is run again and again with the same shapes becomes a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lasfast.engine.conv_tiles import ConvTiles
from lasfast.engine.executor import Executor
from lasfast.engine.schedule import CUDA_CHANNELS, Schedule
from lasfast.runtime.autotune import fastest, register
from lasfast.runtime.cuda_graphs import Replays
from lasfast.runtime.placement import stream_of

if TYPE_CHECKING:
    from lasfast.engine.native_backend import NativeBackend

register("levels", "resident", "resident alone")

PREDICTION, CALIBRATION, RESIDENT = range(3)
"""What a plan is for (`Purpose` in C++)."""


@dataclass(frozen=True)
class LaunchPlan:
    """A schedule's launches for so many images, on the host and on the device; bytes that they need."""

    images: int
    host: Tensor
    device: Tensor
    arena: int
    scratch: int
    shared: int


class CudaExecutor(Executor):
    """Runs a schedule on the backend's GPU, on torch's current stream.

    `way` is how it predicted last: by "levels"; or "resident", in two blocks of threads side by side where a
    multiprocessor has room for both; or "resident alone", in one with more images.
    """

    cuda = True

    def __init__(self, backend: NativeBackend, schedule: Schedule, *, calibration: bool) -> None:
        self.index = backend.device.index or 0
        super().__init__(backend, schedule, calibration=calibration)
        self.tf32 = backend.precision == "fp32" and torch.get_float32_matmul_precision() != "highest"
        tiles = ConvTiles(
            backend.device, backend.precision, tf32=self.tf32, memory_budget=backend.memory_budget
        )
        tiles.take(schedule.values, self.operations)
        self.last_level = int(self.operations["level"].max())
        self._plans: dict[tuple[int, int], LaunchPlan] = {}
        self.way = "levels"
        self._kept: dict[Hashable, tuple[Tensor, Tensor]] = {}
        self._replays = Replays(backend.device, enabled=backend.device.type == "cuda" and not schedule.calls)
        self._resident = schedule.resident
        if self._resident is not None:
            self._resident_operations = self._resident.operations.copy()
            self._set_weights(self._resident_operations, self.offsets)
            self._resident_tables = self._tables(self._resident.values, self._resident_operations)

    @staticmethod
    def widths(calibration: bool) -> tuple[int, ...]:
        """Enough to fill a chip with small operations, but not much more than its cache holds."""
        return (32, 8)

    def calibrate(self, images: Tensor) -> None:
        """Run one batch."""
        plan = self._plan(len(images))
        space = self.backend.workspace(self.batch_bytes(len(images)))
        images, logits = self._keep(images, 0)
        work = partial(self._run, plan, space, images, logits)
        self._replays.run((len(images), space.data_ptr()), work)

    def predict(self, images: Tensor) -> Tensor:
        """Return logits [leaves, N, classes], the fastest of ways that give the same bits.

        One is by levels, as many images at a time as there is memory for; the others, where a few images'
        values fit into a multiprocessor, take these through all operations there.
        """
        images, logits = self._keep(images, len(self.schedule.leaves))
        plans = self._resident_plans(len(images))
        ways = {"levels": partial(self._predict_by_levels, images, logits)}
        ways |= {name: partial(self._predict_resident, plan, images, logits) for name, plan in plans.items()}
        # Alike for plans of about one size, so that not every new one is measured.
        size = len(self.operations).bit_length()
        shape = "x".join(map(str, images.shape))
        each = "or".join(str(plan.images) for plan in plans.values())
        key = f"predict {self.dtype} {self.tf32} {shape} by {each}, 2^{size} operations"
        self.way = fastest(key, images.device, ways)
        ways[self.way]()
        return logits

    def _predict_by_levels(self, images: Tensor, logits: Tensor) -> None:
        count = len(images)
        block, space = self._space(count)

        def work() -> None:
            for start in range(0, count, block):
                part = slice(start, start + block)
                self._run(self._plan(block), space, images[part], logits[:, part])

        self._plan(block)  # not while a graph is recorded
        self._replays.run((count, block, space.data_ptr()), work)

    def _predict_resident(self, plan: LaunchPlan, images: Tensor, logits: Tensor) -> None:
        def work() -> None:
            self.module.schedule_run_resident_cuda(
                self._resident_tables,
                plan.host.data_ptr(),
                plan.device.data_ptr(),
                images.data_ptr(),
                len(images),
                logits.data_ptr(),
                len(images),
                self.index,
                stream_of(images.device),
            )

        self._replays.run((RESIDENT, plan.images, *images.shape), work)

    def _resident_plans(self, count: int) -> dict[str, LaunchPlan]:
        """Plans for as many images as fit into a multiprocessor; none where not one does.

        Two blocks of threads side by side hide each other's waits; one alone, of more images, reads weights
        less often. No block takes so many images that others have none.
        """
        if self._resident is None:
            return {}
        multiprocessors, block_shared, shared, reserved = self.module.cuda_limits(self.index)
        image_bytes = self._resident.arena * self.dtype.itemsize
        if image_bytes >= block_shared:
            return {}
        rest = self._plan(1, RESIDENT).shared - image_bytes
        sizes = []
        for blocks in (2, 1):
            most = (min(block_shared, shared // blocks - reserved) - rest) // image_bytes
            size = min(most, -(-count // (blocks * multiprocessors)))
            if most > 0 and size not in sizes:
                sizes.append(size)
        names = ("resident", "resident alone")
        return {name: self._plan(size, RESIDENT) for name, size in zip(names, sizes, strict=False)}

    def batch_bytes(self, images: int) -> int:
        """Bytes of workspace for a batch that is not cut."""
        plan = self._plan(images)
        return plan.arena + plan.scratch

    def least_bytes(self, images: int) -> int:
        """Bytes of workspace for one image, and of the logits of so many."""
        return self._plan(1).arena + self.logits_bytes(images)

    def _space(self, images: int) -> tuple[int, Tensor]:
        """How many images to predict at a time, and the workspace for it."""
        budget, block = self.backend.memory_budget, images
        while True:
            size = self._plan(block).arena
            try:
                if budget is None or size + self.logits_bytes(images) <= budget or block == 1:
                    return block, self.backend.workspace(size)
            except torch.OutOfMemoryError:
                if block == 1:
                    raise
            block = -(-block // 2)

    def _keep(self, images: Tensor, leaves: int) -> tuple[Tensor, Tensor]:
        """Copy images to where a graph finds them every time, and give logits that lie there, too."""
        key = images.shape
        if key not in self._kept:
            logits = torch.empty(leaves, len(images), max(1, self.schedule.classes), device=images.device)
            self._kept[key] = torch.empty_like(images), logits
        kept, logits = self._kept[key]
        return kept.copy_(images), logits

    def _run(self, plan: LaunchPlan, space: Tensor, images: Tensor, logits: Tensor) -> None:
        """Run the levels in order: ranges of native ones, and what is torch's between them."""
        first = 0
        with self.backend.inference() if self.schedule.calls else nullcontext():
            for call in self.schedule.calls:
                level = int(self.operations["level"][call.operation])
                self._launch(plan, space, images, logits, first, level - 1)
                self._call(call, space, plan.images, len(images))
                first = level + 1
            self._launch(plan, space, images, logits, first, self.last_level)

    def _launch(
        self, plan: LaunchPlan, space: Tensor, images: Tensor, logits: Tensor, first: int, last: int
    ) -> None:
        if first > last:
            return
        start = space.data_ptr()
        self.module.schedule_run_cuda(
            self.native_tables,
            plan.host.data_ptr(),
            plan.device.data_ptr(),
            images.data_ptr(),
            len(images),
            first,
            last,
            start,
            start + plan.arena,
            logits.data_ptr(),
            logits.stride(0) // max(1, logits.stride(1)),
            self.index,
            stream_of(images.device),
        )

    def _plan(self, images: int, purpose: int | None = None) -> LaunchPlan:
        """The plan for so many images; by levels unless the purpose says otherwise."""
        if purpose is None:
            purpose = CALIBRATION if self.calibration else PREDICTION
        key = images, purpose
        if key not in self._plans:
            tables = self._resident_tables if purpose == RESIDENT else self.native_tables
            size = self.module.schedule_plan_bytes_cuda(tables, self.storage, images, purpose)
            host = torch.empty(max(8, size), dtype=torch.uint8)
            self.module.schedule_plan_cuda(tables, self.storage, self.tf32, images, purpose, host.data_ptr())
            arena, scratch, _, shared = self.module.schedule_needs_cuda(host.data_ptr())
            self._plans[key] = LaunchPlan(images, host, host.to(self.backend.device), arena, scratch, shared)
        return self._plans[key]

    def _packed_bytes(self, operation: int) -> int:
        return int(self.module.schedule_packed_bytes_cuda(*self._operation(operation), self.storage))

    def _pack(self, operation: int, weight: Tensor, strides: tuple[int, ...], packed: int) -> None:
        where = (*self._operation(operation), self.storage)
        self.module.schedule_pack_cuda(
            *where, weight.data_ptr(), strides, self.index, stream_of(weight.device), packed
        )

    def _pitch(self, channels: int) -> int:
        return -(-channels // CUDA_CHANNELS) * CUDA_CHANNELS
