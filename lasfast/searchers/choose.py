"""The choice of a searcher, by how many architectures may be measured."""

from __future__ import annotations

import math
from collections.abc import Callable

from lasfast.core.checks import as_int
from lasfast.searchers.base import Searcher
from lasfast.searchers.evolution import Evolution
from lasfast.searchers.predictor import Predictor
from lasfast.searchers.random import Random
from lasfast.spaces import Architecture, ProductSpace

FEW = 200
"""Up to so many evaluations, evolution has a small population."""
PREDICTED = 1000
"""Up to so many evaluations, the predictor searches: its own work grows with the cube of their number."""
STEPS = 40  # of the predictor


def fitting_population(evaluations: int | None) -> int:
    """Return the size of a population that has some ten generations within a budget (None: a large one)."""
    return 20 if evaluations is not None and evaluations <= FEW else 50


def choose(
    space: ProductSpace,
    *,
    constraint: Callable[[Architecture], bool] | None = None,
    evaluations: int = 200,
    seed: int = 0,
) -> Searcher:
    """Return the searcher that is to be preferred with so many evaluations, by what was measured on a table.

    That is the predictor up to PREDICTED evaluations, in at most about STEPS steps after the first, and
    evolution beyond. Of fewer evaluations than a predictor begins with, it is random search.

    Args:
        space: a space of independent decisions, such as `ChoiceSpace`.
        constraint: says whether an architecture may be proposed; None admits all.
        evaluations: how many architectures are measured in all; evolution ends its last generation.
        seed: the seed of the searcher's own generator.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of range.
    """
    initial = 10
    if as_int("evaluations", evaluations, minimum=1) <= initial:
        return Random(space, samples=evaluations, constraint=constraint, seed=seed)
    if evaluations <= PREDICTED:
        children = max(5, math.ceil(evaluations / STEPS))
        return Predictor(
            space,
            constraint=constraint,
            initial=initial,
            evaluations=evaluations,
            children=children,
            seed=seed,
        )
    population = fitting_population(evaluations)
    generations = math.ceil(evaluations / population) - 1
    return Evolution(space, constraint=constraint, population=population, generations=generations, seed=seed)
