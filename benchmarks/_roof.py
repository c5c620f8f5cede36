"""The roof of an operation: the least time that its multiply-adds or its bytes take on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from benchmarks import _harness

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
USUAL_CACHES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}
"""Sizes in bytes, where the machine does not tell its own."""
MEMORY = "memory"
COPIED = 1 << 26
"""A measurement of a bandwidth copies so many bytes at least."""
MOST_COPIED = 1 << 29
SHIFT = 64
CLOCK = time.thread_time
"""The clock of one thread, which does not go on while others have its core."""


@dataclass(frozen=True)
class Work:
    """The least that an operation has to do.

    Attributes:
        products: multiply-adds, of the algorithm that it is computed by.
        bytes: what it reads and what it writes, each once.
        held: bytes that the cache would have to hold for the operation to find there what it reads; by
            default those that it reads and writes.
    """

    products: int
    bytes: int
    held: int | None = None


@dataclass(frozen=True)
class Level:
    """A level of cache, or the memory (of no size), and the bytes that one thread moves a second there."""

    name: str
    size: int | None
    bandwidth: float


@dataclass(frozen=True)
class Machine:
    """The most that one thread of the machine can do.

    Attributes:
        rate: multiply-adds a second of dense products in the precision.
        vector_rate: the same of vector instructions in fp32, in which values of any precision can be
            multiplied: where this is higher, it bounds the roof.
        levels: the caches, the smallest first, then the memory.
    """

    rate: float
    vector_rate: float
    levels: tuple[Level, ...]

    def level(self, held: int) -> Level:
        """Return the first level that holds so many bytes."""
        return next(one for one in self.levels if one.size is None or held <= one.size)

    def seconds(self, work: Work) -> tuple[float, float]:
        """Return the seconds of the multiply-adds alone, and those of the bytes alone."""
        level = self.level(work.bytes if work.held is None else work.held)
        return work.products / max(self.rate, self.vector_rate), work.bytes / level.bandwidth

    def roof(self, work: Work) -> float:
        """Return the seconds that an operation takes at the least."""
        return max(self.seconds(work))

    def as_json(self) -> dict[str, Any]:
        """Return the machine as JSON values, from which `from_json` makes it again."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Machine:
        """Return the machine that a record has."""
        return cls(**{**values, "levels": tuple(Level(**one) for one in values["levels"])})


@dataclass
class Sum:
    """Operations of one kind: what they took, and what they would take at their roof.

    Attributes:
        operations: how many of them there are.
        seconds: what they took.
        roof: what they would take at their roof.
        own_roof: the same if the caches had to hold nothing but what one operation reads and writes.
        precision_roof: the same as `roof` if nothing could be multiplied but in the precision.
        by_products: the part of `roof` of operations that multiply-adds bound.
        products, bytes: those of all of them.
    """

    operations: float = 0.0
    seconds: float = 0.0
    roof: float = 0.0
    own_roof: float = 0.0
    precision_roof: float = 0.0
    by_products: float = 0.0
    products: float = 0.0
    bytes: float = 0.0

    def add(self, machine: Machine, work: Work, seconds: float, times: float = 1) -> None:
        """Count `times` operations that took `seconds` each."""
        multiplying, moving = machine.seconds(work)
        self.operations += times
        self.seconds += times * seconds
        self.roof += times * max(multiplying, moving)
        self.precision_roof += times * max(work.products / machine.rate, moving)
        self.own_roof += times * machine.roof(replace(work, held=None))
        self.products += times * work.products
        self.bytes += times * work.bytes
        self.by_products += times * multiplying if multiplying >= moving else 0.0

    def divide(self, number: int) -> None:
        """Make this the mean over so many."""
        for name, value in vars(self).items():
            setattr(self, name, value / number)


Sums = dict[str, Sum]
"""By kind of operation."""


def count(sums: Sums, kind: str, machine: Machine, work: Work, seconds: float, times: float = 1) -> None:
    """Count operations of a kind."""
    sums.setdefault(kind, Sum()).add(machine, work, seconds, times)


def as_json(sums: Sums) -> dict[str, Any]:
    """Return the sums as JSON values, those that took longest first."""
    return {kind: asdict(one) for kind, one in sorted(sums.items(), key=lambda item: -item[1].seconds)}


def measure(precision: str, sizes: dict[str, int] | None = None, rounds: int = 7) -> Machine:
    """Measure this machine, for values of a precision; `sizes` are those of its caches."""
    vector_rate = _harness.peak_flops("fp32")
    rate = vector_rate if precision == "fp32" else _harness.peak_flops(precision)
    return Machine(rate, vector_rate, levels(cache_sizes() if sizes is None else sizes, rounds))


def cache_sizes() -> dict[str, int]:
    """Return the bytes of each level's cache of data that a core uses, those of others included."""
    found = {}
    for index in sorted(CACHES.glob("index*")):
        kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) << 10
    return found or USUAL_CACHES


def levels(sizes: dict[str, int], rounds: int = 7) -> tuple[Level, ...]:
    """Measure the bandwidth of caches of these sizes, and of memory, by copies.

    A copy in a cache works on half of it, but of the last one, which others use as well, on no more than 16
    times as much as the one before has; in memory, it works on twice what the caches have.
    """
    found, before = [], 0
    for name, size in sizes.items():
        worked_on = min(size // 2, 16 * before or size)
        found.append(Level(name, size, bandwidth(worked_on, rounds)))
        before = size
    found.append(Level(MEMORY, None, bandwidth(min(MOST_COPIED, 2 * before), rounds)))
    return tuple(found)


def bandwidth(size: int, rounds: int = 7) -> float:
    """Return the bytes that a copy reads and writes a second; both values together have `size` bytes."""
    copied = size // 2
    rows = max(1, min(COPIED, size * 1000) // copied)
    # Each row is the one before, moved on by a line of the cache, since numpy would copy rows that are all
    # the same byte by byte. So the loop over the copies is numpy's, in C.
    source, target = (
        as_strided(np.ones(copied + SHIFT * rows, np.uint8), (rows, copied), (SHIFT, 1)) for _ in range(2)
    )
    seconds = []
    for _ in range(rounds):
        start = CLOCK()
        np.copyto(target, source)
        seconds.append(CLOCK() - start)
    return 2 * copied * rows / min(seconds)


def convolution_kind(kernel: Sequence[int], in_channels: int, groups: int) -> str:
    """Return the kind of a convolution; one that reads images is of a kind of its own."""
    window = "x".join(map(str, kernel))
    if groups > 1:
        return f"depthwise {window}" if groups == in_channels else f"grouped {window}"
    return f"{window}, of images" if in_channels <= 4 else window


def touched(height: int, width: int, out_height: int, out_width: int, kernel: int, stride: int) -> int:
    """Return how many positions of an input the windows of a convolution or pool touch."""
    if kernel >= stride:
        return height * width
    return min(height * width, out_height * out_width * kernel**2)


def products_by(tile: int, direct: int) -> int:
    """Return the products of a 3x3 convolution by Winograd's algorithm, by tiles of so many rows.

    A `tile` of 0 is none. The sums over the window, `direct`, have 9 for each output; a tile has as many as
    its input has elements.
    """
    return direct if tile == 0 else direct * (tile + 2) ** 2 // (9 * tile**2)
