"""Bit operations: multiply-adds times the bit widths of their two factors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from lasfast.core.checks import check_positive
from lasfast.costs.flops import HasPath, model_input, op_flops
from lasfast.costs.layerwise import layerwise
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Path, Shape
from lasfast.spaces import Architecture

Bits = tuple[int, int]
"""The bits of weights, and those of the values that they multiply."""


def bitops(
    supernet: HasPath,
    architecture: Architecture,
    input_size: tuple[int, int] = (224, 224),
    unquantized: Bits | None = None,
) -> int:
    """Return the bit operations for one image of `input_size` = (height, width); see `path_bitops`."""
    return path_bitops(supernet.path(architecture), model_input(supernet, input_size), unquantized)


def path_bitops(path: Path, input_shape: Shape, unquantized: Bits | None = None) -> int:
    """Return the bit operations of a path for one image of shape (channels, height, width).

    m multiply-adds of w-bit weights with a-bit values count m * w * a. A value has a bits where a `Quantize`
    op of the same layer makes it. The tables of Single Path One-Shot count quantized operations only, and
    their G is 2^30: `6.32Gi` in a constraint's text.

    Args:
        path: the layers.
        input_shape: (channels, height, width) of one image.
        unquantized: the bits to count for unquantized weights and for unquantized values; None skips
            multiply-adds that have one of these.

    Raises:
        ValueError: bits that are no positive ints, or a path without anything to count.
    """
    if unquantized is not None:
        check_positive(weight_bits=unquantized[0], value_bits=unquantized[1])
        unquantized = unquantized[0], unquantized[1]
    total = sum(_counted(unquantized)(path, input_shape))
    if not total and unquantized is None:
        raise ValueError(
            "path must have a convolution with quantized weights that reads a quantized value, to count bit "
            "operations; or give the bits of what is not quantized, unquantized=(32, 32)"
        )
    return total


def is_quantized(path: Path) -> bool:
    """Return whether a path multiplies quantized weights with quantized values anywhere."""
    return any(None not in bits for layer in path for bits in _bits(layer))


def _bits(layer: Layer) -> Iterator[tuple[int | None, int | None]]:
    """Yield the bits of each op's weights and of its input, None where they are not quantized."""
    for op, sources in layer.steps():
        source = layer.ops[sources[0] - 1] if sources[0] else None
        weight_bits = op.weight_bits if isinstance(op, layers.Conv2d) else None
        yield weight_bits, source.bits if isinstance(source, layers.Quantize) else None


@lru_cache(maxsize=16)
def _counted(unquantized: Bits | None) -> Callable[[Path, Shape], Iterator[int]]:
    """Return a function that yields the bit operations of each layer of a path."""
    weights, values = unquantized or (0, 0)

    def cost(layer: Layer, shapes: tuple[Shape, ...]) -> int:
        return sum(
            op_flops(op, shape) * (weight_bits or weights) * (value_bits or values)
            for op, shape, (weight_bits, value_bits) in zip(layer.ops, shapes[1:], _bits(layer), strict=True)
        )

    return layerwise(cost)
