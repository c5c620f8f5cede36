"""The number of an architecture's weights and biases."""

from __future__ import annotations

from functools import lru_cache, singledispatch
from math import prod

from lasfast.costs.flops import HasPath
from lasfast.costs.layerwise import REMEMBERED
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op, Path
from lasfast.spaces import Architecture


def params(supernet: HasPath, architecture: Architecture, batch_norm: bool = True) -> int:
    """Return the number of weights and biases that an architecture reads.

    With `batch_norm=False`, the scales and shifts of batch norm do not count, as in the papers' tables.
    """
    return path_params(supernet.path(architecture), batch_norm)


def path_params(path: Path, batch_norm: bool = True) -> int:
    """Return the number of weights and biases of a path."""
    return sum(_layer_params(layer, batch_norm) for layer in path)


@lru_cache(maxsize=REMEMBERED)
def _layer_params(layer: Layer, batch_norm: bool) -> int:
    return sum(op_params(op) for op in layer.ops if batch_norm or not isinstance(op, layers.BatchNorm2d))


@singledispatch
def op_params(op: Op) -> int:
    """Return the number of weights and biases of one op."""
    return 0


@op_params.register
def _(op: layers.Conv2d) -> int:
    bias = op.out_channels if op.bias else 0
    return op.out_channels * (op.in_channels // op.groups) * prod(op.kernel) + bias


@op_params.register
def _(op: layers.BatchNorm2d) -> int:
    return 2 * op.channels if op.affine else 0


@op_params.register
def _(op: layers.Quantize) -> int:
    return 1


@op_params.register
def _(op: layers.Linear) -> int:
    return op.out_features * (op.in_features + op.bias)


@op_params.register
def _(op: layers.Opaque | layers.Code) -> int:
    return op.params
