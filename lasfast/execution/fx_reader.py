"""Reads the records of a network off its traced graph, node by node."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lasfast.execution.fx_code import code_of, piece_of
from lasfast.execution.fx_lines import line_of
from lasfast.execution.fx_memory import Effect, Memory, effect_of, is_library, is_outside
from lasfast.execution.fx_ops import (
    UntraceableError,
    callee,
    maker_of,
    named,
    norm_maker_of,
    only_input,
    record_of,
)
from lasfast.execution.fx_sizes import is_size
from lasfast.execution.fx_tracer import Tracer
from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op, Shape
from lasfast.nn import ConvBNAct
from lasfast.nn.plain import is_plain


@dataclass(frozen=True)
class Size:
    """A size that depends on the images: the height or width of a value, or the number of images."""

    value: int
    axis: int


BATCH = Size(0, 0)
_APART = (layers.BatchNorm2d, layers.Dropout, layers.Opaque)
"""The ops that may give something else each time, in training."""
_SHAPED = (
    *("view", "reshape", "expand", "broadcast_to", "repeat", "unflatten", "arange"),
    *("zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_empty", "new_full"),
)
"""The names of calls that take a shape, which may begin with the number of images."""
Form = Callable[["Reader", fx.Node], None]
"""A function that reads a call: it makes the node a value or a fact, or raises UntraceableError."""


class TracingError(UntraceableError):
    """A forward cannot be followed, whatever the values that it gets."""


def has_batch_norm(module: nn.Module) -> bool:
    """Return whether a module holds batch norms, or is one."""
    return any(isinstance(part, _BatchNorm) for part in module.modules())


@dataclass(frozen=True)
class Channels:
    """Consecutive channels of a value, which a chunk or split gives."""

    value: int
    start: int
    count: int


@dataclass(frozen=True)
class Groups:
    """A value seen as [N, groups, C / groups, H, W], or with these two axes swapped."""

    value: int
    groups: int
    swapped: bool = False


class Reader:
    """Follows a graph node by node. A node is a value of the program, or a fact about values, or neither.

    The last becomes part of the text of a `Code` op, once something reads it as a value.

    Args:
        network: a module of one input and one output.
        image_shape: (channels, height, width) of its images.
        opaque: names of modules that are called as they are.
        forms: what reads the calls that are more, or less, than one op: of functions, and of methods as
            `torch.Tensor` has them.
    """

    def __init__(
        self, network: nn.Module, image_shape: Shape, opaque: Collection[str], forms: Mapping[Any, Form]
    ) -> None:
        self.network, self.opaque, self.forms = network, opaque, forms
        self.tracer = Tracer(opaque, image_shape=image_shape)
        self.of_one_size = False
        self.modules = dict(network.named_modules())
        self.ops: list[Op] = []
        self.shapes: list[Shape] = [image_shape]
        self.values: dict[fx.Node, int] = {}
        self.facts: dict[fx.Node, Any] = {}
        self.unread: dict[fx.Node, UntraceableError] = {}  # nodes that no record says, and why
        self.numbers: dict[tuple[Op, tuple[int, ...]], int] = {}
        self.memory = Memory()
        self.names: dict[fx.Node, fx.Node] = {}  # of nodes that are another one itself, that one
        self.stale: dict[fx.Node, fx.Node] = {}  # nodes whose values were changed, and by whom
        self.effects: dict[str, tuple[bool, bool]] = {}  # of opaque modules: does it write, does it share

    def layer(self) -> Layer:
        """Return the program; UntraceableError names the part that has none."""
        tracer = self.tracer
        try:
            graph = tracer.trace(self.network)
        except Exception as error:  # whatever the network's own code raises when it meets a proxy
            raise TracingError(f"torch.fx cannot follow it: {error}", tracer.part, line_of(error)) from error
        for part, change in tracer.changes.items():
            raise TracingError(f"it {change}", part)
        self.of_one_size = tracer.of_one_size
        for node in graph.nodes:
            try:
                self.read(node)
                self.follow(node)
            except UntraceableError as error:
                if not error.line:  # it is of this node, not of one that it reads
                    error.part, error.line = node.meta.get("part", ""), node.meta.get("line", "")
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
        elif node.op == "call_module" and isinstance(self.modules[str(node.target)], ConvBNAct):
            self.forms[ConvBNAct](self, node)
        elif node.op == "call_module":
            self.call_module(node, str(node.target))
        else:
            self.call_function(node)

    def call_function(self, node: fx.Node) -> None:
        """Append the record of a call; where it has none, leave it to those who read it."""
        form = self.forms.get(callee(node))
        before = len(self.ops)
        try:
            if form is not None:
                form(self, node)
            else:
                self.append(node, record_of(self.network, node), *map(self.value, node.all_input_nodes))
        except UntraceableError as error:
            if node.op == "call_function" and not is_library(node.target):
                raise
            self.unread[node] = error
            self.values.pop(node, None)  # it may have been the first part of a concatenation already
            self.facts.pop(node, None)
            self.forget(before)

    def forget(self, count: int) -> None:
        """Take back all ops but the first ones: what nobody reads after all."""
        del self.ops[count:], self.shapes[count + 1 :]
        self.values = {node: number for node, number in self.values.items() if number <= count}
        self.numbers = {key: number for key, number in self.numbers.items() if number <= count}

    def call_module(self, node: fx.Node, name: str) -> None:
        """Append the record of a leaf module, or an opaque one."""
        module, value = self.modules[name], self.value(only_input(node))
        make = None if name in self.opaque else maker_of(module)
        try:
            op = make(name, module) if make else self.opaque_op(name, module, self.shapes[value])
        except UntraceableError:  # of such a kind, but with settings that the record cannot say
            if make is None or has_batch_norm(module):
                raise
            op = self.opaque_op(name, module, self.shapes[value])
        self.append(node, op, value)

    def opaque_op(self, name: str, module: nn.Module, shape: Shape) -> Op:
        """Return the record of an opaque module, having tried what it gives and does to memory."""
        op, *effect = _opaque(name, module, shape)
        self.effects[name] = (effect[0], effect[1])
        self.of_one_size = self.of_one_size or op.shape is not None
        return op

    def follow(self, node: fx.Node) -> None:
        """Follow what a node does to memory: where it changes a value, later readers get the changed one.

        The value's other names are known where a node surely is its input. All else that may lie in the
        same memory must not be read any more.
        """
        effect = Effect() if is_size(node) else effect_of(node, self.modules)
        if node.op == "call_module" and str(node.target) in self.effects:
            inputs = tuple(node.all_input_nodes)
            writes, shares = self.effects[str(node.target)]
            effect = Effect(inputs if writes else (), inputs if shares else (), effect.is_first)
        if any(is_outside(other) for written in effect.writes for other in self.memory.sharing(written)):
            raise UntraceableError(f"{named(node)} changes its images, parameters or buffers")
        if node in self.unread and effect.writes:  # others must read what was written
            if not effect.is_first:
                raise self.unread[node]
            self.as_code(node, writes=True)
        for written in effect.writes:
            self.settle(node, written)
        self.memory.add(node, effect.shares)
        first = node.args[0] if effect.is_first else None
        if isinstance(first, fx.Node):
            self.names[node] = self.names.get(first, first)
        for written in effect.writes:
            for other in self.memory.sharing(written):
                if other is node:
                    continue
                if effect.is_first and self.names.get(other, other) == self.names[node]:
                    self.values[other] = self.values[node]
                else:
                    self.stale[other] = node

    def settle(self, writer: fx.Node, written: fx.Node) -> None:
        """Let all that was left to its readers, and reads a value that is about to change, be code now."""
        sharing = set(self.memory.sharing(written))
        for node in [one for one in self.unread if one is not writer and one not in self.values]:
            if sharing.isdisjoint(piece_of(node, self.values)[1]):
                continue
            try:
                self.as_code(node)
            except UntraceableError:
                self.stale.setdefault(node, writer)

    def append(self, node: fx.Node, op: Op | None, *inputs: int) -> None:
        """Let a node be the value of an op, or its input's where there is none; of equal ops, the first."""
        if op is None or (isinstance(op, layers.Flatten) and len(self.shapes[inputs[0]]) == 1):
            self.values[node] = inputs[0]
            return
        if len(inputs) != op.arity:
            raise UntraceableError(f"{named(node)} reads {len(inputs)} value(s), not {op.arity}")
        known = None if isinstance(op, _APART) else self.numbers.get((op, inputs))
        if known is None:
            try:
                shape = op.output_shape(*(self.shapes[number] for number in inputs))
            except ValueError as error:
                raise UntraceableError(f"{named(node)}: {error}") from None
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

    def as_code(self, node: fx.Node, *, writes: bool = False) -> None:
        """Let a node be the value of code, which computes it from the values before."""
        error = self.unread.get(node) or UntraceableError(f"{named(node)} gives no value")
        piece, inputs = piece_of(node, self.values)
        if len({self.values[one] for one in inputs}) > layers.Code.MOST_READS:
            for one in node.all_input_nodes:  # each of them may be code of its own
                if one in self.unread and one not in self.values and not is_size(one):
                    with suppress(UntraceableError):
                        self.as_code(one)
            piece, inputs = piece_of(node, self.values)
        for one in (*piece, *inputs):
            self.check_fresh(one)
        try:
            for one in piece:
                self.check_count(one)
            op, numbers = code_of(
                self.network, piece, self.values, self.shapes, self.tracer.constants, writes=writes
            )
        except UntraceableError as why:
            part, line = (node.meta.get(name, "") for name in ("part", "line"))
            text = str(error) if str(why) in str(error) else f"{error}; and {why}"
            raise UntraceableError(text, part, line) from why
        self.of_one_size = self.of_one_size or op.shape is not None
        self.append(node, op, *numbers)

    def check_count(self, node: fx.Node) -> None:
        """Raise UntraceableError where a node computes with the number of images, other than shapes.

        Trying it would not show what it does with many images.
        """
        if is_size(node) or getattr(callee(node), "__name__", "") in _SHAPED:
            return
        if any(is_size(source) and self.counts_images(source) for source in node.all_input_nodes):
            raise UntraceableError("it computes with the number of images")

    def counts_images(self, size: fx.Node) -> bool:
        """Return whether a size depends on the number of images."""
        if size in self.facts:
            return self.facts[size] == BATCH
        whole = size.op == "call_method" and size.target in ("numel", "nelement")
        return whole or any(is_size(one) and self.counts_images(one) for one in size.all_input_nodes)

    def value(self, node: Any) -> int:
        """Return the number of the value that a node is."""
        if not isinstance(node, fx.Node):
            raise UntraceableError(f"{node!r} is read as a value")
        self.check_fresh(node)
        if node not in self.values:
            self.as_code(node)
        return self.values[node]

    def check_fresh(self, node: fx.Node) -> None:
        """Raise UntraceableError where a value was changed in a way that is not known."""
        if node in self.stale:
            raise UntraceableError(
                f"{named(node)} is read after {named(self.stale[node])} may have changed it"
            )

    def fact(self, argument: Any) -> Any:
        """Return what is known of an argument, itself where it is no node."""
        if not isinstance(argument, fx.Node):
            return argument
        self.check_fresh(argument)
        return self.facts.get(argument)

    def number(self, argument: Any) -> Any:
        """Return what a size is for images of the known shape; UntraceableError where it is none."""
        fact = self.fact(argument)
        if isinstance(argument, fx.Node) and fact is None and is_size(argument):
            args, kwargs = (self._numbers(part) for part in (argument.args, argument.kwargs))
            return callee(argument)(*args, **kwargs)
        if isinstance(fact, Size) and fact.axis:
            self.of_one_size = True
            return self.shapes[fact.value][fact.axis - 1]
        if isinstance(fact, tuple):
            return tuple(map(self.number, fact))
        if fact is None or isinstance(fact, Size):
            raise UntraceableError("it depends on the number of images, or on values")
        return fact

    def _numbers(self, arguments: Any) -> Any:
        return fx.node.map_arg(arguments, self.number)

    def sizes(self, value: int) -> tuple[Any, ...]:
        """Return the shape of a value, the batch first, as far as it does not depend on the images."""
        channels, *others = self.shapes[value]
        return (BATCH, channels, *(Size(value, axis) for axis in range(2, 2 + len(others))))


