"""Local search, a strong baseline."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from lasfast.core.checks import as_int
from lasfast.searchers.operators import Result, initial_sample
from lasfast.searchers.product import ProductSearcher
from lasfast.spaces import Architecture, ProductSpace


class LocalSearch(ProductSearcher):
    """Climbs from a random architecture to better neighbours, and starts again where none is better.

    A neighbour differs in one decision. They are measured in random order, and the first better one is gone
    on from (White, Nolen and Savani 2021, "Exploring the loss landscape in neural architecture search",
    Algorithm 1, without its full look around). Where all neighbours are known, the search starts again from a
    new random architecture.

    Args:
        space: a space of independent decisions, such as `ChoiceSpace`.
        constraint: says whether an architecture may be proposed; None admits all.
        evaluations: how many architectures are tried in all.
        children: how many neighbours are asked for in one step, of which the best counts.
        seed: the seed of the searcher's own generator.

    Attributes:
        place: the architecture whose neighbours are measured, and its value; None before the first is known.
    """

    extent = "evaluations"

    def __init__(
        self,
        space: ProductSpace,
        *,
        constraint: Callable[[Architecture], bool] | None = None,
        evaluations: int = 200,
        children: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(space, constraint, seed)
        self.evaluations = as_int("evaluations", evaluations, minimum=1)
        self.most = self.evaluations
        self.children = as_int("children", children, minimum=1)

    def begin(self) -> None:
        """Forget all that was observed."""
        super().begin()
        self.place: Result | None = None
        self._starts = True

    def learn(self, results: Sequence[Result]) -> None:
        """Go on from the best of the results, if it is better, or if it is a new start."""
        super().learn(results)
        best = max(results, key=lambda result: result[1])
        if self._starts or self.place is None or best[1] > self.place[1]:
            self.place = best

    def propose(self) -> list[Architecture]:
        """Return neighbours in random order, or a random architecture to start from."""
        wanted = self.evaluations - len(self.known)
        if wanted < 1:
            return []
        rng = random.Random(f"{self.seed} {self.step}")
        if self.place is None:
            return initial_sample(self.space, rng, 1, self.admits, self.constraint)
        neighbours = list(self.new_neighbours(self.place[0]))
        self._starts = not neighbours
        if neighbours:
            return rng.sample(neighbours, min(self.children, len(neighbours)))[:wanted]
        return self.new_sample(rng, 1, self.is_new)

    def describe(self) -> dict[str, Any]:
        """Return name, hyper-parameters and space, as JSON values."""
        return {
            "name": "local-search",
            "evaluations": self.evaluations,
            "children": self.children,
            **super().describe(),
        }
