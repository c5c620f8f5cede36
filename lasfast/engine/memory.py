"""Memory planning: offsets of values in one arena, so that values alive together never overlap.

A value lives from the moment that it is computed to the last that reads it; `lives[i]` is the (first, last)
moment of value i, both included. Both algorithms return an offset for each value, and the size of the arena.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def first_fit(sizes: Sequence[int], lives: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Place values in the order of their births, each in the lowest gap among those alive then."""
    offsets = [0] * len(sizes)
    total = 0
    alive: list[int] = []  # in the order of their offsets
    # Large values first among those born together: small ones fit in the gaps that are left.
    for value in sorted(range(len(sizes)), key=lambda i: (lives[i][0], -sizes[i])):
        size, born = sizes[value], lives[value][0]
        alive = [other for other in alive if lives[other][1] >= born]
        start, position = 0, len(alive)
        for index, other in enumerate(alive):
            if offsets[other] - start >= size:
                position = index
                break
            start = offsets[other] + sizes[other]
        offsets[value] = start
        alive.insert(position, value)
        total = max(total, start + size)
    return offsets, total


def largest_first(sizes: Sequence[int], lives: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Place the largest values first, each in the lowest gap among those alive at any time when it is.

    The arena is smaller than that of `first_fit`, and takes longer to find.
    """
    size, (first, last) = np.array(sizes), np.array(lives).T
    offsets = np.zeros(len(sizes), dtype=np.int64)
    order = np.argsort(-size, kind="stable")
    total = 0
    for number, value in enumerate(order):
        placed = order[:number]
        near = placed[(first[placed] <= last[value]) & (last[placed] >= first[value])]
        start = 0
        for other in near[np.argsort(offsets[near], kind="stable")]:
            if offsets[other] - start >= size[value]:
                break
            start = max(start, int(offsets[other] + size[other]))
        offsets[value] = start
        total = max(total, start + int(size[value]))
    return offsets.tolist(), total
