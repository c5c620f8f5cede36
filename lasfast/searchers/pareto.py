"""Pareto local search, for fronts of value and cost."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from lasfast.constraints import Cost, describe_function
from lasfast.core.checks import as_int
from lasfast.searchers.operators import Result, initial_sample, pareto_front
from lasfast.searchers.product import ProductSearcher
from lasfast.spaces import Architecture, ProductSpace


class ParetoLocalSearch(ProductSearcher):
    """Improves the whole front of value and cost, by neighbours of what is on it.

    Some random architectures come first. Each further step takes a random one of the Pareto front that has
    neighbours left, which differ in one decision, and asks for a few of them (Paquete, Chiarandini and
    Stuetzle 2004, "Pareto local optimum sets in the biobjective traveling salesman problem"; theirs goes
    through all neighbours before the front changes). Where the whole front has none left, random
    architectures come again.

    Args:
        space: a space of independent decisions, such as `ChoiceSpace`.
        cost: the cost of an architecture, any function.
        constraint: says whether an architecture may be proposed; None admits all.
        initial: how many random architectures come first.
        evaluations: how many architectures are tried in all.
        children: how many neighbours are asked for in one step.
        seed: the seed of the searcher's own generator.

    Attributes:
        optima: (architecture, value) of the Pareto front of the completed steps, the cheapest first.
    """

    extent = "evaluations"

    def __init__(
        self,
        space: ProductSpace,
        *,
        cost: Cost,
        constraint: Callable[[Architecture], bool] | None = None,
        initial: int = 10,
        evaluations: int = 400,
        children: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(space, constraint, seed)
        if not callable(cost):
            raise TypeError(f"cost must be a function of an architecture, got {cost!r}")
        self.cost: Cost = cost
        self.initial = as_int("initial", initial, minimum=1)
        self.evaluations = as_int("evaluations", evaluations, minimum=self.initial)
        self.most = self.evaluations
        self.children = as_int("children", children, minimum=1)

    def begin(self) -> None:
        """Forget all that was observed."""
        super().begin()
        self.optima: list[Result] = []

    def learn(self, results: Sequence[Result]) -> None:
        """Keep the front."""
        super().learn(results)
        self.optima = pareto_front([*self.optima, *results], self.cost)

    def propose(self) -> list[Architecture]:
        """Return random architectures first, then neighbours of one of the front."""
        rng = random.Random(f"{self.seed} {self.step}")
        if not self.history:
            return initial_sample(self.space, rng, self.initial, self.admits, self.constraint)
        wanted = self.evaluations - len(self.known)
        if wanted < 1:
            return []
        for optimum, _ in rng.sample(self.optima, len(self.optima)):
            if neighbours := list(self.new_neighbours(optimum)):
                return rng.sample(neighbours, min(self.children, len(neighbours)))[:wanted]
        return self.new_sample(rng, self.children, self.is_new)[:wanted]

    def describe(self) -> dict[str, Any]:
        """Return name, hyper-parameters and space, as JSON values."""
        return {
            "name": "pareto-local-search",
            "cost": describe_function(self.cost),
            "initial": self.initial,
            "evaluations": self.evaluations,
            "children": self.children,
            **super().describe(),
        }
