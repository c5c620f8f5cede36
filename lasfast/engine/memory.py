"""Where values live: offsets in one arena, so that values alive together never overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def place(sizes: Sequence[int], lives: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Return an offset for each value, and the size of the arena.

    `lives[i]` is the (first, last) moment of value i, both included. Values are placed in the order of
    their births, each in the lowest gap that has room for it among those alive then (first fit).
    """
    offsets = [0] * len(sizes)
    total = 0
    alive: list[int] = []  # in the order of their offsets
    # Large values first among those born together: small ones fit in the gaps that are left.
    for value in sorted(range(len(sizes)), key=lambda i: (lives[i][0], -sizes[i])):
        born = lives[value][0]
        alive = [other for other in alive if lives[other][1] >= born]
        start, position = 0, len(alive)
        for index, other in enumerate(alive):
            if offsets[other] - start >= sizes[value]:
                position = index
                break
            start = offsets[other] + sizes[other]
        offsets[value] = start
        alive.insert(position, value)
        total = max(total, start + sizes[value])
    return offsets, total


def pack(sizes: Sequence[int], lives: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Return what `place` does, for a smaller arena: the largest values are placed first.

    Each goes to the lowest gap that has room for it among those that are alive at any time when it is.
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
