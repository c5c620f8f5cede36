"""Calls in a traced network that are more, or less, than one op of a record."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from lasfast.execution.fused_call import as_contiguous, normalize, run
from lasfast.execution.fx_ops import UntraceableError, conv_record, named, no_record, record_of
from lasfast.execution.fx_reader import Channels, Form, Groups, Reader
from lasfast.ir import layers
from lasfast.nn import ConvBNAct
from lasfast.nn.plain import is_plain


def _conv_bn_act(reader: Reader, node: fx.Node) -> None:
    """Read a `ConvBNAct` as its sequence of modules, with the residual that it may be given."""
    x, c_out, residual = _arguments(node, ("x", None), ("c_out", None), ("residual", None))
    if c_out is not None:
        raise UntraceableError(f"{named(node)} takes a slice of its channels")
    name = str(node.target)
    module = reader.modules[name]
    assert isinstance(module, ConvBNAct)
    if not is_plain(module):
        raise UntraceableError(f"module {name!r} has hooks or a forward of its own")
    reader.append_chain(node, x, f"{name}.0", f"{name}.1", residual, module.activation)


def _fused(reader: Reader, node: fx.Node) -> None:
    """Read a node that `accelerate` made of convolution, batch norm, sum and activation."""
    x, conv, norm, residual, activation = node.args
    reader.append_chain(node, x, reader.fact(conv), reader.fact(norm), residual, str(activation))


def _normalize(reader: Reader, node: fx.Node) -> None:
    reader.append(node, record_of(reader.network, node), reader.value(node.args[0]))


def _multiply(reader: Reader, node: fx.Node) -> None:
    if len(node.args) != 2 or len(node.all_input_nodes) != 2:
        raise no_record(node)
    one, other = map(reader.value, node.args)
    # Either may be the gate.
    channels = reader.shapes[other][0]
    if reader.shapes[one] in ((channels,), (channels, 1, 1)) and len(reader.shapes[other]) == 3:
        one, other = other, one
    reader.append(node, layers.Multiply(), one, other)


def _concat(reader: Reader, node: fx.Node) -> None:
    parts, axis = _arguments(node, ("tensors", None), ("dim", 0))
    if axis != 1 or not isinstance(parts, list | tuple):
        raise UntraceableError(f"{named(node)} joins other than channels")
    reader.values[node] = reader.value(parts[0])
    for part in parts[1:]:
        reader.append(node, layers.Concat(), reader.values[node], reader.value(part))


def _split(reader: Reader, node: fx.Node) -> None:
    pieces = "chunks" if "chunk" in str(node.target) else "split_size"
    source, size, axis = _arguments(node, ("input", None), (pieces, None), ("dim", 0))
    if axis != 1:
        raise UntraceableError(f"{named(node)} splits other than channels")
    value = reader.value(source)
    channels = reader.shapes[value][0]
    if isinstance(size, int):
        step = -(-channels // size) if pieces == "chunks" else size
        size = [min(step, channels - start) for start in range(0, channels, step)]
    starts = [sum(size[:index]) for index in range(len(size))]
    reader.facts[node] = tuple(
        Channels(value, start, count) for start, count in zip(starts, size, strict=True)
    )


def _item(reader: Reader, node: fx.Node) -> None:
    source: Any
    index: Any
    source, index = node.args
    fact = reader.fact(source)
    if isinstance(fact, tuple) and isinstance(index, int):
        if not -len(fact) <= index < len(fact):
            raise UntraceableError(f"{named(node)} takes item {index} of {len(fact)}")
        item = fact[index]
        if isinstance(item, Channels):
            reader.append(node, layers.Slice(item.start, item.count), item.value)
        else:
            reader.facts[node] = item
        return
    value = reader.value(source)
    whole = slice(None, None, None)
    if index == (whole, whole, None, None) and len(reader.shapes[value]) == 1:
        reader.append(node, None, value)  # a gate needs no axes of its own
        return
    if not isinstance(index, tuple) or not 2 <= len(index) <= 4 or not isinstance(index[1], slice):
        raise no_record(node)
    if any(one != whole for number, one in enumerate(index) if number != 1):
        raise no_record(node)
    ends = [reader.fact(end) for end in (index[1].start, index[1].stop, index[1].step)]
    start, end, step = slice(*ends).indices(reader.shapes[value][0])
    if step != 1:
        raise no_record(node)
    reader.append(node, layers.Slice(start, end - start), value)


def _size(reader: Reader, node: fx.Node) -> None:
    source, axis = _arguments(node, ("input", None), ("dim", None))
    sizes = reader.sizes(reader.value(source))
    if axis is not None and (axis >= len(sizes) or (axis < 0 and len(sizes) == 2)):
        raise no_record(node)  # a gate [N, C, 1, 1] is read as features [N, C]
    reader.facts[node] = sizes if axis is None else sizes[axis]


def _attribute(reader: Reader, node: fx.Node) -> None:
    source: Any = node.args[0]
    if node.args[1] != "shape":
        raise no_record(node)
    if isinstance(source, fx.Node) and source.op == "get_attr":
        owner, _, name = str(source.target).rpartition(".")
        reader.facts[node] = tuple(getattr(reader.modules[owner], name).shape)
    else:
        reader.facts[node] = reader.sizes(reader.value(source))


def _pad(reader: Reader, node: fx.Node) -> None:
    source, pad, mode, value = _arguments(
        node, ("input", None), ("pad", ()), ("mode", "constant"), ("value", None)
    )
    sides = tuple(map(reader.number, pad)) if isinstance(pad, list | tuple) else ()
    if mode != "constant" or len(sides) > 4 or not all(isinstance(one, int) for one in sides):
        raise no_record(node)
    if not any(sides):
        reader.append(node, None, reader.value(source))
        return
    left, right, top, bottom = (*sides, 0, 0, 0, 0)[:4]
    reader.append(node, layers.Pad((left, right, top, bottom), float(value or 0.0)), reader.value(source))


def _linear(reader: Reader, node: fx.Node) -> None:
    source, weight, bias = _arguments(node, ("input", None), ("weight", None), ("bias", None))
    owner = _owner(reader, node, weight, bias)
    features = reader.modules[owner].weight.shape
    op = layers.Linear(owner, features[1], features[0], bias is not None)
    reader.append(node, op, reader.value(source))


def _conv2d(reader: Reader, node: fx.Node) -> None:
    source, weight, bias, *settings = _arguments(
        node,
        *(("input", None), ("weight", None), ("bias", None), ("stride", 1)),
        *(("padding", 0), ("dilation", 1), ("groups", 1)),
    )
    owner = _owner(reader, node, weight, bias)
    op = conv_record(owner, reader.modules[owner].weight, bias is not None, *settings)
    reader.append(node, op, reader.value(source))


def _owner(reader: Reader, node: fx.Node, weight: Any, bias: Any) -> str:
    """Return the name of the module whose `weight` and `bias` these are."""
    owner, _, name = str(reader.fact(weight)).rpartition(".")
    fits = bias is None or reader.fact(bias) == f"{owner}.bias"
    if name != "weight" or not owner or not fits or not isinstance(weight, fx.Node):
        raise no_record(node)
    return owner


def _floor_divide(reader: Reader, node: fx.Node) -> None:
    one, other = map(reader.fact, node.args)
    if not isinstance(one, int) or not isinstance(other, int) or not other:
        raise no_record(node)
    reader.facts[node] = one // other


def _reshape(reader: Reader, node: fx.Node) -> None:
    """Read the two reshapings of a channel shuffle, flattening, or a gate's new axes."""
    source, *rest = node.args
    listed = reader.fact(rest[0]) if len(rest) == 1 else rest
    wanted = tuple(map(reader.fact, listed)) if isinstance(listed, list | tuple) else ()
    groups = reader.fact(source)
    value = groups.value if isinstance(groups, Groups) else reader.value(source)
    shape, sizes = reader.shapes[value], reader.sizes(value)

    def fits(*expected: Any) -> bool:
        """Return whether the wanted sizes are these; one of them may be left open."""
        same = [one == -1 or one == other for one, other in zip(wanted, expected, strict=False)]
        return len(wanted) == len(expected) and all(same) and wanted.count(-1) <= 1

    if isinstance(groups, Groups):
        if groups.swapped and fits(*sizes):
            reader.append(node, layers.Shuffle(groups.groups), value)
            return
    elif len(shape) == 3 and len(wanted) == 5 and isinstance(wanted[1], int) and wanted[1] > 0:
        if shape[0] % wanted[1] == 0 and fits(sizes[0], wanted[1], shape[0] // wanted[1], *sizes[2:]):
            reader.facts[node] = Groups(value, wanted[1])
            return
    elif len(wanted) == 2 and wanted[1] == -1 and wanted[0] == sizes[0]:
        reader.append(node, layers.Flatten(), value)
        return
    elif len(shape) == 1 and fits(*sizes, 1, 1):
        reader.append(node, None, value)
        return
    raise no_record(node)


def _swap(reader: Reader, node: fx.Node) -> None:
    groups = reader.fact(node.args[0])
    if not isinstance(groups, Groups) or node.args[1:] not in ((1, 2), (2, 1)):
        raise no_record(node)
    reader.facts[node] = replace(groups, swapped=not groups.swapped)


def _same(reader: Reader, node: fx.Node) -> None:
    source: Any = node.args[0]
    if source in reader.facts:
        reader.facts[node] = reader.fact(source)
    else:
        reader.values[node] = reader.value(source)


def _arguments(node: fx.Node, *parameters: tuple[str, Any]) -> list[Any]:
    """Return a call's arguments, given by position or name, or their defaults."""
    known = dict(zip((name for name, _ in parameters), node.args, strict=False)) | node.kwargs
    return [known.get(name, default) for name, default in parameters]


FORMS: dict[Any, Form] = {
    ConvBNAct: _conv_bn_act,
    F.pad: _pad,
    F.linear: _linear,
    F.conv2d: _conv2d,
    operator.mul: _multiply,
    operator.imul: _multiply,
    torch.Tensor.mul_: _multiply,
    torch.mul: _multiply,
    torch.Tensor.mul: _multiply,
    torch.cat: _concat,
    torch.concat: _concat,
    torch.chunk: _split,
    torch.Tensor.chunk: _split,
    torch.split: _split,
    torch.Tensor.split: _split,
    operator.getitem: _item,
    torch.Tensor.size: _size,
    getattr: _attribute,
    operator.floordiv: _floor_divide,
    torch.Tensor.view: _reshape,
    torch.Tensor.reshape: _reshape,
    torch.reshape: _reshape,
    torch.Tensor.transpose: _swap,
    torch.transpose: _swap,
    torch.Tensor.contiguous: _same,
    as_contiguous: _same,
    normalize: _normalize,
    run: _fused,
}
"""The calls by their functions, methods as `torch.Tensor` has them, and modules by their classes."""
