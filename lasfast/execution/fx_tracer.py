"""The tracer of networks: `torch.fx`, with what it would read wrongly kept whole, as single nodes."""

from __future__ import annotations

import inspect
import operator
import random
from collections.abc import Callable, Collection
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import fx, nn
from torch.fx.graph import inplace_methods
from torch.fx.proxy import TraceError
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from lasfast.execution.fused_call import normalize
from lasfast.execution.fx_lines import current_line
from lasfast.execution.fx_sizes import Sizes, is_constant, is_size
from lasfast.ir.layers import Shape
from lasfast.nn import PACT, ConvBNAct, SlicedBatchNorm2d, SlicedConv2d, SlicedLinear
from lasfast.nn.plain import is_plain

LEAVES = (ConvBNAct, PACT, SlicedBatchNorm2d, SlicedConv2d, SlicedLinear)
NORMS_WITH_ACTIVATION = ("timm.layers.norm_act.BatchNormAct2d",)
"""Subclasses of `nn.BatchNorm2d` that call their `drop` and their `act` on what it gives."""


def has_activation(module: nn.Module) -> bool:
    """Return whether a module is a batch norm and an activation behind it, and nothing else."""
    kind = type(module)
    known = f"{kind.__module__}.{kind.__qualname__}" in NORMS_WITH_ACTIVATION
    return known and is_plain(module) and type(module.drop) is nn.Identity and is_plain(module.drop)


