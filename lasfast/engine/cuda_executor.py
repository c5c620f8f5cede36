"""Runs schedules on CUDA: a whole batch level by level, all operations of a level at once.

Small images may be predicted in another way: a few at a time go through all operations without leaving a
multiprocessor.

Nothing here waits for the device. What is run again and again with the same shapes becomes a CUDA graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lasfast.engine.buffer import Buffer
from lasfast.engine.conv_tiles import ConvTiles
from lasfast.engine.cuda_layout import (
    CALIBRATION,
    MAPPED,
    PREDICTION,
    RESIDENT,
    CudaLayout,
    Needs,
    plan_launches,
    tensor_maps,
)
from lasfast.engine.executor import Executor, Packing
from lasfast.engine.scores import Tally
from lasfast.engine.target import Target
from lasfast.runtime.autotune import fastest, register
from lasfast.runtime.cuda_graphs import Replays
from lasfast.runtime.kernels import has_tensor_maps
from lasfast.runtime.placement import stream_of
from lasfast.runtime.precision import fp32_products

logger = logging.getLogger("lasfast")
MAPPED_LEVELS = "levels by tensor maps"

register("levels", MAPPED_LEVELS, "resident", "resident alone")


@dataclass(frozen=True)
class LaunchPlan:
    """A schedule's launches for so many images, on the host and on the device, and what they take."""

    images: int
    host: Tensor
    device: Tensor
    needs: Needs


