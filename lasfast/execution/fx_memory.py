"""Which values of a traced network share memory, and which nodes change values where they lie.

A graph of `torch.fx` looks as if each node made a new value. PyTorch's in-place operations change values that
others read, under other names and through views. Who reads a graph in another order, or as a function of
values, has to know. All answers here err on one side: memory may be shared, and values may be changed,
unless it is known that they are not.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.graph import inplace_methods
from torch.nn.modules import activation, batchnorm, conv, instancenorm, linear, normalization, pooling

from lasfast.execution.fused_call import normalize, run
from lasfast.execution.fx_ops import callee
from lasfast.execution.fx_tracer import LEAVES
from lasfast.nn.plain import is_plain
from lasfast.ops.activations import CALLS as ACTIVATION_CALLS


@dataclass(frozen=True)
class Effect:
    """The effect of a node on memory.

    Attributes:
        writes: the values that it may change.
        shares: the values whose memory its result may share.
        is_first: whether its result is surely its first argument itself, changed or not.
    """

    writes: tuple[fx.Node, ...] = ()
    shares: tuple[fx.Node, ...] = ()
    is_first: bool = False


def effect_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Effect:
    """Return what a node may do to memory, as far as it can be told without running it."""
    inputs = tuple(node.all_input_nodes)
    if node.op in ("placeholder", "get_attr"):
        return Effect()
    if node.op == "output":
        return Effect(shares=inputs)
    if node.op == "call_module":
        return _effect_of_module(modules[str(node.target)], inputs)
    function = callee(node)
    if function is operator.setitem:
        return Effect(_written(node.args[0]))
    if _is_in_place(node, function):
        target = _written(node.args[0])
        return Effect(target, inputs if function is torch.Tensor.set_ else target, is_first=True)
    if "out" in node.kwargs:
        return Effect(_written(node.kwargs["out"]), inputs)
    if function in _FRESH or (function is getattr and node.args[1:] == ("shape",)):
        return Effect()
    return Effect(() if is_library(function) else inputs, inputs)


def _effect_of_module(module: nn.Module, inputs: tuple[fx.Node, ...]) -> Effect:
    if not is_known(module):
        return Effect(inputs, inputs)
    if getattr(module, "inplace", False) is True:
        return Effect(inputs[:1], inputs, is_first=True)
    fresh = isinstance(module, _FRESH_MODULES) and not isinstance(module, nn.Identity)
    return Effect(shares=() if fresh else inputs, is_first=type(module) is nn.Identity)


def is_known(module: nn.Module) -> bool:
    """Return whether calling a module runs code of PyTorch or lasfast alone, whose effects are known."""
    of_torch = type(module).__module__.startswith("torch.nn.modules.")
    return is_plain(module) and (of_torch or type(module) in LEAVES)


def _written(target: Any) -> tuple[fx.Node, ...]:
    return (target,) if isinstance(target, fx.Node) else ()


def _is_in_place(node: fx.Node, function: Any) -> bool:
    """Return whether a call changes its first argument and returns it."""
    name = str(node.target) if node.op == "call_method" else getattr(function, "__name__", "")
    if function in _AUGMENTED:
        return True
    if name.endswith("_") and not name.endswith("__") and getattr(operator, name, None) is not function:
        return True
    try:
        given = inspect.signature(function).bind(*node.args, **node.kwargs).arguments
    except (TypeError, ValueError):  # it is no function of Python's
        return False
    return bool(given.get("inplace", False))


def is_library(function: Any) -> bool:
    """Return whether a function is of a library whose functions change nothing unless their names say so."""
    module = getattr(function, "__module__", None) or "torch"  # those in C++ do not say
    return module.split(".")[0] in ("torch", "torchvision", "_operator", "builtins", "math", "lasfast")


_AUGMENTED = frozenset(getattr(operator, name) for name in inplace_methods if name != "setitem")
_FRESH = frozenset(
    (
        *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow),
        *(torch.add, torch.sub, torch.mul, torch.div, torch.cat, torch.concat, torch.mean, torch.clone),
        *(torch.Tensor.add, torch.Tensor.sub, torch.Tensor.mul, torch.Tensor.div, torch.Tensor.mean),
        *(torch.Tensor.clone, torch.Tensor.size, torch.Tensor.dim),
        *(F.conv2d, F.linear, F.batch_norm, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d),
        *(run, normalize),
        *ACTIVATION_CALLS,  # those in place have been told apart before
    )
)
"""Functions whose result lies in memory of its own."""
_FRESH_MODULES: tuple[type[nn.Module], ...] = (
    *(conv._ConvNd, batchnorm._NormBase, instancenorm._InstanceNorm, linear.Linear, *LEAVES),
    *(getattr(kinds, name) for kinds in (activation, normalization, pooling) for name in kinds.__all__),
)
"""Modules whose result lies in memory of its own, unless they work in place."""


class Memory:
    """The values of a graph, by the memory that they lie in."""

    def __init__(self) -> None:
        self._parents: dict[Any, Any] = {}
        self._members: dict[Any, list[fx.Node]] = {}

    def add(self, node: fx.Node, shares: Iterable[fx.Node]) -> None:
        """Take in a node whose value may lie in the memory of earlier ones."""
        # What lies in a parameter or a buffer does so wherever it is read.
        root = f"get_attr {node.target}" if node.op == "get_attr" else node
        if root not in self._parents:
            self._parents[root] = root
            self._members[root] = []
        self._parents.setdefault(node, root)
        self.sharing(node).append(node)
        for other in shares:
            self._join(self.place(node), self.place(other))

    def place(self, node: fx.Node) -> Any:
        """Return what stands for the memory of a value: the same for all that may share it."""
        place: Any = node
        while self._parents[place] is not place:
            place = self._parents[place]
        return place

    def sharing(self, node: fx.Node) -> list[fx.Node]:
        """Return the values that may lie in the memory of one, with it, in the order of the graph."""
        return self._members[self.place(node)]

    def _join(self, one: Any, other: Any) -> None:
        if one is not other:
            self._parents[one] = other
            self._members[other] += self._members.pop(one)


def is_outside(node: fx.Node) -> bool:
    """Return whether a value exists before the network runs: an argument, a parameter or a buffer."""
    return node.op in ("placeholder", "get_attr")
