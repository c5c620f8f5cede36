"""Lowering: a plan becomes a schedule of fused operations, for calibration or for prediction.

The plan's ops, those of all candidates, are one graph of values. A chain of ops in which each value has
one reader becomes one operation, as far as the form of `schedule.h` goes: the op itself, the batch norm
of its output, the residual that is added, the activation. What cannot be chained is left to the readers,
who apply a batch norm and an activation to each element as they load it. Concatenations, shuffles and
slices of channels that follow each other become one arrangement of the channels that they begin with.

In calibration the statistics of a batch norm are known only once its whole input is, so a batch norm is
always left to the readers, and the operation before it takes the statistics as it stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from math import prod

import numpy as np

from lasfast.engine.plan import ROOT, Plan
from lasfast.engine.schedule import ACTIVATIONS, ALIGNMENT, NORM, OPERATION, VALUE, BatchNorm, Kind, Schedule
from lasfast.engine.workspace import place
from lasfast.supernets import layers
from lasfast.supernets.layers import Layer, Op, Shape

NONE = -1


class NotLowerableError(Exception):
    """A layer holds an op that has no native operation."""

    def __init__(self, layer: Layer, op: Op, why: str) -> None:
        super().__init__(f"layer {layer.name!r}: {type(op).__name__}: {why}")


@dataclass
class _Entry:
    """An op of the graph; `shape` (channels, height, width) of its output, 1 x 1 for features."""

    op: Op | None
    sources: tuple[int, ...]
    shape: Shape
    node: int
    uses: int = 0


@dataclass
class _Group:
    """An operation in the making. `last` is the entry whose value it stores so far."""

    kind: Kind
    op: Op | None
    shape: Shape
    last: int
    input: _Term | None = None
    other: _Term | None = None
    groups: int = 1
    first: int = 0
    output_norm: int = NONE
    activation: int = 0
    statistics: int = NONE
    level: int = 0
    leaf: int = NONE

    def inputs(self) -> Iterator[_Term]:
        if self.input is not None:
            yield self.input
        if self.other is not None:
            yield self.other

    @property
    def adds(self) -> bool:
        """Whether `other` is added to the operation's result; of these two kinds it is an operand."""
        return self.other is not None and self.kind not in (Kind.GATE, Kind.ARRANGE)


@dataclass(frozen=True)
class _Term:
    """The value that a group stores, as seen through a norm and an activation."""

    group: _Group
    norm: int = NONE
    activation: int = 0


def lower(plan: Plan, image_shape: Shape, *, calibration: bool, width: int | None = 1) -> Schedule:
    """Return the schedule of one pass over images [N, *image_shape].

    At most `width` operations are of one level, those that come first in the plan's depth-first order: 1
    holds the fewest values at a time; None runs as many together as can. Prediction has no use for levels.
    Raises NotLowerableError.
    """
    return _Lowering(plan, image_shape, calibration).schedule(width if calibration else 1)


