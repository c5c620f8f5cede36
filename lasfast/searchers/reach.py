"""Which beginnings of an architecture can still be completed within bounds on its costs."""

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
"""A cost, and the least and the most that it may be."""

TRIALS = 1000  # completions that one question tries at most; past these the answer is "perhaps"
REMEMBERED = 2**17  # costs kept, of each cost


class Reach:
    """Answers whether an architecture that begins in a given way can still meet all limits.

    Each cost must have a cheapest and a dearest option at each layer, whatever the other layers take. That is
    so for any sum over layers, and for FLOPs and params where a width is decided before the layers that
    share it. What a beginning can come to then lies between its two extreme completions.

    Args:
        space: the architectures.
        limits: on one or more costs; each function is called once for an architecture where possible.
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
        """The first cost of an architecture."""
        return self._limits[0][0](architecture)

    def range(self, beginning: Architecture, number: int = 0) -> tuple[float, float]:
        """The least and the most of a cost that an architecture can have that begins so.

        Raises:
            ValueError: the cost has no cheapest and dearest option at each layer: what it comes to with one
                layer more decided is outside the range it had before.
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
        """Whether a whole architecture meets all limits and the further condition."""
        return all(low <= cost(architecture) <= high for cost, low, high in self._limits) and self.accept(
            architecture
        )

    def reaches(self, beginning: Architecture) -> bool:
        """Whether some architecture that begins so meets all limits.

        False is certain. So is True, unless TRIALS completions did not settle it.
        """
        completions = self._completions(beginning)
        if any(map(self.meets, itertools.islice(completions, TRIALS))):
            return True
        return next(completions, None) is not None

    def _completions(self, beginning: Architecture) -> Iterator[Architecture]:
        """Completions that may meet all limits, the likely ones first, and each that does at last."""
        open_ = deque([beginning])  # the shorter first: there is more to try behind them
        while open_:
            beginning = open_.popleft()
            if self._straddles(beginning):
                yield from self._near(beginning)
                if len(beginning) < len(self.space.options):
                    open_.extend((*beginning, option) for option in self._orders[0][len(beginning)])

    def _straddles(self, beginning: Architecture) -> bool:
        """Whether, of each cost, something between the two extreme completions is within the limits."""
        for number, (_, low, high) in enumerate(self._limits):
            least, most = self.range(beginning, number)
            if least > high or most < low:
                return False
        return True

    def _near(self, beginning: Architecture) -> Iterator[Architecture]:
        """Completions that draw near to the limits of the first cost, from both ends.

        Those on the way from the cheapest completion to the dearest differ from the next at one layer alone.
        Bisecting finds the last that is too cheap; what it has up to that layer is kept, and the way from
        there on has smaller steps.
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
    """The cost, checked to be a finite number, and kept for architectures asked about lately."""
    return lru_cache(REMEMBERED)(lambda architecture: as_finite("cost", cost(architecture)))
