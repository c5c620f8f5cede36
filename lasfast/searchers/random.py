"""Random search, the baseline."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from lasfast.constraints import describe_function
from lasfast.core.checks import as_int
from lasfast.searchers.base import Searcher, best_per_depth
from lasfast.searchers.operators import Result, initial_sample
from lasfast.spaces import Architecture, LayerAssignmentSpace, ListedSpace, SearchSpace


class Random(Searcher):
    """Draws architectures uniformly and without repetition, all of them in one step.

    Args:
        space: the architectures to draw from.
        samples: how many to draw; all, in random order, where there are fewer.
        depth: for layer assignments, the depth or depths to draw from; None is all of them, so that
            the depths with the most assignments get the most samples.
        constraint: says whether an architecture may be drawn; None admits all.
        seed: the seed of the searcher's own generator.
    """

    extent = "samples"

    def __init__(
        self,
        space: SearchSpace,
        *,
        samples: int,
        depth: int | Iterable[int] | None = None,
        constraint: Callable[[Architecture], bool] | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(space, SearchSpace):
            raise TypeError(f"space must be a SearchSpace, got {type(space).__name__}")
        super().__init__(space, constraint)
        self.samples = as_int("samples", samples, minimum=1)
        self.seed = as_int("seed", seed, minimum=0)
        self.most = self.samples
        self.depths: tuple[int, ...] | None = None
        if depth is not None:
            if not isinstance(space, LayerAssignmentSpace):
                raise TypeError(f"depth must be None for a {type(space).__name__}, got {depth!r}")
            self.depths = space.depths(depth)

    def propose(self) -> list[Architecture]:
        """Return the whole sample in the first step, nothing after it."""
        if self.history:
            return []
        rng = random.Random(f"{self.seed} {self.step}")
        among = {} if self.depths is None else {"depth": self.depths}
        found = initial_sample(self.space, rng, self.samples, self.admits, self.constraint, **among)
        uniform = not isinstance(self.space, ListedSpace)  # a list may have several of one function
        if self.constraint is None and uniform and len(found) < min(self.samples, self.space.count(**among)):
            raise RuntimeError(
                f"{self.space} gave only {len(found)} distinct architectures of the {self.samples} wanted: "
                f"its sample() is not uniform, or its count() is wrong"
            )
        return found

    @property
    def winners(self) -> dict[int, Result]:
        """(assignment, value) of the best of each depth, by depth; {} unless these are layer assignments."""
        return best_per_depth(self.results) if isinstance(self.space, LayerAssignmentSpace) else {}

    def describe(self) -> dict[str, Any]:
        """Return name, hyper-parameters and space, as JSON values."""
        return {
            "name": "random",
            "samples": self.samples,
            "depth": None if self.depths is None else list(self.depths),
            "constraint": describe_function(self.constraint),
            "seed": self.seed,
            "space": self.space.describe(),
        }
