"""The operators that searchers are composed of: ranking, crossover, sampling."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

from lasfast.constraints import BoundedSampler, Cost
from lasfast.searchers.limits import Limit, limits_of, unmet
from lasfast.spaces import Architecture, ProductSpace, SearchSpace

Result: TypeAlias = tuple[Architecture, float]
"""An architecture and its value; higher is better."""

ATTEMPTS = 100  # how often to draw, at most, for each architecture that is wanted
ENUMERABLE = 100_000  # spaces of up to so many are enumerated where drawing finds too few
DRAWS = 5000  # how often to draw from a larger space before all draws are made within the bounds
NEAREST = 200  # from how many random architectures one of a wanted cost is chosen

logger = logging.getLogger("lasfast")


def ranked(results: Iterable[Result]) -> list[Result]:
    """Return results, the best first; of equal values the one that comes first in `results` stays first."""
    return sorted(results, key=lambda result: -result[1])


def crossover(first: Architecture, second: Architecture, rng: random.Random) -> Architecture:
    """Take each decision from one of two architectures, from either with the same probability."""
    return tuple(rng.choice(pair) for pair in zip(first, second, strict=True))


def tournament(population: Sequence[Result], size: int, rng: random.Random) -> Architecture:
    """Return the best of `size` members drawn with replacement; of equal values the one drawn first."""
    return max(rng.choices(population, k=size), key=lambda result: result[1])[0]


def pareto_front(results: Iterable[Result], cost: Cost) -> list[Result]:
    """Return the results that no other beats in value or cost while it is at least as good in the other.

    The cheapest comes first. Of results that are equal in both, the first stays.
    """
    front: list[Result] = []
    for result in sorted(results, key=lambda result: (cost(result[0]), -result[1])):
        if not front or result[1] > front[-1][1]:
            front.append(result)
    return front


def one_of_each(space: SearchSpace, accept: Callable[[Architecture], bool]) -> Callable[[Architecture], bool]:
    """Return a function that accepts what `accept` does, but one of those that share a key alone."""
    keys: set[Hashable] = set()

    def first(architecture: Architecture) -> bool:
        if not accept(architecture) or (key := space.key(architecture)) in keys:
            return False
        keys.add(key)
        return True

    return first


def draw_distinct(
    draw: Callable[[], Architecture | None],
    wanted: int,
    accept: Callable[[Architecture], bool],
    draws: int | None = None,
    patience: int | None = None,
) -> list[Architecture]:
    """Return `wanted` different architectures that `accept` takes, or what so many draws find.

    A draw may find none, and then gives None. Unless `draws` says how many there are, ATTEMPTS are made for
    each architecture that is wanted. With `patience`, drawing ends where so many draws in a row have found
    nothing new.
    """
    found: dict[Architecture, None] = {}
    in_vain = 0
    for _ in range(ATTEMPTS * wanted if draws is None else draws):
        if len(found) == wanted or in_vain == patience:
            break
        candidate = draw()
        in_vain += 1
        if candidate is not None and candidate not in found and accept(candidate):
            found[candidate] = None
            in_vain = 0
    return list(found)


def sample_nearest(
    space: SearchSpace,
    rng: random.Random,
    cost: Cost,
    wanted: float,
    accept: Callable[[Architecture], bool],
) -> Architecture | None:
    """Return the architecture whose cost is nearest to `wanted`, of NEAREST random ones that `accept` takes.

    None is returned where `accept` takes none.
    """
    drawn = sample_distinct(space, rng, NEAREST, accept)
    return min(drawn, key=lambda one: abs(cost(one) - wanted), default=None)


def initial_sample(
    space: SearchSpace,
    rng: random.Random,
    wanted: int,
    accept: Callable[[Architecture], bool],
    constraint: Callable[[Architecture], bool] | None = None,
    **among: Any,
) -> list[Architecture]:
    """Return what `sample_distinct` does, for a search to begin with.

    Raises:
        ValueError: that is nothing. The text tells what the constraint bounds, and what architectures cost:
            all of them where the space is enumerated, else random ones and, of options that differ in cost,
            the cheapest and the dearest.
    """
    limits = limits_of(constraint)
    found = sample_distinct(space, rng, wanted, accept, limits, **among)
    if found:
        warn_of_few(space, wanted, found, **among)
        return found
    if space.count(**among) <= ENUMERABLE:
        tried = list(space.enumerate(**among))
    else:
        tried = [space.sample(rng, **among) for _ in range(NEAREST)]
        if isinstance(space, ProductSpace) and not among:
            for _, cost in limits:
                tried += zip(*((order[0], order[-1]) for order in space.by_cost(cost)), strict=True)
    raise unmet(f"constraint must leave architectures of {space}", limits, tried, constraint)


def sample_distinct(
    space: SearchSpace,
    rng: random.Random,
    wanted: int,
    accept: Callable[[Architecture], bool],
    limits: Sequence[Limit] = (),
    **among: Any,
) -> list[Architecture]:
    """Draw different architectures that `accept` takes, uniformly, and of those that share a key the first.

    Fewer are the first of more: a search that is asked for more goes on from what it has.

    Args:
        space: the architectures to draw from.
        rng: the generator.
        wanted: how many. Fewer come where there are fewer, or where, in a space of more than ENUMERABLE
            architectures, ATTEMPTS draws for each do not find them, nor as many within `limits` (see
            `BoundedSampler`).
        accept: says whether an architecture may come.
        limits: limits on costs that `accept` has, too.
        among: arguments of the space's `sample`, `count` and `enumerate`, such as `depth`.
    """
    size = space.count(**among)
    accept = one_of_each(space, accept)

    def draw() -> Architecture:
        return space.sample(rng, **among)

    # How often is drawn before another way is taken must not depend on how many are wanted.
    if size <= ENUMERABLE:
        found = draw_distinct(draw, wanted, accept, draws=size)
        if len(found) < wanted:
            known = set(found)
            others = [one for one in space.enumerate(**among) if one not in known and accept(one)]
            rng.shuffle(others)
            found += others[: wanted - len(found)]
        return found
    if not limits or not isinstance(space, ProductSpace) or among:
        return draw_distinct(draw, wanted, accept)
    found = draw_distinct(draw, wanted, accept, draws=DRAWS)
    if len(found) < wanted:
        known, sampler = set(found), BoundedSampler(space, limits)
        found += draw_distinct(
            partial(sampler.draw, rng) if sampler.share else draw,
            wanted - len(found),
            lambda one: one not in known and accept(one),
        )
    return found


def warn_of_few(space: SearchSpace, wanted: int, found: Sequence[Architecture], **among: Any) -> None:
    """Log where drawing found fewer architectures than were wanted, and the space may have more."""
    if len(found) < wanted and space.count(**among) > ENUMERABLE:
        logger.warning(
            "%d draws from %s gave only %d new architectures that meet the constraint, of %d wanted",
            ATTEMPTS * wanted,
            space,
            len(found),
            wanted,
        )
