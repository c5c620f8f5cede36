"""The way in which the CPU computes a 3x3 convolution in fp32: measured once for its size, then remembered.

It is the sum over the window or Winograd's algorithm (`lasfast.runtime.winograd`), which computes tiles of
outputs. Which one is taken depends on the convolution alone, not on how many images or candidates there are,
which must change no result.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lasfast.engine.schedule import (
    ALIGNMENT,
    Kind,
    Schedule,
    dense_convolutions,
    operation_fields,
    records,
    value_fields,
)
from lasfast.ir.precision import PRECISIONS
from lasfast.runtime import autotune, compiled
from lasfast.runtime.winograd import LEAST_CHANNELS, tiles_for

DIRECT = "direct"
"""The sum over the window, whose `tile` is 0."""
MOST_SIDE = 64
"""Larger outputs are measured as of this height and width."""
POSITIONS = 512
"""A way is measured on images of so many positions at least, which are some blocks of tiles."""
PRODUCTS = 1 << 25
"""The same for products of the sum over the window: a millisecond or more."""

FP32 = PRECISIONS["fp32"].code

autotune.register(DIRECT)


class Size(NamedTuple):
    """The size of a convolution, rounded: all convolutions of one size are computed in the same way.

    Height and width are those of the output.
    """

    in_channels: int
    out_channels: int
    height: int
    width: int

    @classmethod
    def of(cls, in_channels: int, out_channels: int, height: int, width: int) -> Size:
        """Return the size of a convolution, of which the largest convolution stands for all."""
        sides = min(height, MOST_SIDE), min(width, MOST_SIDE)
        return cls(_rounded(in_channels), _rounded(out_channels), *sides)

    def ways(self) -> dict[str, int]:
        """Return the ways in which such a convolution may be computed, the direct one first: their `tile`."""
        return {DIRECT: 0, **tiles_for(self.in_channels, self.out_channels)}


def _rounded(channels: int) -> int:
    """Return the channels, rounded up to a power of two or the middle between two."""
    power = 1 << (channels - 1).bit_length()
    return power * 3 // 4 if channels <= power * 3 // 4 else power


def with_ways(schedule: Schedule, storage: int, share: autotune.Share = autotune.alone) -> Schedule:
    """Return the schedule with the `tile` of every convolution that may be computed in several ways.

    `share` is that of `lasfast.runtime.autotune.fastest`.
    """
    if storage != FP32:
        return schedule
    values, operations = schedule.values, schedule.operations.copy()
    fits = dense_convolutions(operations) & (operations["kernel"] == 3) & (operations["stride"] == 1)
    taken: dict[Size, int] = {}
    for index in np.flatnonzero(fits).tolist():
        operation = operations[index]
        source, padding = values[operation["input"]], 2 * int(operation["padding"]) - 2
        in_channels, out_channels = int(source["channels"]), int(operation["out_channels"])
        if min(in_channels, out_channels) >= LEAST_CHANNELS:
            sides = int(source["height"]) + padding, int(source["width"]) + padding
            size = Size.of(in_channels, out_channels, *sides)
            if size not in taken:
                taken[size] = fastest(size, share)
            operation["tile"] = taken[size]
    operations.setflags(write=False)
    return replace(schedule, operations=operations)


def fastest(size: Size, share: autotune.Share = autotune.alone) -> int:
    """Return the `tile` of the way that is fastest for this size, as measured now or before."""
    sides = size.ways()
    trial = cache(partial(Trial, size))  # made where something is measured

    def run(side: int) -> None:
        trial().run(side)

    ways = {name: partial(run, side) for name, side in sides.items()}
    what = f"3x3, {size.in_channels} to {size.out_channels} channels, {size.height}x{size.width}"
    return sides[autotune.fastest(f"convolution in fp32, {what}", torch.device("cpu"), ways, share)]


class _Pass(NamedTuple):
    """The arguments of a pass: the first two are where the tables say."""

    operations: np.ndarray
    packed: Tensor
    tables: Any
    scratch: Tensor


class Trial:
    """A convolution of some size on random values of a few images, computed in each way, on one thread."""

    def __init__(self, size: Size) -> None:
        self.module, self.isa = compiled.load(), compiled.isa_number()
        in_channels, out_channels, height, width = size
        positions = height * width
        wanted = max(POSITIONS, PRODUCTS // (9 * in_channels * out_channels))
        self.images = -(-wanted // positions)
        elements = [-(-channels * positions // ALIGNMENT) * ALIGNMENT for channels in size[:2]]
        self.values = records(
            "Value",
            [
                value_fields(in_channels, height, width),
                value_fields(out_channels, height, width, offset=elements[0]),
            ],
        )
        generator = torch.Generator().manual_seed(0)  # not one that others use
        self.arena = torch.randn(sum(elements) * self.images, generator=generator, dtype=torch.float32)
        self.weight = torch.randn(out_channels, in_channels, 3, 3, generator=generator, dtype=torch.float32)
        self.logits = torch.empty(1, dtype=torch.float32)  # of no leaf
        self.passes: dict[int, _Pass] = {}

    def run(self, side: int) -> None:
        """Compute the convolution with this `tile`; the weight is packed the first time."""
        if side not in self.passes:
            self.passes[side] = self._pass(side)
        _, _, tables, scratch = self.passes[side]
        arena, images = self.arena.data_ptr(), self.arena.data_ptr()  # no operation reads images
        self.module.schedule_predict(
            *(tables, FP32, self.isa, 1, (0, 1), images, self.images, self.images, 0, 0),
            *(arena, self.arena.nbytes, scratch.data_ptr(), self.logits.data_ptr()),
        )

    def _pass(self, side: int) -> _Pass:
        """Return what a pass of the one operation reads, with this `tile`."""
        module, addresses = self.module, self.values.ctypes.data
        fields = {"kernel": 3, "padding": 1, "out_channels": len(self.weight), "tile": side, "weight": 0}
        operations = records("Operation", [operation_fields(Kind.CONV2D, input=0, output=1, **fields)])
        where = operations.ctypes.data, addresses, FP32, self.isa
        packed = torch.empty(module.schedule_packed_bytes(*where), dtype=torch.uint8)
        module.schedule_pack(*where, self.weight.data_ptr(), self.weight.stride(), packed.data_ptr())
        tables = module.ScheduleTables(
            values=addresses,
            value_count=len(self.values),
            operations=operations.ctypes.data,
            operation_count=len(operations),
            weights=packed.data_ptr(),
            weight_bytes=packed.numel(),
        )
        size = module.schedule_scratch_bytes(tables, FP32, self.isa, self.images, 1, False)
        return _Pass(operations, packed, tables, torch.empty(size, dtype=torch.uint8))
