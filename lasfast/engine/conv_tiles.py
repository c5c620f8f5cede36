"""The tile that CUDA computes a convolution in: measured once for its size on a GPU, then remembered.

A level's operations, of all candidates, run in one launch that fills the chip. So a tile is measured on a
convolution that fills it. Which one is taken depends on the convolution alone, not on how many images or
candidates there are, which must change no result.

Small images may be predicted in one of several ways, which have to give the same bits. So a tile that gives
other bits than the usual one is not taken, unless one image's input and output are too large for a
multiprocessor: then there is but one way, by levels. Only tiles of warpgroups may round sums otherwise.
"""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lasfast.engine.cuda_layout import MAPPED, PREDICTION, plan_launches, tensor_maps
from lasfast.engine.schedule import (
    CUDA_CHANNELS,
    Kind,
    dense_convolutions,
    operation_fields,
    records,
    value_fields,
)
from lasfast.ir.precision import PRECISIONS
from lasfast.runtime import autotune, compiled
from lasfast.runtime.autotune import UnfitError
from lasfast.runtime.kernels import has_warpgroups
from lasfast.runtime.placement import stream_of
from lasfast.runtime.precision import torch_dtype

SIDE = 16
"""The height and width of the images that a tile is measured on."""
POSITIONS = 2048
"""A tile is measured on so many positions for each multiprocessor: sixteen tiles of them."""
BYTES = 64 << 20
"""The input and output that a tile is measured on take at most so much memory."""
MOST_CHANNELS = 2048
"""Convolutions of more input channels are computed in the usual tile."""