class _Lowering:
    def __init__(self, plan: Plan, image_shape: Shape, calibration: bool) -> None:
        self.plan = plan
        self.calibration = calibration
        self.classes = 0
        self.entries: list[_Entry] = [_Entry(None, (), image_shape, ROOT)]
        self.groups: list[_Group] = []
        self.batch_norms: list[BatchNorm] = []
        self.leaves = tuple(sorted(set(plan.leaves)))
        outputs = self._make_graph()
        self.terms: list[_Term] = [_Term(self._new_group(Kind.INPUT, 0))]
        for index in range(1, len(self.entries)):
            self.terms.append(self._add(index))
        if not calibration:
            for number, leaf in enumerate(self.leaves):
                self._make_leaf(number, outputs[leaf])

    def _make_graph(self) -> dict[int, int]:
        """Fill `entries`; return the entry of each node's output. Dropout and flattening vanish."""
        outputs = {ROOT: 0}
        # Shapes as the layers see them: flattened features, where an entry stays an image.
        shapes: dict[int, Shape] = {ROOT: self.entries[0].shape}
        for node_index, node in enumerate(self.plan.nodes):
            layer = node.layer
            values = [outputs[node.parent]]
            layer_shapes = _shapes(layer, shapes[node.parent])
            for (op, numbers), shape in zip(layer.steps(), layer_shapes[1:], strict=True):
                sources = tuple(values[number] for number in numbers)
                if isinstance(op, layers.Dropout | layers.Flatten):
                    values.append(sources[0])
                    continue
                stored: Shape = shape if len(shape) == 3 else (shape[0], 1, 1)
                if isinstance(op, layers.Activation | layers.Add):
                    stored = self.entries[sources[0]].shape
                self._check(layer, op, [self.entries[source].shape for source in sources])
                for source in sources:
                    self.entries[source].uses += 1
                self.entries.append(_Entry(op, sources, stored, node_index))
                values.append(len(self.entries) - 1)
            outputs[node_index], shapes[node_index] = values[-1], layer_shapes[-1]
            if not node.uses:
                self._check_leaf(layer, self.entries[values[-1]].shape, layer_shapes[-1])
                self.entries[values[-1]].uses += 1
        return outputs

    def _check(self, layer: Layer, op: Op, inputs: list[Shape]) -> None:
        if isinstance(op, layers.Conv2d):
            if op.groups != 1 and not op.groups == op.in_channels == op.out_channels:
                raise NotLowerableError(
                    layer, op, f"{op.groups} groups of {op.in_channels} to {op.out_channels} channels"
                )
        elif isinstance(op, layers.Add):
            first, second = inputs
            if first[1:] != second[1:] or second[0] > first[0]:
                raise NotLowerableError(layer, op, f"cannot add {second} to {first} where one is flattened")
        elif isinstance(op, layers.Multiply):
            if inputs[1] != (inputs[0][0], 1, 1):
                raise NotLowerableError(
                    layer, op, f"cannot gate {inputs[0]} by {inputs[1]}, flattened before"
                )
        elif not isinstance(op, _LOWERABLE):
            raise NotLowerableError(layer, op, "has no native operation")

    def _check_leaf(self, layer: Layer, stored: Shape, shape: Shape) -> None:
        if len(shape) != 1 or stored[1:] != (1, 1) or self.classes not in (0, shape[0]):
            raise NotLowerableError(
                layer, layer.ops[-1], f"ends a path with a value of shape {shape}, stored as {stored}"
            )
        self.classes = shape[0]

    def _new_group(
        self, kind: Kind, index: int, input: _Term | None = None, other: _Term | None = None
    ) -> _Group:
        entry = self.entries[index]
        group = _Group(kind, entry.op, entry.shape, index, input, other)
        self.groups.append(group)
        return group

    def _chain(self, source: int) -> _Group | None:
        """The group whose stored value is this entry, where the op at hand is the only one that reads it."""
        group = self.terms[source].group
        if group.last == source and self.entries[source].uses == 1 and group.kind != Kind.INPUT:
            return group
        return None

    def _add(self, index: int) -> _Term:
        """Lower one op: extend a group, leave it to the readers, or begin a new group."""
        entry = self.entries[index]
        op, source = entry.op, entry.sources[0]
        if isinstance(op, layers.BatchNorm2d):
            return self._add_batch_norm(op, index)
        if isinstance(op, layers.Activation):
            number = ACTIVATIONS[op.kind]
            group = self._chain(source)
            if group is not None and not group.activation and group.statistics == NONE:
                group.activation, group.last = number, index
                return _Term(group)
            term = self.terms[source]
            if not term.activation:
                return _Term(term.group, term.norm, number)
            group = self._new_group(Kind.COMBINE, index, term)
            group.activation = number
            return _Term(group)
        if isinstance(op, layers.Add):
            return self._add_sum(index)
        if isinstance(op, layers.Multiply):
            value, gate = (self.terms[number] for number in entry.sources)
            return _Term(self._new_group(Kind.GATE, index, value, gate))
        if isinstance(op, layers.Concat):
            first, second = (self.terms[number] for number in entry.sources)
            return _Term(self._new_group(Kind.ARRANGE, index, first, second))
        if isinstance(op, layers.Shuffle | layers.Slice):
            return _Term(self._add_arrangement(op, index))
        return _Term(self._new_group(_kind(op), index, self.terms[source]))

    def _add_batch_norm(self, op: layers.BatchNorm2d, index: int) -> _Term:
        entry = self.entries[index]
        source = entry.sources[0]
        norm = len(self.batch_norms)
        _, height, width = entry.shape
        self.batch_norms.append(BatchNorm(entry.node, op.module, op.channels, op.eps, height * width))
        term = self.terms[source]
        if self.calibration:
            group = term.group
            fresh = group.kind in _WITH_STATISTICS and group.last == source and group.statistics == NONE
            if not fresh or group.activation or group.adds:
                group = self._new_group(Kind.COMBINE, index, term)
            group.statistics = norm
            return _Term(group, norm)
        chain = self._chain(source)
        if chain is not None and chain.output_norm == NONE and not chain.activation and not chain.adds:
            chain.output_norm, chain.last = norm, index
            return _Term(chain)
        if term.norm == NONE and not term.activation:
            return _Term(term.group, norm)
        group = self._new_group(Kind.COMBINE, index, term)
        group.output_norm = norm
        return _Term(group)

    def _add_sum(self, index: int) -> _Term:
        first, second = self.entries[index].sources
        for source, other in ((first, second), (second, first)):
            group = self._chain(source)
            fits = self.entries[other].shape[0] <= self.entries[source].shape[0]
            if group is None or not fits:
                continue
            if group.other is None and not group.activation and group.statistics == NONE:
                group.other, group.last = self.terms[other], index
                return _Term(group)
        return _Term(self._new_group(Kind.COMBINE, index, self.terms[first], self.terms[second]))

    def _add_arrangement(self, op: layers.Shuffle | layers.Slice, index: int) -> _Group:
        """Take the channels from where an arrangement just before takes them, if the form allows."""
        term = self.terms[self.entries[index].sources[0]]
        before = term.group
        stored = before.output_norm == term.norm == NONE and not before.activation and not term.activation
        in_order = before.groups == 1 and before.shape[0] == sum(
            one.group.shape[0] for one in before.inputs()
        )
        if before.kind == Kind.ARRANGE and stored and (in_order or isinstance(op, layers.Slice)):
            group = self._new_group(Kind.ARRANGE, index, before.input, before.other)
            group.groups, group.first = before.groups, before.first
        else:
            group = self._new_group(Kind.ARRANGE, index, term)
        if isinstance(op, layers.Slice):
            group.first += op.start
        else:
            group.groups = op.groups
        return group

    def _make_leaf(self, number: int, entry: int) -> None:
        """Let the group of a path's output write logits."""
        term = self.terms[entry]
        group = term.group
        plain = term.norm == NONE and not term.activation and self.entries[entry].uses == 1
        if not plain or group.kind not in (Kind.LINEAR, Kind.COMBINE):
            group = _Group(Kind.COMBINE, None, self.entries[entry].shape, len(self.entries) + number, term)
            self.groups.append(group)
        group.leaf = number

    def schedule(self, width: int | None) -> Schedule:
        groups = self._ordered(width)
        values, arena = _place(groups)
        # Norms that no operation needs are left out of the tables, the others numbered anew.
        used = {group.statistics for group in groups} | {group.output_norm for group in groups}
        used |= {term.norm for group in groups for term in group.inputs()}
        kept = sorted(used - {NONE})
        renumbered = {NONE: NONE} | {norm: number for number, norm in enumerate(kept)}
        batch_norms = tuple(self.batch_norms[norm] for norm in kept)
        offsets = np.cumsum([0, *(norm.channels for norm in batch_norms)])
        norms = np.array(
            [(norm.channels, offsets[i], norm.eps, 0) for i, norm in enumerate(batch_norms)], dtype=NORM
        )

        numbers = {id(group): number for number, group in enumerate(g for g in groups if g.leaf == NONE)}
        weights: dict[tuple[object, ...], int] = {}
        sources: list[tuple[layers.Conv2d | layers.Linear, Shape, int]] = []
        biases: dict[tuple[str, int], int] = {}
        bias_end = 0
        rows = []
        for index, group in enumerate(groups):
            weight = bias = NONE
            kernel, stride, padding, channel_groups = 1, 1, 0, group.groups
            op = group.op
            if isinstance(op, layers.Conv2d | layers.Linear):
                assert group.input is not None
                shape = group.input.group.shape
                key = _weight_key(op, shape)
                weight = weights.setdefault(key, len(weights))
                if weight == len(sources):
                    sources.append((op, shape, index))
                if op.bias:
                    slot = (op.module, group.shape[0])
                    if slot not in biases:
                        biases[slot] = bias_end
                        bias_end += group.shape[0]
                    bias = biases[slot]
            if isinstance(op, layers.Conv2d | layers.Pool):
                kernel, stride, padding = op.kernel_size, op.stride, op.padding
            if isinstance(op, layers.Conv2d):
                channel_groups = op.groups
            one, other = group.input, group.other
            rows.append(
                (
                    group.kind,
                    group.level,
                    numbers[id(one.group)] if one else NONE,
                    numbers[id(other.group)] if other else NONE,
                    numbers.get(id(group), NONE),
                    group.leaf,
                    kernel,
                    stride,
                    padding,
                    channel_groups,
                    renumbered[one.norm] if one else NONE,
                    one.activation if one else 0,
                    renumbered[other.norm] if other else NONE,
                    other.activation if other else 0,
                    renumbered[group.output_norm],
                    group.activation,
                    renumbered[group.statistics],
                    group.shape[0],
                    group.first,
                    0,
                    weight,
                    bias,
                )
            )
        return Schedule(
            values=values,
            norms=norms,
            operations=np.array(rows, dtype=OPERATION),
            batch_norms=batch_norms,
            weights=tuple(sources),
            biases=tuple(biases),
            arena=arena,
            leaves=self.leaves,
            classes=self.classes,
        )

    def _ordered(self, width: int | None) -> list[_Group]:
        """The groups that something comes of, in an order in which they can run, with their levels."""
        # A group can run once everything that it read is there: at its last op. (Sorting is stable.)
        order = sorted(self.groups, key=lambda group: group.last)
        needed = {id(self.groups[0])}
        for group in reversed(order):
            if group.statistics != NONE or group.leaf != NONE or id(group) in needed:
                needed.add(id(group))
                needed.update(id(term.group) for term in group.inputs())
        order = [group for group in order if id(group) in needed]
        if width == 1:
            for level, group in enumerate(order):
                group.level = level
            return order
        readers: dict[int, list[int]] = {id(group): [] for group in order}
        missing = [0] * len(order)
        for index, group in enumerate(order):
            for source in {id(term.group) for term in group.inputs()}:
                readers[source].append(index)
                missing[index] += 1
        ready = [index for index, count in enumerate(missing) if not count]
        level = 0
        while ready:
            together = [heappop(ready) for _ in range(min(width or len(ready), len(ready)))]
            for index in together:
                order[index].level = level
                for reader in readers[id(order[index])]:
                    missing[reader] -= 1
                    if not missing[reader]:
                        heappush(ready, reader)
            level += 1
        return sorted(order, key=lambda group: group.level)


