"""Reach: whether the beginning of an architecture can still be completed within limits on its costs."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

from lasfast.constraints import Bound, Cost, UnknownCostError, known_cost
from lasfast.searchers.limits import Limit
from lasfast.searchers.operators import ENUMERABLE
from lasfast.spaces import Architecture, ProductSpace

TRIALS = 1000  # how many completions one question tries at most; past these, it stays open
CONTEXTS = 8  # in how many random architectures the options of each layer are compared
REMEMBERED = 2**17  # of how many architectures each cost is kept
ANYTHING = (-math.inf, math.inf)
Order: TypeAlias = tuple[tuple[int, ...], ...]
"""The options of each layer, from the cheapest to the dearest."""


class Reach:
    """Answers whether an architecture that begins in a given way can still meet all limits.

    A space of up to ENUMERABLE architectures is enumerated, so that every answer is certain, whatever its
    costs are like.

    In a larger space, the answer "no" rests on costs that have a cheapest and a dearest option at each layer,
    whatever the other layers take. That is so for any sum over layers, and for FLOPs and params where a width
    is decided before the layers that share it. The cost of any completion then lies between those of the two
    extreme completions. Whether a cost is of this kind is tried: the options of each layer are compared in
    CONTEXTS random architectures and in the extreme ones. Nothing is concluded from a cost that fails there,
    and nothing behind a beginning that contradicts it. The answer "yes" rests on an architecture that was
    found.

    Args:
        space: the space of the architectures.
        limits: limits on one or more costs; each cost is computed once for an architecture where possible.
        accept: a further condition on whole architectures.

    Attributes:
        cheapest, dearest: the options of each layer that have the least and the greatest first cost, on the
            average of these architectures where that depends on the other layers.

    Raises:
        UnknownCostError: one of the costs that are looked at before the first question is not known.
    """

    def __init__(
        self, space: ProductSpace, limits: Sequence[Limit], accept: Callable[[Architecture], bool]
    ) -> None:
        self.space = space
        self.accept = accept
        self._limits = [(bound, _remembered(bound, cost)) for bound, cost in limits]
        ordered = [_ordered(space, cost) for _, cost in self._limits]
        self._orders = [order for order, _ in ordered]
        self._has_ends = [has_ends for _, has_ends in ordered]
        self._ends = list(map(_ends, self._orders))
        self.cheapest, self.dearest = self._ends[0]
        # From the cheapest architecture to the dearest, layer after layer, option after option.
        self._stairs = [
            (layer, option) for layer, order in enumerate(self._orders[0]) for option in order[1:]
        ]
        lengths = (len(order) - 1 for order in self._orders[0])
        self._first_stair = list(itertools.accumulate(lengths, initial=0))
        self._range = lru_cache(REMEMBERED)(self._find_range)
        self._meeting = self._enumerate() if space.count() <= ENUMERABLE else None

    def _enumerate(self) -> list[Architecture]:
        """Return the architectures that meet all limits and the further condition, in dictionary order."""
        for architecture in self.space.enumerate():
            for _, cost in self._limits:
                cost(architecture)  # raises an error where it is not known
        return sorted(filter(self.meets, self.space.enumerate()))

    def cost(self, architecture: Architecture) -> float:
        """Return the first cost of an architecture; UnknownCostError where it is not known."""
        return self._limits[0][1](architecture)

    def tried(self) -> Iterator[Architecture]:
        """Give architectures that have the least and the greatest costs, as far as is known."""
        if self._meeting is not None:
            yield from self.space.enumerate()
        else:
            yield from itertools.chain.from_iterable(self._ends)

    def meets(self, architecture: Architecture) -> bool:
        """Return whether a whole architecture is known to meet all limits, and meets the condition."""
        try:
            within = all(bound.low <= cost(architecture) <= bound.high for bound, cost in self._limits)
        except UnknownCostError:
            return False
        return within and self.accept(architecture)

    def reaches(self, beginning: Architecture) -> bool | None:
        """Return whether some architecture with this beginning meets all limits; None where that is open."""
        if self._meeting is not None:
            place = bisect.bisect_left(self._meeting, beginning)
            return [one[: len(beginning)] for one in self._meeting[place : place + 1]] == [beginning]
        completions = self._completions(beginning)
        if any(map(self.meets, itertools.islice(completions, TRIALS))):
            return True
        return False if next(completions, None) is None else None

    def _completions(self, beginning: Architecture) -> Iterator[Architecture]:
        """Give completions that may meet all limits, the likely ones first, and each that does at last."""
        open_ = deque([beginning])  # the shorter first: there is more to try behind them
        while open_:
            beginning = open_.popleft()
            if self._straddles(beginning):
                yield from self._near(beginning)
                if len(beginning) < len(self.space.options):
                    open_.extend((*beginning, option) for option in self._orders[0][len(beginning)])

    def _straddles(self, beginning: Architecture) -> bool:
        """Return whether the ranges of all costs overlap with their limits."""
        for number, (bound, _) in enumerate(self._limits):
            least, most = self._range(beginning, number)
            if least > bound.high or most < bound.low:
                return False
        return True

    def _find_range(self, beginning: Architecture, number: int) -> tuple[float, float]:
        """Return the least and the most of a cost that architectures with this beginning can have.

        That is ANYTHING where the cost has no ends at each layer, or where one layer fewer had a narrower
        range, which cannot be.
        """
        if not self._has_ends[number]:
            return ANYTHING
        cost = self._limits[number][1]
        try:
            low, high = (cost((*beginning, *end[len(beginning) :])) for end in self._ends[number])
        except UnknownCostError:
            return ANYTHING
        if beginning:
            least, most = before = self._range(beginning[:-1], number)
            if before == ANYTHING or not (_at_most(least, low) and _at_most(high, most)):
                return ANYTHING
        return low, high

    def _near(self, beginning: Architecture) -> Iterator[Architecture]:
        """Give completions that draw near to the limits of the first cost, from both ends.

        The way from the cheapest completion to the dearest changes one layer at a time. Bisection finds the
        last completion on it that is too cheap. Its options up to the layer that changes next are kept, and
        the way from there on has smaller steps.
        """
        yield (*beginning, *self.cheapest[len(beginning) :])
        yield (*beginning, *self.dearest[len(beginning) :])
        while (decided := len(beginning)) < len(self.space.options):
            first, end = self._first_stair[decided], len(self._stairs)
            kept = (*beginning, self.cheapest[decided])
            while first < end:
                middle = (first + end) // 2
                layer, option = self._stairs[middle]
                way = (*beginning, *self.dearest[decided:layer], option)
                near = (*way, *self.cheapest[layer + 1 :])
                yield near
                if self._too_cheap(near):
                    first, kept = middle + 1, way
                else:
                    end = middle
            beginning = kept

    def _too_cheap(self, architecture: Architecture) -> bool:
        bound, cost = self._limits[0]
        try:
            return cost(architecture) < bound.low
        except UnknownCostError:
            return False


def _ordered(space: ProductSpace, cost: Cost) -> tuple[Order, bool]:
    """Return the options of each layer from the cheapest to the dearest, and whether a layer's ends hold.

    Options are compared in the first architecture and in random ones, always the same, and in the cheapest
    and the dearest that follow from these. In a maximum, for instance, only the cheapest shows what most
    options cost.
    """
    rng = random.Random(0)
    contexts = [tuple(options[0] for options in space.options)]
    contexts += [space.sample(rng) for _ in range(CONTEXTS)]
    contexts += _ends(space.by_cost(cost, contexts))
    order = space.by_cost(cost, contexts)
    ends = _ends(order)
    return order, all(_between(space, cost, ends, context) for context in (*contexts, *ends))


def _ends(order: Order) -> tuple[Architecture, Architecture]:
    """Return the architectures of the cheapest and of the dearest options."""
    return tuple(options[0] for options in order), tuple(options[-1] for options in order)


def _between(
    space: ProductSpace, cost: Cost, ends: tuple[Architecture, Architecture], context: Architecture
) -> bool:
    """Return whether each option of each layer costs as much as the layer's two ends or between, here."""
    for layer, options in enumerate(space.options):
        others = [(*context[:layer], option, *context[layer + 1 :]) for option in options]
        if any(map(space.lacks, others)):
            return False
        costs = list(map(cost, others))
        low, high = (costs[options.index(end[layer])] for end in ends)
        if not (_at_most(low, min(costs)) and _at_most(max(costs), high)):
            return False
    return True


def _at_most(one: float, other: float) -> bool:
    """Return whether a cost is at most another, but for the rounding of sums."""
    return one <= other + 1e-9 * max(abs(one), abs(other))


def _remembered(bound: Bound, cost: Cost) -> Cost:
    """Return a cost that is checked to be a finite number, and kept for the architectures of late."""
    return lru_cache(REMEMBERED)(lambda architecture: known_cost(bound.cost, cost, architecture))
