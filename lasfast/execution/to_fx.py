"""Build a stand-alone network from a path: a plain `torch.fx.GraphModule` with weights of its own."""

from __future__ import annotations

import builtins
import copy
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lasfast.execution.interpret import function_of
from lasfast.execution.modules import add_module, copy_leading, make_module, move_like
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op, Path
from lasfast.ops.quantize import dorefa, pact_reference

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""Calibrated statistics of one network: batch norm module -> (mean [C], variance [C])."""


def extract(
    path: Path, supernet: nn.Module, statistics: Statistics | None = None, *, fresh: bool = False
) -> fx.GraphModule:
    """Return a network that computes what `path` computes with the weights of `supernet`, copied.

    The result needs torch alone: it holds `nn.Conv2d`, `nn.BatchNorm2d`, ... under the supernet's own
    names, sliced to their active channels. `statistics` replaces the batch norm buffers it inherits;
    `fresh` keeps the initial weights of new modules instead (opaque ones are reset where they can be).

    Raises ValueError where two ops of the path have the same module in different ways: with other sizes, or
    as a batch norm, which has other statistics for each.
    """
    owners = dict(supernet.named_modules())
    made: dict[str, Op] = {}
    taken = {op.module for layer in path for op in layer.ops if hasattr(op, "module")}
    root, graph = nn.Module(), fx.Graph()
    value = graph.placeholder("images")
    for layer in path:
        values = [value]
        for number, (op, sources) in enumerate(layer.steps(), start=1):
            inputs = [values[source] for source in sources]
            make = _FUNCTIONS.get(type(op))
            if isinstance(op, layers.Code):
                copy_tensors(root, owners, op.tensors)
            if make is not None:
                values.append(make(graph, op, *inputs))
                continue
            name = getattr(op, "module", "") or _free_name(layer, number, op, taken)
            record = replace(op, inputs=())
            if name not in made:
                made[name] = record
                add_module(root, name, _module(op, owners.get(name), fresh))
            elif isinstance(op, layers.BatchNorm2d) or (
                made[name] != record and not isinstance(op, layers.Opaque)  # a module that is called as it is
            ):
                raise ValueError(
                    f"layer {layer.name!r}: module {name!r} must be used in one way in a network that is "
                    f"extracted, and once if it is a batch norm, got {record} after {made[name]}"
                )
            values.append(_call(graph, op, name, inputs))
        value = values[-1]
    graph.output(value)
    network = fx.GraphModule(root, graph, class_name="Network")
    for name, (mean, variance) in (statistics or {}).items():
        batch_norm = network.get_submodule(name)
        batch_norm.get_buffer("running_mean").copy_(mean)
        batch_norm.get_buffer("running_var").copy_(variance)
    return network.train(supernet.training)


def _module(op: Op, owner: nn.Module | None, fresh: bool) -> nn.Module:
    """Return a new module for an op, with the owner's weights unless they are to be fresh."""
    if isinstance(op, layers.Opaque):
        module = copy.deepcopy(owner)
        assert module is not None
        if fresh:
            for part in module.modules():
                getattr(part, "reset_parameters", lambda: None)()
        return module
    module = make_module(op)
    if owner is not None:
        move_like(module, owner)
        if not fresh:
            copy_leading(module, owner)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = getattr(owner, "momentum", module.momentum)
    return module


def copy_tensors(root: nn.Module, owners: Mapping[str, nn.Module], names: Sequence[str]) -> None:
    """Register copies of parameters and buffers under their own names, where they are missing."""
    for name in names:
        owner, _, last = name.rpartition(".")
        tensor = getattr(owners[owner], last)
        if owner and owner not in dict(root.named_modules()):
            add_module(root, owner, nn.Module())
        place = root.get_submodule(owner)
        if isinstance(tensor, nn.Parameter):
            place.register_parameter(last, nn.Parameter(tensor.detach().clone(), tensor.requires_grad))
        else:  # a tensor that is no buffer is in no state dict, either
            saved = last in owners[owner]._buffers and last not in owners[owner]._non_persistent_buffers_set
            place.register_buffer(last, tensor.clone(), persistent=saved)


