"""Lowering: a prefix tree becomes a schedule of fused operations, for calibration or for prediction.

The tree's ops, those of all candidates, are one graph of values (`lasfast.engine.graph`). A chain of ops, as
`lasfast.ir.fusion` finds them, becomes one operation: the op itself, the batch norm of its output, the sum,
the activation. A batch norm or an activation that no chain takes is left to the readers, who apply it to each
element as they load it. Concatenations, shuffles and slices of channels that follow each other become one
arrangement of the channels that they begin with.

In calibration the statistics of a batch norm are known only once its whole input is. So the norm is always
left to the readers, and the operation before it sums the statistics as it stores.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from lasfast.engine.graph import Graph, make_graph
from lasfast.engine.group import Group, Term
from lasfast.engine.resident import depth_first
from lasfast.engine.schedule import NONE, BatchNorm, Call, Kind, Schedule
from lasfast.engine.schedule_builder import build_schedule
from lasfast.ir import layers
from lasfast.ir.activations import ACTIVATIONS
from lasfast.ir.fusion import Fusion, Stage, stage_of
from lasfast.ir.layers import Op, Shape
from lasfast.ir.prefix_tree import ROOT, PrefixTree


def lower(
    tree: PrefixTree, image_shape: Shape, *, calibration: bool, width: int | None = 1, cuda: bool = False
) -> Schedule:
    """Return the schedule of one pass over images [N, *image_shape], for the CPU or for CUDA.

    At most `width` operations are of one level, those that come first in the tree's depth-first order: 1
    holds the fewest values at a time; None runs as many together as can. On the CPU, prediction has no use
    for levels. What was asked last is remembered, so that asking again for the same tree costs nothing.

    Raises:
        NotLowerableError: an op that neither a native operation nor torch can run here.
        ValueError: a layer that does not fit its input.
    """
    return _lower(tree, image_shape, calibration, width, cuda)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the collector of cycles: lowering makes none, and it would walk all of torch's objects."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@lru_cache(maxsize=16)
@_collector_paused()
def _lower(
    tree: PrefixTree, image_shape: Shape, calibration: bool, width: int | None, cuda: bool
) -> Schedule:
    graph = make_graph(tree, image_shape, logits=not calibration)
    leaves = tuple(sorted(set(tree.leaves)))
    fused = _Lowering(graph, calibration)
    if not calibration:
        for number, leaf in enumerate(leaves):
            fused.add_leaf(number, leaf)
    depth_first_groups = None
    if cuda and not calibration:
        places = {ROOT: -1} | dict(enumerate(depth_first(tree, image_shape)))
        depth_first_groups = sorted(fused.groups, key=lambda group: (places[group.node], group.last))
    return build_schedule(
        fused.groups,
        fused.batch_norms,
        leaves,
        graph.classes,
        by_levels=calibration or cuda,
        width=width,
        cuda=cuda,
        depth_first=depth_first_groups,
    )


class _Lowering:
    """Cuts a graph into groups, op by op.

    `terms[number]` is what a reader of the graph's value `number` reads: the value of a group, through what
    is left to the reader. `groups` are in no particular order.
    """

    def __init__(self, graph: Graph, calibration: bool) -> None:
        self.graph = graph
        self.calibration = calibration
        self.batch_norms: list[BatchNorm] = []
        self.groups: list[Group] = []
        self.fusion = Fusion([entry.uses for entry in graph.entries], bare=True)
        self.heads: dict[int, Group] = {}  # by the number of the op that began its chain
        self.terms: list[Term] = [Term(self._new_group(Kind.INPUT, 0))]
        rules: dict[type[Op], Callable[[int, Any], Term]] = {
            layers.BatchNorm2d: self._add_batch_norm,
            layers.Activation: self._add_activation,
            layers.Add: self._add_sum,
            layers.Shuffle: self._add_arrangement,
            layers.Slice: self._add_arrangement,
        }
        for number, entry in enumerate(graph.entries):
            if entry.call is not None:
                self.terms.append(self._add_call(number, entry.call))
            elif entry.op is not None:
                self.terms.append(rules.get(type(entry.op), self._add_head)(number, entry.op))

    def add_leaf(self, leaf: int, node: int) -> None:
        """Let the output of a path, at a node, be the logits of a leaf."""
        number = self.graph.outputs[node]
        term, entry = self.terms[number], self.graph.entries[number]
        group = term.group
        if not term.plain or entry.uses > 1 or group.kind not in (Kind.LINEAR, Kind.COMBINE):
            group = Group(Kind.COMBINE, None, entry.shape, len(self.graph.entries) + leaf, node, term)
            self.groups.append(group)
        group.leaf = leaf

    def _add_head(self, number: int, op: Op) -> Term:
        """Begin a group with an op that reads all of its inputs."""
        sources = self.graph.entries[number].sources
        return Term(self._new_group(_kind(op), number, *[self.terms[source] for source in sources]))

    def _add_sum(self, number: int, op: layers.Add) -> Term:
        group = self._extended(number, op)
        return Term(group) if group is not None else self._add_head(number, op)

    def _add_activation(self, number: int, op: layers.Activation) -> Term:
        """Extend a group; else leave the activation to the readers, unless they apply another one already."""
        group = self._extended(number, op)
        code = ACTIVATIONS[op.kind].code
        if group is None:
            term = self.terms[self.graph.entries[number].sources[0]]
            if not term.activation:
                return Term(term.group, term.norm, code)
            group = self._new_group(Kind.COMBINE, number, term)
        group.activation = code
        return Term(group)

    def _add_batch_norm(self, number: int, op: layers.BatchNorm2d) -> Term:
        entry = self.graph.entries[number]
        term = self.terms[entry.sources[0]]
        norm = len(self.batch_norms)
        _, height, width = entry.shape
        self.batch_norms.append(BatchNorm(entry.node, op.module, op.channels, op.eps, height * width))
        if self.calibration:
            group = self._with_statistics(number, term)
            group.statistics = norm
            return Term(group, norm)
        extended = self._extended(number, op)
        if extended is None and term.plain:
            return Term(term.group, norm)
        group = extended or self._new_group(Kind.COMBINE, number, term)
        group.output_norm = norm
        return Term(group)

    def _with_statistics(self, number: int, term: Term) -> Group:
        """Return the group that sums what batch norm `number` reads: the one that stores it, or a new one.

        A group sums for a norm of its own node alone, so that results do not depend on which other nodes of
        the tree have norms of its value.
        """
        group, entry = term.group, self.graph.entries[number]
        stored = (group.last,) == entry.sources and not group.activation and not group.adds
        free = group.kind in _WITH_STATISTICS and group.statistics == NONE and group.node == entry.node
        if stored and free:
            return group
        return self._new_combine(number, term)

    def _add_call(self, number: int, call: Call) -> Term:
        """Let torch run an op, on values as they are stored."""
        terms = [self.terms[source] for source in self.graph.entries[number].sources]
        terms = [term if term.plain else Term(self._new_combine(number, term)) for term in terms]
        group = self._new_group(Kind.OPAQUE, number, *terms)
        group.call = call
        return Term(group)

    def _add_arrangement(self, number: int, op: layers.Shuffle | layers.Slice) -> Term:
        """Take the channels from where an arrangement just before takes them, if the form allows."""
        term = self.terms[self.graph.entries[number].sources[0]]
        before = term.group
        stored = term.plain and before.output_norm == NONE and not before.activation
        in_order = before.groups == 1 and before.shape[0] == sum(
            one.group.shape[0] for one in before.inputs()
        )
        if before.kind == Kind.ARRANGE and stored and (in_order or isinstance(op, layers.Slice)):
            group = self._new_group(Kind.ARRANGE, number, before.input, before.other)
            group.groups, group.first = before.groups, before.first
        else:
            group = self._new_group(Kind.ARRANGE, number, term)
        if isinstance(op, layers.Slice):
            group.first += op.start
        else:
            group.groups = op.groups
        return Term(group)

    def _new_group(
        self, kind: Kind, number: int, input: Term | None = None, other: Term | None = None
    ) -> Group:
        """Begin a group with an op; it may take in more, unless nothing is fused with its kind."""
        entry = self.graph.entries[number]
        group = Group(kind, entry.op, entry.shape, number, entry.node, input, other)
        self.groups.append(group)
        if entry.op is not None and kind != Kind.OPAQUE:
            # The second operand of these stands where others have what they add.
            barred = (Stage.SUM,) if kind in (Kind.GATE, Kind.ARRANGE) else ()
            self.fusion.begin(number, stage_of(entry.op), barred)
            self.heads[number] = group
        return group

    def _new_combine(self, number: int, term: Term) -> Group:
        """Add a group that stores a value as a reader sees it, and takes in no op."""
        entry = self.graph.entries[number]
        group = Group(Kind.COMBINE, None, term.group.shape, number, entry.node, term)
        self.groups.append(group)
        return group

    def _extended(self, number: int, op: Op) -> Group | None:
        """Return the group that takes an op in, which then stores its value; None where none does."""
        entry = self.graph.entries[number]
        chain = self.fusion.extend(number, op, entry.sources)
        if chain is None:
            return None
        group = self.heads[chain.first]
        group.last, group.node = number, entry.node
        if chain.stage == Stage.SUM:
            assert chain.other is not None
            group.other = self.terms[chain.other]
        return group


_WITH_STATISTICS = (Kind.CONV2D, Kind.GATE, Kind.ARRANGE)
"""The kinds that can sum what they store."""

_KINDS: dict[type[Op], Kind] = {
    layers.Conv2d: Kind.CONV2D,
    layers.GlobalAvgPool: Kind.GLOBAL_POOL,
    layers.Linear: Kind.LINEAR,
    layers.Add: Kind.COMBINE,
    layers.Multiply: Kind.GATE,
    layers.Concat: Kind.ARRANGE,
}


def _kind(op: Op) -> Kind:
    if isinstance(op, layers.Pool):
        return Kind.MAX_POOL if op.kind == "max" else Kind.AVG_POOL
    return _KINDS[type(op)]
