"""Cuts the program of a whole network into layers, and finds the stages whose last layers can be left out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from lasfast.ir import layers
from lasfast.ir.layers import Layer, Op, Path

CONTINUING = (
    layers.BatchNorm2d,
    layers.Activation,
    layers.Quantize,
    layers.Dropout,
    layers.Flatten,
)
"""The ops that stay in the layer of the op that they follow, since both may run as one."""


def without_unread(program: Layer) -> Layer:
    """Return the program without the ops whose values nothing reads."""
    steps = list(program.steps())
    read = {len(steps)}
    for number in range(len(steps), 0, -1):
        if number in read:
            read.update(steps[number - 1][1])
    kept = [number for number in range(1, len(steps) + 1) if number in read]
    return part(program, kept, program.name)


def part(program: Layer, numbers: Iterable[int], name: str) -> Layer:
    """Return the layer of the ops of these numbers, whose input is what the first of them reads first.

    The ops must read one value from outside, that input, and each other's.
    """
    steps = list(program.steps())
    places: dict[int, int] = {}
    ops: list[Op] = []
    input_shape = None
    for number in numbers:
        op, sources = steps[number - 1]
        if not ops:
            places[sources[0]] = 0
            input_shape = program.input_shape if sources[0] == 0 else None
        inputs = tuple(places[source] for source in sources)
        # Equal layers must be equal records: reading the value just before is always the empty tuple.
        ops.append(replace(op, inputs=() if inputs == (len(ops),) else inputs))
        places[number] = len(ops)
    return Layer(name, tuple(ops), input_shape)


def cut(program: Layer) -> tuple[range, ...]:
    """Return the numbers of the ops of each layer that a program can be cut into, in order.

    A cut is where one value alone is read by all that follows. There is none between ops that may run as one.
    """
    steps = list(program.steps())
    readers: dict[int, list[int]] = {}
    for number, (_, sources) in enumerate(steps, start=1):
        for source in sources:
            readers.setdefault(source, []).append(number)
    spans = []
    start, last_read = 1, max(readers[0])
    for number in range(1, len(steps)):
        following = steps[number][0]
        joined = isinstance(following, CONTINUING) and len(readers[number]) == 1
        if last_read <= number and not joined:
            spans.append(range(start, number + 1))
            start = number + 1
        last_read = max(last_read, *readers[number])
    return (*spans, range(start, len(steps) + 1))


class Stage(NamedTuple):
    """Blocks in a row, of which the last ones can be left out.

    Attributes:
        staying: how many blocks stay.
        optional: the numbers of the layers that can be left out, in order.
    """

    staying: int
    optional: tuple[int, ...]


def find_stages(path: Path, kept: Collection[str] = ()) -> tuple[Stage, ...]:
    """Return the stages of a network, in order: its rows of residual layers.

    A residual layer adds to what it reads, which therefore can stand for it. The first block of a stage
    stays: the first layer of the row, unless a block that changes the shape stands before the row. (The ops
    since the last pooling or stage then have those of a residual layer among them, in their order.)

    Args:
        path: the layers of the whole network.
        kept: the names of modules that stay; so do the layers that run them, and those before these.
    """
    stages: list[Stage] = []
    before: list[str] = []
    for residual, row in groupby(enumerate(path), key=lambda one: is_residual(one[1])):
        numbers, row_layers = zip(*row, strict=True)
        if not residual:
            for layer in row_layers:
                before = _kinds(layer) if isinstance(layer.ops[0], layers.Pool) else before + _kinds(layer)
            continue
        first = int(_is_within(_kinds(row_layers[0]), before))  # the number of blocks before the row
        staying = 1 - first
        for place, layer in enumerate(row_layers, start=1):
            if any(getattr(op, "module", None) in kept for op in layer.ops):
                staying = place
        if staying < len(numbers):
            stages.append(Stage(first + staying, numbers[staying:]))
        before = []
    return tuple(stages)


def is_residual(layer: Layer) -> bool:
    """Return whether a layer gives the sum of its own input and something else, or an activation of it."""
    steps = list(layer.steps())
    number = len(steps)
    while number and isinstance(steps[number - 1][0], layers.Activation | layers.Dropout):
        number = steps[number - 1][1][0]
    terms = [number]
    while terms:
        term = terms.pop()
        op, sources = steps[term - 1] if term else (None, ())
        if isinstance(op, layers.Add) and not op.missing:
            if 0 in sources:
                return True
            terms += sources
    return False


def _kinds(layer: Layer) -> list[str]:
    """Return the kind of each op but sums, which the first block of a stage may have at another place."""
    return [_kind(op) for op in layer.ops if not isinstance(op, layers.Add)]


def _kind(op: Op) -> str:
    depthwise = isinstance(op, layers.Conv2d) and op.groups == op.in_channels > 1
    return "depthwise" if depthwise else type(op).__name__


def _is_within(kinds: list[str], others: list[str]) -> bool:
    """Return whether kinds occur among others, in their order."""
    rest = iter(others)
    return all(kind in rest for kind in kinds)
