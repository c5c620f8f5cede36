"""A lowered prefix tree as plain data: the records that csrc/include/lasfast/schedule.h explains.

A record is written once, in C++: the compiled module has its dtype, and `records` fills arrays of it by the
names of its fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from lasfast.ir.layers import Conv2d, Layer, Linear, Op, Shape
from lasfast.runtime import compiled


class Kind(IntEnum):
    """The kind of an operation says what it does with its input."""

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
"""The largest kernel of native convolutions and pools."""
ALIGNMENT = 32
"""Offsets of values are multiples of so many elements: 64 bytes in the smallest storage."""
CUDA_CHANNELS = 8
"""On CUDA, a position of a value has room for a multiple of so many channels."""
NONE = -1
"""A record's field that names a value, a norm or a parameter has this where there is none."""

Fields = dict[str, float]
"""The fields of one record, by name."""


def value_fields(
    channels: int, height: int = 1, width: int = 1, *, shared: bool = False, offset: int = 0
) -> Fields:
    """Return the fields of a value; `offset` counts elements per image."""
    return {"channels": channels, "height": height, "width": width, "shared": shared, "offset": offset}


def norm_fields(channels: int, *, offset: int, eps: float) -> Fields:
    """Return the fields of a batch norm whose channels begin at `offset` in the tables of channels."""
    return {"channels": channels, "offset": offset, "eps": eps, "reserved": 0}


def operation_fields(kind: Kind, **fields: int) -> Fields:
    """Return the fields of an operation: those given, and of the others what means that there is none."""
    return {"kind": kind, **_PLAIN_OPERATION, **fields}


_PLAIN_OPERATION = {
    **dict.fromkeys(("level", "padding", "input_activation", "other_activation", "activation"), 0),
    **dict.fromkeys(("out_channels", "first", "tile"), 0),
    **dict.fromkeys(("kernel", "stride", "groups"), 1),
    **dict.fromkeys(("input", "other", "output", "leaf", "input_norm", "other_norm", "output_norm"), NONE),
    **dict.fromkeys(("statistics", "weight", "bias"), NONE),
}
_FIELDS = {
    "Value": set(value_fields(1)),
    "Norm": set(norm_fields(1, offset=0, eps=0)),
    "Operation": set(operation_fields(Kind.INPUT)),
}


def records(name: Literal["Value", "Norm", "Operation"], rows: Sequence[Fields]) -> np.ndarray:
    """Return an array of the compiled module's records, each filled by the names of its fields.

    Raises ImportError where the module is missing, KeyError where a row lacks a field, ValueError where it
    has one that the record lacks.
    """
    dtype = compiled.load().records[name]
    names = dtype.names
    array = np.array(list(map(itemgetter(*names), rows)), dtype)
    for row in rows:
        if len(row) != len(names):
            raise ValueError(f"{name} has no field {', '.join(row.keys() - set(names))}")
    return array


def dense_convolutions(operations: np.ndarray) -> np.ndarray:
    """Return a flag for each operation that says whether it is a convolution of one group: bool."""
    dense: np.ndarray = (operations["kind"] == Kind.CONV2D) & (operations["groups"] == 1)
    return dense


def fits(module: Any) -> bool:
    """Return whether a compiled module has the records and the kinds of operations that this code knows."""
    fields = {name: set(dtype.names) for name, dtype in getattr(module, "records", {}).items()}
    return fields == _FIELDS and getattr(module, "kinds", None) == {kind.name.lower(): kind for kind in Kind}


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
    """The operations of one pass, as plain data. Weights and biases are filled in by who packs them.

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
