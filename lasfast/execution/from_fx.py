"""Read the layer record of an ordinary PyTorch network off its traced graph."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lasfast.execution.fused_call import as_contiguous, normalize, run
from lasfast.execution.fx_memory import Effect, Memory, effect_of, is_outside
from lasfast.execution.fx_ops import (
    UntraceableError,
    callee,
    maker_of,
    no_record,
    norm_maker_of,
    only_input,
    record_of,
)
from lasfast.execution.fx_tracer import Tracer
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op, Shape
from lasfast.nn import ConvBNAct
from lasfast.nn.plain import has_global_hooks, is_plain

__all__ = ["UntraceableError", "trace"]


def trace(network: nn.Module, image_shape: Shape) -> Layer:
    """Return the program of a network that takes images [N, *image_shape] and gives one tensor.

    `torch.fx` follows the network's forward, in evaluation mode as far as control flow depends on it. A
    module that it, or the layer records, cannot follow becomes an opaque op, if it holds no batch norm. So
    does one with hooks or a `forward` of its own. In-place operations are followed: who reads a value
    afterwards reads the changed one. Raises UntraceableError where a network cannot be said so.
    """
    if not is_plain(network) or has_global_hooks():
        raise UntraceableError("it has hooks or a forward of its own")
    opaque: set[str] = set()
    while True:
        try:
            return _Reader(network, image_shape, opaque).layer()
        except UntraceableError as error:
            part = error.part
            if not part or part in opaque or _has_batch_norm(network.get_submodule(part)):
                raise
            opaque.add(part)


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in module.modules())


@dataclass(frozen=True)
class _Size:
    """A size that depends on the images: the height or width of a value, or the number of images."""

    value: int
    axis: int


_BATCH = _Size(0, 0)


@dataclass(frozen=True)
class _Channels:
    """Consecutive channels of a value, which a chunk or split gives."""

    value: int
    start: int
    count: int


@dataclass(frozen=True)
class _Groups:
    """A value seen as [N, groups, C / groups, H, W], or with these two axes swapped."""

    value: int
    groups: int
    swapped: bool = False


class _Reader:
    """Follows a graph node by node. A node is a value of the program, or a fact about values."""

    def __init__(self, network: nn.Module, image_shape: Shape, opaque: set[str]) -> None:
        self.network, self.opaque = network, opaque
        self.modules = dict(network.named_modules())
        self.ops: list[Op] = []
        self.shapes: list[Shape] = [image_shape]
        self.values: dict[fx.Node, int] = {}
        self.facts: dict[fx.Node, Any] = {}
        self.numbers: dict[tuple[Op, tuple[int, ...]], int] = {}
        self.memory = Memory()
        self.names: dict[fx.Node, fx.Node] = {}  # of nodes that are another one itself, that one
        self.stale: dict[fx.Node, fx.Node] = {}  # nodes whose values were changed, and by whom
        self.effects: dict[str, tuple[bool, bool]] = {}  # of opaque modules: does it write, does it share

    def layer(self) -> Layer:
        """Return the program; UntraceableError names the part that has none."""
        tracer = Tracer(self.opaque)
        try:
            graph = tracer.trace(self.network)
        except Exception as error:  # whatever the network's own code raises when it meets a proxy
            name = type(self.network.get_submodule(tracer.part)).__name__
            raise UntraceableError(f"torch.fx cannot trace {name}: {error}", tracer.part) from error
        for part, change in tracer.changes.items():
            raise UntraceableError(f"{type(self.network.get_submodule(part)).__name__} {change}", part)
        for node in graph.nodes:
            try:
                self.read(node)
                self.follow(node)
            except UntraceableError as error:
                error.part = node.meta.get("part", "")
                raise
        norms = [op.module for op in self.ops if isinstance(op, layers.BatchNorm2d)]
        if len(set(norms)) < len(norms):
            raise UntraceableError("a batch norm is used more than once")
        return Layer(type(self.network).__name__, tuple(self.ops))

    def read(self, node: fx.Node) -> None:
        """Read one node."""
        if node.op == "placeholder":
            if self.values:
                raise UntraceableError("it takes more than one input")
            self.values[node] = 0
        elif node.op == "output":
            result = node.args[0]
            if not isinstance(result, fx.Node) or self.value(result) != len(self.ops):
                raise UntraceableError("it gives more than one value, or not the last one it computes")
        elif node.op == "get_attr":
            self.facts[node] = str(node.target)
        elif callee(node) in _FORMS:
            _FORMS[callee(node)](self, node)
        elif node.op == "call_module" and isinstance(self.modules[str(node.target)], ConvBNAct):
            _conv_bn_act(self, node)
        elif node.op == "call_module":
            self.call_module(node, str(node.target))
        elif node.op in ("call_function", "call_method"):
            self.append(node, record_of(self.network, node), *map(self.value, node.all_input_nodes))
        else:
            raise no_record(node)

    def call_module(self, node: fx.Node, name: str) -> None:
        """Append the record of a leaf module, or an opaque one."""
        module, value = self.modules[name], self.value(only_input(node))
        make = None if name in self.opaque else maker_of(module)
        try:
            op = make(name, module) if make else self.opaque_op(name, module, self.shapes[value])
        except UntraceableError:  # of such a kind, but with settings that the record cannot say
            if make is None or _has_batch_norm(module):
                raise
            op = self.opaque_op(name, module, self.shapes[value])
        self.append(node, op, value)

    def opaque_op(self, name: str, module: nn.Module, shape: Shape) -> Op:
        """Return the record of an opaque module, having tried what it gives and does to memory."""
        op, *effect = _opaque(name, module, shape)
        self.effects[name] = (effect[0], effect[1])
        return op

    def follow(self, node: fx.Node) -> None:
        """Follow what a node does to memory: where it changes a value, later readers get the changed one.

        The value's other names are known where a node surely is its input. All else that may lie in the
        same memory must not be read any more.
        """
        effect = effect_of(node, self.modules)
        if node.op == "call_module" and str(node.target) in self.effects:
            inputs = tuple(node.all_input_nodes)
            writes, shares = self.effects[str(node.target)]
            effect = Effect(inputs if writes else (), inputs if shares else (), effect.is_first)
        self.memory.add(node, effect.shares)
        first = node.args[0] if effect.is_first else None
        if isinstance(first, fx.Node):
            self.names[node] = self.names.get(first, first)
        for written in effect.writes:
            sharing = self.memory.sharing(written)
            if any(map(is_outside, sharing)):
                raise UntraceableError(f"{node.format_node()} changes its images, parameters or buffers")
            for other in sharing:
                if other is node:
                    continue
                if effect.is_first and self.names.get(other, other) == self.names[node]:
                    self.values[other] = self.values[node]
                else:
                    self.stale[other] = node

    def append(self, node: fx.Node, op: Op | None, *inputs: int) -> None:
        """Let a node be the value of an op, or its input's where there is none; of equal ops, the first."""
        if op is None or (isinstance(op, layers.Flatten) and len(self.shapes[inputs[0]]) == 1):
            self.values[node] = inputs[0]
            return
        if len(inputs) != op.arity:
            raise UntraceableError(f"{node.format_node()} does not read {op.arity} value(s)")
        known = None if isinstance(op, layers.BatchNorm2d) else self.numbers.get((op, inputs))
        if known is None:
            try:
                shape = op.output_shape(*(self.shapes[number] for number in inputs))
            except ValueError as error:
                raise UntraceableError(f"{node.format_node()}: {error}") from None
            self.ops.append(op if inputs == (len(self.ops),) else replace(op, inputs=inputs))
            self.shapes.append(shape)
            known = self.numbers[op, inputs] = len(self.ops)
        self.values[node] = known

    def append_chain(
        self, node: fx.Node, x: Any, conv: str | None, norm: str, residual: Any, activation: str
    ) -> None:
        """Let a node be the value of `activation(norm(conv(x)) + residual)`, of modules of these names."""
        value = self.value(x)
        for name in (conv, norm):
            if name is not None:
                module = self.modules[name]
                make = norm_maker_of(module) if name == norm else maker_of(module)
                if make is None:
                    raise UntraceableError(f"module {name!r} is a {type(module).__name__} or has hooks")
                self.append(node, make(name, module), value)
                value = self.values[node]
        if residual is not None:
            other = self.value(residual)
            self.append(node, layers.Add(self.shapes[value][0] - self.shapes[other][0]), value, other)
            value = self.values[node]
        if activation != "none":
            self.append(node, layers.Activation(cast(layers.ActivationKind, activation)), value)

    def value(self, node: Any) -> int:
        """Return the number of the value that a node is."""
        if node not in self.values:
            raise UntraceableError(f"{node} is read as a value, which it is not")
        self.check_fresh(node)
        return self.values[node]

    def check_fresh(self, node: fx.Node) -> None:
        """Raise UntraceableError where a value was changed in a way that is not known."""
        if node in self.stale:
            raise UntraceableError(
                f"{node} is read after {self.stale[node].format_node()} may have changed it"
            )

    def fact(self, argument: Any) -> Any:
        """Return what is known of an argument, itself where it is no node."""
        if not isinstance(argument, fx.Node):
            return argument
        self.check_fresh(argument)
        return self.facts.get(argument)

    def sizes(self, value: int) -> tuple[Any, ...]:
        """Return the shape of a value, the batch first, as far as it does not depend on the images."""
        channels, *others = self.shapes[value]
        return (_BATCH, channels, *(_Size(value, axis) for axis in range(2, 2 + len(others))))


