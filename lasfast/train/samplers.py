"""Which sub-networks a batch trains: path samplers for one-shot supernets."""

from __future__ import annotations

import abc
import bisect
import random
from typing import Any

from lasfast.constraints import Cost, describe_function
from lasfast.core.checks import as_finite, as_int
from lasfast.spaces import Architecture, SearchSpace
from lasfast.spaces.product import ProductSpace

POOL = 2000  # architectures that say how costs are spread
TRIES = 200  # draws for one architecture of a cost


class PathSampler(abc.ABC):
    """Draws the architectures that one batch trains, together one update of the weights."""

    @abc.abstractmethod
    def draw(self, rng: random.Random) -> tuple[Architecture, ...]:
        """The architectures of a batch, as many each time."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """What identifies the sampler, as JSON values."""


class UniformSampler(PathSampler):
    """One architecture, each with the same probability (Guo et al., Single Path One-Shot, section 3.2)."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def draw(self, rng: random.Random) -> tuple[Architecture, ...]:
        """One architecture."""
        return (self.space.sample(rng),)

    def describe(self) -> dict[str, Any]:
        """The name alone."""
        return {"name": "uniform"}


class UniformCostSampler(PathSampler):
    """One architecture, its cost uniform from `low` to `high`: the paper's "uniform constraint sampling".

    Most architectures cost about as much as the average; sampled uniformly, the cheap and the dear ones are
    seldom trained (Guo et al., section 3.2, who print no algorithm). Here the range is cut into `bins`
    equally wide ones; a draw takes one of those that any architecture is in, and there an architecture.

    Args:
        space: where the architectures come from.
        cost: of an architecture, such as `lasfast.costs.functions(supernet, (32, 32))["flops"]`.
        low, high: the range of costs to train; by default that of the space, as far as a sample tells.
        bins: into how many parts the range is cut.

    Raises:
        ValueError: no architecture of the sample costs that much, or an argument out of range.
    """

    def __init__(
        self,
        space: SearchSpace,
        cost: Cost,
        low: float | None = None,
        high: float | None = None,
        *,
        bins: int = 10,
    ) -> None:
        self.space, self.cost = space, cost
        self.bins = as_int("bins", bins, minimum=1)
        rng = random.Random("pool")
        pool = [(as_finite("cost", cost(one)), one) for one in (space.sample(rng) for _ in range(POOL))]
        costs = [value for value, _ in pool]
        self.low = min(costs) if low is None else as_finite("low", low)
        self.high = max(costs) if high is None else as_finite("high", high)
        width = self.high - self.low
        self._edges = [self.low + width * number / self.bins for number in range(1, self.bins)]
        self._held: dict[int, list[Architecture]] = {}
        for value, architecture in pool:
            if self.low <= value <= self.high:
                self._held.setdefault(self._bin(value), []).append(architecture)
        if not self._held:
            raise ValueError(
                f"low and high must be a range of costs that architectures have, {min(costs):g} to "
                f"{max(costs):g}, got {self.low:g} to {self.high:g}"
            )

    def draw(self, rng: random.Random) -> tuple[Architecture, ...]:
        """One architecture."""
        wanted = rng.choice(sorted(self._held))
        for _ in range(TRIES):
            architecture = self.space.sample(rng)
            value = self.cost(architecture)
            if self.low <= value <= self.high and self._bin(value) == wanted:
                return (architecture,)
        return (rng.choice(self._held[wanted]),)  # the bin is rare: one that is known to be in it

    def describe(self) -> dict[str, Any]:
        """Name, cost and range."""
        return {
            "name": "uniform-cost",
            "cost": describe_function(self.cost),
            "range": [self.low, self.high],
            "bins": self.bins,
        }

    def _bin(self, cost: float) -> int:
        return bisect.bisect_right(self._edges, cost)


class SandwichSampler(PathSampler):
    """The largest, the smallest and some random architectures (Yu and Huang 2019, section 3.1).

    Which are the largest and the smallest is a matter of `cost`: each decision takes its dearest option, or
    its cheapest.

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

    def draw(self, rng: random.Random) -> tuple[Architecture, ...]:
        """The largest, the smallest, random ones."""
        return (self.largest, self.smallest, *(self.space.sample(rng) for _ in range(self.drawn)))

    def describe(self) -> dict[str, Any]:
        """Name, cost and count."""
        return {"name": "sandwich", "cost": describe_function(self.cost), "drawn": self.drawn}
