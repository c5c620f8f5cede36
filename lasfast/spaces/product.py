"""Independent decisions: each takes one of its own options, whatever the others take."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator

from lasfast.core.checks import as_finite
from lasfast.spaces.base import Architecture, SearchSpace


class ProductSpace(SearchSpace):
    """All combinations of the options of some decisions.

    A subclass sets `options` and says what `describe` and `validate` say.

    Attributes:
        options: for each decision, the ints it may take.
    """

    options: tuple[range, ...]

    def count(self) -> int:
        """How many combinations there are."""
        return math.prod(map(len, self.options))

    def enumerate(self) -> Iterator[Architecture]:
        """Every combination once, in dictionary order."""
        return itertools.product(*self.options)

    def sample(self, rng: random.Random) -> Architecture:
        """Draw one combination, each with the same probability."""
        return tuple(rng.choice(options) for options in self.options)

    def mutate(
        self, architecture: Iterable[int], rng: random.Random, probability: float = 0.1
    ) -> Architecture:
        """Let each decision take another of its options with this probability, each other one alike.

        One that has no other option stays. This is the mutation of Single Path One-Shot, section 3.4.

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
        """Let one decision take another of its options: decision and option are drawn uniformly.

        Raises:
            ValueError: no decision has another option, or the architecture is not in the space.
        """
        parent = self.validate(architecture)
        free = [place for place, options in enumerate(self.options) if len(options) > 1]
        if not free:
            raise ValueError(f"{self} has no other architecture than {parent}")
        place = rng.choice(free)
        return (*parent[:place], _another(self.options[place], parent[place], rng), *parent[place + 1 :])

    def by_cost(self, cost: Callable[[Architecture], float]) -> tuple[tuple[int, ...], ...]:
        """The options of each decision from the cheapest to the dearest; of equal ones the first is first.

        A decision's options are compared with the first option everywhere else, so the order holds
        throughout the space for an additive cost, and wherever no decision turns another's order round.

        Args:
            cost: the cost of an architecture, a finite number.
        """
        first = tuple(options[0] for options in self.options)

        def ordered(place: int) -> tuple[int, ...]:
            costs = {
                option: as_finite("cost", cost((*first[:place], option, *first[place + 1 :])))
                for option in self.options[place]
            }
            return tuple(sorted(costs, key=costs.__getitem__))

        return tuple(map(ordered, range(len(self.options))))


def _another(options: range, taken: int, rng: random.Random) -> int:
    """An option that is not the one taken."""
    number = rng.randrange(len(options) - 1)
    return options[number + (number >= options.index(taken))]
