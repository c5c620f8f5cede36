"""Reading a network's graph, the same in training and in evaluation, with what differs kept whole."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from lasfast.execution.fx_lines import line_of
from lasfast.execution.fx_memory import Memory, effect_of
from lasfast.execution.fx_ops import callee, named
from lasfast.execution.fx_tracer import Tracer
from lasfast.nn.plain import has_global_hooks, replaced_methods

ADVICE = "Put this code into a module of its own, which is then called as it is; or accelerate a part"


@dataclass
class Reading:
    """The graphs that were read of a network.

    Attributes:
        graphs: what it computes in evaluation (False) and in training (True), with modules that cannot be
            read as single nodes. This is one graph, unless the network's own mode decides.
        constants: tensors that its code makes, by the names under which the graphs read them.
        layout_free: of the modules that were not read, those whose code does not ask for a memory layout.
    """

    graphs: dict[bool, fx.Graph]
    constants: dict[str, torch.Tensor]
    layout_free: frozenset[str]


class _UnreadableError(Exception):
    """Some modules cannot be read; `parts` are their names, "" that of the network itself."""

    def __init__(self, parts: set[str], reason: str) -> None:
        super().__init__(reason)
        self.parts = parts


def read_in_both_modes(network: nn.Module) -> Reading:
    """Return the graphs that a network computes in evaluation and in training.

    Modules within it that cannot be read, or that compute something else in the two modes, become single
    nodes. ValueError names what is wrong where the network itself cannot be read.
    """
    if has_global_hooks():
        raise ValueError("hooks of all modules (torch.nn.modules.module.register_module_*) must be removed")
    if replaced_methods(network):
        raise ValueError(f"model must have its class's forward, got a {_kind(network)} with one of its own")
    modes = {module: module.training for module in network.modules()}
    reader = _Reader(network)
    try:
        while True:
            try:
                return reader.read()
            except _UnreadableError as error:
                if "" in error.parts or error.parts <= reader.whole:
                    raise ValueError(str(error)) from error
                reader.whole |= error.parts
    finally:
        for module, training in modes.items():
            module.training = training


class _Reader:
    """Reads a network with some modules, those of the names in `whole`, as single nodes."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.whole: set[str] = set()
        self.layout_free: set[str] = set()

    def read(self) -> Reading:
        """Read the network in both modes; _UnreadableError names modules that must become single nodes.

        The two readings differ in what `isinstance(value, torch.Tensor)` and `torch.is_grad_enabled()` say,
        too: a network whose graph depends on these cannot be read.
        """
        evaluation = self.trace(False, False, values_are_tensors=False)
        training = self.trace(True, True, values_are_tensors=True)
        different = _different_parts(evaluation, training)
        for part in different - {""}:
            if not any(_asks_for_layout(node) for node in training.graph.nodes if _is_within(node, part)):
                self.layout_free.add(part)
        if different - {""}:
            raise _UnreadableError(different - {""}, "")
        layout_free = frozenset(self.layout_free)
        if not different:
            graphs = {False: training.graph, True: training.graph}
            return Reading(graphs, training.constants, layout_free)
        # Is it the network's own mode that makes the difference, and nothing else?
        for other in (
            (training, self.trace(True, False, values_are_tensors=False)),
            (evaluation, self.trace(False, True, values_are_tensors=True)),
        ):
            if _different_parts(*other):
                raise _UnreadableError({""}, _difference(_kind(self.network), evaluation, training))
        evaluation.rename_constants()
        graphs = {False: evaluation.graph, True: training.graph}
        return Reading(graphs, evaluation.constants | training.constants, layout_free)

    def trace(self, own_mode: bool, others_mode: bool, *, values_are_tensors: bool) -> _Trace:
        """Return what the network computes where it and the modules in it are in these modes."""
        for module in self.network.modules():
            module.training = others_mode
        self.network.training = own_mode
        kind = _kind(self.network)
        tracer = Tracer(self.whole, values_are_tensors=values_are_tensors)
        try:
            with torch.set_grad_enabled(values_are_tensors):
                graph = tracer.trace(self.network)
        except Exception as error:  # whatever the network's own code raises when it meets a proxy
            line = line_of(error) or "an unknown line"
            reason = (
                f"model must be traceable by torch.fx, got a {kind} that is not, at {line}: {error}. {ADVICE}"
            )
            raise _UnreadableError(alike(self.network, tracer.part), reason) from error
        if tracer.changes:
            changes = "; ".join(f"{part or kind} {change}" for part, change in tracer.changes.items())
            reason = f"model must compute the same whenever it is called, got a {kind} in which {changes}"
            raise _UnreadableError(set(tracer.changes), f"{reason}. {ADVICE}")
        _check_layout(graph, kind)
        trace = _Trace(graph, tracer.constants)
        _check_constants(trace, self.network)
        return trace


