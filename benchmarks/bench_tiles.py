"""Convolutions on a GPU in each of their tiles.

pytest benchmarks/bench_tiles.py --device cuda --benchmark-group-by=group

When the engine first meets a convolution of some size, it measures the same, and takes the fastest tile that
gives the same bits as the default one (`lasfast/engine/conv_tiles.py`). Here, `extra_info` has TFLOP/s and
whether the bits were the same.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks._fused import STORAGES, timed
from lasfast.engine.conv_tiles import SIDE, ConvTiles, Size, Trial
from lasfast.engine.native_backend import why_missing
from lasfast.runtime.autotune import UnfitError

SIZES = ((3, 16, 16), (3, 32, 32), (3, 64, 64), (1, 256, 64), (1, 128, 256), (3, 256, 256), (3, 512, 192))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("tile", range(10))
def test_tile(benchmark: Callable, tile: int, size: tuple[int, int, int], storage: str, device: str) -> None:
    why = "tiles are a GPU's" if device == "cpu" else why_missing(torch.device(device))
    if why is not None:
        pytest.skip(why)
    tiles = ConvTiles(torch.device(device), storage, tf32=False)
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