_LOWERABLE = (
    layers.BatchNorm2d,
    layers.Activation,
    layers.Pool,
    layers.GlobalAvgPool,
    layers.Linear,
    layers.Concat,
    layers.Shuffle,
    layers.Slice,
)
_WITH_STATISTICS = (Kind.CONV2D, Kind.GATE, Kind.ARRANGE)


def _kind(op: Op | None) -> Kind:
    if isinstance(op, layers.Pool):
        return Kind.MAX_POOL if op.kind == "max" else Kind.AVG_POOL
    kinds: dict[type, Kind] = {
        layers.Conv2d: Kind.CONV2D,
        layers.GlobalAvgPool: Kind.GLOBAL_POOL,
        layers.Linear: Kind.LINEAR,
    }
    return kinds[type(op)]


def _weight_key(op: layers.Conv2d | layers.Linear, shape: Shape) -> tuple[object, ...]:
    """What a packed weight may depend on."""
    if isinstance(op, layers.Linear):
        return (op.module, op.out_features, shape)
    return (op.module, op.out_channels, op.kernel_size, op.stride, op.padding, op.groups, shape)


@lru_cache(maxsize=4096)
def _shapes(layer: Layer, input_shape: Shape) -> tuple[Shape, ...]:
    return layer.shapes(input_shape)


def _place(groups: list[_Group]) -> tuple[np.ndarray, int]:
    """Return the values of the groups that store one, and the arena's elements per image."""
    stored = [group for group in groups if group.leaf == NONE]
    last = {id(group): group.level for group in stored}
    for group in groups:
        for term in group.inputs():
            last[id(term.group)] = max(last[id(term.group)], group.level)
    sizes = [-(-prod(group.shape) // ALIGNMENT) * ALIGNMENT for group in stored]
    offsets, arena = place(sizes, [(group.level, last[id(group)]) for group in stored])
    rows = [(*group.shape, 0, offset) for group, offset in zip(stored, offsets, strict=True)]
    return np.array(rows, dtype=VALUE), arena