class CudaExecutor(Executor):
    """Runs a schedule on a GPU, on torch's current stream.

    `way` is how it predicted last: by "levels"; or by "levels by tensor maps", where Hopper copies by itself
    what warpgroups multiply; or "resident", in two blocks of threads side by side where a multiprocessor has
    room for both; or "resident alone", in one with more images.
    """

    cuda = True
    layout_type = CudaLayout
    layout: CudaLayout

    def __init__(self, target: Target, buffer: Buffer, layout: CudaLayout) -> None:
        super().__init__(target, buffer, layout)
        device, schedule = target.device, layout.schedule
        self.index = device.index or 0
        self.tf32 = target.precision == "fp32" and fp32_products() == "tf32"
        tiles = ConvTiles(device, target.precision, tf32=self.tf32, memory_budget=target.memory_budget)
        tiles.take(schedule.values, self.operations)
        self.last_level = int(self.operations["level"].max())
        self._plans: dict[tuple[int, int], LaunchPlan] = {}
        self._maps: dict[tuple[int, int], Tensor] = {}
        self._mapped = has_tensor_maps(device) and target.precision == "bf16" and not layout.calibration
        self.way = "levels"
        self._kept: dict[Hashable, tuple[Tensor, Tensor]] = {}
        self._replays = Replays(device, enabled=device.type == "cuda" and not schedule.calls)
        self._resident = schedule.resident
        if self._resident is not None:
            self._resident_operations = self._resident.operations.copy()
            layout.set_weights(self._resident_operations)
            self._resident_tables = self._tables(self._resident.values, self._resident_operations)

    def calibrate(self, images: Tensor) -> None:
        """Run one batch."""
        plan = self._plan(len(images))
        space = self.buffer.reserve(plan.needs.arena + plan.needs.workspace)
        images, logits = self._keep(images, 0)
        work = partial(self._run, plan, space, images, logits)
        self._replays.run((len(images), space.data_ptr()), work)

    def predict(self, images: Tensor, tally: Tally | None = None) -> Tensor:
        """Return logits [leaves, N, classes], by the fastest of the ways, which all give the same bits.

        A tally, which expects these images, scores the logits. That is a part of the CUDA graph.

        One way is by levels, as many images at a time as there is memory for, with or without tensor maps.
        The others, where a few images' values fit into a multiprocessor, take these images through all
        operations there.
        """
        images, logits = self._keep(images, len(self.schedule.leaves))
        plans = self._resident_plans(len(images))
        given = images, logits, tally
        ways = {"levels": partial(self._predict_by_levels, *given)}
        if self._mapped and self._makes_maps(len(images)):
            ways[MAPPED_LEVELS] = partial(self._predict_by_levels, *given, MAPPED)
        ways |= {name: partial(self._predict_resident, plan, *given) for name, plan in plans.items()}
        # Trees of about one size share a choice, so that not every new one is measured.
        size = len(self.operations).bit_length()
        shape = "x".join(map(str, images.shape))
        each = "or".join(str(plan.images) for plan in plans.values())
        key = f"predict {self.dtype} {self.tf32} {shape} by {each}, 2^{size} operations"
        key += ", tensor maps" * (MAPPED_LEVELS in ways)
        self.way = fastest(key, images.device, ways)
        ways[self.way]()
        return logits

    def _predict_by_levels(
        self, images: Tensor, logits: Tensor, tally: Tally | None, purpose: int = PREDICTION
    ) -> None:
        count = len(images)
        block, space = self._space(count)

        def work() -> None:
            for start in range(0, count, block):
                part = slice(start, start + block)
                self._run(self._plan(block, purpose), space, images[part], logits[:, part])

        self._plan(block, purpose)  # not while a graph is recorded
        self._queue((purpose, count, block, space.data_ptr()), work, logits, tally)

    def _queue(self, key: Hashable, work: Callable[[], None], logits: Tensor, tally: Tally | None) -> None:
        """Queue what computes the logits, and the tally that scores them."""

        def scored() -> None:
            work()
            if tally is not None:
                tally.score(logits, early=not self.schedule.calls)

        self._replays.run((key, tally and tally.memory), scored)

    def _makes_maps(self, count: int) -> bool:
        """Return whether so many images can be predicted by tensor maps; make them, or never try again."""
        block, space = self._space(count)
        plan = self._plan(block, MAPPED)
        if not plan.needs.maps:
            return False
        try:
            self._maps_of(plan, space)
        except RuntimeError as error:
            logger.warning("going on without tensor maps: %s", error)
            self._mapped = False
        return self._mapped

    def _maps_of(self, plan: LaunchPlan, space: Tensor) -> Tensor | None:
        """Return the tensor maps of a plan for the arena in `space`; None where it needs none."""
        if not plan.needs.maps:
            return None
        key = plan.images, space.data_ptr()
        if key not in self._maps:
            self._maps[key] = tensor_maps(self.native, self.native_tables, plan.host, plan.needs, space)
        return self._maps[key]

    def _predict_resident(
        self, plan: LaunchPlan, images: Tensor, logits: Tensor, tally: Tally | None
    ) -> None:
        def work() -> None:
            self.native.schedule_run_resident_cuda(
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

        self._queue((RESIDENT, plan.images, *images.shape), work, logits, tally)

    def _resident_plans(self, count: int) -> dict[str, LaunchPlan]:
        """Return plans for as many images as fit into a multiprocessor; none where not one does.

        Two blocks of threads side by side hide each other's waits; one alone, of more images, reads weights
        less often. No block takes so many images that others have none.
        """
        if self._resident is None:
            return {}
        multiprocessors, block_shared, shared, reserved = self.native.cuda_limits(self.index)
        image_bytes = self._resident.arena * self.layout.itemsize
        if image_bytes >= block_shared:
            return {}
        rest = self._plan(1, RESIDENT).needs.shared - image_bytes
        sizes = []
        for blocks in (2, 1):
            most = (min(block_shared, shared // blocks - reserved) - rest) // image_bytes
            size = min(most, -(-count // (blocks * multiprocessors)))
            if most > 0 and size not in sizes:
                sizes.append(size)
        names = ("resident", "resident alone")
        return {name: self._plan(size, RESIDENT) for name, size in zip(names, sizes, strict=False)}

    def _space(self, images: int) -> tuple[int, Tensor]:
        """Return how many images to predict at a time, and the arena for them."""
        budget, block = self.target.memory_budget, images
        while True:
            size = self._plan(block).needs.arena
            try:
                if budget is None or size + self.layout.logits_bytes(images) <= budget or block == 1:
                    return block, self.buffer.reserve(size)
            except torch.OutOfMemoryError:
                if block == 1:
                    raise
            block = -(-block // 2)

    def _keep(self, images: Tensor, leaves: int) -> tuple[Tensor, Tensor]:
        """Copy images to where a CUDA graph finds them every time; return them, and logits that stay."""
        key = images.shape
        if key not in self._kept:
            size = leaves, len(images), max(1, self.schedule.classes)
            logits = torch.empty(size, dtype=torch.float32, device=images.device)
            self._kept[key] = torch.empty_like(images), logits
        kept, logits = self._kept[key]
        return kept.copy_(images), logits

    def _run(self, plan: LaunchPlan, space: Tensor, images: Tensor, logits: Tensor) -> None:
        """Run the levels in order: ranges of native ones, and what is torch's between them."""
        first = 0
        with self.target.inference() if self.schedule.calls else nullcontext():
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
        start, maps = space.data_ptr(), self._maps_of(plan, space)
        self.native.schedule_run_cuda(
            self.native_tables,
            plan.host.data_ptr(),
            plan.device.data_ptr(),
            images.data_ptr(),
            len(images),
            first,
            last,
            start,
            start + plan.needs.arena,
            logits.data_ptr(),
            logits.stride(0) // max(1, logits.stride(1)),
            self.index,
            stream_of(images.device),
            0 if maps is None else maps.data_ptr(),
        )

    def _plan(self, images: int, purpose: int | None = None) -> LaunchPlan:
        """Return the plan for so many images; by levels unless the purpose says otherwise."""
        if purpose is None:
            purpose = CALIBRATION if self.layout.calibration else PREDICTION
        key = images, purpose
        if key not in self._plans:
            tables = self._resident_tables if purpose == RESIDENT else self.native_tables
            where = self.native, tables, self.target.storage
            host, needs = plan_launches(*where, images, purpose, tf32=self.tf32)
            self._plans[key] = LaunchPlan(images, host, host.to(self.target.device), needs)
        return self._plans[key]

    def _pack(self, weights: Sequence[Packing]) -> None:
        rows = [
            (*self.layout.addresses(index), weight.data_ptr(), strides, address)
            for index, weight, strides, address in weights
        ]
        place = self.index, stream_of(self.target.device)
        self.native.schedule_pack_cuda(rows, self.target.storage, self.tf32, *place)
