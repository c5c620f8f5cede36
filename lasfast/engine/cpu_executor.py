"""Schedules on the CPU: calibration level by level, prediction a block of images for each thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lasfast.engine.executor import SLACK, Executor
from lasfast.engine.schedule import Schedule
from lasfast.runtime import compiled

if TYPE_CHECKING:
    from lasfast.engine.native_backend import NativeBackend

SHARED_BYTES = 64 << 20
"""Of values that torch reads or writes: so many images at a time that a call of it costs little."""


class CpuExecutor(Executor):
    """Runs a schedule on torch's number of threads."""

    cuda = False

    def __init__(self, backend: NativeBackend, schedule: Schedule, *, calibration: bool) -> None:
        self.isa = compiled.isa_number()
        super().__init__(backend, schedule, calibration=calibration)

    @staticmethod
    def widths(calibration: bool) -> tuple[int, ...]:
        """Some operations together, to wait less often for the slowest thread."""
        threads = torch.get_num_threads()
        return (2 * threads,) if calibration and threads > 1 else ()

    def calibrate(self, images: Tensor) -> None:
        """Run one batch; `mean` and `variance` (biased) are then those of its batch norms."""
        count = len(images)
        arena = self._arena_bytes(self.schedule.arena, count)
        threads = torch.get_num_threads()
        space = self.backend.workspace(self.batch_bytes(count))
        start = space.data_ptr()

        def native(first: int, last: int) -> None:
            self.module.schedule_calibrate(
                self.native_tables,
                self.storage,
                self.isa,
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
        threads, block, most = self._blocks(len(images))
        if most >= len(images):
            return self._predict(images, threads, block)
        logits = torch.empty(len(self.schedule.leaves), len(images), self.schedule.classes)
        for part, place in zip(images.split(most), logits.split(most, 1), strict=True):
            place.copy_(self._predict(part, threads, min(block, len(part))))
        return logits

    def _predict(self, images: Tensor, threads: int, block: int) -> Tensor:
        count, schedule = len(images), self.schedule
        arena = self._arena_bytes(schedule.arena, block)
        shared = self._arena_bytes(schedule.shared, count) if schedule.shared else 0
        logits = torch.empty(len(schedule.leaves), count, schedule.classes)
        space = self.backend.workspace(self.prediction_bytes(0, threads, block, count))
        start = space.data_ptr()
        own = start + shared

        def native(first: int, last: int) -> None:
            self.module.schedule_predict(
                self.native_tables,
                self.storage,
                self.isa,
                threads,
                (first, last),
                images.data_ptr(),
                count,
                block,
                start if shared else 0,
                shared,
                own,
                arena,
                own + arena * threads,
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
        with self.backend.inference() if schedule.calls else nullcontext():
            native(*first)
            for call, following in zip(schedule.calls, others, strict=True):
                self._call(call, space, count, count)
                native(*following)

    def batch_bytes(self, images: int) -> int:
        """Bytes of workspace for a calibration batch."""
        scratch = self._scratch_bytes(images, torch.get_num_threads(), True)
        return self._arena_bytes(self.schedule.arena, images) + scratch

    def prediction_bytes(self, images: int, threads: int, block: int, most: int) -> int:
        """Bytes of workspace and logits for a batch to predict, in blocks, `most` images at a time."""
        shared = self._arena_bytes(self.schedule.shared, most) if self.schedule.shared else 0
        own = threads * self._arena_bytes(self.schedule.arena, block)
        return shared + own + self._scratch_bytes(block, threads, False) + self.logits_bytes(images)

    def least_bytes(self, images: int) -> int:
        """Bytes of one thread's workspace for one image, and of the logits of so many."""
        return self.prediction_bytes(images, 1, 1, 1)

    def _blocks(self, images: int) -> tuple[int, int, int]:
        """Return how many threads work on a batch, on how many images each, and on how many in one pass."""
        threads = min(torch.get_num_threads(), images)
        per_image = max(1, self.schedule.arena * self.dtype.itemsize)
        # The arena counts values that wait for another candidate, too, so several times the cache is right;
        # and each block reads the weights once, so that very small blocks read little else.
        block = min(max(4, 4 * cache_bytes() // per_image), -(-images // threads))
        shared = self.schedule.shared * self.dtype.itemsize
        most = max(1, min(images, SHARED_BYTES // shared)) if shared else 1
        budget = self.backend.memory_budget
        if budget is not None:
            while max(block, most) > 1 and self.prediction_bytes(images, threads, block, most) > budget:
                block, most = max(1, block // 2), max(1, most // 2)
            while threads > 1 and self.prediction_bytes(images, threads, block, most) > budget:
                threads -= 1
        # As many passes and blocks as that takes, all of about the same size.
        most = _even(images, most) if shared else images
        return threads, _even(most, block, threads), most

    def _arena_bytes(self, elements: int, images: int) -> int:
        return elements * images * self.dtype.itemsize + SLACK

    def _scratch_bytes(self, images: int, threads: int, calibration: bool) -> int:
        size = self.module.schedule_scratch_bytes(
            self.native_tables, self.storage, self.isa, images, threads, calibration
        )
        return int(size)

    def _packed_bytes(self, operation: int) -> int:
        return int(self.module.schedule_packed_bytes(*self._operation(operation), self.storage, self.isa))

    def _pack(self, operation: int, weight: Tensor, strides: tuple[int, ...], packed: int) -> None:
        where = (*self._operation(operation), self.storage, self.isa)
        self.module.schedule_pack(*where, weight.data_ptr(), strides, packed)

    def _pitch(self, channels: int) -> int:
        return channels


def _even(images: int, most: int, threads: int = 1) -> int:
    """Return how many images each thread takes at a time: at most `most`, and in every round as many."""
    rounds = -(-images // (most * threads))
    return -(-images // (rounds * threads))


def cache_bytes() -> int:
    """Return the size of a core's own cache (level 2) in bytes, or a common one where it is not known."""
    name = "SC_LEVEL2_CACHE_SIZE"
    size = os.sysconf(name) if name in getattr(os, "sysconf_names", {}) else 0
    return size if size > 0 else 1 << 20
