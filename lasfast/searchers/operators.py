"""The small steps that searchers are composed of."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from lasfast.constraints import Cost
from lasfast.spaces import Architecture, SearchSpace

Result: TypeAlias = tuple[Architecture, float]
"""An architecture and its value; higher is better."""

ATTEMPTS = 100  # draws at most for each architecture that is wanted
ENUMERABLE = 100_000  # spaces up to this size are gone through where drawing finds too few
NEAREST = 200  # random architectures that one of a wanted cost is chosen from

logger = logging.getLogger("lasfast")


def ranked(results: Iterable[Result]) -> list[Result]:
    """The best first; of equal values the one that comes first in `results` stays first."""
    return sorted(results, key=lambda result: -result[1])


def crossover(first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
    """Take each decision from one of two architectures, from either with the same probability."""
    return tuple(rng.choice(pair) for pair in zip(first, second, strict=True))


def tournament(population: Sequence[Result], size: int, rng: random.Random) -> Architecture:
    """The best of `size` members drawn with replacement; of equal values the one drawn first."""
    return max(rng.choices(population, k=size), key=lambda result: result[1])[0]


def pareto_front(results: Iterable[Result], cost: Cost) -> list[Result]:
    """The results that no other one matches in both value and cost and beats in one, the cheapest first.

    Of results equal in both, the first.
    """
    front: list[Result] = []
    for result in sorted(results, key=lambda result: (cost(result[0]), -result[1])):
        if not front or result[1] > front[-1][1]:
            front.append(result)
    return front


def draw_distinct(
    draw: Callable[[], Architecture], wanted: int, accept: Callable[[Architecture], bool]
) -> list[Architecture]:
    """Different architectures that `accept` takes: `wanted` of them, or what ATTEMPTS draws for each give."""
    found: dict[Architecture, None] = {}
    for _ in range(ATTEMPTS * wanted):
        candidate = draw()
        if candidate not in found and accept(candidate):
            found[candidate] = None
            if len(found) == wanted:
                break
    return list(found)


def sample_nearest(
    space: SearchSpace,
    rng: random.Random,
    cost: Cost,
    wanted: float,
    accept: Callable[[Architecture], bool],
) -> Architecture | None:
    """Of NEAREST random architectures that `accept` takes, that whose cost is nearest to `wanted`, if any."""
    drawn = sample_distinct(space, rng, NEAREST, accept)
    return min(drawn, key=lambda one: abs(cost(one) - wanted), default=None)


def initial_sample(
    space: SearchSpace,
    rng: random.Random,
    wanted: int,
    accept: Callable[[Architecture], bool],
    **among: Any,
) -> list[Architecture]:
    """What a search begins with: `sample_distinct`, but ValueError where it finds nothing at all."""
    found = sample_distinct(space, rng, wanted, accept, **among)
    if not found:
        raise ValueError(f"constraint must leave architectures of {space}; none that meets it was found")
    return found


def sample_distinct(
    space: SearchSpace,
    rng: random.Random,
    wanted: int,
    accept: Callable[[Architecture], bool],
    **among: Any,
) -> list[Architecture]:
    """Different architectures that `accept` takes, drawn uniformly.

    Args:
        space: where to draw from.
        rng: the generator.
        wanted: how many; fewer come where there are fewer, or, in a space of more than ENUMERABLE
            architectures, where ATTEMPTS draws for each do not find them; that is logged.
        accept: which ones may come.
        among: what the space's `sample`, `count` and `enumerate` take, such as `depth`.
    """
    size = space.count(**among)
    if size <= 2 * wanted:
        accepted = [architecture for architecture in space.enumerate(**among) if accept(architecture)]
        return rng.sample(accepted, min(wanted, len(accepted)))
    found = draw_distinct(lambda: space.sample(rng, **among), wanted, accept)
    if len(found) < wanted and size <= ENUMERABLE:
        known = set(found)
        others = [one for one in space.enumerate(**among) if one not in known and accept(one)]
        found += rng.sample(others, min(wanted - len(found), len(others)))
    elif len(found) < wanted:
        logger.warning(
            "%d draws from %s gave only %d new architectures that meet the constraint, of %d wanted",
            ATTEMPTS * wanted,
            space,
            len(found),
            wanted,
        )
    return found
