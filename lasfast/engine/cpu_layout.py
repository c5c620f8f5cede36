"""The memory that schedules take on the CPU, and how a batch to predict is cut to fit."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from lasfast.engine.conv_ways import with_ways
from lasfast.engine.layout import SLACK, Layout
from lasfast.engine.schedule import Schedule
from lasfast.engine.target import Target
from lasfast.runtime import compiled

BLOCK_BYTES = 4 << 20
"""A block's arena has no more, unless four images take it: several times a core's own cache, since the arena
counts values that wait for another candidate, too. A quarter and twice as much took as long with AVX2."""
SHARED_BYTES = 64 << 20
"""Bytes of values that torch reads or writes: enough images at a time that a call of it costs little."""


class Cut(NamedTuple):
    """The sizes in which a batch is predicted: `images` at a time, of which each thread takes blocks."""

    threads: int
    block: int
    images: int


class CpuLayout(Layout):
    """For one instruction set of the CPU, and as many threads as torch has when a size is asked for."""

    def __init__(self, target: Target, schedule: Schedule, *, calibration: bool) -> None:
        self.isa = compiled.isa_number()
        super().__init__(target, with_ways(schedule, target.storage), calibration=calibration)

    @staticmethod
    def widths(calibration: bool) -> tuple[int, ...]:
        """Return some operations together, to wait less often for the slowest thread."""
        threads = torch.get_num_threads()
        return (2 * threads,) if calibration and threads > 1 else ()

    def batch_bytes(self, images: int) -> int:
        """Return the bytes of arena and workspace for a batch of calibration."""
        return self.arena_bytes(images) + self.workspace_bytes(self.operations, images)

    def least_bytes(self, images: int) -> int:
        """Return the bytes that one thread takes for one image, and those of so many images' logits."""
        return self.prediction_bytes(Cut(threads=1, block=1, images=1)) + self.logits_bytes(images)

    def prediction_bytes(self, cut: Cut) -> int:
        """Return the bytes of arenas and workspace that predict so; the logits come on top."""
        own = cut.threads * self.arena_bytes(cut.block)
        where = self._sizing_tables, self.target.storage, self.isa
        workspace = self.target.native.schedule_scratch_bytes(*where, cut.block, cut.threads, False)
        return self.shared_bytes(cut.images) + own + int(workspace)

    def arena_bytes(self, images: int) -> int:
        """Return the bytes of an arena for so many images."""
        return self.schedule.arena * images * self.itemsize + SLACK

    def shared_bytes(self, images: int) -> int:
        """Return the bytes of the arena that all threads share; 0 where no value is shared."""
        return self.schedule.shared * images * self.itemsize + SLACK if self.schedule.shared else 0

    def cut(self, images: int) -> Cut:
        """Return how to predict a batch within the memory budget."""
        threads = min(torch.get_num_threads(), images)
        per_image = max(1, self.schedule.arena * self.itemsize)
        # Each block reads the weights once, so that very small blocks read little else.
        block = min(max(4, BLOCK_BYTES // per_image), -(-images // threads))
        shared = self.schedule.shared * self.itemsize
        most = max(1, min(images, SHARED_BYTES // shared)) if shared else 1
        budget = self.target.memory_budget
        if budget is not None:
            budget -= self.logits_bytes(images)
            while max(block, most) > 1 and self.prediction_bytes(Cut(threads, block, most)) > budget:
                block, most = max(1, block // 2), max(1, most // 2)
            while threads > 1 and self.prediction_bytes(Cut(threads, block, most)) > budget:
                threads -= 1
        # As many passes and blocks as that takes, all of about the same size.
        most = _even(images, most) if shared else images
        return Cut(threads, _even(most, block, threads), most)

    def workspace_bytes(self, operations: np.ndarray, images: int) -> int:
        """Return what sums of statistics and each thread's cells take (see `Layout.workspace_bytes`)."""
        where = self.tables(self.schedule.values, operations), self.target.storage, self.isa
        threads = torch.get_num_threads()
        return int(self.target.native.schedule_scratch_bytes(*where, images, threads, True))

    def pitch(self, channels: int) -> int:
        """Return the channels: none are added."""
        return channels

    def _packed_bytes(self, index: int) -> int:
        where = *self.addresses(index), self.target.storage, self.isa
        return int(self.target.native.schedule_packed_bytes(*where))

    @cached_property
    def _sizing_tables(self) -> Any:
        return self.tables(self.schedule.values, self.operations)


def _even(images: int, most: int, threads: int = 1) -> int:
    """Return how many images each thread takes at a time: at most `most`, and in every round as many."""
    rounds = -(-images // (most * threads))
    return -(-images // (rounds * threads))
