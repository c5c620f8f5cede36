"""Draw architectures whose costs lie within bounds, however few of a space's do."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from lasfast.constraints.bounds import Bound
from lasfast.constraints.cost import Cost, UnknownCostError, known_cost
from lasfast.spaces.base import Architecture
from lasfast.spaces.product import ProductSpace

CONTEXTS = (2, 4, 8)  # in each round of coming near the bounds: architectures in which options are compared
PILOT = 1000  # proposals that tell how many are accepted
SWEEPS = 6  # over the slopes of several costs
STEEPEST = 40.0  # the greatest slope: of a probability's logarithm, for each standard deviation of the cost
HALVINGS = 50  # of the interval in which a slope lies
PATIENCE = 100  # times as many proposals as usual, after which a draw gives up

Table = list[list[float]]
"""A number for each option of each decision."""


class BoundedSampler:
    """Draws architectures within bounds, each with the same probability.

    Few architectures of a large space meet a tight bound: of those drawn from the whole space, perhaps one in
    a thousand. Here decisions are drawn independently, but cheap options (or dear ones) more often: the
    logarithm of an option's probability is linear in what it adds to each cost, and so steep that proposals
    cost on the average what the bounds allow (exponential tilting: Siegmund 1976, "Importance sampling in the
    Monte Carlo study of sequential tests"). A proposal within the bounds is accepted with a probability that
    is inverse to its own (rejection: von Neumann 1951). What is accepted is therefore uniform. That is exact
    where costs add up over decisions. Elsewhere an architecture is drawn too seldom if it is less probable
    than every one within the bounds of PILOT proposals.

    Args:
        space: independent decisions.
        limits: bounds, and the costs that they bound.

    Attributes:
        share: the share of the proposals that are accepted, from 0 to 1. It is 0 where none was found.

    Raises:
        UnknownCostError: no cost is known of the architectures that are looked at before the first draw.
    """

    def __init__(self, space: ProductSpace, limits: Sequence[tuple[Bound, Cost]]) -> None:
        self.space, self.limits = space, list(limits)
        rng = random.Random("bounded")
        self._tilt([[0.0] * len(options) for options in space.options])
        for count in CONTEXTS:
            contexts = [self._propose(rng) for _ in range(count)]
            sums = [_approximate(space, bound, cost, contexts) for bound, cost in self.limits]
            slopes = _slopes(sums)
            self._tilt(
                [_weighted(slopes, shares) for shares in zip(*(one.shares for one in sums), strict=True)]
            )
        found = [one for one in (self._propose(rng) for _ in range(PILOT)) if self.admits(one)]
        edge = math.fsum(slope * one.edge(slope) for slope, one in zip(slopes, sums, strict=True) if slope)
        self._least = min([edge, *map(self._score, found)])
        self.share = math.fsum(map(self._acceptance, found)) / PILOT

    def admits(self, architecture: Architecture) -> bool:
        """Return whether an architecture's costs are known and lie within the bounds."""
        found = ((bound, _cost_of(bound, cost, architecture)) for bound, cost in self.limits)
        return all(known is not None and bound.low <= known <= bound.high for bound, known in found)

    def draw(self, rng: random.Random) -> Architecture | None:
        """Return an architecture within the bounds; None where PATIENCE has an end, or `share` is 0."""
        for _ in range(math.ceil(PATIENCE / self.share) if self.share else 0):
            architecture = self._propose(rng)
            # Costs come last, since they take longest.
            if rng.random() < self._acceptance(architecture) and self.admits(architecture):
                return architecture
        return None

    def _tilt(self, scores: Table) -> None:
        """Let the probability of an option be proportional to the exponential of its score."""
        self._scores = scores
        self._weights = [list(itertools.accumulate(_probabilities(one))) for one in scores]

    def _propose(self, rng: random.Random) -> Architecture:
        return tuple(
            rng.choices(options, cum_weights=weights)[0]
            for options, weights in zip(self.space.options, self._weights, strict=True)
        )

    def _score(self, architecture: Architecture) -> float:
        """Return the logarithm of a proposal's probability, but for a constant."""
        return _sum_of(self.space, self._scores, architecture)

    def _acceptance(self, architecture: Architecture) -> float:
        return math.exp(min(0.0, self._least - self._score(architecture)))


@dataclass(frozen=True)
class _Sum:
    """The sum over decisions that approximates a cost: `base` and the shares of the options taken."""

    bound: Bound
    base: float
    shares: Table

    def deviation(self) -> float:
        """Return the standard deviation of the sum where all options are equally probable."""
        means = (math.fsum(one) / len(one) for one in self.shares)
        squares = (math.fsum(share * share for share in one) / len(one) for one in self.shares)
        return math.sqrt(max(0.0, math.fsum(s - m * m for s, m in zip(squares, means, strict=True))))

    def edge(self, slope: float) -> float:
        """Return the sum of shares at the bound that a slope tilts towards."""
        return (self.bound.high if slope < 0 else self.bound.low) - self.base


def _approximate(space: ProductSpace, bound: Bound, cost: Cost, contexts: Sequence[Architecture]) -> _Sum:
    """Return the sum that approximates a cost around some architectures: each changes in one decision."""
    shares: Table = [[0.0] * len(options) for options in space.options]
    here = {one: known for one in contexts if (known := _cost_of(bound, cost, one)) is not None}
    if not here:
        known_cost(bound.cost, cost, contexts[0])  # raises an error that says why it is not known
    for context, known in here.items():
        for decision, options in enumerate(space.options):
            for place, option in enumerate(options):
                if option != context[decision]:
                    there = _cost_of(bound, cost, (*context[:decision], option, *context[decision + 1 :]))
                    shares[decision][place] += 0.0 if there is None else (there - known) / len(here)
    rest = math.fsum(known - _sum_of(space, shares, context) for context, known in here.items())
    return _Sum(bound, rest / len(here), shares)


def _cost_of(bound: Bound, cost: Cost, architecture: Architecture) -> float | None:
    """Return a cost, None where it is not known."""
    try:
        return known_cost(bound.cost, cost, architecture)
    except UnknownCostError:
        return None


def _slopes(sums: Sequence[_Sum]) -> list[float]:
    """Return the slope for each cost with which proposals cost on the average what its bound allows.

    That is 0 where they do by themselves. The slopes of several costs depend on each other, and are found in
    turn: they maximise a concave function, the likelihood of an exponential family.
    """
    slopes = [0.0] * len(sums)
    for _ in range(SWEEPS if len(sums) > 1 else 1):
        for number, one in enumerate(sums):
            slopes[number] = 0.0
            mean, deviation = _mean(number, sums, slopes), one.deviation()
            if one.bound.low <= mean <= one.bound.high or not deviation:
                continue
            wanted = one.bound.high if mean > one.bound.high else one.bound.low
            low, high = -STEEPEST / deviation, STEEPEST / deviation
            for _ in range(HALVINGS):
                slopes[number] = (low + high) / 2
                if _mean(number, sums, slopes) < wanted:
                    low = slopes[number]
                else:
                    high = slopes[number]
    return slopes


def _mean(number: int, sums: Sequence[_Sum], slopes: Sequence[float]) -> float:
    """Return the mean of a cost of proposals with these slopes."""
    mean = sums[number].base
    for decision, shares in enumerate(sums[number].shares):
        probabilities = _probabilities(_weighted(slopes, [one.shares[decision] for one in sums]))
        mean += math.fsum(p * share for p, share in zip(probabilities, shares, strict=True))
    return mean


def _weighted(slopes: Sequence[float], shares: Sequence[Sequence[float]]) -> list[float]:
    """Return the score of each option of a decision: its shares of all costs, times their slopes."""
    return [math.fsum(map(float.__mul__, slopes, of_option)) for of_option in zip(*shares, strict=True)]


def _probabilities(scores: Sequence[float]) -> list[float]:
    greatest = max(scores)
    weights = [math.exp(score - greatest) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _sum_of(space: ProductSpace, table: Table, architecture: Architecture) -> float:
    """Return the sum of a table's numbers for the options that an architecture takes."""
    return math.fsum(
        row[options.index(taken)]
        for options, row, taken in zip(space.options, table, architecture, strict=True)
    )
