"""Convolutions on a GPU in each of their tiles.

pytest benchmarks/bench_tiles.py --device cuda --benchmark-group-by=group

When the engine first meets a convolution of some size, it measures the same, and takes the fastest tile that
gives the same bits as the default one, or on large images nearly so (`lasfast/engine/conv_tiles.py`). Here,
`extra_info` has TFLOP/s and whether the bits were the same.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks._fused import timed
from lasfast.engine.conv_tiles import SIDE, ConvTiles, Size, Trial
from lasfast.engine.native_backend import EXECUTORS, why_missing
from lasfast.runtime.autotune import UnfitError
from lasfast.runtime.precision import fp32_products

SIZES = ((3, 64, 64), (3, 256, 256), (1, 128, 256), (3, 512, 192), (3, 16, 16), (3, 32, 32), (1, 256, 64))
TILES = (7, 8, 9, 0, 1, 2, 3, 4, 5, 6)  # warpgroups' first
CASES = [(storage, size, tile) for storage in ("bf16", "fp32") for size in SIZES for tile in TILES]
"""In this order, the tiles of a size stand together, and a time limit cuts what tells least."""


@pytest.mark.parametrize(("storage", "size", "tile"), CASES, ids=str)
def test_tile(benchmark: Callable, tile: int, size: tuple[int, int, int], storage: str, device: str) -> None:
    on_cuda = EXECUTORS[device].cuda
    why = why_missing(torch.device(device)) if on_cuda else "tiles are a GPU's"
    if why is not None:
        pytest.skip(why)
    tf32 = storage == "fp32" and fp32_products() == "tf32"
    tiles = ConvTiles(torch.device(device), storage, tf32=tf32)
    usual = tiles.usual(Size(*size))
    if tile not in (usual, *tiles.others(usual)):
        pytest.skip("not in this tile")
    trial, same = Trial(tiles, Size(*size), usual), True
    try:
        trial.run(tile)
    except UnfitError:
        same = False
    kernel, in_channels, out_channels = size
    benchmark.group = f"{kernel}x{kernel}, {in_channels} to {out_channels} channels, {storage}"
    seconds = timed(benchmark, lambda: trial.run(tile), device)
    flops = 2 * kernel**2 * in_channels * out_channels * SIDE**2 * trial.images
    name = tiles.name(tile)
    benchmark.extra_info.update(who=name, same_bits=same)
    benchmark.extra_info["TFLOP/s"] = round(flops / seconds / 1e12, 3)
