"""The multiply-adds of an architecture's convolutions and fully connected layers, as papers count them."""

from __future__ import annotations

from functools import singledispatch
from math import prod
from typing import Protocol

from lasfast.costs.layerwise import layerwise
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op, Path, Shape
from lasfast.spaces import Architecture


class HasPath(Protocol):
    """The part of a supernet that costs need: its paths and the channels of its images."""

    in_channels: int

    def path(self, architecture: Architecture) -> Path:
        """Return the layers that an architecture runs."""


def flops(supernet: HasPath, architecture: Architecture, input_size: tuple[int, int] = (224, 224)) -> int:
    """Return the multiply-adds for one image of `input_size` = (height, width); biases do not count.

    Raises:
        ValueError: the architecture is invalid, or the image does not fit the network.
    """
    return path_flops(supernet.path(architecture), model_input(supernet, input_size))


def model_input(supernet: HasPath, input_size: tuple[int, int]) -> Shape:
    """Return the shape (channels, height, width) of one image; ValueError for a bad `input_size`."""
    pair = isinstance(input_size, tuple | list) and len(input_size) == 2
    if not pair or not all(isinstance(size, int) and size > 0 for size in input_size):
        raise ValueError(f"input_size must be (height, width), two positive ints, got {input_size!r}")
    return (supernet.in_channels, *input_size)


def path_flops(path: Path, input_shape: Shape) -> int:
    """Return the multiply-adds of a path for one image of shape (channels, height, width)."""
    return sum(flops_of_layers(path, input_shape))


def _layer_flops(layer: Layer, shapes: tuple[Shape, ...]) -> int:
    """Return the multiply-adds of one layer for one image, given the shapes of all its values."""
    return sum(op_flops(op, shape) for op, shape in zip(layer.ops, shapes[1:], strict=True))


flops_of_layers = layerwise(_layer_flops)
"""A function of a path and an image's shape that yields the multiply-adds of each layer."""


@singledispatch
def op_flops(op: Op, output: Shape) -> int:
    """Return the multiply-adds of one op for one image, given the shape of its output."""
    return 0


@op_flops.register
def _(op: layers.Conv2d, output: Shape) -> int:
    return prod(output) * op.in_channels // op.groups * prod(op.kernel)


@op_flops.register
def _(op: layers.Linear, output: Shape) -> int:
    return op.in_features * op.out_features


@op_flops.register
def _(op: layers.Opaque, output: Shape) -> int:
    return op.flops_per_position * prod(output[1:]) + op.flops_per_image
