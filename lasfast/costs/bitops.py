"""Bit operations: multiply-adds times the bit widths of their two factors."""

from __future__ import annotations

from collections.abc import Mapping

from lasfast.checks import check_positive
from lasfast.costs.flops import HasPath, flops_of_layers, model_input
from lasfast.spaces import Architecture
from lasfast.supernets.layers import Path, Shape

Bits = tuple[int, int]
"""Bits of a layer's weights, and of the values it reads."""


def bitops(
    supernet: HasPath,
    architecture: Architecture,
    input_size: tuple[int, int] = (224, 224),
    bits: Mapping[str, Bits] | None = None,
    default: Bits = (32, 32),
) -> int:
    """Return the bit operations for one image of `input_size` = (height, width); see `path_bitops`."""
    return path_bitops(
        supernet.path(architecture), model_input(supernet, input_size), bits=bits, default=default
    )


def path_bitops(
    path: Path, input_shape: Shape, bits: Mapping[str, Bits] | None = None, default: Bits = (32, 32)
) -> int:
    """Return the bit operations of a path for one image of shape (channels, height, width).

    A layer of m multiply-adds with w-bit weights and a-bit values counts m * w * a (Single Path One-Shot,
    section 4, "2W2A").

    Args:
        path: the layers.
        input_shape: of one image.
        bits: (weight bits, activation bits) of layers, by name.
        default: those of the other layers.
    """
    bits = bits or {}
    total = 0
    for layer, flops in zip(path, flops_of_layers(path, input_shape), strict=True):
        weight_bits, activation_bits = bits.get(layer.name, default)
        check_positive(weight_bits=weight_bits, activation_bits=activation_bits)
        total += flops * weight_bits * activation_bits
    return total
