"""Sizes within a traced network: which nodes are such, and what they are for images of one shape."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any
from unittest import mock

import torch
from torch import fx, nn
from torch.utils._python_dispatch import _disable_current_modes

from lasfast.ir.layers import Shape

_META = torch.device("meta")
_ATTRIBUTES = ("shape", "ndim", "device", "dtype")
_METHODS = ("size", "dim", "ndimension", "numel", "nelement")
_ARITHMETIC = ("_operator", "builtins", "math")
_COMPARISONS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)
_CALL, _GETATTR, _APPLY = nn.Module.__call__, nn.Module.__getattr__, torch.autograd.Function.apply


def is_constant(name: str) -> bool:
    """Return whether the tracer names a tensor so that a network's code makes."""
    return name.startswith("_tensor_constant")


def is_size(node: fx.Node) -> bool:
    """Return whether a node depends on no more than shapes, dtypes and devices: it is no tensor."""
    known = node.meta.get("is_size")
    if known is None:
        known = node.meta["is_size"] = _is_size(node)
    return bool(known)


def _is_size(node: fx.Node) -> bool:
    inputs = node.all_input_nodes
    if node.op == "call_method" and node.target in _METHODS:
        return True
    if node.op != "call_function" or not inputs:
        return False
    if node.target is getattr and node.args[1] in _ATTRIBUTES:
        return True
    return getattr(node.target, "__module__", "") in _ARITHMETIC and all(map(is_size, inputs))


class Sizes:
    """Tells what sizes are for images of one shape, by running a copy of a network beside its tracing.

    The copy has no memory: on PyTorch's device "meta", tensors have shapes, and operators compute these.

    Args:
        network: the network that is traced.
        image_shape: (channels, height, width) of the images.
    """

    def __init__(self, network: nn.Module, image_shape: Shape) -> None:
        self._network = network
        example = next(network.parameters(), torch.zeros(0, dtype=torch.float32))
        self.device = example.device
        self._images = [
            torch.empty(number, *image_shape, device=_META, dtype=example.dtype) for number in (2, 3)
        ]
        self._twin: nn.Module | None = None  # made where it is asked: few networks decide by sizes
        self._values: list[dict[fx.Node, Any]] = [{} for _ in self._images]

    def value(self, node: fx.Node) -> Any:
        """Return what a size is; RuntimeError where it depends on the number of images, or on a dtype.

        Dtypes change: by autocast, and where the network is moved.
        """
        if _is_of_dtype(node):
            raise RuntimeError("it decides by the dtype of a value")
        with _tracing_paused(), torch.no_grad():
            if self._twin is None:
                self._twin = _without_memory(self._network)
            one, other = (self._value(number, node) for number in range(len(self._images)))
            if one != other or self._follows_batch(node):
                raise RuntimeError("it decides by the number of images")
        return one

    def _follows_batch(self, node: fx.Node) -> bool:
        """Return whether a size depends on the number of images, if only where there are many."""
        one, other = (values[node] for values in self._values)
        inputs = [source for source in node.all_input_nodes if is_size(source)]
        if not inputs or node.target is operator.getitem:
            return bool(one != other)
        if node.target in _COMPARISONS and not any(map(_is_computed, inputs)):
            if 0 in node.args:
                return False  # there is an image at least
            if node.target in (operator.eq, operator.ne):
                return not _is_settled(*(_operands(node, values) for values in self._values))
        return any(map(self._follows_batch, inputs))

    def _value(self, number: int, wanted: fx.Node) -> Any:
        """Run all nodes up to one, in their order: they may change values in place."""
        values = self._values[number]
        for node in wanted.graph.nodes:
            if node not in values:
                values[node] = self._run(node, values, self._images[number])
                if isinstance(values[node], fx.Proxy):  # which an attribute of the network was set to
                    raise RuntimeError("it computes with a value that an attribute keeps")
            if node is wanted:
                break
        return values[wanted]

    def _run(self, node: fx.Node, values: Mapping[fx.Node, Any], images: torch.Tensor) -> Any:
        assert self._twin is not None
        args, kwargs = (
            _on_meta(fx.node.map_arg(part, values.__getitem__)) for part in (node.args, node.kwargs)
        )
        target: Any = node.target
        if node.op == "placeholder":
            return images
        if node.op == "get_attr":
            value = attrgetter(target)(self._network if is_constant(target) else self._twin)
            return value.to(_META) if isinstance(value, torch.Tensor) else value
        if node.op == "call_module":
            return self._twin.get_submodule(target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)


def _is_of_dtype(size: fx.Node) -> bool:
    """Return whether a size is a dtype, or depends on one."""
    if size.target is getattr and size.args[1] == "dtype":
        return True
    return any(is_size(one) and _is_of_dtype(one) for one in size.all_input_nodes)


def _is_computed(size: fx.Node) -> bool:
    """Return whether a size is no shape or part of one, but computed of such."""
    inputs = [source for source in size.all_input_nodes if is_size(source)]
    return bool(inputs) and (size.target is not operator.getitem or any(map(_is_computed, inputs)))


def _operands(node: fx.Node, values: Mapping[fx.Node, Any]) -> list[tuple[Any, ...]]:
    """Return the two sizes or shapes that a node compares, as tuples."""
    given = fx.node.map_arg(node.args, values.__getitem__)
    return [tuple(one) if isinstance(one, tuple | list) else (one,) for one in given]


def _is_settled(few: Sequence[tuple[Any, ...]], more: Sequence[tuple[Any, ...]]) -> bool:
    """Return whether two shapes, here for two numbers of images, are equal for all numbers, or for none."""
    if few[0] == few[1] and more[0] == more[1]:
        return True
    positions = zip(zip(*few, strict=False), zip(*more, strict=False), strict=False)
    kept = [pair for pair, later in positions if pair == later]
    return len(few[0]) != len(few[1]) or any(one != other for one, other in kept)


def _without_memory(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose parameters and buffers have shapes and no values."""
    memo: dict[int, Any] = {}
    for one in (*network.parameters(), *network.buffers()):
        empty = torch.empty_like(one, device=_META)
        is_parameter = isinstance(one, nn.Parameter)
        memo[id(one)] = nn.Parameter(empty, one.requires_grad) if is_parameter else empty
    return copy.deepcopy(network, memo)


def _on_meta(arguments: Any) -> Any:
    """Return arguments in which each device is "meta"."""
    return fx.node.map_aggregate(arguments, lambda one: _META if isinstance(one, torch.device) else one)


@contextmanager
def _tracing_paused() -> Iterator[None]:
    """Let modules be called as they are, not traced."""
    with (
        _disable_current_modes(),
        mock.patch.object(nn.Module, "__call__", _CALL),
        mock.patch.object(nn.Module, "__getattr__", _GETATTR),
        mock.patch.object(torch.autograd.Function, "apply", _APPLY),
    ):
        yield
