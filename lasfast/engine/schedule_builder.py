"""Builds a schedule from groups of ops: their order, the places of their values, and their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import accumulate
from math import prod

import numpy as np

from lasfast.engine.group import Group
from lasfast.engine.memory import first_fit
from lasfast.engine.resident import place_values, with_plain_inputs
from lasfast.engine.schedule import (
    ALIGNMENT,
    CUDA_CHANNELS,
    NONE,
    BatchNorm,
    Fields,
    Kind,
    Resident,
    Schedule,
    norm_fields,
    records,
    value_fields,
)
from lasfast.ir import layers
from lasfast.ir.layers import Shape

Reader = layers.Conv2d | layers.Linear
"""The ops that read a packed weight."""


def build_schedule(
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
    """Return the schedule of these groups, without those whose values nothing reads. Changes the groups.

    With `by_levels`, all images go through a level before the next: at most `width` operations are of one
    level (None is any number), and there is one arena. `depth_first`, the groups in another order, asks for a
    resident form.
    """
    groups = _ordered(groups, width if by_levels else 1)
    values, arena, shared = _place(groups, by_levels, CUDA_CHANNELS if cuda else 1)
    # Norms that no operation needs are left out of the tables, the others numbered anew.
    used = {group.statistics for group in groups} | {group.output_norm for group in groups}
    used |= {term.norm for group in groups for term in group.inputs()}
    kept = sorted(used - {NONE})
    norm_numbers = {NONE: NONE} | {norm: number for number, norm in enumerate(kept)}
    kept_norms = tuple(batch_norms[norm] for norm in kept)
    offsets = accumulate((norm.channels for norm in kept_norms), initial=0)
    norms = records(
        "Norm",
        [
            norm_fields(norm.channels, offset=offset, eps=norm.eps)
            for norm, offset in zip(kept_norms, offsets, strict=False)
        ],
    )
    parameters = _Parameters()
    operations = _records(groups, norm_numbers, parameters)
    calls = tuple(
        replace(group.call, operation=index) for index, group in enumerate(groups) if group.call is not None
    )
    nodes = np.array([group.node for group in groups])
    resident = None
    if depth_first is not None and not calls:
        needed = set(groups)
        in_order = [group for group in depth_first if group in needed]
        resident = _resident(in_order, norm_numbers, parameters)
    for array in (values, norms, operations, nodes):
        array.setflags(write=False)  # schedules are remembered, and shared by who asks for them
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
        nodes=nodes,
        resident=resident,
    )


def _resident(groups: list[Group], norms: dict[int, int], parameters: _Parameters) -> Resident | None:
    """Return the groups, in this order, as a kernel runs them in shared memory; None where they do not fit.

    Changes the groups.
    """
    groups = with_plain_inputs(groups)
    placed = place_values(groups)
    if placed is None:
        return None
    for level, group in enumerate(groups):
        group.level = level
    offsets, arena = placed
    shapes = [group.shape for group in groups if group.leaf == NONE]
    values = [value_fields(*shape, offset=offset) for shape, offset in zip(shapes, offsets, strict=True)]
    return Resident(records("Value", values), _records(groups, norms, parameters), arena)


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
    if isinstance(op, layers.Conv2d | layers.Pool) and group.call is None:
        assert isinstance(op.kernel_size, int)
        assert isinstance(op.padding, int)
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
    """Return all that a packed weight depends on."""
    if isinstance(op, layers.Linear):
        return (op.module, op.out_features, shape)
    sizes = (op.out_channels, op.kernel_size, op.stride, op.padding, op.groups)
    return (op.module, *sizes, op.weight_bits, shape)


def _ordered(groups: Sequence[Group], width: int | None) -> list[Group]:
    """Return the groups that something comes of, in an order in which they can run; sets their levels."""
    # A group can run once everything that it read is there: at its last op. (Sorting is stable.)
    order = sorted(groups, key=lambda group: group.last)
    needed = {groups[0]}
    for group in reversed(order):
        if group.statistics != NONE or group.leaf != NONE or group in needed:
            needed.add(group)
            needed.update([term.group for term in group.inputs()])
    order = [group for group in order if group in needed]
    if width == 1:
        for level, group in enumerate(order):
            group.level = level
        return order
    numbers = {group: number for number, group in enumerate(order)}
    readers: list[list[int]] = [[] for _ in order]
    missing = [0] * len(order)
    for index, group in enumerate(order):
        for source in {term.group for term in group.inputs()}:
            readers[numbers[source]].append(index)
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
            for reader in readers[index]:
                missing[reader] -= 1
                if not missing[reader]:
                    heappush(ready, reader)
        level += 1
    return sorted(order, key=lambda group: group.level)


def _any_opaque(order: list[Group], *indices: int) -> bool:
    return any(order[index].kind == Kind.OPAQUE for index in indices)


def _place(groups: list[Group], one_arena: bool, multiple: int) -> tuple[np.ndarray, int, int]:
    """Return the value records of the groups that store a value, and the elements per image of both arenas.

    At each position, the channels are padded to the next `multiple`. The second arena is for values that are
    read or written by opaque operations, or across them; with `one_arena` there are none.
    """
    stored = [group for group in groups if group.leaf == NONE]
    sizes = [_elements(group.shape, multiple) for group in stored]
    levels = _lives(groups, [group.level for group in groups])
    ranges = _range_lives(groups)
    crosses = [not one_arena and (first < last or first % 2 == 1) for first, last in ranges]
    offsets = [0] * len(stored)
    arenas = [0, 0]
    for shared, lives in enumerate((levels, ranges)):
        members = [value for value, crossing in enumerate(crosses) if crossing == bool(shared)]
        found, arenas[shared] = first_fit([sizes[v] for v in members], [lives[v] for v in members])
        for value, offset in zip(members, found, strict=True):
            offsets[value] = offset
    rows = [
        value_fields(*group.shape, shared=crossing, offset=offset)
        for group, crossing, offset in zip(stored, crosses, offsets, strict=True)
    ]
    return records("Value", rows), arenas[0], arenas[1]


def _elements(shape: Shape, multiple: int) -> int:
    """Return the room that a value takes in an arena, in elements per image."""
    channels, *size = shape
    return -(-(-(-channels // multiple) * multiple * prod(size)) // ALIGNMENT) * ALIGNMENT


def _range_lives(groups: list[Group]) -> list[tuple[int, int]]:
    """Return the life of each stored value. Time advances at each opaque call: call k happens at 2 k + 1."""
    if all(group.kind != Kind.OPAQUE for group in groups):
        return [(0, 0)] * sum(group.leaf == NONE for group in groups)
    times, time = [], 0
    for group in groups:
        opaque = group.kind == Kind.OPAQUE
        times.append(time + opaque)
        time += 2 * opaque
    return _lives(groups, times)


def _lives(groups: list[Group], times: list[int]) -> list[tuple[int, int]]:
    """Return the first and the last time of each stored value; `times` has one time for each group."""
    last = dict(zip(groups, times, strict=True))
    for group, time in zip(groups, times, strict=True):
        for term in group.inputs():
            if last[term.group] < time:
                last[term.group] = time
    return [(time, last[group]) for group, time in zip(groups, times, strict=True) if group.leaf == NONE]
