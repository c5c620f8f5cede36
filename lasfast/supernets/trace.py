"""Read the layer record of an ordinary PyTorch network off its traced graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from lasfast.supernets import layers
from lasfast.supernets.layers import Layer, Op


class UntraceableError(Exception):
    """A network, or a part of it, that layer records cannot say; the text says what."""


def trace(network: nn.Module) -> Layer:
    """Return the program of a network that takes images [N, C, H, W] and gives one tensor.

    `torch.fx` follows the network's forward once, in evaluation mode as far as control flow depends on it.
    Raises UntraceableError where that fails, or where an op, or one of its settings, has no record.
    """
    try:
        graph = fx.Tracer().trace(network)
    except Exception as error:  # whatever the network's own code raises when it meets a proxy
        raise UntraceableError(f"torch.fx cannot trace {type(network).__name__}: {error}") from error
    modules = dict(network.named_modules())
    ops: list[Op] = []
    values: dict[fx.Node, int] = {}
    flat: set[int] = set()  # the values that are [N, F]
    for node in graph.nodes:
        if node.op == "placeholder":
            if values:
                raise UntraceableError("it takes more than one input")
            values[node] = 0
            continue
        inputs = tuple(values[source] for source in node.all_input_nodes)
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node) or inputs != (len(ops),):
                raise UntraceableError("it gives more than one value, or not the last one it computes")
            continue
        op = _op(node, modules)
        if op is None or (isinstance(op, layers.Flatten) and inputs[0] in flat):
            values[node] = inputs[0]
            continue
        if len(inputs) != op.arity:
            raise UntraceableError(f"{node.format_node()} does not read {op.arity} value(s)")
        if isinstance(op, _OF_IMAGES) and inputs[0] in flat:
            raise UntraceableError(f"{node.format_node()} reads the mean over all positions as an image")
        ops.append(op if inputs == (len(ops),) else replace(op, inputs=inputs))
        values[node] = len(ops)
        if isinstance(op, layers.GlobalAvgPool | layers.Flatten | layers.Linear) or inputs[0] in flat:
            flat.add(len(ops))
    norms = [op.module for op in ops if isinstance(op, layers.BatchNorm2d)]
    if len(set(norms)) < len(norms):
        raise UntraceableError("a batch norm is used more than once")
    return Layer(type(network).__name__, tuple(ops))


_OF_IMAGES = (layers.Conv2d, layers.BatchNorm2d, layers.Pool, layers.GlobalAvgPool)


def _op(node: fx.Node, modules: dict[str, nn.Module]) -> Op | None:
    """Return the record of a node; None for one that changes nothing."""
    if node.op == "call_module":
        name = str(node.target)
        module = modules[name]
        make = _MODULES.get(type(module))
        if make is None:
            raise UntraceableError(f"module {name!r} is a {type(module).__name__}, which has no record")
        return make(name, module)
    if node.op not in ("call_function", "call_method"):
        raise UntraceableError(f"{node.format_node()} has no record")
    target = node.target if node.op == "call_function" else getattr(torch.Tensor, str(node.target))
    make_function = _FUNCTIONS.get(target)
    if make_function is None:
        raise UntraceableError(f"{node.format_node()} has no record")
    return make_function(node)


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
    return layers.GlobalAvgPool()


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


_MODULES: dict[type, Callable[[str, Any], Op | None]] = {
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _batch_norm,
    nn.ReLU: _activation("relu"),
    nn.ReLU6: _activation("relu6"),
    nn.Hardswish: _activation("hardswish"),
    nn.SiLU: _activation("swish"),
    nn.Sigmoid: _activation("sigmoid"),
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    nn.Linear: _linear,
    nn.Flatten: _flatten,
    nn.Dropout: lambda name, module: layers.Dropout(module.p),
    nn.Identity: lambda name, module: None,
}


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
    if len(node.args) > 2 or node.kwargs.get("keepdim"):
        raise UntraceableError(f"{node.format_node()} keeps the dimensions it takes the mean over")
    return layers.GlobalAvgPool()


def _global_pool_call(node: fx.Node) -> Op:
    size = node.args[1] if len(node.args) > 1 else node.kwargs.get("output_size")
    if size not in (1, (1, 1), [1, 1]):
        raise UntraceableError(f"{node.format_node()} does not pool to 1")
    return layers.GlobalAvgPool()


_FUNCTIONS: dict[Any, Callable[[fx.Node], Op | None]] = {
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
}
