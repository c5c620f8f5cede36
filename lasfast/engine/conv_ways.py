"""The way in which the CPU computes a 3x3 convolution: measured once for its size, then remembered.

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

CPU = torch.device("cpu")
_NAMES = {precision.code: name for name, precision in PRECISIONS.items()}

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

    def ways(self, storage: int) -> dict[str, int]:
        """Return the ways in which such a convolution may be computed, the direct one first: their `tile`.

        Of bf16 values, kernels offer some ways or none, which depends on how they multiply these.
        """
        tiles = tiles_for(*self)
        return {
            DIRECT: 0,
            **{name: side for name, side in tiles.items() if _packed_bytes(self, storage, side)},
        }

    def elements(self) -> tuple[int, int]:
        """Return how many elements of an arena its input and its output take for an image."""
        first, second = (
            -(-channels * self.height * self.width // ALIGNMENT) * ALIGNMENT for channels in self[:2]
        )
        return first, second

    def records(self, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Return such a convolution with this `tile`: its one operation, and its input and output."""
        values = [
            value_fields(channels, self.height, self.width, offset=offset)
            for channels, offset in zip(self[:2], (0, self.elements()[0]), strict=True)
        ]
        fields = {"kernel": 3, "padding": 1, "out_channels": self.out_channels, "tile": side, "weight": 0}
        operation = operation_fields(Kind.CONV2D, input=0, output=1, **fields)
        return records("Operation", [operation]), records("Value", values)


def _packed_bytes(size: Size, storage: int, side: int) -> int:
    """Return how many bytes the weight takes with this `tile`, 0 where kernels do not compute it so."""
    operations, values = size.records(side)
    where = operations.ctypes.data, values.ctypes.data, storage, compiled.isa_number()
    packed: int = compiled.load().schedule_packed_bytes(*where)
    return packed


def _rounded(channels: int) -> int:
    """Return the channels, rounded up to a power of two or the middle between two."""
    power = 1 << (channels - 1).bit_length()
    return power * 3 // 4 if channels <= power * 3 // 4 else power


def with_ways(schedule: Schedule, storage: int, share: autotune.Share = autotune.alone) -> Schedule:
    """Return the schedule with the `tile` of every convolution that may be computed in several ways.

    `share` is that of `lasfast.runtime.autotune.fastest`.
    """
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
                taken[size] = fastest(size, storage, share)
            operation["tile"] = taken[size]
    operations.setflags(write=False)
    return replace(schedule, operations=operations)


def fastest(size: Size, storage: int, share: autotune.Share = autotune.alone) -> int:
    """Return the `tile` of the way that is fastest for this size, as measured now or before."""
    sides = size.ways(storage)
    trial = cache(partial(Trial, size, storage))  # made where something is measured

    def run(side: int) -> None:
        trial().run(side)

    ways = {name: partial(run, side) for name, side in sides.items()}
    what = f"3x3, {size.in_channels} to {size.out_channels} channels, {size.height}x{size.width}"
    return sides[autotune.fastest(f"convolution in {_NAMES[storage]}, {what}", CPU, ways, share)]


class _Pass(NamedTuple):
    """The arguments of a pass: the first three are where the tables say."""

    operations: np.ndarray
    values: np.ndarray
    packed: Tensor
    tables: Any
    scratch: Tensor


class Trial:
    """A convolution of some size on random values of a few images, computed in each way, on one thread."""

    def __init__(self, size: Size, storage: int) -> None:
        self.size, self.storage = size, storage
        self.module, self.isa = compiled.load(), compiled.isa_number()
        in_channels, out_channels, height, width = size
        wanted = max(POSITIONS, PRODUCTS // (9 * in_channels * out_channels))
        self.images = -(-wanted // (height * width))
        elements = sum(size.elements()) * self.images
        generator = torch.Generator().manual_seed(0)  # not one that others use
        dtype = getattr(torch, PRECISIONS[_NAMES[storage]].dtype)
        self.arena = torch.randn(elements, generator=generator, dtype=torch.float32).to(dtype)
        self.weight = torch.randn(out_channels, in_channels, 3, 3, generator=generator, dtype=torch.float32)
        self.logits = torch.empty(1, dtype=torch.float32)  # of no leaf
        self.passes: dict[int, _Pass] = {}

    def run(self, side: int) -> None:
        """Compute the convolution with this `tile`; the weight is packed the first time."""
        if side not in self.passes:
            self.passes[side] = self._pass(side)
        *_, tables, scratch = self.passes[side]
        arena, images = self.arena.data_ptr(), self.arena.data_ptr()  # no operation reads images
        self.module.schedule_predict(
            *(tables, self.storage, self.isa, 1, (0, 1), images, self.images, self.images, 0, 0),
            *(arena, self.arena.nbytes, scratch.data_ptr(), self.logits.data_ptr()),
        )

    def _pass(self, side: int) -> _Pass:
        """Return what a pass of the one operation reads, with this `tile`."""
        operations, values = self.size.records(side)
        where = operations.ctypes.data, values.ctypes.data, self.storage, self.isa
        packed = torch.empty(self.module.schedule_packed_bytes(*where), dtype=torch.uint8)
        self.module.schedule_pack(*where, self.weight.data_ptr(), self.weight.stride(), packed.data_ptr())
        tables = self.module.ScheduleTables(
            values=values.ctypes.data,
            value_count=len(values),
            operations=operations.ctypes.data,
            operation_count=len(operations),
            weights=packed.data_ptr(),
            weight_bytes=packed.numel(),
        )
        size = self.module.schedule_scratch_bytes(tables, self.storage, self.isa, self.images, 1, False)
        return _Pass(operations, values, packed, tables, torch.empty(size, dtype=torch.uint8))