def _call(graph: fx.Graph, op: Op, name: str, inputs: list[fx.Node]) -> fx.Node:
    """Call an op's module; where weights or values are quantized, call functions on what it owns."""
    if isinstance(op, layers.Quantize):
        return _traced(graph, partial(pact_reference, bits=op.bits), *inputs, graph.get_attr(f"{name}.alpha"))
    if isinstance(op, layers.Conv2d) and op.weight_bits is not None:
        weight = _traced(graph, partial(dorefa, bits=op.weight_bits), graph.get_attr(f"{name}.weight"))
        bias = graph.get_attr(f"{name}.bias") if op.bias else None
        arguments = (*inputs, weight, bias, op.stride, op.padding, op.dilation, op.groups)
        return graph.call_function(F.conv2d, arguments)
    if isinstance(op, layers.Opaque):  # others may read the input, which the module may write to
        inputs = [graph.call_method("clone", (node,)) for node in inputs]
    return graph.call_module(name, tuple(inputs))


def _traced(graph: fx.Graph, function: Callable[..., Any], *inputs: fx.Node) -> fx.Node:
    """Append the operations that a function of PyTorch's operators runs."""
    tracer = fx.proxy.GraphAppendingTracer(graph)
    result: fx.Node = function(*(fx.Proxy(node, tracer) for node in inputs)).node
    return result


def _add(graph: fx.Graph, op: Any, x: fx.Node, y: fx.Node) -> fx.Node:
    if op.missing:
        y = graph.call_function(F.pad, (y, (0, 0, 0, 0, 0, op.missing)))
    return graph.call_function(operator.add, (x, y))


def _multiply(graph: fx.Graph, op: Any, x: fx.Node, gate: fx.Node) -> fx.Node:
    for method, argument in (("flatten", 1), ("unsqueeze", -1), ("unsqueeze", -1)):
        gate = graph.call_method(method, (gate, argument))
    return graph.call_function(operator.mul, (x, gate))


def _concat(graph: fx.Graph, op: Any, x: fx.Node, y: fx.Node) -> fx.Node:
    return graph.call_function(torch.cat, ((x, y), 1))


def _slice(graph: fx.Graph, op: Any, x: fx.Node) -> fx.Node:
    return graph.call_method("narrow", (x, 1, op.start, op.channels))


def _pad(graph: fx.Graph, op: Any, x: fx.Node) -> fx.Node:
    return graph.call_function(F.pad, (x, op.sides, "constant", op.value))


def _code(graph: fx.Graph, op: Any, *inputs: fx.Node) -> fx.Node:
    function = function_of(op)
    names = {**vars(builtins), **function.__globals__}
    recorded = {
        name: _recorded(names[name])
        for name in function.__code__.co_names
        if getattr(names.get(name), "__module__", "") in ("builtins", "math") and names[name] is not slice
    }
    function = FunctionType(function.__code__, {**function.__globals__, **recorded})
    return _traced(graph, function, *inputs, *map(graph.get_attr, op.tensors))


def _recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that appends its call to the graph where it gets sizes that depend on images.

    Python's own functions, as `math.ceil` and `int`, cannot be traced by `torch.fx` otherwise.
    """

    def call(*args: Any) -> Any:
        found: list[fx.Proxy] = []
        fx.node.map_aggregate(args, lambda one: found.append(one) if isinstance(one, fx.Proxy) else None)
        return found[0].tracer.create_proxy("call_function", function, args, {}) if found else function(*args)

    return call


_FUNCTIONS: dict[type[Op], Callable[..., fx.Node]] = {
    layers.Add: _add,
    layers.Multiply: _multiply,
    layers.Concat: _concat,
    layers.Slice: _slice,
    layers.Pad: _pad,
    layers.Code: _code,
}
"""The ops that become calls of functions in the network, not modules of it."""


def is_reserved(name: str) -> bool:
    """Return whether an extracted network has an attribute of its own where a dotted name begins."""
    return hasattr(_empty(), name.partition(".")[0])


@lru_cache(maxsize=1)
def _empty() -> fx.GraphModule:
    return fx.GraphModule(nn.Module(), fx.Graph())


def _free_name(layer: Layer, number: int, op: Op, taken: Collection[str]) -> str:
    """Return a name for an op without weights: below the layer's, unless that is an op's own."""
    kind = getattr(op, "kind", type(op).__name__.lower())
    name = f"{layer.name}{'_' if layer.name in taken else '.'}{kind}{number}"
    name = f"layer_{name}" if is_reserved(name) else name
    while name in taken or any(one.startswith(f"{name}.") for one in taken):
        name += "_"
    return name
