"""Runs layer records with PyTorch's operators, op by op."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, singledispatch
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op
from lasfast.ops.activations import FUNCTIONS
from lasfast.ops.quantize import dorefa, pact

Modules = Mapping[str, Any]
"""The supernet's modules by dotted name; "" is the supernet itself."""
BatchNormFunction = Callable[[layers.BatchNorm2d, Tensor], Tensor]
"""A function of a batch norm op and its input [N, C, H, W]; it decides by which statistics to normalise."""


def run_layer(layer: Layer, x: Tensor, modules: Modules, batch_norm: BatchNormFunction) -> Tensor:
    """Run one layer on x [N, C, H, W] (or [N, F]), reading weights from `modules` by name.

    Batch norm ops go to `batch_norm`; dropout follows the root module's training flag (`modules[""]`).
    Values are dropped after their last use, so a layer holds no more than it needs.
    """
    values: list[Any] = [x]
    for op, sources, dead in _program(layer):
        inputs = [values[source] for source in sources]
        if isinstance(op, layers.BatchNorm2d):
            output = batch_norm(op, inputs[0])
        else:
            output = run_op(op, modules, *inputs)
        values.append(output)
        for source in dead:
            values[source] = None
    return values[-1]


@lru_cache(maxsize=4096)
def _program(layer: Layer) -> tuple[tuple[Op, tuple[int, ...], tuple[int, ...]], ...]:
    """Return each op with the values it reads, and those of them that nobody reads after it."""
    steps = tuple(layer.steps())
    dead = last_uses([sources for _, sources in steps])
    return tuple((*step, values) for step, values in zip(steps, dead, strict=True))


def last_uses(steps: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Return, for each step, the values that nobody reads after it; a step is given by those it reads."""
    last = {source: number for number, sources in enumerate(steps) for source in sources}
    return tuple(
        tuple(source for source, final in last.items() if final == number) for number in range(len(steps))
    )


@singledispatch
def run_op(op: Op, modules: Modules, *inputs: Tensor) -> Tensor:
    """Run one op other than batch norm."""
    raise TypeError(f"no torch implementation of op {op!r}")


@run_op.register
def _(op: layers.Conv2d, modules: Modules, x: Tensor) -> Tensor:
    bias = leading(modules[op.module].bias, op.out_channels) if op.bias else None
    return F.conv2d(x, conv_weight(op, modules), bias, op.stride, op.padding, op.dilation, op.groups)


@run_op.register
def _(op: layers.Linear, modules: Modules, x: Tensor) -> Tensor:
    module = modules[op.module]
    bias = leading(module.bias, op.out_features) if op.bias else None
    return F.linear(x, leading(module.weight, op.out_features, op.in_features), bias)


@run_op.register
def _(op: layers.Activation, modules: Modules, x: Tensor) -> Tensor:
    return FUNCTIONS[op.kind](x)


@run_op.register
def _(op: layers.Pool, modules: Modules, x: Tensor) -> Tensor:
    if op.kernel_size == 1 and not op.padding:
        return x[:, :, :: op.stride, :: op.stride]  # whose gradient is far quicker than pooling's
    if op.kind == "max":
        return F.max_pool2d(x, op.kernel_size, op.stride, op.padding)
    return F.avg_pool2d(x, op.kernel_size, op.stride, op.padding, count_include_pad=op.counts_padding)


@run_op.register
def _(op: layers.GlobalAvgPool, modules: Modules, x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=op.keep_axes)


@run_op.register
def _(op: layers.Add, modules: Modules, x: Tensor, y: Tensor) -> Tensor:
    return x + (F.pad(y, (0, 0, 0, 0, 0, op.missing)) if op.missing else y)


@run_op.register
def _(op: layers.Multiply, modules: Modules, x: Tensor, gate: Tensor) -> Tensor:
    return x * gate.reshape(*x.shape[:2], 1, 1)


@run_op.register
def _(op: layers.Concat, modules: Modules, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat((x, y), 1)


@run_op.register
def _(op: layers.Shuffle, modules: Modules, x: Tensor) -> Tensor:
    return F.channel_shuffle(x, op.groups)


@run_op.register
def _(op: layers.Slice, modules: Modules, x: Tensor) -> Tensor:
    return x.narrow(1, op.start, op.channels)


@run_op.register
def _(op: layers.Pad, modules: Modules, x: Tensor) -> Tensor:
    return F.pad(x, op.sides, value=op.value)


@run_op.register
def _(op: layers.Flatten, modules: Modules, x: Tensor) -> Tensor:
    return x.flatten(1)


@run_op.register
def _(op: layers.Dropout, modules: Modules, x: Tensor) -> Tensor:
    return F.dropout(x, op.p, training=modules[""].training)


@run_op.register
def _(op: layers.Quantize, modules: Modules, x: Tensor) -> Tensor:
    return pact(x, modules[op.module].alpha, op.bits)


@run_op.register
def _(op: layers.Opaque, modules: Modules, x: Tensor) -> Tensor:
    # A module may change its input, which others read, and may ask for the usual order of dimensions.
    return modules[op.module](x.clone(memory_format=torch.contiguous_format))


@run_op.register
def _(op: layers.Code, modules: Modules, *inputs: Tensor) -> Tensor:
    owners = (name.rpartition(".") for name in op.tensors)
    return function_of(op)(*inputs, *(getattr(modules[owner], name) for owner, _, name in owners))


@lru_cache(maxsize=4096)
def function_of(op: layers.Code) -> Callable[..., Tensor]:
    """Return the function of values and tensors that an op's text defines."""
    names: dict[str, Any] = {}
    exec(compile(op.source, "<code of a layer>", "exec"), names)
    function: Callable[..., Tensor] = names["code"]
    return function


def conv_weight(op: layers.Conv2d, modules: Modules) -> Tensor:
    """Return the part of its module's weight that a convolution reads, quantized where it says so."""
    weight = leading(modules[op.module].weight, op.out_channels, op.in_channels // op.groups)
    return weight if op.weight_bits is None else dorefa(weight, op.weight_bits)


@overload
def leading(tensor: Tensor, *sizes: int) -> Tensor: ...
@overload
def leading(tensor: Tensor | None, *sizes: int) -> Tensor | None: ...


def leading(tensor: Tensor | None, *sizes: int) -> Tensor | None:
    """Return the leading `sizes` of the first dimensions as a view; the tensor itself where that is all.

    None, which a norm without a scale has, gives None. (Autocast caches its cast of a leaf, not of a view.)
    """
    if tensor is None:
        return None
    for dimension, size in enumerate(sizes):
        if size != tensor.shape[dimension]:
            tensor = tensor.narrow(dimension, 0, size)
    return tensor


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode, and back to its own afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
