"""Costs of a path, layer by layer, each layer reckoned once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from lasfast.ir.layers import Layer, Path, Shape

REMEMBERED = 2**16
"""Layers whose cost is remembered: searchers ask for many architectures, made of the same few layers."""


def layerwise(cost: Callable[[Layer, tuple[Shape, ...]], int]) -> Callable[[Path, Shape], Iterator[int]]:
    """Return a function of a path and the shape of one image, which gives the cost of each layer in order.

    `cost` takes a layer and the shapes of all its values, the input first.
    """

    @lru_cache(maxsize=REMEMBERED)
    def one(layer: Layer, input_shape: Shape) -> tuple[int, Shape]:
        shapes = layer.shapes(input_shape)
        return cost(layer, shapes), shapes[-1]

    def all_of(path: Path, input_shape: Shape) -> Iterator[int]:
        shape = tuple(input_shape)
        for layer in path:
            value, shape = one(layer, shape)
            yield value

    return all_of
