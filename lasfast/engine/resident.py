"""Resident schedules: operations one after another, with the values of a few images in shared memory.

That memory is small, so values must take little of it. The tree's branches run in an order in which few
values wait, a sum takes the place of what is added where nobody reads that again, and large values are placed
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from lasfast.engine.group import Group, Term
from lasfast.engine.memory import largest_first
from lasfast.engine.schedule import CUDA_CHANNELS, Kind
from lasfast.ir import layers
from lasfast.ir.layers import Shape
from lasfast.ir.prefix_tree import ROOT, PrefixTree

ALIGNMENT = 64
"""Values begin at multiples of so many elements: a line of shared memory in the smallest storage."""
MOST = 228 * 1024 // 2
"""Elements, in the smallest storage, that no multiprocessor has room for."""


def depth_first(tree: PrefixTree, image_shape: Shape) -> list[int]:
    """Return the place of each node of a tree in a depth-first order in which few values wait.

    Of a node's children, that whose subtree needs most memory comes last, when the node's output has only to
    wait for its own layers.
    """
    shapes = tree.shapes(image_shape)
    children: list[list[int]] = [[] for _ in range(len(tree.nodes) + 1)]  # those of the root are last
    # Elements: about those of each layer for itself, and then of its subtree.
    needs = [prod(first) + max(map(prod, inner)) for first, *inner in shapes]
    for index, node in enumerate(tree.nodes):
        children[node.parent].append(index)
    for index in reversed(range(len(tree.nodes))):
        inner = sorted(needs[child] for child in children[index])
        waiting = [need + prod(shapes[index][-1]) for need in inner[:-1]]
        needs[index] = max([needs[index], *inner[-1:], *waiting])
    for some in children:
        some.sort(key=lambda child: needs[child])
    places, stack = [0] * len(tree.nodes), children[ROOT][::-1]
    for place in range(len(tree.nodes)):
        index = stack.pop()
        places[index] = place
        stack += children[index][::-1]
    return places


@dataclass
class _Slot:
    """Memory that values have one after another, each but the first computed in the place of the one before.

    It is in use from time `first` to `last`; `values` are their numbers.
    """

    size: int
    first: int
    last: int
    values: list[int] = field(default_factory=list)


def place_values(groups: Sequence[Group]) -> tuple[list[int], int] | None:
    """Return an offset for each value that the groups store, in order, and the arena's elements per image.

    None where that is more than any multiprocessor has.
    """
    last = {term.group: time for time, group in enumerate(groups) for term in group.inputs()}
    slots: list[_Slot] = []
    owner: dict[Group, _Slot] = {}
    stored = 0
    for time, group in enumerate(groups):
        if group.leaf >= 0:
            continue
        slot = next((owner[one] for one in _replaceable(group) if last[one] == time), None)
        if slot is None:
            channels, height, width = group.shape
            size = -(-channels // CUDA_CHANNELS) * CUDA_CHANNELS * height * width
            slots.append(slot := _Slot(-(-size // ALIGNMENT) * ALIGNMENT, time, time))
        slot.last = last.get(group, time)
        slot.values.append(stored)
        owner[group] = slot
        stored += 1
    busy = np.zeros(len(groups) + 1, dtype=np.int64)
    for slot in slots:
        busy[slot.first] += slot.size
        busy[slot.last + 1] -= slot.size
    if busy.cumsum().max() > MOST:
        return None
    found, arena = largest_first([slot.size for slot in slots], [(slot.first, slot.last) for slot in slots])
    offsets = [0] * stored
    for slot, offset in zip(slots, found, strict=True):
        for value in slot.values:
            offsets[value] = offset
    return offsets, arena


def _replaceable(group: Group) -> list[Group]:
    """Return the groups whose values the output may overwrite: element i is read for element i alone."""
    terms = ((group.input, group.kind in (Kind.COMBINE, Kind.GATE)), (group.other, group.adds))
    once = [term.group for term, elementwise in terms if term is not None and elementwise]
    others = [term.group for term, elementwise in terms if term is not None and not elementwise]
    return [one for one in once if one.shape == group.shape and all(one is not other for other in others)]


def with_plain_inputs(groups: Sequence[Group]) -> list[Group]:
    """Return the groups with one more before each matrix product that reads through a norm or an activation.

    The added group stores what the product then reads as it is stored. Changes the groups of these products.
    """
    result = []
    for group in groups:
        term = group.input
        dense = group.kind == Kind.LINEAR or (isinstance(group.op, layers.Conv2d) and group.op.groups == 1)
        if dense and term is not None and not term.plain:
            group.input = Term(Group(Kind.COMBINE, None, term.group.shape, group.last, group.node, term))
            result.append(group.input.group)
        result.append(group)
    return result
