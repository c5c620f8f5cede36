"""The fused pattern: which ops of a network run as one operation.

Kernels compute ``activation(norm(head(x)) + other)`` in one pass over memory, where the head is a convolution
or another op, and parts may be missing. Such a chain of ops is recognised here and nowhere else: training
(`lasfast.execution.fused`), the engine (`lasfast.engine.lower`) and `accelerate` all ask this file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from lasfast.ir.layers import Activation, Add, BatchNorm2d, Layer, Op


class Stage(IntEnum):
    """The parts of a chain, in the order in which they are computed."""

    HEAD = 0
    NORM = 1
    SUM = 2
    ACTIVATION = 3


def stage_of(op: Op) -> Stage:
    """Return the part of a chain that an op can be."""
    return _STAGES.get(type(op), Stage.HEAD)


_STAGES: dict[type[Op], Stage] = {
    BatchNorm2d: Stage.NORM,
    Add: Stage.SUM,
    Activation: Stage.ACTIVATION,
}


@dataclass
class Chain:
    """Ops that run as one.

    Attributes:
        parts: the number of the op that is each part, in order; the last one's value is the chain's.
        other: the number of the value that its sum adds; None without a sum.
        barred: parts that this chain cannot take in.
    """

    parts: dict[Stage, int]
    other: int | None = None
    barred: Collection[Stage] = ()

    @property
    def first(self) -> int:
        """The number of its first op."""
        return next(iter(self.parts.values()))

    @property
    def last(self) -> int:
        """The number of its last op, whose value it gives."""
        return next(reversed(self.parts.values()))

    @property
    def stage(self) -> Stage:
        """The part that its last op is."""
        return next(reversed(self.parts))


class Fusion:
    """Grows chains op by op, in the order of a graph whose ops and values have numbers.

    A chain takes in an op that alone reads its value, and that comes later (`Stage`) than what it has.
    Of a sum, the first operand's chain is asked first.

    Args:
        readers: how often each value is read, by ops and as a result of the graph.
        bare: whether a head takes in a sum or an activation without a norm between them.
    """

    def __init__(self, readers: Mapping[int, int] | Sequence[int], *, bare: bool) -> None:
        self._readers = readers
        self._bare = bare
        self._ends: dict[int, Chain] = {}  # the chains that may grow, by the number of their value

    def begin(self, number: int, stage: Stage, barred: Collection[Stage] = ()) -> Chain:
        """Let an op begin a chain, which takes in none of the `barred` parts."""
        chain = self._ends[number] = Chain({stage: number}, barred=barred)
        return chain

    def extend(self, number: int, op: Op, sources: Sequence[int]) -> Chain | None:
        """Return the chain that takes in an op which reads the values `sources`; None where none does."""
        stage = stage_of(op)
        if stage == Stage.HEAD:
            return None
        for source in self._bases(op, sources):
            chain = self._ends.get(source)
            if chain is None or not self._takes(chain, stage):
                continue
            del self._ends[source]
            chain.parts[stage] = number
            if stage == Stage.SUM:
                chain.other = next(other for other in sources if other != source)
            self._ends[number] = chain
            return chain
        return None

    def _bases(self, op: Op, sources: Sequence[int]) -> Sequence[int]:
        """The values whose chain may take the op in: no operand that lacks channels of the other."""
        return sources[:1] if isinstance(op, Add) and op.missing else sources

    def _takes(self, chain: Chain, stage: Stage) -> bool:
        grows = chain.stage < stage and stage not in chain.barred and self._readers[chain.last] == 1
        return grows and (self._bare or stage == Stage.NORM or chain.stage != Stage.HEAD)


def match(
    ops: Mapping[int, tuple[Op, Sequence[int]]],
    results: Collection[int],
    is_head: Callable[[int], bool],
) -> list[Chain]:
    """Return the chains of a graph, each op in one, by the place of their last ops.

    Heads take in nothing but a norm, which may take in more.

    Args:
        ops: each op by its number, in an order in which they can run, with the values that it reads.
        results: values that are read from outside, too.
        is_head: whether the op of a number, no norm, sum or activation, may be the head of a chain.
    """
    readers = Counter(source for _, sources in ops.values() for source in sources)
    readers.update(results)
    fusion = Fusion(readers, bare=False)
    chains = []
    for number, (op, sources) in ops.items():
        if fusion.extend(number, op, sources) is not None:
            continue
        stage = stage_of(op)
        if stage == Stage.NORM or (stage == Stage.HEAD and is_head(number)):
            chains.append(fusion.begin(number, stage))
        else:
            chains.append(Chain({stage: number}))
    return sorted(chains, key=lambda chain: chain.last)


def match_layer(layer: Layer, is_head: Callable[[Op], bool]) -> list[Chain]:
    """Return the chains of a layer; op k has number k, from 1."""
    ops = dict(enumerate(layer.steps(), start=1))
    return match(ops, (len(ops),), lambda number: is_head(ops[number][0]))
