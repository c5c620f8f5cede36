"""A lowered plan as plain data: the records of csrc/include/lasfast/schedule.h, which says what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from lasfast.ir.layers import Conv2d, Layer, Linear, Op, Shape


class Kind(IntEnum):
    """What an operation does with its input."""

    INPUT = 0
    CONV2D = 1
    MAX_POOL = 2
    AVG_POOL = 3
    GLOBAL_POOL = 4
    COMBINE = 5
    LINEAR = 6
    GATE = 7
    ARRANGE = 8
    OPAQUE = 9


MAX_KERNEL = 11
"""Of native convolutions and pools."""

VALUE = np.dtype(
    [("channels", "i4"), ("height", "i4"), ("width", "i4"), ("shared", "i4"), ("offset", "i8")], align=True
)
NORM = np.dtype([("channels", "i4"), ("offset", "i4"), ("eps", "f4"), ("reserved", "i4")], align=True)
OPERATION = np.dtype(
    [
        *((name, "i4") for name in ("kind", "level", "input", "other", "output", "leaf")),
        *((name, "i4") for name in ("kernel", "stride", "padding", "groups")),
        *((name, "i4") for name in ("input_norm", "input_activation", "other_norm", "other_activation")),
        *((name, "i4") for name in ("output_norm", "activation", "statistics", "out_channels")),
        ("first", "i4"),
        ("tile", "i4"),
        ("weight", "i8"),
        ("bias", "i8"),
    ],
    align=True,
)
SIZES = (24, 16, 96)
"""Bytes of a Value, a Norm and an Operation in C."""
assert (VALUE.itemsize, NORM.itemsize, OPERATION.itemsize) == SIZES

ALIGNMENT = 32
"""Offsets of values are multiples of so many elements: 64 bytes in the smallest storage."""
CUDA_CHANNELS = 8
"""On CUDA, a position of a value has room for a multiple of so many channels."""


@dataclass(frozen=True)
class BatchNorm:
    """A norm of the schedule: which node and module it belongs to, and values per channel of an image."""

    node: int
    module: str
    channels: int
    eps: float
    positions: int


@dataclass(frozen=True)
class Call:
    """An opaque operation: the op of a layer that torch runs, and its output's shape there.

    `flat` says which of its inputs, images [N, C, H, W] all, it takes for features [N, C * H * W].
    `operation` is its index in the schedule.
    """

    layer: Layer
    op: Op
    shape: Shape
    flat: tuple[bool, ...]
    operation: int = -1


@dataclass(frozen=True)
class Resident:
    """A schedule's operations one after another, in a small arena of `arena` elements per image.

    Weights, biases and norms have the numbers that they have in the schedule.
    """

    values: np.ndarray
    operations: np.ndarray
    arena: int


@dataclass(frozen=True)
class Schedule:
    """What one pass runs. Weights and biases are filled in by who packs them.

    `weights` are the distinct slices: the op that reads them with its input's shape, and an operation
    that does; an operation's `weight` is the index in `weights` until packing makes it an offset.
    `biases` are (module, channels), laid out one after the other. `arena` counts elements per image, those
    of `shared` values apart, `calls` are the opaque operations in order, and
    `leaves` are the tree's nodes whose output is logits, in the order of their numbers. `resident` is for
    prediction on CUDA, where a few images' values may fit into a multiprocessor. `nodes` has the tree's node
    of each operation, ROOT for the images.
    """

    values: np.ndarray
    norms: np.ndarray
    operations: np.ndarray
    batch_norms: tuple[BatchNorm, ...]
    weights: tuple[tuple[Conv2d | Linear, Shape, int], ...]
    biases: tuple[tuple[str, int], ...]
    arena: int
    shared: int
    calls: tuple[Call, ...]
    leaves: tuple[int, ...]
    classes: int
    nodes: np.ndarray
    resident: Resident | None = None

    def ranges(self) -> list[tuple[int, int]]:
        """Return the ranges of operations before, between and after the opaque ones; some are empty."""
        cuts = [call.operation for call in self.calls]
        return list(zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(self.operations)], strict=True))