class Tracer(fx.Tracer):
    """Traces a network without looking into lasfast's modules, those that are not plain, or `opaque` ones.

    What a graph cannot say is found out, so that nothing is frozen as it was while tracing:

    - Buffers are nodes of the graph, as parameters are.
    - `changes` names the modules whose forward draws random numbers, changes attributes or computes under
      `torch.no_grad`, `torch.autocast` and the like, and says what it does. The attributes are put back.
    - `constants` are the tensors that the network's code makes, by the names under which nodes read them.
    - The network's optional arguments are not given: the graph takes the others.
    - Where code decides by sizes, the answer is that for images of one shape, if this is given. Then
      `of_one_size` becomes True, and the graph holds for such images alone.

    `part` is the dotted name of the innermost module of the network's own that it is in; after an error, of
    the one in which that was. Each node's `meta["part"]` says the same of where the node is, and its
    `meta["line"]` which line of code made it, as file:line.

    Args:
        opaque: names of modules that become single nodes.
        image_shape: the shape of the images, which decides where code asks for it.
        values_are_tensors: what `isinstance(value, torch.Tensor)` answers within the network. PyTorch answers
            True, and `torch.fx` False. A network whose graph depends on it must not be traced.
    """

    proxy_buffer_attributes = True

    def __init__(
        self,
        opaque: Collection[str] = (),
        *,
        image_shape: Shape | None = None,
        values_are_tensors: bool = False,
    ) -> None:
        super().__init__()
        self.opaque = opaque
        self.image_shape = image_shape
        self._proxy = _TensorProxy if values_are_tensors else _Proxy

    def trace(self, root: nn.Module) -> fx.Graph:  # type: ignore[override]
        """Return the graph of a network's forward."""
        before = _Snapshot(root)
        try:
            graph = self._trace(root, before, names_changes=False)
        except Exception:
            if not before.change():
                raise
        else:
            if not before.change():
                return graph
        finally:
            before.restore()
        # Snapshots of each module tell whose forward it was; they take as long as all else.
        return self._trace(root, before, names_changes=True)

    def _trace(self, root: nn.Module, before: _Snapshot, *, names_changes: bool) -> fx.Graph:
        self.part, self.of_one_size = "", False
        self.changes: dict[str, str] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self._names_changes = names_changes
        self._context, known = _context(), set(vars(root))
        self.sizes = None if self.image_shape is None else Sizes(root, self.image_shape)
        try:
            with _Watch(self), mock.patch.object(torch.autograd.Function, "apply", _refuse_own_gradient):
                graph = super().trace(root)
            if names_changes:
                self._note_changes("", before)
        finally:
            if names_changes:
                before.restore()
            made = [name for name in vars(root) if is_constant(name) and name not in known]
            self.constants = {name: vars(root).pop(name) for name in made}
        return graph

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Return a forward and its arguments: nodes for those that have to be given, else the defaults."""
        function, arguments = super().create_args_for_root(root_fn, is_module, concrete_args)
        defaults = _defaults(root_fn)
        for number, argument in enumerate(arguments):
            if isinstance(argument, fx.Proxy) and argument.node.target in defaults:
                arguments[number] = defaults[str(argument.node.target)]
                self.graph.erase_node(argument.node)
        return function, arguments

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module becomes one node."""
        is_leaf = module_qualified_name in self.opaque or type(m) in LEAVES or not is_plain(m)
        return is_leaf or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Call a module, and note which one is entered and what it changes."""
        name = self.path_of_module(m)
        if has_activation(m) and name not in self.opaque:
            activation: Any = m.act
            return activation(self.create_proxy("call_function", normalize, (args[0], m), {}))
        if self.is_leaf_module(m, name):
            return super().call_module(m, forward, args, kwargs)
        around, self.part = self.part, name
        if not self._names_changes:
            result = super().call_module(m, forward, args, kwargs)
            self.part = around
            return result
        before = _Snapshot(m)
        try:
            result = super().call_module(m, forward, args, kwargs)
            self._note_changes(name, before)
        finally:
            before.restore()
        self.part = around
        return result

    def _note_changes(self, name: str, before: _Snapshot) -> None:
        change = before.change()
        if change and not any(inner.startswith(name) for inner in self.changes):  # which was within, then
            self.changes[name] = change

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Create a node, and note where it is, and whether it would run in a context that is lost."""
        node = super().create_node(*args, **kwargs)
        if _context() != self._context:
            self.note("changes the mode of gradients or of autocast")
        node.meta["part"], node.meta["line"] = self.part, current_line("_trace")
        return node

    def note(self, change: str) -> None:
        """Note what the module does that it is in, and at which line of its code."""
        line = current_line("_trace")
        self.changes.setdefault(self.part, f"{change} at {line}" if line else change)

    def to_bool(self, obj: Any) -> bool:
        """Answer by the images' shape; note where control flow depends on a value, and raise TraceError."""
        if self.sizes is not None and is_size(obj.node):
            return bool(self.size(obj))
        self.note("decides by values")
        return super().to_bool(obj)

    def size(self, obj: fx.Proxy) -> Any:
        """Return a size for images of the known shape; TypeError where it is no size, or none is known."""
        if self.sizes is None or not is_size(obj.node):
            raise TypeError("a value that torch.fx follows is no number")
        self.of_one_size = True
        return self.sizes.value(obj.node)

    def iter(self, obj: Any) -> Any:
        """Give the items of a value where their number is known, and note where it is not."""
        try:
            return super().iter(obj)
        except TraceError:
            self.note("decides by the number of items of a value")
            raise

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return what stands for a value within the network."""
        return self._proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        """Return an argument as nodes have it; RuntimeError for a tensor whose gradient would be lost."""
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, torch.Tensor) and a.grad_fn is not None:
            raise RuntimeError("it computes with parameters in a way that torch.fx does not see")
        return super().create_arg(a)


class _Proxy(fx.Proxy):
    """A value whose in-place operations become nodes: fx would read `x += y` as `x = x + y`."""

    def __setitem__(self, index: Any, value: Any) -> None:
        """Change a part of the value."""
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __getattr__(self, name: str) -> Any:
        """Return an attribute, which is the network's own device where that is known."""
        sizes = self.tracer.sizes  # type: ignore[attr-defined]
        return sizes.device if name == "device" and sizes is not None else super().__getattr__(name)

    def __index__(self) -> int:
        """Return a size as a number."""
        return operator.index(self.tracer.size(self))  # type: ignore[attr-defined]

    def __int__(self) -> int:
        """Return a size as a number."""
        return int(self.tracer.size(self))  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what would be lost, such as `x.data += y`."""
        if name not in ("tracer", "node"):
            raise RuntimeError(f"it sets {name!r} of a value")
        super().__setattr__(name, value)


def _in_place(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in inplace_methods:
    if _name != "setitem":
        setattr(_Proxy, f"__{_name}__", _in_place(getattr(operator, _name)))


class _TensorProxy(_Proxy):
    """A value that says of itself that it is a tensor."""

    _is_param = False

    def __getattr__(self, name: str) -> Any:
        """Return an attribute, unless tensors have none of this name: code may ask with `hasattr`."""
        if not is_size(self.node) and not hasattr(torch.Tensor, name):
            raise AttributeError(f"a tensor has no attribute {name!r}")
        return super().__getattr__(name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        # PyTorch's own code goes by this: it would take a size that says so for a tensor's memory.
        node = vars(self).get("node")
        return torch.Tensor if node is not None and not is_size(node) else type(self)


class _Watch(TorchDispatchMode):
    """Notes where a network's code computes with tensors that it has not made: the result is frozen."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer
        self._made: dict[int, torch.Tensor] = {}  # kept, so that no other tensor takes the place of one

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator on real tensors, not on values of the graph."""
        if not _tensors((args, kwargs)).keys() <= self._made.keys():
            self._tracer.note("computes with tensors in a way that torch.fx does not see")
        result = func(*args, **(kwargs or {}))
        self._made |= _tensors(result)
        return result


def _tensors(values: Any) -> dict[int, torch.Tensor]:
    """Return the tensors among values, by their identities."""
    return {id(one): one for one in tree_leaves(values) if isinstance(one, torch.Tensor)}


def _refuse_own_gradient(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("it calls a torch.autograd.Function, whose gradient a graph would lose")


class _Snapshot:
    """The attributes of a module and of those in it, and random generators, to see what a call changes."""

    def __init__(self, module: nn.Module) -> None:
        self.attributes = [_Attributes(part) for part in module.modules()]
        self.generators = _generators()

    def change(self) -> str:
        """Return what has changed, in words; "" if nothing has."""
        changed = [name for one in self.attributes for name in one.changed()]
        if changed:
            return f"changes the attribute {changed[0]!r}"
        return "" if _are_equal(self.generators, _generators()) else "draws random numbers"

    def restore(self) -> None:
        """Put the attributes and the random generators back as they were."""
        for one in self.attributes:
            one.restore()
        _set_generators(self.generators)


class _Attributes:
    """The attributes of one module, and what they hold where they are containers."""

    def __init__(self, module: nn.Module) -> None:
        self.now = vars(module)
        self.before: dict[str, tuple[Any, Any]] = {
            name: (value, _items(value)) for name, value in self.now.items()
        }

    def changed(self) -> list[str]:
        """Return the names of those that are others now, but for the tracer's own constants."""
        return [
            name
            for name in {**self.before, **self.now}
            if not is_constant(name)
            and not (
                name in self.now
                and name in self.before
                and self.now[name] is self.before[name][0]
                and _are_same(_items(self.now[name]), self.before[name][1])
            )
        ]

    def restore(self) -> None:
        """Put them back as they were."""
        for name in self.changed():
            if name not in self.before:
                del self.now[name]
                continue
            value, items = self.before[name]
            if items is not None:
                value.clear()
                (value.extend if isinstance(value, list) else value.update)(items)
            self.now[name] = value


