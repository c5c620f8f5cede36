"""Evolutionary search of Single Path One-Shot, and regularized evolution."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from lasfast.core.checks import as_int
from lasfast.searchers.operators import (
    ATTEMPTS,
    Result,
    crossover,
    draw_distinct,
    initial_sample,
    ranked,
    tournament,
)
from lasfast.searchers.product import ProductSearcher
from lasfast.spaces import Architecture, ProductSpace


class _Evolutionary(ProductSearcher):
    """The common part of both: the first generation is random."""

    def __init__(
        self,
        space: ProductSpace,
        constraint: Callable[[Architecture], bool] | None,
        population: int,
        seed: int,
    ) -> None:
        super().__init__(space, constraint, seed)
        self.population = as_int("population", population, minimum=2)

    def generation(
        self, rng: random.Random, *parts: tuple[int, Callable[[], Architecture]]
    ) -> list[Architecture]:
        """Return new architectures that meet the constraint.

        Args:
            rng: the generator.
            parts: how many are wanted, and the operator that draws one. Where operators find too few, random
                architectures take their place.
        """
        new: dict[Architecture, None] = {}
        accept = self.each_new()
        if len(self.known) == self.space.count():
            return []
        for wanted, operator in parts:
            new |= dict.fromkeys(draw_distinct(operator, wanted, accept, patience=ATTEMPTS))
        lacking = sum(wanted for wanted, _ in parts) - len(new)
        if lacking:
            new |= dict.fromkeys(self.new_sample(rng, lacking, accept))
        return list(new)

    def describe(self) -> dict[str, Any]:
        """Return what describes both, as JSON values."""
        return {"population": self.population, **super().describe()}


class Evolution(_Evolutionary):
    """Evolutionary architecture search (Guo et al., Single Path One-Shot, Algorithm 1).

    After a random population come `generations` more, each in one step. Half of a generation are crossovers
    of two of the `top` best so far, half are mutations of one of them; all are new and within the constraint,
    and where too few are found, random architectures take their place. Each generation is evaluated, the last
    one included, which the paper's listing makes and leaves: `population * (generations + 1)` evaluations.

    Args:
        space: a space of independent decisions, such as `ChoiceSpace`.
        constraint: says whether an architecture may be proposed; None admits all.
        population: how many architectures a generation has, P.
        generations: how many generations follow the first, T.
        top: how many of the best are parents, k.
        probability: that of each decision to be mutated.
        share: the share of the children, from 0 to 1, that begin as one of their parents does: a cut is drawn
            uniformly, and what lies in front of it is kept. Networks which begin alike are measured faster,
            since the layers that they begin with are run once. Ours; 0 is the paper's.
        seed: the seed of the searcher's own generator.

    Attributes:
        parents: (architecture, value) of the `top` best of the completed steps.
    """

    extent = "generations"

    def __init__(
        self,
        space: ProductSpace,
        *,
        constraint: Callable[[Architecture], bool] | None = None,
        population: int = 50,
        generations: int = 20,
        top: int = 10,
        probability: float = 0.1,
        share: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(space, constraint, population, seed)
        self.generations = as_int("generations", generations, minimum=0)
        self.most = self.population * (self.generations + 1)
        self.top = as_int("top", top, minimum=1)
        if not 0 < probability <= 1:
            raise ValueError(f"probability must be above 0 and at most 1, got {probability!r}")
        self.probability = probability
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, got {share!r}")
        self.share = share

    def begin(self) -> None:
        """Forget all that was observed."""
        super().begin()
        self.parents: list[Result] = []

    def learn(self, results: Sequence[Result]) -> None:
        """Keep the best of all generations."""
        super().learn(results)
        self.parents = ranked(self.parents + list(results))[: self.top]

    def propose(self) -> list[Architecture]:
        """Return the first, random generation, or one of crossovers and mutations of the best."""
        if self.step > self.generations:
            return []
        rng = random.Random(f"{self.seed} {self.step}")
        if not self.history:
            return initial_sample(self.space, rng, self.population, self.admits, self.constraint)
        parents = [architecture for architecture, _ in self.parents]

        decisions = len(parents[0])

        def cut() -> int:
            keeps = self.share and rng.random() < self.share
            return rng.randrange(1, decisions) if keeps and decisions > 1 else 0

        def cross() -> Architecture:
            first, second = rng.sample(parents, 2)
            begins = cut()
            return first[:begins] + crossover(first[begins:], second[begins:], rng)

        def mutate() -> Architecture:
            parent, begins = rng.choice(parents), cut()
            # As many decisions mutate as elsewhere, on average.
            probability = min(1.0, self.probability * decisions / (decisions - begins))
            return parent[:begins] + self.space.mutate(parent, rng, probability)[begins:]

        crossovers = self.population // 2 if len(parents) > 1 else 0
        return self.generation(rng, (crossovers, cross), (self.population - crossovers, mutate))

    def describe(self) -> dict[str, Any]:
        """Return name, hyper-parameters and space, as JSON values."""
        return {
            "name": "evolution",
            "generations": self.generations,
            "top": self.top,
            "probability": self.probability,
            **({"share": self.share} if self.share else {}),
            **super().describe(),
        }


class RegularizedEvolution(_Evolutionary):
    """Aging evolution (Real et al., AAAI 2019, Algorithm 1), a baseline.

    The population begins random. Then each child is the best of a random sample of the population, one
    decision changed, and takes the place of the oldest member. Children are drawn until they are new and
    within the constraint; where none is found, a random architecture takes its place.

    Args:
        space: a space of independent decisions, such as `ChoiceSpace`.
        constraint: says whether an architecture may be proposed; None admits all.
        population: how many members there are, P; its default and that of `sample` are those of LayerNAS,
            appendices B and C.
        sample: how many members a parent is the best of, S.
        evaluations: how many architectures are tried in all.
        children: how many are asked for in one step; 1 in the paper.
        seed: the seed of the searcher's own generator.

    Attributes:
        members: (architecture, value) of the population, the oldest first.
    """

    extent = "evaluations"

    def __init__(
        self,
        space: ProductSpace,
        *,
        constraint: Callable[[Architecture], bool] | None = None,
        population: int = 50,
        sample: int = 10,
        evaluations: int = 1000,
        children: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(space, constraint, population, seed)
        self.sample = as_int("sample", sample, minimum=1)
        self.evaluations = as_int("evaluations", evaluations, minimum=self.population)
        self.most = self.evaluations
        self.children = as_int("children", children, minimum=1)

    def begin(self) -> None:
        """Forget all that was observed."""
        super().begin()
        self.members: list[Result] = []

    def learn(self, results: Sequence[Result]) -> None:
        """Let the new ones in, and the oldest out."""
        super().learn(results)
        self.members = (self.members + list(results))[-self.population :]

    def propose(self) -> list[Architecture]:
        """Return the random population, then children, of which the last step takes the first."""
        rng = random.Random(f"{self.seed} {self.step}")
        if not self.history:
            return initial_sample(self.space, rng, self.population, self.admits, self.constraint)
        wanted = self.evaluations - len(self.known)
        if wanted < 1:
            return []

        def child() -> Architecture:
            return self.space.vary(tournament(self.members, self.sample, rng), rng)

        return self.generation(rng, (self.children, child))[:wanted]

    def describe(self) -> dict[str, Any]:
        """Return name, hyper-parameters and space, as JSON values."""
        return {
            "name": "regularized-evolution",
            "sample": self.sample,
            "evaluations": self.evaluations,
            "children": self.children,
            **super().describe(),
        }
