"""Costs that are computed layer by layer, once for each different layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from lasfast.ir.layers import Layer, Path, Shape, misfit

REMEMBERED = 2**16
"""The number of layers whose cost is remembered; a searcher's many architectures share few layers."""


def layerwise(cost: Callable[[Layer, tuple[Shape, ...]], int]) -> Callable[[Path, Shape], Iterator[int]]:
    """Return a function of a path and an image's shape that yields the cost of each layer in order.

    `cost` is a function of a layer and the shapes of all its values, its input first.
    """

    @lru_cache(maxsize=REMEMBERED)
    def one(layer: Layer, input_shape: Shape) -> tuple[int, Shape]:
        shapes = layer.shapes(input_shape)
        return cost(layer, shapes), shapes[-1]

    def all_of(path: Path, input_shape: Shape) -> Iterator[int]:
        shape = tuple(input_shape)
        for layer in path:
            try:
                value, shape = one(layer, shape)
            except ValueError as error:
                raise misfit(input_shape, error) from None
            yield value

    return all_of