def _opaque(name: str, module: nn.Module, shape: Shape) -> tuple[Op, bool, bool]:
    """Return the record of a module that is called as it is, if it gives images or features.

    And whether it changes its input, and whether its output lies in the input's memory.
    """
    kind = type(module).__name__
    if _has_batch_norm(module):
        raise UntraceableError(f"module {name!r} is a {kind}, which has no record and holds batch norms")
    example = next(module.parameters(), torch.zeros(0, dtype=torch.float32))
    x = torch.zeros(2, *shape, device=example.device, dtype=example.dtype)
    version = x._version
    try:
        with torch.no_grad():
            result = copy.deepcopy(module)(x)  # a call may change a module
    except Exception as error:  # whatever the module's own code raises
        raise UntraceableError(f"module {name!r}, a {kind}, fails on zeros {shape}: {error}") from error
    params = sum(parameter.numel() for parameter in module.parameters())
    given = tuple(result.shape[1:]) if isinstance(result, torch.Tensor) and len(result) == len(x) else ()
    if given:
        op = layers.Opaque(name, given[0], -(-shape[-1] // given[-1]) if len(given) > 1 else 1, params)
        if op.output_shape(shape) != given:
            op = replace(op, stride=1, shape=given)
        shares = result.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        return op, x._version != version, shares
    raise UntraceableError(f"module {name!r} is a {kind}, which makes {given or type(result)} of {shape}")


# ---- calls that are more, or less, than one op


def _conv_bn_act(reader: _Reader, node: fx.Node) -> None:
    """Read a `ConvBNAct` as its sequence of modules, with the residual that it may be given."""
    x, c_out, residual = _arguments(node, ("x", None), ("c_out", None), ("residual", None))
    if c_out is not None:
        raise UntraceableError(f"{node.format_node()} takes a slice of its channels")
    name = str(node.target)
    module = reader.modules[name]
    assert isinstance(module, ConvBNAct)
    if not is_plain(module):
        raise UntraceableError(f"module {name!r} has hooks or a forward of its own")
    reader.append_chain(node, x, f"{name}.0", f"{name}.1", residual, module.activation)


def _fused(reader: _Reader, node: fx.Node) -> None:
    """Read a node that `accelerate` made of convolution, batch norm, sum and activation."""
    x, conv, norm, residual, activation = node.args
    reader.append_chain(node, x, reader.fact(conv), reader.fact(norm), residual, str(activation))


def _normalize(reader: _Reader, node: fx.Node) -> None:
    reader.append(node, record_of(reader.network, node), reader.value(node.args[0]))


def _multiply(reader: _Reader, node: fx.Node) -> None:
    if len(node.args) != 2 or len(node.all_input_nodes) != 2:
        raise no_record(node)
    one, other = map(reader.value, node.args)
    # Either may be the gate.
    channels = reader.shapes[other][0]
    if reader.shapes[one] in ((channels,), (channels, 1, 1)) and len(reader.shapes[other]) == 3:
        one, other = other, one
    reader.append(node, layers.Multiply(), one, other)


def _concat(reader: _Reader, node: fx.Node) -> None:
    parts, axis = _arguments(node, ("tensors", None), ("dim", 0))
    if axis != 1 or not isinstance(parts, list | tuple):
        raise UntraceableError(f"{node.format_node()} joins other than channels")
    reader.values[node] = reader.value(parts[0])
    for part in parts[1:]:
        reader.append(node, layers.Concat(), reader.values[node], reader.value(part))


def _split(reader: _Reader, node: fx.Node) -> None:
    pieces = "chunks" if "chunk" in str(node.target) else "split_size"
    source, size, axis = _arguments(node, ("input", None), (pieces, None), ("dim", 0))
    if axis != 1:
        raise UntraceableError(f"{node.format_node()} splits other than channels")
    value = reader.value(source)
    channels = reader.shapes[value][0]
    if isinstance(size, int):
        step = -(-channels // size) if pieces == "chunks" else size
        size = [min(step, channels - start) for start in range(0, channels, step)]
    starts = [sum(size[:index]) for index in range(len(size))]
    reader.facts[node] = tuple(
        _Channels(value, start, count) for start, count in zip(starts, size, strict=True)
    )


def _item(reader: _Reader, node: fx.Node) -> None:
    source: Any
    index: Any
    source, index = node.args
    fact = reader.fact(source)
    if isinstance(fact, tuple) and isinstance(index, int):
        item = fact[index]
        if isinstance(item, _Channels):
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


def _size(reader: _Reader, node: fx.Node) -> None:
    source, axis = _arguments(node, ("input", None), ("dim", None))
    sizes = reader.sizes(reader.value(source))
    reader.facts[node] = sizes if axis is None else sizes[axis]


def _attribute(reader: _Reader, node: fx.Node) -> None:
    if node.args[1] != "shape":
        raise no_record(node)
    reader.facts[node] = reader.sizes(reader.value(node.args[0]))


def _floor_divide(reader: _Reader, node: fx.Node) -> None:
    one, other = map(reader.fact, node.args)
    if not isinstance(one, int) or not isinstance(other, int) or not other:
        raise no_record(node)
    reader.facts[node] = one // other


def _reshape(reader: _Reader, node: fx.Node) -> None:
    """Read the two reshapings of a channel shuffle, flattening, or a gate's new axes."""
    source, *rest = node.args
    listed = reader.fact(rest[0]) if len(rest) == 1 else rest
    wanted = tuple(map(reader.fact, listed)) if isinstance(listed, list | tuple) else ()
    groups = reader.fact(source)
    value = groups.value if isinstance(groups, _Groups) else reader.value(source)
    shape, sizes = reader.shapes[value], reader.sizes(value)

    def fits(*expected: Any) -> bool:
        """Return whether the wanted sizes are these; one of them may be left open."""
        same = [one == -1 or one == other for one, other in zip(wanted, expected, strict=False)]
        return len(wanted) == len(expected) and all(same) and wanted.count(-1) <= 1

    if isinstance(groups, _Groups):
        if groups.swapped and fits(*sizes):
            reader.append(node, layers.Shuffle(groups.groups), value)
            return
    elif len(shape) == 3 and len(wanted) == 5 and isinstance(wanted[1], int) and wanted[1] > 0:
        if shape[0] % wanted[1] == 0 and fits(sizes[0], wanted[1], shape[0] // wanted[1], *sizes[2:]):
            reader.facts[node] = _Groups(value, wanted[1])
            return
    elif len(wanted) == 2 and wanted[1] == -1 and wanted[0] == sizes[0]:
        reader.append(node, layers.Flatten(), value)
        return
    elif len(shape) == 1 and fits(*sizes, 1, 1):
        reader.append(node, None, value)
        return
    raise no_record(node)


def _swap(reader: _Reader, node: fx.Node) -> None:
    groups = reader.fact(node.args[0])
    if not isinstance(groups, _Groups) or node.args[1:] not in ((1, 2), (2, 1)):
        raise no_record(node)
    reader.facts[node] = replace(groups, swapped=not groups.swapped)


def _same(reader: _Reader, node: fx.Node) -> None:
    source: Any = node.args[0]
    if source in reader.facts:
        reader.facts[node] = reader.fact(source)
    else:
        reader.values[node] = reader.value(source)


def _arguments(node: fx.Node, *parameters: tuple[str, Any]) -> list[Any]:
    """Return a call's arguments, given by position or name, or their defaults."""
    known = dict(zip((name for name, _ in parameters), node.args, strict=False)) | node.kwargs
    return [known.get(name, default) for name, default in parameters]


_FORMS: dict[Any, Callable[[_Reader, fx.Node], None]] = {
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