def _items(value: Any) -> list[Any] | None:
    """Return what a container holds; None of other values."""
    if isinstance(value, dict):
        return list(value.items())
    return list(value) if isinstance(value, list | set) else None


def _are_same(one: Any, other: Any) -> bool:
    """Return whether these are the same objects, or containers of the same ones."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_are_same, one, other))
    return one is other


def _generators() -> tuple[Any, ...]:
    """Return the states of the random generators that a forward may draw from."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with _disable_current_modes():  # this is not the network's code
        states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
        return [state.clone().numpy() for state in states], random.getstate(), np.random.get_state()


def _are_equal(one: Any, other: Any) -> bool:
    """Return whether states of generators are the same."""
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    return np.array_equal(one, other)


def _set_generators(states: tuple[Any, ...]) -> None:
    """Put random generators back to what `_generators` has told."""
    torch_states, python_state, numpy_state = states
    for number, state in enumerate(torch_states):
        if number == 0:
            torch.set_rng_state(torch.from_numpy(state))
        else:
            torch.cuda.set_rng_state(torch.from_numpy(state), number - 1)
    random.setstate(python_state)
    np.random.set_state(numpy_state)


def _context() -> tuple[Any, ...]:
    """Return the modes of PyTorch that a forward may change around what it computes."""
    autocast = [(torch.is_autocast_enabled(one), torch.get_autocast_dtype(one)) for one in ("cpu", "cuda")]
    return (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast)


def _defaults(forward: Any) -> dict[str, Any]:
    """Return what a forward's optional arguments are where they are not given, by their names in a graph."""
    parameters = inspect.signature(forward).parameters.values()
    defaults: dict[str, Any] = {}
    for one in parameters:
        if one.kind == one.VAR_POSITIONAL:
            defaults[f"*{one.name}"] = ()
        elif one.kind == one.VAR_KEYWORD:
            defaults[f"**{one.name}"] = {}
        elif one.default is not one.empty:
            defaults[one.name] = one.default
    return defaults
