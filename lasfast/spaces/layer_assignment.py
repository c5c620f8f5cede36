"""The space of layer assignments, which say how many layers each group has (NIR, Eq. 1, 3, 5 and 6)."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from lasfast.core.checks import as_int, as_ints
from lasfast.spaces.base import Architecture
from lasfast.spaces.product import ProductSpace


class LayerAssignmentSpace(ProductSpace):
    """The layer assignments of n groups (Neural Inheritance Relation, Meng et al. 2020).

    An architecture is a layer assignment (a_1, ..., a_n) with 1 <= a_i <= max_layers[i]: group i, counted
    in order of falling resolution, has a_i layers (Eq. 1). The sum of the a_i is its depth.

    A `depth` argument is one int, an iterable of ints such as `range(4, 16)`, or None for all depths; the
    space must have each of them.

    Args:
        groups: number of groups n.
        max_layers: the most layers a group may have; one int for all groups, or one for each.

    Attributes:
        groups: n.
        options: for each group, the range from 1 to its bound.
        max_layers: for each group, its bound; a tuple.
        min_depth: the least depth, n.
        max_depth: the greatest depth, the sum of the bounds.
        seed_architecture: the assignment with one layer in each group, where Algorithm 1 starts.
        deepest: the assignment with every group at its bound, whose sub-network holds all weights.
    """

    def __init__(self, groups: int, max_layers: int | Sequence[int]) -> None:
        self.groups = as_int("groups", groups, minimum=1)
        if isinstance(max_layers, Iterable):
            self.max_layers = as_ints("max_layers", max_layers)
        else:
            self.max_layers = (as_int("max_layers", max_layers, minimum=1),) * self.groups
        if len(self.max_layers) != self.groups or min(self.max_layers) < 1:
            raise ValueError(
                f"max_layers must be one bound of at least 1, or one for each of the {self.groups} groups, "
                f"got {max_layers!r}"
            )
        self.options = tuple(range(1, bound + 1) for bound in self.max_layers)
        self.min_depth = self.groups
        self.max_depth = sum(self.max_layers)
        self.seed_architecture: Architecture = (1,) * self.groups
        self.deepest: Architecture = self.max_layers

    def __repr__(self) -> str:
        return f"LayerAssignmentSpace({self.groups}, {self.max_layers})"

    def validate(self, architecture: Iterable[int]) -> Architecture:
        """Return the assignment as a tuple of ints.

        Raises:
            TypeError: not a sequence of ints.
            ValueError: not one number per group, or a group with no layer or more than its bound.
        """
        layers = as_ints("architecture", architecture)
        if len(layers) != self.groups:
            raise ValueError(f"architecture must have {self.groups} groups, got {layers}")
        for group, (layer_count, bound) in enumerate(zip(layers, self.max_layers, strict=True)):
            if not 1 <= layer_count <= bound:
                raise ValueError(f"architecture {layers}: group {group} must have 1 to {bound} layers")
        return layers

    def depths(self, depth: int | Iterable[int] | None = None) -> tuple[int, ...]:
        """Return the depths that a `depth` argument names, ascending; ValueError for one the space lacks."""
        if depth is None:
            return tuple(range(self.min_depth, self.max_depth + 1))
        named = as_ints("depth", depth) if isinstance(depth, Iterable) else (as_int("depth", depth, 1),)
        if not named:
            raise ValueError(f"depth must name at least one depth, got {depth!r}")
        if min(named) < self.min_depth or max(named) > self.max_depth:
            raise ValueError(
                f"depth must be from {self.min_depth} to {self.max_depth}, what {self} has, got {depth!r}"
            )
        return tuple(sorted(set(named)))

    def count(self, depth: int | Iterable[int] | None = None) -> int:
        """Return how many assignments have that depth (Eq. 3) or one of those depths (Eq. 5).

        Where a group could exceed its bound, the count is read from a table of partial counts instead.
        """
        if depth is None:
            return math.prod(self.max_layers)
        return sum(self._count_at(layers) for layers in self.depths(depth))

    def _count_at(self, depth: int) -> int:
        if min(self.max_layers) >= depth - self.groups + 1:
            return math.comb(depth - 1, self.groups - 1)
        return self._ways[0][depth]

    @cached_property
    def _ways(self) -> list[list[int]]:
        """The partial counts: ways[g][m] is the number of ways for groups g, g + 1, ... to hold m layers."""
        ways = [[1]]
        for bound in reversed(self.max_layers):
            after = ways[0]
            # Entry m is the sum of after[m - bound : m], one term for each layer count of this group.
            total = [0, *itertools.accumulate(after)]
            here = [
                total[min(layers, len(after))] - total[max(layers - bound, 0)]
                for layers in range(len(after) + bound)
            ]
            ways.insert(0, here)
        return ways

    def enumerate(self, depth: int | Iterable[int] | None = None) -> Iterator[Architecture]:
        """Yield all assignments, or those of the given depth(s), by depth and then in dictionary order."""
        depths = self.depths(depth)
        return itertools.chain.from_iterable(self._fill(0, layers) for layers in depths)

    def _fill(self, group: int, layers: int) -> Iterator[Architecture]:
        """Yield the layer counts with which the groups from `group` on hold `layers` together."""
        if group == self.groups:
            yield ()
            return
        after = self.max_layers[group + 1 :]
        fewest = max(1, layers - sum(after))
        most = min(self.max_layers[group], layers - len(after))
        for own in range(fewest, most + 1):
            for rest in self._fill(group + 1, layers - own):
                yield (own, *rest)

    def largest(self) -> Architecture | None:
        """Return the deepest assignment."""
        return self.deepest

    def sample(self, rng: random.Random, depth: int | Iterable[int] | None = None) -> Architecture:
        """Draw one assignment, of the given depth(s) if any; all have exactly the same probability.

        The number of an assignment is drawn, and the assignment is built group by group from the table of
        partial counts, so that no draw is rejected.
        """
        depths = self.depths(depth)
        rank = rng.randrange(sum(self._count_at(layers) for layers in depths))
        for layers in depths:
            if rank < self._count_at(layers):
                break
            rank -= self._count_at(layers)
        assignment = []
        for bound, ways in zip(self.max_layers, self._ways[1:], strict=True):
            for own in range(1, bound + 1):
                ways_after = ways[layers - own] if layers - own < len(ways) else 0
                if rank < ways_after:
                    break
                rank -= ways_after
            assignment.append(own)
            layers -= own
        return tuple(assignment)

    def inherit(self, architecture: Iterable[int]) -> tuple[Architecture, ...]:
        """Return the assignments with one more layer in one group (Eq. 6), in the order of the groups.

        Groups at their bound get none more: the deepest assignment has no heirs.
        """
        parent = self.validate(architecture)
        return tuple(
            (*parent[:group], layers + 1, *parent[group + 1 :])
            for group, layers in enumerate(parent)
            if layers < self.max_layers[group]
        )

    def even(self, depth: int) -> Architecture:
        """Return the most even assignment of a depth, a baseline; the last groups get the remainder."""
        (depth,) = self.depths(as_int("depth", depth, minimum=1))
        assignment = list(self.seed_architecture)
        for _ in range(depth - self.groups):
            room = [group for group in range(self.groups) if assignment[group] < self.max_layers[group]]
            assignment[min(reversed(room), key=assignment.__getitem__)] += 1
        return tuple(assignment)

    def describe(self) -> dict[str, Any]:
        """Return name, groups and bounds."""
        return {"name": "LayerAssignmentSpace", "groups": self.groups, "max_layers": list(self.max_layers)}
