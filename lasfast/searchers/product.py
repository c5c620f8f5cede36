"""The common part of searchers of independent decisions."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from lasfast.constraints import describe_function
from lasfast.core.checks import as_int
from lasfast.searchers.base import Searcher
from lasfast.searchers.limits import limits_of
from lasfast.searchers.operators import Result, one_of_each, sample_distinct, warn_of_few
from lasfast.spaces import Architecture, ProductSpace


class ProductSearcher(Searcher):
    """A searcher that asks for no architecture twice, nor for two of the same function.

    Attributes:
        known: the values of the architectures of completed steps, in the order in which these were asked for.
    """

    space: ProductSpace

    def __init__(
        self, space: ProductSpace, constraint: Callable[[Architecture], bool] | None, seed: int
    ) -> None:
        if not isinstance(space, ProductSpace):
            raise TypeError(f"space must be a ProductSpace such as ChoiceSpace, got {type(space).__name__}")
        super().__init__(space, constraint)
        self.seed = as_int("seed", seed, minimum=0)

    def begin(self) -> None:
        """Forget all that was observed."""
        super().begin()
        self.known: dict[Architecture, float] = {}
        self._keys: set[Hashable] = set()

    def learn(self, results: Sequence[Result]) -> None:
        """Remember what was asked."""
        self.known.update(results)
        self._keys.update(self.space.key(architecture) for architecture, _ in results)

    def is_unknown(self, architecture: Architecture) -> bool:
        """Return whether no architecture of this function was asked for."""
        return architecture not in self.known and self.space.key(architecture) not in self._keys

    def is_new(self, architecture: Architecture) -> bool:
        """Return whether an architecture may be asked for, and none of its function was."""
        return architecture not in self.known and self.admits(architecture) and self.is_unknown(architecture)

    def each_new(self) -> Callable[[Architecture], bool]:
        """Return a function that says whether an architecture is new, and accepts one of each function."""
        return one_of_each(self.space, self.is_new)

    def new_sample(
        self, rng: random.Random, wanted: int, accept: Callable[[Architecture], bool]
    ) -> list[Architecture]:
        """Draw random architectures that `accept` takes; where too few are found, that is logged."""
        found = sample_distinct(self.space, rng, wanted, accept, limits_of(self.constraint))
        warn_of_few(self.space, wanted, found)
        return found

    def new_neighbours(self, architecture: Architecture) -> Iterator[Architecture]:
        """Give the new architectures, one of each function, that differ from one in a single decision."""
        accept = self.each_new()
        for decision, options in enumerate(self.space.options):
            for option in options:
                other = (*architecture[:decision], option, *architecture[decision + 1 :])
                if option != architecture[decision] and accept(other):
                    yield other

    def describe(self) -> dict[str, Any]:
        """Return what describes all of these, as JSON values."""
        return {
            "constraint": describe_function(self.constraint),
            "seed": self.seed,
            "space": self.space.describe(),
        }
