"""Samplers of paths: which architectures of a supernet one batch trains."""

from __future__ import annotations

import abc
import math
import random
from typing import Any

from lasfast.constraints import Bound, BoundedSampler, Cost, describe_function
from lasfast.core.checks import as_finite, as_int
from lasfast.spaces import Architecture, SearchSpace
from lasfast.spaces.product import ProductSpace

POOL = 2000  # random architectures that say how costs are spread


class PathSampler(abc.ABC):
    """Draws the architectures that one batch trains; their gradients make one update of the weights."""

    full: Architecture | None = None
    """The largest architecture of the space, where each draw has it; it can then teach the others."""

    @abc.abstractmethod
    def draw(self, rng: random.Random) -> tuple[Architecture, ...]:
        """Return the architectures of a batch, equally many each time."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what identifies the sampler, as JSON values."""


class UniformSampler(PathSampler):
    """Draws each architecture with the same probability (Guo et al., Single Path One-Shot, section 3.2)."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def draw(self, rng: random.Random) -> tuple[Architecture, ...]:
        """Return one architecture."""
        return (self.space.sample(rng),)

    def describe(self) -> dict[str, Any]:
        """Return the name alone."""
        return {"name": "uniform"}


class UniformCostSampler(PathSampler):
    """Draws one architecture whose cost is uniform from `low` to `high`: "uniform constraint sampling".

    Most architectures cost about as much as the average; sampled uniformly, the cheap and the dear ones are
    seldom trained (Guo et al., Single Path One-Shot, section 3.2; the paper prints no algorithm). Here the
    range is cut into `bins` parts of equal width. A draw picks one of the parts in which any architecture was
    found, and an architecture there, all with the same probability (see `BoundedSampler`).

    Args:
        space: independent decisions, such as `ChoiceSpace`.
        cost: of an architecture, such as `lasfast.costs.functions(supernet, (32, 32))["flops"]`.
        low, high: the range of costs to train; by default that of POOL random architectures, or from the end
            of the space where the other limit leaves none of these.
        bins: into how many parts the range is cut.

    Raises:
        ValueError: no architecture costs that much, or an argument is out of range.
    """

    def __init__(
        self,
        space: ProductSpace,
        cost: Cost,
        low: float | None = None,
        high: float | None = None,
        *,
        bins: int = 10,
    ) -> None:
        self.space, self.cost = space, cost
        self.bins = as_int("bins", bins, minimum=1)
        self.low, self.high = self._range(low, high)
        self._parts = [part for part in map(self._part, range(self.bins)) if part.share]
        if not self._parts:
            least, most = self._ends()
            raise ValueError(
                f"low and high must be a range of costs that architectures have, {least:g} to {most:g}, "
                f"got {self.low:g} to {self.high:g}"
            )

    def _range(self, low: float | None, high: float | None) -> tuple[float, float]:
        rng = random.Random("pool")
        costs = [as_finite("cost", self.cost(self.space.sample(rng))) for _ in range(POOL)]
        first = min(costs) if low is None else as_finite("low", low)
        last = max(costs) if high is None else as_finite("high", high)
        if first > last and low is None:
            first = min(last, self._ends()[0])
        elif first > last and high is None:
            last = max(first, self._ends()[1])
        if first > last:
            raise ValueError(f"low must be at most high, got {first:g} and {last:g}")
        return first, last

    def _ends(self) -> tuple[float, float]:
        """Return the costs of the options that cost least and of those that cost most."""
        ordered = self.space.by_cost(self.cost)
        return self.cost(tuple(one[0] for one in ordered)), self.cost(tuple(one[-1] for one in ordered))

    def _part(self, number: int) -> BoundedSampler:
        """Return the sampler of a part of the range; the last one has both of its ends."""
        low, high = (self.low + (self.high - self.low) * one / self.bins for one in (number, number + 1))
        high = self.high if number + 1 == self.bins else math.nextafter(high, -math.inf)
        return BoundedSampler(self.space, [(Bound("cost", low, max(low, high)), self.cost)])

    def draw(self, rng: random.Random) -> tuple[Architecture, ...]:
        """Return one architecture; RuntimeError where a part has none any more, since costs have changed."""
        part = rng.choice(self._parts)
        architecture = part.draw(rng)
        if architecture is None:
            raise RuntimeError(f"cost must be the same each time: nothing is found any more at {part.limits}")
        return (architecture,)

    def describe(self) -> dict[str, Any]:
        """Return name, cost and range."""
        return {
            "name": "uniform-cost",
            "cost": describe_function(self.cost),
            "range": [self.low, self.high],
            "bins": self.bins,
        }


class SandwichSampler(PathSampler):
    """The largest, the smallest and some random architectures (Yu and Huang 2019, section 3.1).

    The largest takes the option of the greatest `cost` in each decision, the smallest that of the least.

    Args:
        space: independent decisions, such as `ChoiceSpace`.
        cost: of an architecture.
        drawn: how many random ones; theirs are 2.
    """

    def __init__(self, space: ProductSpace, cost: Cost, *, drawn: int = 2) -> None:
        self.space, self.cost = space, cost
        self.drawn = as_int("drawn", drawn, minimum=0)
        ordered = space.by_cost(cost)
        self.largest: Architecture = tuple(options[-1] for options in ordered)
        self.smallest: Architecture = tuple(options[0] for options in ordered)
        self.full = self.largest

    def draw(self, rng: random.Random) -> tuple[Architecture, ...]:
        """Return the largest, the smallest, and random ones."""
        return (self.largest, self.smallest, *(self.space.sample(rng) for _ in range(self.drawn)))

    def describe(self) -> dict[str, Any]:
        """Return name, cost and count."""
        return {"name": "sandwich", "cost": describe_function(self.cost), "drawn": self.drawn}
