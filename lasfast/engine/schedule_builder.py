"""From groups of ops, one for each operation, to the schedule's records: their order, memory and weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import prod

import numpy as np

from lasfast.engine.memory import place
from lasfast.engine.resident import place_values
from lasfast.engine.schedule import (
    ALIGNMENT,
    CUDA_CHANNELS,
    NONE,
    BatchNorm,
    Call,
    Fields,
    Kind,
    Resident,
    Schedule,
    norm_fields,
    records,
    value_fields,
)
from lasfast.ir import layers
from lasfast.ir.layers import Op, Shape

Reader = layers.Conv2d | layers.Linear
"""The ops that read a packed weight."""


@dataclass
class Group:
    """An operation in the making. `last` is the op of the graph whose value it stores so far."""

    kind: Kind
    op: Op | None
    shape: Shape
    last: int
    input: Term | None = None
    other: Term | None = None
    groups: int = 1
    first: int = 0
    output_norm: int = NONE
    activation: int = 0
    statistics: int = NONE
    level: int = 0
    leaf: int = NONE
    call: Call | None = None

    def inputs(self) -> Iterator[Term]:
        """Give the one or two values it reads."""
        if self.input is not None:
            yield self.input
        if self.other is not None:
            yield self.other

    @property
    def adds(self) -> bool:
        """Whether `other` is added to the operation's result; of some kinds it is an operand."""
        return self.other is not None and self.kind not in (Kind.GATE, Kind.ARRANGE, Kind.OPAQUE)


@dataclass(frozen=True)
class Term:
    """The value that a group stores, as seen through a norm and an activation."""

    group: Group
    norm: int = NONE
    activation: int = 0

    @property
    def plain(self) -> bool:
        """Whether it is the value as it is stored."""
        return self.norm == NONE and not self.activation


def emit(
    groups: Sequence[Group],
    batch_norms: Sequence[BatchNorm],
    leaves: tuple[int, ...],
    classes: int,
    *,
    by_levels: bool,
    width: int | None,
    cuda: bool,
    depth_first: Sequence[Group] | None = None,
) -> Schedule:
    """Return the schedule of these groups, those left out of which nothing comes.

    Where all images go through a level before the next, at most `width` operations are of one level (None is
    any number), and there is one arena. `depth_first`, the groups in another order, asks for a resident form.
    """
    groups = _ordered(groups, width if by_levels else 1)
    values, arena, shared = _place(groups, by_levels, CUDA_CHANNELS if cuda else 1)
    # Norms that no operation needs are left out of the tables, the others numbered anew.
    used = {group.statistics for group in groups} | {group.output_norm for group in groups}
    used |= {term.norm for group in groups for term in group.inputs()}
    kept = sorted(used - {NONE})
    norm_numbers = {NONE: NONE} | {norm: number for number, norm in enumerate(kept)}
    kept_norms = tuple(batch_norms[norm] for norm in kept)
    offsets = np.cumsum([0, *(norm.channels for norm in kept_norms)])
    norms = records(
        "Norm",
        [norm_fields(norm.channels, offset=offsets[i], eps=norm.eps) for i, norm in enumerate(kept_norms)],
    )
    parameters = _Parameters()
    operations = _records(groups, norm_numbers, parameters)
    calls = tuple(
        replace(group.call, operation=index) for index, group in enumerate(groups) if group.call is not None
    )
    resident = None
    if depth_first is not None and not calls:
        needed = {id(group) for group in groups}
        in_order = [group for group in depth_first if id(group) in needed]
        resident = _resident(in_order, norm_numbers, parameters)
    return Schedule(
        values=values,
        norms=norms,
        operations=operations,
        batch_norms=kept_norms,
        weights=tuple(parameters.sources),
        biases=tuple(parameters.biases),
        arena=arena,
        shared=shared,
        calls=calls,
        leaves=leaves,
        classes=classes,
        resident=resident,
    )


def _resident(groups: list[Group], norms: dict[int, int], parameters: _Parameters) -> Resident | None:
    """Return the groups in this order as a kernel runs them in shared memory, if they fit. Changes them."""
    groups = _with_plain_inputs(groups)
    placed = place_values(groups)
    if placed is None:
        return None
    for level, group in enumerate(groups):
        group.level = level
    offsets, arena = placed
    shapes = [group.shape for group in groups if group.leaf == NONE]
    values = [value_fields(*shape, offset=offset) for shape, offset in zip(shapes, offsets, strict=True)]
    return Resident(records("Value", values), _records(groups, norms, parameters), arena)


def _with_plain_inputs(groups: Sequence[Group]) -> list[Group]:
    """The groups, with an operation more before each matrix product that reads through norm or activation.

    Changes these groups.
    """
    result = []
    for group in groups:
        term = group.input
        dense = group.kind == Kind.LINEAR or (isinstance(group.op, layers.Conv2d) and group.op.groups == 1)
        if dense and term is not None and not term.plain:
            group.input = Term(Group(Kind.COMBINE, None, term.group.shape, group.last, term))
            result.append(group.input.group)
        result.append(group)
    return result


def _records(groups: list[Group], norms: dict[int, int], parameters: _Parameters) -> np.ndarray:
    """Return the groups' records; the values that they store are numbered in their order."""
    numbers = {id(group): number for number, group in enumerate(g for g in groups if g.leaf == NONE)}
    rows = [
        _record(group, numbers, norms, *parameters.of(group, index)) for index, group in enumerate(groups)
    ]
    return records("Operation", rows)


