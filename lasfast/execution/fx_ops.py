"""The records of single modules and calls of a traced network."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from lasfast.ir import layers
from lasfast.ir.layers import Op


class UntraceableError(Exception):
    """A network, or a part of it, that layer records cannot say; the text says what."""

    part = ""
    """The innermost module of the network's own in which it is, by its dotted name."""


def _conv(name: str, conv: Any) -> Op:
    kernel, stride, padding = (
        _square(name, part, getattr(conv, part)) for part in ("kernel_size", "stride", "padding")
    )
    if conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        raise UntraceableError(f"convolution {name!r} is dilated, or padded with other than zeros")
    bias = conv.bias is not None
    return layers.Conv2d(
        name, conv.in_channels, conv.out_channels, kernel, stride, padding, conv.groups, bias
    )


def _batch_norm(name: str, norm: Any) -> Op:
    if not norm.affine:
        raise UntraceableError(f"batch norm {name!r} has no scale and shift")
    return layers.BatchNorm2d(name, norm.num_features, norm.eps)


def _max_pool(name: str, pool: Any) -> Op:
    kernel, stride, padding = (
        _square(name, part, getattr(pool, part)) for part in ("kernel_size", "stride", "padding")
    )
    if pool.ceil_mode or pool.return_indices or _square(name, "dilation", pool.dilation) != 1:
        raise UntraceableError(f"pooling {name!r} is dilated, rounds up or gives indices")
    return layers.Pool("max", kernel, stride, padding)


def _avg_pool(name: str, pool: Any) -> Op:
    kernel, stride, padding = (
        _square(name, part, getattr(pool, part)) for part in ("kernel_size", "stride", "padding")
    )
    if pool.ceil_mode or pool.divisor_override or (padding and pool.count_include_pad):
        raise UntraceableError(f"pooling {name!r} rounds up or counts its padding")
    return layers.Pool("avg", kernel, stride, padding)


def _global_pool(name: str, pool: Any) -> Op:
    if pool.output_size not in (1, (1, 1)):
        raise UntraceableError(f"adaptive pooling {name!r} to {pool.output_size}, not to 1")
    return layers.GlobalAvgPool(keep_axes=True)


def _linear(name: str, linear: Any) -> Op:
    return layers.Linear(name, linear.in_features, linear.out_features, linear.bias is not None)


def _flatten(name: str, flatten: Any) -> Op:
    if (flatten.start_dim, flatten.end_dim) != (1, -1):
        raise UntraceableError(f"{name!r} flattens other dimensions than all but the first")
    return layers.Flatten()


def _square(name: str, part: str, value: Any) -> int:
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, tuple) or len(pair) != 2 or pair[0] != pair[1]:
        raise UntraceableError(f"{part} of {name!r} is {value}, not the same for both axes")
    return int(pair[0])


def _activation(kind: Any) -> Callable[..., Op]:
    return lambda *_: layers.Activation(kind)


MODULES: dict[type, Callable[[str, Any], Op | None]] = {
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _activation("relu"),
    nn.ReLU6: _activation("relu6"),
    nn.Hardswish: _activation("hardswish"),
    nn.SiLU: _activation("swish"),
    nn.Sigmoid: _activation("sigmoid"),
    nn.Hardsigmoid: _activation("hardsigmoid"),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.Linear: _linear,
    nn.Flatten: _flatten,
    nn.ChannelShuffle: lambda name, module: layers.Shuffle(module.groups),
    nn.Dropout: lambda name, module: layers.Dropout(module.p),
    nn.Identity: lambda name, module: None,
}
"""What makes the record of a leaf module, from its name; None of one that changes nothing."""


def _add(node: fx.Node) -> Op:
    if len(node.args) != 2 or node.kwargs or len(node.all_input_nodes) != len(node.args):
        raise UntraceableError(f"{node.format_node()} is not a sum of two values")
    return layers.Add()


def _flatten_call(node: fx.Node) -> Op:
    dimensions = (*node.args[1:], *node.kwargs.values())
    if dimensions not in ((1,), (1, -1)):
        raise UntraceableError(f"{node.format_node()} flattens other dimensions than all but the first")
    return layers.Flatten()


def _mean_call(node: fx.Node) -> Op:
    dimensions = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if not isinstance(dimensions, list | tuple) or sorted(d % 4 for d in dimensions) != [2, 3]:
        raise UntraceableError(f"{node.format_node()} is not a mean over height and width")
    keeps = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    return layers.GlobalAvgPool(bool(keeps))


def _global_pool_call(node: fx.Node) -> Op:
    size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
    if size not in (1, (1, 1), [1, 1]):
        raise UntraceableError(f"{node.format_node()} does not pool to 1")
    return layers.GlobalAvgPool(keep_axes=True)


def _shuffle_call(node: fx.Node) -> Op:
    groups = node.args[1] if len(node.args) > 1 else node.kwargs.get("groups")
    if not isinstance(groups, int):
        raise UntraceableError(f"{node.format_node()} has no fixed number of groups")
    return layers.Shuffle(groups)


def _stochastic_depth(node: fx.Node) -> Op | None:
    if node.args[-1] is not False and node.kwargs.get("training") is not False:
        raise UntraceableError(f"{node.format_node()} drops images")
    return None


FUNCTIONS: dict[Any, Callable[[fx.Node], Op | None]] = {
    operator.add: _add,
    operator.iadd: _add,
    torch.add: _add,
    torch.Tensor.add: _add,
    torch.Tensor.add_: _add,
    torch.flatten: _flatten_call,
    torch.Tensor.flatten: _flatten_call,
    torch.Tensor.mean: _mean_call,
    torch.mean: _mean_call,
    F.adaptive_avg_pool2d: _global_pool_call,
    F.relu: _activation("relu"),
    torch.relu: _activation("relu"),
    torch.Tensor.relu: _activation("relu"),
    F.relu6: _activation("relu6"),
    F.hardswish: _activation("hardswish"),
    F.silu: _activation("swish"),
    torch.sigmoid: _activation("sigmoid"),
    torch.Tensor.sigmoid: _activation("sigmoid"),
    F.sigmoid: _activation("sigmoid"),
    F.hardsigmoid: _activation("hardsigmoid"),
    F.channel_shuffle: _shuffle_call,
    "torchvision.ops.stochastic_depth.stochastic_depth": _stochastic_depth,
}
"""What makes the record of a call; by name where lasfast does not import what is called."""