def _opaque(name: str, module: nn.Module, shape: Shape) -> tuple[layers.Opaque, bool, bool]:
    """Return the record of a module that is called as it is, if it gives images or features.

    And whether it changes its input, and whether its output lies in the input's memory.
    """
    kind = type(module).__name__
    if has_batch_norm(module):
        if not is_plain(module):
            raise UntraceableError(
                f"module {name!r}, a {kind}, has hooks or a forward of its own: remove them"
            )
        raise UntraceableError(f"module {name!r} is a {kind}, which has no record and holds batch norms")
    example = next(module.parameters(), torch.zeros(0, dtype=torch.float32))
    x = torch.zeros(2, *shape, device=example.device, dtype=example.dtype)
    version = x._version
    try:
        with torch.no_grad():
            called = copy.deepcopy(module)
            before = _buffers(called)
            result = called(x)
    except Exception as error:  # whatever the module's own code raises
        raise UntraceableError(f"module {name!r}, a {kind}, fails on zeros {shape}: {error}") from error
    for buffer in [one for one, state in _buffers(called).items() if state != before.get(one)]:
        raise UntraceableError(f"module {name!r}, a {kind}, changes its buffer {buffer!r} at each call")
    params = sum(parameter.numel() for parameter in module.parameters())
    given = tuple(result.shape[1:]) if isinstance(result, torch.Tensor) and len(result) == len(x) else ()
    if given:
        op = layers.Opaque(name, given[0], -(-shape[-1] // given[-1]) if len(given) > 1 else 1, params)
        if op.output_shape(shape) != given:
            op = replace(op, stride=1, shape=given)
        shares = result.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        return op, x._version != version, shares
    raise UntraceableError(f"module {name!r} is a {kind}, which makes {given or type(result)} of {shape}")


def _buffers(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Return what tells whether buffers were written to or replaced, by name."""
    return {name: (id(buffer), buffer._version) for name, buffer in module.named_buffers()}