class Size(NamedTuple):
    """The size of a convolution, rounded: all convolutions of one size are computed in the same tile."""

    kernel: int
    in_channels: int
    out_channels: int

    @classmethod
    def of(cls, kernel: int, in_channels: int, out_channels: int) -> Size:
        """Return the size of a convolution, rounded up: the largest of a size stands for all of it."""
        step = 16 if out_channels <= 128 else 64
        return cls(kernel, max(8, 1 << (in_channels - 1).bit_length()), -(-out_channels // step) * step)


class ConvTiles:
    """Chooses tiles for schedules of one device and precision.

    `tf32` says whether fp32 values are multiplied as TF32. `memory_budget` bounds the bytes that measuring
    takes.
    """

    def __init__(
        self, device: torch.device, precision: str, *, tf32: bool, memory_budget: int | None = None
    ) -> None:
        self.module, self.device = compiled.load(), device
        self.precision, self.tf32 = precision, tf32
        self.bytes = min(BYTES, BYTES if memory_budget is None else memory_budget)
        self.shapes = self.module.schedule_conv_tiles_cuda()

    def take(self, values: np.ndarray, operations: np.ndarray) -> None:
        """Write the `tile` of every convolution: 1 + its number."""
        taken: dict[tuple[Size, bool], int] = {}
        for index in np.flatnonzero(dense_convolutions(operations)).tolist():
            operation = operations[index]
            in_channels = values["channels"][operation["input"]]
            size = Size.of(*map(int, (operation["kernel"], in_channels, operation["out_channels"])))
            key = size, self.fits_multiprocessor(values, operation)
            if key not in taken:
                taken[key] = 1 + self.fastest(*key)
            operation["tile"] = taken[key]

    def fits_multiprocessor(self, values: np.ndarray, operation: np.void) -> bool:
        """Return whether one image's input and output fit into the memory that a block can have."""
        _, block_bytes, *_ = self.module.cuda_limits(self.device.index or 0)
        places = [operation["input"], *([operation["output"]] if operation["leaf"] < 0 else [])]
        used = values[places]
        pitches = -(-used["channels"] // CUDA_CHANNELS) * CUDA_CHANNELS
        elements = int((used["height"].astype(np.int64) * used["width"] * pitches).sum())
        return elements * torch_dtype(self.precision).itemsize < block_bytes

    def fastest(self, size: Size, same_bits: bool = True) -> int:
        """Return the number of the tile that is fastest for this size, as measured now or before.

        With `same_bits`, it gives the same bits as the usual one, and nearly the same values without.
        """
        usual = self.usual(size)
        if size.in_channels > MOST_CHANNELS:
            return usual
        trial = cache(partial(Trial, self, size, usual))  # made where something is measured
        others = self.others(usual)
        same_bits |= not any(self.shapes[tile][2] for tile in others)
        tiles = {self.name(tile): tile for tile in (usual, *others)}

        def run(tile: int) -> None:
            trial().run(tile, same_bits)

        ways = {name: partial(run, tile) for name, tile in tiles.items()}
        multiplied = "tf32" if self.tf32 else self.precision
        what = f"{size.kernel}x{size.kernel}, {size.in_channels} to {size.out_channels} channels"
        what += "" if same_bits else ", large images"
        return tiles[autotune.fastest(f"tile for {multiplied}, {what}", self.device, ways)]

    def usual(self, size: Size) -> int:
        """Return the number of the tile that is taken where nothing is measured."""
        return int(self.module.schedule_usual_tile_cuda(size.out_channels))

    def others(self, usual: int) -> list[int]:
        """Return the numbers of tiles that suit about as many channels as the usual one."""
        wanted = self.shapes[usual][1]
        with_warpgroups = self.precision == "bf16" and has_warpgroups(self.device)
        return [
            number
            for number, (_, columns, warpgroups) in enumerate(self.shapes)
            if number != usual and wanted <= 2 * columns <= 4 * wanted and (with_warpgroups or not warpgroups)
        ]

    def name(self, number: int) -> str:
        """Return what a tile is called: positions x channels."""
        rows, columns, warpgroups = self.shapes[number]
        return f"{rows}x{columns}" + " by warpgroups" * warpgroups


class Trial:
    """A convolution of some size, on values of enough positions to fill the chip, in one tile or another.

    `source` and `output` are its values [N, SIDE, SIDE, channels], in flat memory and with channels rounded
    up to eight; `weight` is the fp32 one that it packs. Where it is `mapped`, what warpgroups multiply is
    copied by tensor maps where it can be.
    """

    def __init__(self, tiles: ConvTiles, size: Size, usual: int, *, mapped: bool = False) -> None:
        self.purpose = MAPPED if mapped else PREDICTION
        self.module, self.device, self.tf32 = tiles.module, tiles.device, tiles.tf32
        self.index = self.device.index or 0
        self.storage = PRECISIONS[tiles.precision].code
        dtype = torch_dtype(tiles.precision)
        _, *channels = size
        elements = [SIDE * SIDE * -(-count // CUDA_CHANNELS) * CUDA_CHANNELS for count in channels]
        multiprocessors, *_ = self.module.cuda_limits(self.index)
        wanted = -(-POSITIONS * multiprocessors // SIDE**2)
        self.images = max(1, min(wanted, tiles.bytes // (sum(elements) * dtype.itemsize)))

        offsets = 0, elements[0]
        self.values = records(
            "Value",
            [value_fields(count, SIDE, SIDE, offset=at) for count, at in zip(channels, offsets, strict=True)],
        )
        convolution = operation_fields(
            Kind.CONV2D,
            input=0,
            output=1,
            weight=0,
            kernel=size.kernel,
            padding=size.kernel // 2,
            out_channels=size.out_channels,
        )
        self.operations = records("Operation", [convolution])

        self.arena = torch.empty(sum(elements) * self.images, dtype=dtype, device=self.device)
        self.source, self.output = self.arena.split([elements[0] * self.images, elements[1] * self.images])
        # Not zeros, whose products take less power; and from no generator that others use.
        some = torch.randn(1 << 16, dtype=torch.float32, generator=torch.Generator().manual_seed(0)).to(
            self.source
        )
        self.source.copy_(some.repeat(-(-len(self.source) // len(some)))[: len(self.source)])
        shape = size.out_channels, size.in_channels, size.kernel, size.kernel
        weight = torch.randn(shape, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
        self.weight = weight.to(self.device)
        self.weights = self._packed()
        self.plans: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}
        self._launch(usual)
        self.right = self.output.clone()

    def run(self, tile: int, same_bits: bool = True) -> None:
        """Queue the convolution; the first time, raise `UnfitError` where the results are not the usual ones.

        Without `same_bits`, a result may be rounded to the next number.
        """
        if tile in self.plans:
            self._launch(tile)
            return
        self.output.zero_()
        self._launch(tile)
        if not torch.equal(self.output, self.right) and (same_bits or not self._is_near()):
            raise UnfitError

    def _is_near(self) -> bool:
        """Return whether no element differs by more than a step of bf16 from the usual one."""
        right = self.right.float()
        small = 2**-10 * float(right.square().mean().sqrt())  # where sums have cancelled
        return torch.allclose(self.output.float(), right, rtol=2**-7, atol=small)

    def _launch(self, tile: int) -> None:
        tables = self.module.ScheduleTables(
            values=self.values.ctypes.data,
            value_count=len(self.values),
            operations=self.operations.ctypes.data,
            operation_count=len(self.operations),
            weights=self.weights.data_ptr(),
            weight_bytes=self.weights.numel(),
        )
        if tile not in self.plans:
            self.operations["tile"] = tile + 1
            where = self.module, tables, self.storage, self.images
            plan, needs = plan_launches(*where, self.purpose, tf32=self.tf32)
            maps = tensor_maps(self.module, tables, plan, needs, self.arena) if needs.maps else None
            self.plans[tile] = plan, plan.to(self.device), maps
        host, device, mapped = (0 if one is None else one.data_ptr() for one in self.plans[tile])
        arena, stream = self.arena.data_ptr(), stream_of(self.device)
        self.module.schedule_run_cuda(
            *(tables, host, device, arena, self.images, 0, 0, arena, 0, 0, 0, self.index, stream, mapped)
        )

    def _packed(self) -> Tensor:
        where = self.operations.ctypes.data, self.values.ctypes.data
        packed = torch.empty(
            self.module.schedule_packed_bytes_cuda(*where, self.storage),
            dtype=torch.uint8,
            device=self.device,
        )
        weights = [(*where, self.weight.data_ptr(), self.weight.stride(), packed.data_ptr())]
        self.module.schedule_pack_cuda(weights, self.storage, self.tf32, self.index, stream_of(self.device))
        return packed
