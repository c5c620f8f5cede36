"""Cases of tiles: convolutions on CUDA in every tile, compared with the usual one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial

import torch
from torch import Tensor

from lasfast.engine.conv_tiles import ConvTiles, Size, Trial
from lasfast.engine.native_backend import EXECUTORS
from lasfast.runtime.autotune import UnfitError
from lasfast.runtime.kernels import has_tensor_maps
from lasfast.selfcheck.case import Case

SIZES = (Size(3, 16, 16), Size(3, 64, 64))
"""Every tile suits one of these sizes."""


def tile_cases(device: torch.device) -> Iterator[Case]:
    """Give a case of each tile in each precision; warpgroups may round sums differently from warps.

    Those of warpgroups are tried by tensor maps, too, where these are asked for.
    """
    if not EXECUTORS[device.type].cuda:
        return
    for precision in ("fp32", "bf16", "TF32"):
        stored = "bf16" if precision == "bf16" else "fp32"
        tiles = ConvTiles(device, stored, tf32=precision == "TF32")
        seen: set[int] = set()
        for size in SIZES:
            usual = tiles.usual(size)
            unseen = sorted({*tiles.others(usual)} - seen)
            for mapped in (False, True) if has_tensor_maps(device) else (False,):
                # (Made where the first case is run.)
                trial = cache(partial(Trial, tiles, size, usual, mapped=mapped))
                right = partial(_usual, trial)
                for tile in unseen:
                    if mapped and not tiles.shapes[tile][2]:
                        continue
                    name = (
                        f"convolution {'by tensor maps ' * mapped}in tiles of {tiles.name(tile)}, {precision}"
                    )
                    yield Case(name, partial(_in_tile, trial, tile), right, right, precision, {"CUDA": {}})
            seen |= {*unseen}


def _usual(trial: Callable[[], Trial]) -> list[Tensor]:
    return [trial().right]


def _in_tile(trial: Callable[[], Trial], tile: int) -> list[Tensor]:
    with suppress(UnfitError):  # which asks for the same bits
        trial().run(tile)
    return [trial().output.clone()]
