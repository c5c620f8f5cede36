"""Random search: the baseline, and the second searcher that shows what the interface is."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from lasfast.checks import as_int
from lasfast.searchers.base import Result, Searcher, best_per_depth
from lasfast.spaces import Architecture, LayerAssignmentSpace, SearchSpace


class Random(Searcher):
    """Architectures drawn uniformly and without repetition, all of them in one step.

    Args:
        space: where to draw from.
        samples: how many to draw; a space that has fewer gives all it has, in random order.
        depth: for layer assignments, the depth or depths to draw from; None is all of them, so that
            the depths with the most assignments get the most samples.
        seed: of the searcher's own generator.
    """

    def __init__(
        self, space: SearchSpace, *, samples: int, depth: int | Iterable[int] | None = None, seed: int = 0
    ) -> None:
        if not isinstance(space, SearchSpace):
            raise TypeError(f"space must be a SearchSpace, got {type(space).__name__}")
        super().__init__(space)
        self.samples = as_int("samples", samples, minimum=1)
        self.seed = as_int("seed", seed, minimum=0)
        self.depths: tuple[int, ...] | None = None
        if depth is not None:
            if not isinstance(space, LayerAssignmentSpace):
                raise TypeError(f"depth must be None for a {type(space).__name__}, got {depth!r}")
            self.depths = space.depths(depth)

    def propose(self) -> list[Architecture]:
        """The whole sample in the first step, nothing after it."""
        if self.history:
            return []
        rng = random.Random(f"{self.seed} {self.step}")
        at = {} if self.depths is None else {"depth": self.depths}
        if self.space.count(**at) <= 2 * self.samples:
            everything = list(self.space.enumerate(**at))
            return rng.sample(everything, min(self.samples, len(everything)))
        return self._draw_distinct(rng, at)

    def _draw_distinct(self, rng: random.Random, at: dict[str, Any]) -> list[Architecture]:
        # At most half of the space is wanted, so a draw is new with probability 1/2 or more: a space that
        # samples uniformly never needs 100 for each.
        distinct: dict[Architecture, None] = {}
        for _ in range(100 * self.samples):
            distinct[self.space.sample(rng, **at)] = None
            if len(distinct) == self.samples:
                return list(distinct)
        raise RuntimeError(
            f"{100 * self.samples} draws from {self.space} gave only {len(distinct)} distinct architectures "
            f"of the {self.samples} wanted: its sample() is not uniform, or its count() is wrong"
        )

    @property
    def winners(self) -> dict[int, Result]:
        """(assignment, value) of the best of each depth, by depth; {} unless these are layer assignments."""
        return best_per_depth(self.results) if isinstance(self.space, LayerAssignmentSpace) else {}

    def describe(self) -> dict[str, Any]:
        """Name, hyper-parameters and space."""
        return {
            "name": "random",
            "samples": self.samples,
            "depth": None if self.depths is None else list(self.depths),
            "seed": self.seed,
            "space": self.space.describe(),
        }
