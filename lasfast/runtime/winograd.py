"""Winograd's minimal filtering algorithm on the CPU: its names among ways to compute, and what it may be for.

Lavin and Gray 2016, F(2x2, 3x3) and F(4x4, 3x3): 2.25 and 4 times fewer products than a sum over the window,
for what goes in and comes out is transformed, and for larger weights. It computes convolutions of one group,
a kernel of 3 and stride 1: in fp32, and of bf16 values where AMX does not multiply them (but no gradients of
weights). Where these are multiplied by pairs, transforms are rounded to bf16: that allows for tiles of 2x2.
"""

from __future__ import annotations

from lasfast.runtime import autotune

TILES = {"winograd 2x2": 2, "winograd 4x4": 4}
"""The rows and columns of outputs that are computed at once, by the name of the way."""
LEAST_CHANNELS = 8
"""Convolutions of fewer channels in or out are computed in other ways."""
LEAST_SIDE = 3
"""Smaller outputs are computed in other ways: most of their products are of padding, and only add errors."""
MOST_BYTES = 16 << 20
"""A way whose transformed weights would take more is not taken: other caches and memory pay for them."""
LEAST_POSITIONS = 2048
"""Gradients of weights that are sums over fewer outputs are computed in other ways: with less error."""

autotune.register(*TILES)


def tiles_for(in_channels: int, out_channels: int, height: int, width: int) -> dict[str, int]:
    """Return those of the ways that may be taken for so many channels, and an output of this size."""
    if min(in_channels, out_channels) < LEAST_CHANNELS or min(height, width) < LEAST_SIDE:
        return {}
    elements = in_channels * out_channels
    return {name: tile for name, tile in TILES.items() if 4 * (tile + 2) ** 2 * elements <= MOST_BYTES}