def alike(network: nn.Module, part: str) -> set[str]:
    """Return the names of a module and of others with the same code, which will not do better."""
    kind = type(network.get_submodule(part))
    if not part or kind.__module__.startswith("torch.nn."):
        return {part}
    return {name for name, module in network.named_modules() if type(module) is kind and name}


def _kind(network: nn.Module) -> str:
    return type(network).__name__


@dataclass
class _Trace:
    """One graph of a network."""

    graph: fx.Graph
    constants: dict[str, torch.Tensor]

    def rename_constants(self) -> None:
        """Give the constants names of their own, beside those of another graph."""
        for node in self.graph.nodes:
            if node.op == "get_attr" and node.target in self.constants:
                node.target = f"{node.target}_in_evaluation"
        self.constants = {f"{name}_in_evaluation": value for name, value in self.constants.items()}


def _different_parts(one: _Trace, other: _Trace) -> set[str]:
    """Return the names of the parts of a network whose code does not do the same in two graphs."""
    first, second = _by_part(one), _by_part(other)
    different = {part for part in {*first, *second} if first[part] != second[part]}
    return different or ({""} if str(one.graph) != str(other.graph) else set())


def _check_layout(graph: fx.Graph, kind: str) -> None:
    for node in graph.nodes:
        if getattr(callee(node), "__name__", "") in _LAYOUT_METHODS or "memory_format" in node.kwargs:
            reason = f"model must not ask how values lie in memory, got a {kind} with {_place(node)}"
            raise _UnreadableError({node.meta["part"]}, reason)


def _place(node: fx.Node) -> str:
    line = node.meta.get("line")
    return f"{named(node)}{f' at {line}' if line else ''}. {ADVICE}"


def _check_constants(trace: _Trace, network: nn.Module) -> None:
    """Raise _UnreadableError where what a network's code makes is changed: the graph makes it but once."""
    if not trace.constants:
        return
    modules, memory = dict(network.named_modules()), Memory()
    for node in trace.graph.nodes:
        effect = effect_of(node, modules)
        memory.add(node, effect.shares)
        for one in (other for written in effect.writes for other in memory.sharing(written)):
            if one.op == "get_attr" and one.target in trace.constants:
                reason = f"model must not change a tensor that it makes, got {_place(node)}"
                raise _UnreadableError({node.meta["part"]}, reason)


def _asks_for_layout(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target in ("view", "view_as")


_LAYOUT_METHODS = (
    *("as_strided", "stride", "is_contiguous", "storage_offset", "data_ptr", "storage", "untyped_storage"),
    *("numpy", "__array__"),
)


def _is_within(node: fx.Node, part: str) -> bool:
    return f"{node.meta['part']}.".startswith(f"{part}.")


def _by_part(trace: _Trace) -> defaultdict[str, list[Any]]:
    """Return what the nodes of each part of a network do, in order, by the part's name."""
    nodes = defaultdict(list)
    for node in trace.graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda _: "a node")
        constant = trace.constants.get(str(node.target))
        value = None if constant is None else (str(constant.dtype), constant.tolist())
        nodes[node.meta.get("part", "")].append((node.op, node.target, repr(args), repr(kwargs), value))
    return nodes


def _difference(kind: str, evaluation: _Trace, training: _Trace) -> str:
    """Return the words for a network whose two graphs, of evaluation and of training, differ."""
    texts = [{node.format_node(): node for node in one.graph.nodes} for one in (training, evaluation)]
    found = [node for one, other in (texts, texts[::-1]) for text, node in one.items() if text not in other]
    node = next((one for one in found if one.op != "output"), found[0])
    return (
        "model must compute the same whatever the modes of its modules, isinstance(value, torch.Tensor) and "
        f"torch.is_grad_enabled() say, got a {kind} that computes or does not {_place(node)}"
    )
