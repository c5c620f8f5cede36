"""Schedules on CUDA: a whole batch level by level, all operations of a level at once.

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

from lasfast.engine.graphs import Replays
from lasfast.engine.program import Program
from lasfast.engine.schedule import CUDA_CHANNELS, Schedule

if TYPE_CHECKING:
    from lasfast.engine.native_backend import NativeBackend


@dataclass(frozen=True)
class _Plan:
    """A schedule's launches for so many images, on the host and on the device; bytes that they need."""

    images: int
    host: Tensor
    device: Tensor
    arena: int
    scratch: int


class CudaProgram(Program):
    """Runs a schedule on the backend's GPU, on torch's current stream."""

    cuda = True

    def __init__(self, backend: NativeBackend, schedule: Schedule, *, calibration: bool) -> None:
        self.index = backend.device.index or 0
        super().__init__(backend, schedule, calibration=calibration)
        self.tf32 = backend.precision == "fp32" and torch.get_float32_matmul_precision() != "highest"
        self.last_level = int(self.operations["level"].max())
        self._plans: dict[int, _Plan] = {}
        self._kept: dict[Hashable, tuple[Tensor, Tensor]] = {}
        self._replays = Replays(enabled=backend.device.type == "cuda" and not schedule.calls)

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
        """Return logits [leaves, N, classes]; as many images at a time as there is memory for."""
        count = len(images)
        block, space = self._space(count)
        images, logits = self._keep(images, len(self.schedule.leaves))

        def work() -> None:
            for start in range(0, count, block):
                part = slice(start, start + block)
                self._run(self._plan(block), space, images[part], logits[:, part])

        self._plan(block)  # not while a graph is recorded
        self._replays.run((count, block, space.data_ptr()), work)
        return logits

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

    def _run(self, plan: _Plan, space: Tensor, images: Tensor, logits: Tensor) -> None:
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
        self, plan: _Plan, space: Tensor, images: Tensor, logits: Tensor, first: int, last: int
    ) -> None:
        if first > last:
            return
        start = space.data_ptr()
        on_gpu = images.device.type == "cuda"
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
            torch.cuda.current_stream(images.device).cuda_stream if on_gpu else 0,
        )

    def _plan(self, images: int) -> _Plan:
        if images not in self._plans:
            arguments = (self.native_tables, self.storage)
            size = self.module.schedule_plan_bytes_cuda(*arguments, images, self.calibration)
            host = torch.empty(max(8, size), dtype=torch.uint8)
            self.module.schedule_plan_cuda(*arguments, self.tf32, images, self.calibration, host.data_ptr())
            arena, scratch, _ = self.module.schedule_needs_cuda(host.data_ptr())
            self._plans[images] = _Plan(images, host, host.to(self.backend.device), arena, scratch)
        return self._plans[images]

    def _packed_bytes(self, operation: int) -> int:
        return int(self.module.schedule_packed_bytes_cuda(*self._operation(operation), self.storage))

    def _pack(self, operation: int, weight: Tensor, strides: tuple[int, ...], packed: int) -> None:
        stream = torch.cuda.current_stream(weight.device).cuda_stream if weight.is_cuda else 0
        where = (*self._operation(operation), self.storage)
        self.module.schedule_pack_cuda(*where, weight.data_ptr(), strides, self.index, stream, packed)

    def _pitch(self, channels: int) -> int:
        return -(-channels // CUDA_CHANNELS) * CUDA_CHANNELS
