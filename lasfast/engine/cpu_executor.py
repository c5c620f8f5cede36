"""Runs schedules on the CPU: calibration level by level, prediction a block of images for each thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from lasfast.engine.cpu_layout import CpuLayout, Cut
from lasfast.engine.executor import Executor, Packing


class CpuExecutor(Executor):
    """Runs a schedule on torch's number of threads."""

    cuda = False
    layout_type = CpuLayout
    layout: CpuLayout

    def calibrate(self, images: Tensor) -> None:
        """Run one batch; `mean` and `variance` (biased) are then those of its batch norms."""
        count = len(images)
        arena = self.layout.arena_bytes(count)
        threads = torch.get_num_threads()
        space = self.buffer.reserve(self.layout.batch_bytes(count))
        start = space.data_ptr()

        def native(first: int, last: int) -> None:
            self.native.schedule_calibrate(
                self.native_tables,
                self.target.storage,
                self.layout.isa,
                threads,
                (first, last),
                images.data_ptr(),
                count,
                start,
                arena,
                start + arena,
            )

        self._run(native, space, count)

    def predict(self, images: Tensor) -> Tensor:
        """Return logits [leaves, N, classes]."""
        cut = self.layout.cut(len(images))
        if cut.images >= len(images):
            return self._predict(images, cut)
        logits = torch.empty(
            len(self.schedule.leaves), len(images), self.schedule.classes, dtype=torch.float32
        )
        for part, place in zip(images.split(cut.images), logits.split(cut.images, 1), strict=True):
            place.copy_(self._predict(part, cut._replace(block=min(cut.block, len(part)))))
        return logits

    def _predict(self, images: Tensor, cut: Cut) -> Tensor:
        count, schedule = len(images), self.schedule
        cut = cut._replace(images=count)
        arena, shared = self.layout.arena_bytes(cut.block), self.layout.shared_bytes(count)
        logits = torch.empty(len(schedule.leaves), count, schedule.classes, dtype=torch.float32)
        space = self.buffer.reserve(self.layout.prediction_bytes(cut))
        start = space.data_ptr()
        own = start + shared

        def native(first: int, last: int) -> None:
            self.native.schedule_predict(
                self.native_tables,
                self.target.storage,
                self.layout.isa,
                cut.threads,
                (first, last),
                images.data_ptr(),
                count,
                cut.block,
                start if shared else 0,
                shared,
                own,
                arena,
                own + arena * cut.threads,
                logits.data_ptr(),
            )

        self._run(native, space, count)
        return logits

    def _run(self, native: Callable[[int, int], None], space: Tensor, count: int) -> None:
        """Run the operations in order: ranges of native ones, and what is torch's between them.

        `space` begins with the arena, or with that of shared values, for `count` images.
        """
        schedule = self.schedule
        first, *others = schedule.ranges()
        with self.target.inference() if schedule.calls else nullcontext():
            native(*first)
            for call, following in zip(schedule.calls, others, strict=True):
                self._call(call, space, count, count)
                native(*following)

    def _pack(self, weights: Sequence[Packing]) -> None:
        for index, weight, strides, address in weights:
            where = *self.layout.addresses(index), self.target.storage, self.layout.isa
            self.native.schedule_pack(*where, weight.data_ptr(), strides, address)
