"""Operations one after another, for a kernel that keeps the values of a few images in shared memory.

That memory is small, so values take as little of it as can be: the tree's branches run in an order that has
little waiting, a sum is stored in the place of what is added where nobody reads that again, and large values
are placed first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from lasfast.engine.memory import pack
from lasfast.engine.schedule import CUDA_CHANNELS, Kind
from lasfast.ir.layers import Shape
from lasfast.ir.prefix_tree import ROOT, PrefixTree

if TYPE_CHECKING:
    from lasfast.engine.schedule_builder import Group

ALIGNMENT = 64
"""Values begin at multiples of so many elements: a line of shared memory in the smallest storage."""
MOST = 228 * 1024 // 2
"""Elements, in the smallest storage, that no multiprocessor has room for."""


def depth_first(plan: PrefixTree, image_shape: Shape) -> list[int]:
    """Return the place of each node of a plan in a depth-first order in which few values wait.

    Of a node's children, that whose subtree needs most memory comes last, when the node's output has only to
    wait for its own layers.
    """
    shapes: dict[int, Shape] = {ROOT: image_shape}
    children: list[list[int]] = [[] for _ in range(len(plan.nodes) + 1)]  # those of the root are last
    own = []  # about what a layer needs for itself
    for index, node in enumerate(plan.nodes):
        inner = node.layer.shapes(shapes[node.parent])
        shapes[index] = inner[-1]
        own.append(prod(inner[0]) + max(map(prod, inner[1:]), default=0))
        children[node.parent].append(index)
    needs = [0] * len(plan.nodes)
    for index in reversed(range(len(plan.nodes))):
        inner_needs = sorted(needs[child] for child in children[index])
        waiting = [need + prod(shapes[index]) for need in inner_needs[:-1]]
        needs[index] = max([own[index], *inner_needs[-1:], *waiting])
    for some in children:
        some.sort(key=lambda child: needs[child])
    places, stack = [0] * len(plan.nodes), children[ROOT][::-1]
    for place in range(len(plan.nodes)):
        index = stack.pop()
        places[index] = place
        stack += children[index][::-1]
    return places


@dataclass
class _Slot:
    """What values have one after another, when each but the first is computed in place."""

    size: int
    first: int
    last: int
    values: list[int] = field(default_factory=list)


def place_values(groups: Sequence[Group]) -> tuple[list[int], int] | None:
    """Return an offset for each value that the groups store, in order, and elements per image of the arena.

    None where that is more than any multiprocessor has.
    """
    last = {id(term.group): time for time, group in enumerate(groups) for term in group.inputs()}
    slots: list[_Slot] = []
    owner: dict[int, _Slot] = {}
    stored = 0
    for time, group in enumerate(groups):
        if group.leaf >= 0:
            continue
        slot = next((owner[id(one)] for one in _replaceable(group) if last[id(one)] == time), None)
        if slot is None:
            channels, height, width = group.shape
            size = -(-channels // CUDA_CHANNELS) * CUDA_CHANNELS * height * width
            slots.append(slot := _Slot(-(-size // ALIGNMENT) * ALIGNMENT, time, time))
        slot.last = last.get(id(group), time)
        slot.values.append(stored)
        owner[id(group)] = slot
        stored += 1
    busy = np.zeros(len(groups) + 1, dtype=np.int64)
    for slot in slots:
        busy[slot.first] += slot.size
        busy[slot.last + 1] -= slot.size
    if busy.cumsum().max() > MOST:
        return None
    found, arena = pack([slot.size for slot in slots], [(slot.first, slot.last) for slot in slots])
    offsets = [0] * stored
    for slot, offset in zip(slots, found, strict=True):
        for value in slot.values:
            offsets[value] = offset
    return offsets, arena


def _replaceable(group: Group) -> list[Group]:
    """The groups in whose values' place the output of this one may be: each element is read for its own."""
    terms = ((group.input, group.kind in (Kind.COMBINE, Kind.GATE)), (group.other, group.adds))
    once = [term.group for term, elementwise in terms if term is not None and elementwise]
    others = [term.group for term, elementwise in terms if term is not None and not elementwise]
    return [one for one in once if one.shape == group.shape and all(one is not other for other in others)]
