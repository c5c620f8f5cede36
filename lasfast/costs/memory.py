"""Peak memory of activations: the most bytes that are held at once while one image passes through."""

from __future__ import annotations

from math import prod

from lasfast.costs.flops import HasPath, model_input
from lasfast.costs.layerwise import layerwise
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Path, Shape
from lasfast.spaces import Architecture

IN_PLACE = (
    layers.BatchNorm2d,
    layers.Activation,
    layers.Quantize,
    layers.Dropout,
    layers.Flatten,
    layers.Add,
    layers.Multiply,
)
"""The ops that write their output over their first input where nothing reads that afterwards."""


def memory(
    supernet: HasPath,
    architecture: Architecture,
    input_size: tuple[int, int] = (224, 224),
    bytes_per_value: int = 4,
) -> int:
    """Return the peak bytes of activations for one image of `input_size` = (height, width).

    See `path_memory`.
    """
    return path_memory(supernet.path(architecture), model_input(supernet, input_size), bytes_per_value)


def path_memory(path: Path, input_shape: Shape, bytes_per_value: int = 4) -> int:
    """Return the peak bytes of activations of a path for one image of shape (channels, height, width).

    Ops run one after another. A value is held from the op that writes it to the last op that reads it;
    normalisation, activation, quantization, dropout, flattening, addition and gates write in place where
    they can. Quantized values are held as floating-point numbers, and count as such. Weights and a kernel's
    own workspace do not count.
    """
    return bytes_per_value * max(_peaks(path, input_shape))


def _peak(layer: Layer, shapes: tuple[Shape, ...]) -> int:
    """Return the most numbers that are held at once within a layer."""
    steps = list(enumerate(layer.steps(), start=1))
    last_read = {source: number for number, (_, sources) in steps for source in sources}
    held = {0: prod(shapes[0])}
    peak = 0
    for number, (op, sources) in steps:
        size = prod(shapes[number])
        in_place = isinstance(op, IN_PLACE) and last_read[sources[0]] == number
        peak = max(peak, sum(held.values()) + (0 if in_place else size))
        held[number] = size
        held = {value: size for value, size in held.items() if last_read.get(value, len(steps) + 1) > number}
    return peak


_peaks = layerwise(_peak)
