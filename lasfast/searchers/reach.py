"""Reach: whether the beginning of an architecture can still be completed within limits on its costs."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TypeAlias

from lasfast.constraints import Cost
from lasfast.core.checks import as_finite
from lasfast.spaces import Architecture, ProductSpace

Limits: TypeAlias = tuple[Cost, float, float]
"""A cost, with the least and the most that it may be."""

TRIALS = 1000  # how many completions one question tries at most; past these, its answer may be wrong
REMEMBERED = 2**17  # of how many architectures each cost is kept


class Reach:
    """Answers whether an architecture that begins in a given way can still meet all limits.

    Each cost must have a cheapest and a dearest option at each layer, whatever the other layers take. That is
    so for any sum over layers, and for FLOPs and params where a width is decided before the layers that
    share it. The cost of any completion then lies between those of the two extreme completions.

    Args:
        space: the space of the architectures.
        limits: limits on one or more costs; each cost is computed once for an architecture where possible.
        accept: a further condition on whole architectures.

    Attributes:
        cheapest, dearest: the architectures of the least and the most of the first cost.
    """

    def __init__(
        self, space: ProductSpace, limits: Sequence[Limits], accept: Callable[[Architecture], bool]
    ) -> None:
        self.space = space
        self.accept = accept
        self._limits = [(_remembered(cost), low, high) for cost, low, high in limits]
        self._orders = [space.by_cost(cost) for cost, _, _ in self._limits]
        self._ends = [
            (tuple(options[0] for options in order), tuple(options[-1] for options in order))
            for order in self._orders
        ]
        self.cheapest, self.dearest = self._ends[0]
        # From the cheapest architecture to the dearest, layer after layer, option after option.
        self._stairs = [
            (layer, option) for layer, order in enumerate(self._orders[0]) for option in order[1:]
        ]
        lengths = (len(order) - 1 for order in self._orders[0])
        self._first_stair = list(itertools.accumulate(lengths, initial=0))

    def cost(self, architecture: Architecture) -> float:
        """Return the first cost of an architecture."""
        return self._limits[0][0](architecture)

    def range(self, beginning: Architecture, number: int = 0) -> tuple[float, float]:
        """Return the least and the most of a cost that architectures with this beginning can have.

        Raises:
            ValueError: the cost has no cheapest and dearest option at each layer: with one layer more
                decided, it can be outside the range that it had before.
        """
        cost = self._limits[number][0]
        low, high = (cost((*beginning, *end[len(beginning) :])) for end in self._ends[number])
        if beginning:
            least, most = (cost((*beginning[:-1], *end[len(beginning) - 1 :])) for end in self._ends[number])
            slack = 1e-9 * max(abs(least), abs(most))
            if low < least - slack or high > most + slack:
                raise ValueError(
                    "cost must have a cheapest and a dearest option at each layer, whatever the others take; "
                    f"architectures that begin with {beginning} cost {low:.12g} to {high:.12g}, but those "
                    f"that begin with {beginning[:-1]} cost {least:.12g} to {most:.12g}"
                )
        return low, high

    def meets(self, architecture: Architecture) -> bool:
        """Return whether a whole architecture meets all limits and the further condition."""
        return all(low <= cost(architecture) <= high for cost, low, high in self._limits) and self.accept(
            architecture
        )

    def reaches(self, beginning: Architecture) -> bool:
        """Return whether some architecture with this beginning meets all limits.

        False is certain. So is True, unless TRIALS completions did not settle it.
        """
        completions = self._completions(beginning)
        if any(map(self.meets, itertools.islice(completions, TRIALS))):
            return True
        return next(completions, None) is not None

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
        for number, (_, low, high) in enumerate(self._limits):
            least, most = self.range(beginning, number)
            if least > high or most < low:
                return False
        return True

    def _near(self, beginning: Architecture) -> Iterator[Architecture]:
        """Give completions that draw near to the limits of the first cost, from both ends.

        The way from the cheapest completion to the dearest changes one layer at a time. Bisection finds the
        last completion on it that is too cheap. Its options up to the layer that changes next are kept, and
        the way from there on has smaller steps.
        """
        cost, low, _ = self._limits[0]
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
                if cost(near) < low:
                    first, kept = middle + 1, way
                else:
                    end = middle
            beginning = kept


def _remembered(cost: Cost) -> Cost:
    """Return a cost that is checked to be a finite number, and kept for the architectures of late."""
    return lru_cache(REMEMBERED)(lambda architecture: as_finite("cost", cost(architecture)))
