"""Bayesian optimisation: a predictor of values says what to measure next."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy

from lasfast.constraints import BoundedSampler
from lasfast.core.checks import as_int
from lasfast.searchers.gaussian_process import Array, GaussianProcess, Kernel, likeliest_kernel
from lasfast.searchers.limits import limits_of
from lasfast.searchers.operators import initial_sample, one_of_each, ranked
from lasfast.searchers.product import ProductSearcher
from lasfast.spaces import Architecture, ListedSpace, ProductSpace

POOL = 1000  # random architectures that a step chooses from
LISTED = 20_000  # in spaces of up to so many, these come from a list of those that are left
TRIES = 5  # times as many draws, in larger ones, for those that are new and within the constraint
BEST = 5  # the best so far, whose neighbours are in the choice, too
REFIT = 1.25
"""The kernel is fitted again when so many times as many values are known. It changes little in between."""
DIGITS = 9  # of an improvement: what is equal but for rounding goes by the order


class Predictor(ProductSearcher):
    """Measures next what a Gaussian process expects the greatest improvement of.

    Some random architectures come first. Then a Gaussian process is fitted to all values, of which ranks
    count (normal scores: Salinas et al. 2020, section 4), with a kernel of the decisions in which
    architectures differ (Oh et al. 2019 use one of a product of graphs; this is its simplest case). Of POOL
    random architectures and the neighbours of the best, those come next that have the greatest expected
    improvement (Jones et al. 1998, Eq. 15). The first of a step is taken to have its expected value when the
    second is chosen, and so on (Ginsbourger et al. 2010, "Kriging Believer").

    Args:
        space: a space of independent decisions, such as `ChoiceSpace`.
        constraint: says whether an architecture may be proposed; None admits all.
        initial: how many random architectures come first.
        evaluations: how many architectures are tried in all.
        children: how many are asked for in one step, after the first.
        seed: the seed of the searcher's own generator.
    """

    extent = "evaluations"

    def __init__(
        self,
        space: ProductSpace,
        *,
        constraint: Callable[[Architecture], bool] | None = None,
        initial: int = 10,
        evaluations: int = 200,
        children: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(space, constraint, seed)
        self.initial = as_int("initial", initial, minimum=2)
        self.evaluations = as_int("evaluations", evaluations, minimum=self.initial)
        self.most = self.evaluations
        self.children = as_int("children", children, minimum=1)

    def begin(self) -> None:
        """Forget all that was observed."""
        super().begin()
        self._kernels: dict[int, Kernel] = {}

    def propose(self) -> list[Architecture]:
        """Return random architectures first, then those of the greatest expected improvement."""
        rng = random.Random(f"{self.seed} {self.step}")
        if not self.history:
            return initial_sample(self.space, rng, self.initial, self.admits, self.constraint)
        wanted = min(self.children, self.evaluations - len(self.known))
        pool = self._pool(rng) if wanted else []
        if len(pool) <= self.children:
            return pool[:wanted]
        scores = normal_scores(list(self.known.values()))
        process = GaussianProcess(self._kernel(), list(self.known), scores)
        prediction = process.predict(pool)
        chosen: list[int] = []
        for _ in range(wanted):
            improvement = expected_improvement(prediction.mean, prediction.variance, scores.max())
            improvement[chosen] = -np.inf
            place = int(np.argmax(np.round(improvement, DIGITS)))
            chosen.append(place)
            prediction.suppose(place)
        return [pool[place] for place in chosen]

    def _kernel(self) -> Kernel:
        """Return the kernel that explains the first values best, as many as REFIT says."""
        count = 1
        while (more := max(count + 1, int(REFIT * count))) <= len(self.known):
            count = more
        if count not in self._kernels:
            first = list(self.known)[:count]
            scores = normal_scores([self.known[one] for one in first])
            self._kernels = {count: likeliest_kernel(first, scores)}
        return self._kernels[count]

    def _pool(self, rng: random.Random) -> list[Architecture]:
        """Return the architectures to choose from, all new."""
        accept = one_of_each(self.space, self.is_unknown)
        best = ranked(self.known.items())[:BEST]
        pool = [one for parent, _ in best for one in self.new_neighbours(parent) if accept(one)]
        if self._listed is not None:
            taken = self._keys.union(map(self.space.key, pool))
            left = [one for key, one in self._listed.items() if key not in taken]
            return pool + rng.sample(left, min(POOL, len(left)))
        wanted = len(pool) + POOL
        for _ in range(TRIES * POOL):
            one = self._draw(rng)
            if one is None or len(pool) == wanted:
                break
            if self.admits(one) and accept(one):
                pool.append(one)
        return pool

    @cached_property
    def _listed(self) -> dict[Hashable, Architecture] | None:
        """By its key, the first architecture of each function that may be asked for, of a small space."""
        if self.space.count() > LISTED:
            return None
        found: dict[Hashable, Architecture] = {}
        for architecture in filter(self.admits, self.space.enumerate()):
            found.setdefault(self.space.key(architecture), architecture)
        return found

    @cached_property
    def _draw(self) -> Callable[[random.Random], Architecture | None]:
        """The function that draws a random architecture, within bounds if the constraint says some."""
        limits = [] if isinstance(self.space, ListedSpace) else limits_of(self.constraint)
        return BoundedSampler(self.space, limits).draw if limits else self.space.sample

    def describe(self) -> dict[str, Any]:
        """Return name, hyper-parameters and space, as JSON values."""
        return {
            "name": "predictor",
            "initial": self.initial,
            "evaluations": self.evaluations,
            "children": self.children,
            **super().describe(),
        }


def normal_scores(values: Sequence[float]) -> Array:
    """Return for each value [N] the quantile of the normal distribution at its rank; equal ones are equal."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    scores: Array = scipy.special.ndtri(ranks / (len(values) + 1))[places]
    return scores


def expected_improvement(mean: Array, variance: Array, best: float) -> Array:
    """Return how much normally distributed values exceed the best on the average (Jones et al. 1998)."""
    deviation = np.sqrt(variance)
    score = (mean - best) / deviation
    density = np.exp(-(score**2) / 2) / np.sqrt(2 * np.pi)
    improvement: Array = deviation * (score * scipy.special.ndtr(score) + density)
    return improvement
