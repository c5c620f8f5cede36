"""Reading a network's graph, the same in training and in evaluation, with what differs kept whole."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from lasfast.execution.fx_tracer import Tracer
from lasfast.nn.plain import has_global_hooks, replaced_methods


@dataclass
class Reading:
    """The graph of a network.

    Attributes:
        graph: what it computes, with modules that cannot be read as single nodes.
        constants: tensors that its code makes, by the names under which the graph reads them.
        layout_free: of the modules that were not read, those whose code does not ask for a memory layout.
    """

    graph: fx.Graph
    constants: dict[str, torch.Tensor]
    layout_free: frozenset[str]


class _UnreadableError(Exception):
    """Some modules cannot be read; `parts` are their names, "" that of the network itself."""

    def __init__(self, parts: set[str], reason: str) -> None:
        super().__init__(reason)
        self.parts = parts


def read_in_both_modes(network: nn.Module) -> Reading:
    """Return the graph that a network computes in training as in evaluation.

    Modules within it that cannot be read, or that compute something else in the two modes, become single
    nodes. ValueError names what is wrong where that holds for the network itself.
    """
    kind = type(network).__name__
    if has_global_hooks():
        raise ValueError(
            "hooks of all modules (torch.nn.modules.module.register_module_*) must be removed first"
        )
    if replaced_methods(network):
        raise ValueError(f"model must have its class's forward, got a {kind} with one of its own")
    whole: set[str] = set()
    layout_free: set[str] = set()
    modes = {module: module.training for module in network.modules()}
    try:
        while True:
            try:
                return _read(network, whole, layout_free)
            except _UnreadableError as error:
                if "" in error.parts or error.parts <= whole:
                    raise ValueError(str(error)) from error
                whole |= error.parts
    finally:
        for module, training in modes.items():
            module.training = training


def _read(network: nn.Module, whole: set[str], layout_free: set[str]) -> Reading:
    """Read a network in both modes, or raise _UnreadableError."""
    kind = type(network).__name__
    graphs: list[fx.Graph] = []
    constants: list[dict[str, torch.Tensor]] = []
    for training in (False, True):
        for module in network.modules():
            module.training = training
        tracer = Tracer(whole, values_are_tensors=training)
        try:
            graphs.append(tracer.trace(network))
        except Exception as error:  # whatever the network's own code raises when it meets a proxy
            reason = f"model must be traceable by torch.fx, got a {kind} that is not: {error}"
            raise _UnreadableError({tracer.part}, reason) from error
        if tracer.changes:
            changes = "; ".join(f"{part or kind} {change}" for part, change in tracer.changes.items())
            reason = f"model must compute the same whenever it is called, got a {kind} in which {changes}"
            raise _UnreadableError(set(tracer.changes), reason)
        constants.append(tracer.constants)
        _check_layout(graphs[-1], kind)
    evaluation, training_graph = map(_by_part, graphs, constants)
    different = {part for part in {*evaluation, *training_graph} if evaluation[part] != training_graph[part]}
    if not different and str(graphs[0]) != str(graphs[1]):
        different = {""}
    if different:
        for part in different - {""}:
            if not any(_asks_for_layout(node) for node in graphs[1].nodes if _is_within(node, part)):
                layout_free.add(part)
        raise _UnreadableError(different, _difference(kind, graphs))
    return Reading(graphs[1], constants[1], frozenset(layout_free))


def _check_layout(graph: fx.Graph, kind: str) -> None:
    for node in graph.nodes:
        if node.op == "call_method" and node.target in _LAYOUT_METHODS:
            reason = f"model must not ask how values lie in memory, got a {kind} with {node.format_node()}"
            raise _UnreadableError({node.meta["part"]}, reason)


def _asks_for_layout(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target in ("view", "view_as")


_LAYOUT_METHODS = (
    *("as_strided", "stride", "is_contiguous", "storage_offset", "data_ptr", "storage", "untyped_storage"),
    *("numpy", "__array__"),
)


def _is_within(node: fx.Node, part: str) -> bool:
    return f"{node.meta['part']}.".startswith(f"{part}.")


def _by_part(graph: fx.Graph, constants: dict[str, torch.Tensor]) -> defaultdict[str, list[Any]]:
    """Return what the nodes of each part of a network do, in order, by the part's name."""
    nodes = defaultdict(list)
    for node in graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda _: "a node")
        constant = constants.get(str(node.target))
        value = None if constant is None else (str(constant.dtype), constant.tolist())
        nodes[node.meta.get("part", "")].append((node.op, node.target, repr(args), repr(kwargs), value))
    return nodes


def _difference(kind: str, graphs: list[fx.Graph]) -> str:
    """Return the words for a network whose two graphs, of evaluation and of training, differ."""
    evaluation, training = (str(graph.python_code("self").src).splitlines() for graph in graphs)
    line = next((one for one in training if one not in evaluation), training[-1])
    return (
        "model must compute the same in training as in evaluation, but for what its modules do "
        f"(nn.Dropout, not F.dropout); got a {kind} that computes `{line.strip()}` in training alone"
    )