def _record(group: Group, numbers: dict[int, int], norms: dict[int, int], weight: int, bias: int) -> Fields:
    """Return an operation's fields."""
    op, one, other = group.op, group.input, group.other
    kernel, stride, padding, channel_groups = 1, 1, 0, group.groups
    if isinstance(op, layers.Conv2d | layers.Pool):
        kernel, stride, padding = op.kernel_size, op.stride, op.padding
    if isinstance(op, layers.Conv2d):
        channel_groups = op.groups
    return {
        "kind": group.kind,
        "level": group.level,
        "input": numbers[id(one.group)] if one else NONE,
        "other": numbers[id(other.group)] if other else NONE,
        "output": numbers.get(id(group), NONE),
        "leaf": group.leaf,
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "groups": channel_groups,
        "input_norm": norms[one.norm] if one else NONE,
        "input_activation": one.activation if one else 0,
        "other_norm": norms[other.norm] if other else NONE,
        "other_activation": other.activation if other else 0,
        "output_norm": norms[group.output_norm],
        "activation": group.activation,
        "statistics": norms[group.statistics],
        "out_channels": group.shape[0],
        "first": group.first,
        "tile": 0,
        "weight": weight,
        "bias": bias,
    }


class _Parameters:
    """The distinct weights and biases that operations read."""

    def __init__(self) -> None:
        self.sources: list[tuple[Reader, Shape, int]] = []
        self.biases: dict[tuple[str, int], int] = {}
        self._weights: dict[tuple[object, ...], int] = {}
        self._bias_end = 0

    def of(self, group: Group, index: int) -> tuple[int, int]:
        """Return the number of the weight that operation `index` reads, and where its bias begins."""
        op = group.op
        if group.kind not in (Kind.CONV2D, Kind.LINEAR):
            return NONE, NONE
        assert isinstance(op, Reader)
        assert group.input is not None
        shape = group.input.group.shape
        weight = self._weights.setdefault(_weight_key(op, shape), len(self._weights))
        if weight == len(self.sources):
            self.sources.append((op, shape, index))
        if not op.bias:
            return weight, NONE
        slot = (op.module, group.shape[0])
        if slot not in self.biases:
            self.biases[slot] = self._bias_end
            self._bias_end += group.shape[0]
        return weight, self.biases[slot]


def _weight_key(op: Reader, shape: Shape) -> tuple[object, ...]:
    """What a packed weight may depend on."""
    if isinstance(op, layers.Linear):
        return (op.module, op.out_features, shape)
    sizes = (op.out_channels, op.kernel_size, op.stride, op.padding, op.groups)
    return (op.module, *sizes, op.weight_bits, shape)


def _ordered(groups: Sequence[Group], width: int | None) -> list[Group]:
    """The groups that something comes of, in an order in which they can run, with their levels."""
    # A group can run once everything that it read is there: at its last op. (Sorting is stable.)
    order = sorted(groups, key=lambda group: group.last)
    needed = {id(groups[0])}
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
        together = [heappop(ready)]
        # An opaque operation has a level of its own.
        while ready and len(together) != width and not _any_opaque(order, together[-1], ready[0]):
            together.append(heappop(ready))
        for index in together:
            order[index].level = level
            for reader in readers[id(order[index])]:
                missing[reader] -= 1
                if not missing[reader]:
                    heappush(ready, reader)
        level += 1
    return sorted(order, key=lambda group: group.level)


def _any_opaque(order: list[Group], *indices: int) -> bool:
    return any(order[index].kind == Kind.OPAQUE for index in indices)


def _place(groups: list[Group], one_arena: bool, multiple: int) -> tuple[np.ndarray, int, int]:
    """Return the values of the groups that store one, and elements per image of both arenas.

    Positions are as large as the next `multiple` of the channels.
    """
    stored = [group for group in groups if group.leaf == NONE]
    shapes = [(-(-group.shape[0] // multiple) * multiple, *group.shape[1:]) for group in stored]
    sizes = [-(-prod(shape) // ALIGNMENT) * ALIGNMENT for shape in shapes]
    lives = _lives(groups, [group.level for group in groups])
    # Moments of the shared arena: 0 is the first range of native operations, 1 the first opaque one, ...
    moments, moment = [], 0
    for group in groups:
        opaque = group.kind == Kind.OPAQUE
        moments.append(moment + opaque)
        moment += 2 * opaque
    spans = _lives(groups, moments)
    crosses = [not one_arena and (first < last or first % 2 == 1) for first, last in spans]
    offsets = [0] * len(stored)
    arenas = [0, 0]
    for shared, times in enumerate((lives, spans)):
        members = [value for value, crossing in enumerate(crosses) if crossing == bool(shared)]
        found, arenas[shared] = place([sizes[v] for v in members], [times[v] for v in members])
        for value, offset in zip(members, found, strict=True):
            offsets[value] = offset
    rows = [
        value_fields(*group.shape, shared=crossing, offset=offset)
        for group, crossing, offset in zip(stored, crosses, offsets, strict=True)
    ]
    return records("Value", rows), arenas[0], arenas[1]


def _lives(groups: list[Group], times: list[int]) -> list[tuple[int, int]]:
    """The first and last time of each stored value, where each group has its time."""
    last = {id(group): time for group, time in zip(groups, times, strict=True)}
    first = dict(last)
    for group, time in zip(groups, times, strict=True):
        for term in group.inputs():
            last[id(term.group)] = max(last[id(term.group)], time)
    return [(first[id(group)], last[id(group)]) for group in groups if group.leaf == NONE]
