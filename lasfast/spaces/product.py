"""Spaces of independent decisions, each of which takes one of its own options, whatever the others take."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from lasfast.core.checks import as_finite
from lasfast.spaces.base import Architecture, SearchSpace


class ProductSpace(SearchSpace):
    """A space of all combinations of the options of some decisions.

    A subclass sets `options` and implements `validate` and `describe`.

    Attributes:
        options: for each decision, the ints it may take.
    """

    options: tuple[Sequence[int], ...]

    def count(self) -> int:
        """Return how many combinations there are."""
        return math.prod(map(len, self.options))

    def enumerate(self) -> Iterator[Architecture]:
        """Yield every combination once, in dictionary order."""
        return itertools.product(*self.options)

    def sample(self, rng: random.Random) -> Architecture:
        """Draw one combination; all have the same probability."""
        return tuple(rng.choice(options) for options in self.options)

    def mutate(
        self, architecture: Iterable[int], rng: random.Random, probability: float = 0.1
    ) -> Architecture:
        """Change each decision with this probability to another of its options, drawn uniformly.

        A decision with a single option stays. This is the mutation of Single Path One-Shot, section 3.4.

        Raises:
            ValueError: a probability outside 0 to 1, or an architecture that is not in the space.
        """
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be from 0 to 1, got {probability!r}")
        return tuple(
            _another(options, taken, rng) if len(options) > 1 and rng.random() < probability else taken
            for options, taken in zip(self.options, self.validate(architecture), strict=True)
        )

    def vary(self, architecture: Iterable[int], rng: random.Random) -> Architecture:
        """Change one decision to another of its options; decision and option are drawn uniformly.

        Raises:
            ValueError: no decision has another option, or the architecture is not in the space.
        """
        parent = self.validate(architecture)
        free = [decision for decision, options in enumerate(self.options) if len(options) > 1]
        if not free:
            raise ValueError(f"{self} has no other architecture than {parent}")
        decision = rng.choice(free)
        option = _another(self.options[decision], parent[decision], rng)
        return (*parent[:decision], option, *parent[decision + 1 :])

    def by_cost(
        self, cost: Callable[[Architecture], float], contexts: Sequence[Architecture] = ()
    ) -> tuple[tuple[int, ...], ...]:
        """Return the options of each decision from the cheapest to the dearest, equal ones as they were.

        A decision's options are compared while the other decisions stay as in a context; where there are
        several contexts, by the sum of these costs. The order thus holds throughout the space where the cost
        is additive, or where no decision reverses another's order.

        Args:
            cost: a function that returns the cost of an architecture, a finite number.
            contexts: the architectures in which options are compared; by default the one of first options.
        """
        contexts = contexts or [tuple(options[0] for options in self.options)]

        def ordered(decision: int) -> tuple[int, ...]:
            costs = {
                option: math.fsum(
                    as_finite("cost", cost((*one[:decision], option, *one[decision + 1 :])))
                    for one in contexts
                )
                for option in self.options[decision]
            }
            return tuple(sorted(costs, key=costs.__getitem__))

        return tuple(map(ordered, range(len(self.options))))


def _another(options: Sequence[int], taken: int, rng: random.Random) -> int:
    """Draw an option other than the one taken."""
    number = rng.randrange(len(options) - 1)
    return options[number + (number >= options.index(taken))]
