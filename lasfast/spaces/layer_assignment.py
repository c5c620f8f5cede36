"""How many layers each group of a network gets (Neural Inheritance Relation, Eq. 1, 3, 5 and 6)."""

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
    """Layers per group: n groups with at least one layer each and a bound for each.

    An architecture is a layer assignment (a_1, ..., a_n) with 1 <= a_i <= max_layers[i]; its depth is the sum
    of the a_i (Eq. 1: the groups in order of falling resolution, each at least one layer).

    Wherever a `depth` is taken it may be one int, an iterable of ints such as `range(4, 16)`, or None for
    all; each depth must be one that the space has.

    Args:
        groups: number of groups n.
        max_layers: the most layers a group may have; one int for all groups, or one for each.

    Attributes:
        groups: n.
        options: 1 to the bound of each group.
        max_layers: the bound of each group, a tuple.
        min_depth: n, one layer in each group.
        max_depth: every group at its bound.
        seed_architecture: one layer in each group, where Algorithm 1 starts.
        deepest: every group at its bound, the sub-network that holds all weights.
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
        """The depths that a `depth` argument names: ascending, each once, and each one that the space has."""
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
        """How many assignments have that depth (Eq. 3) or one of those depths (Eq. 5).

        The equations hold while no bound is in reach; else the count comes from the table of partial counts.
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
        """ways[g][m]: in how many ways groups g, g+1, ... can hold m layers together."""
        ways = [[1]]
        for bound in reversed(self.max_layers):
            after = ways[0]
            # Entry m sums after[m - bound : m], one term per layer count of this group: two running sums.
            total = [0, *itertools.accumulate(after)]
            here = [
                total[min(layers, len(after))] - total[max(layers - bound, 0)]
                for layers in range(len(after) + bound)
            ]
            ways.insert(0, here)
        return ways

    def enumerate(self, depth: int | Iterable[int] | None = None) -> Iterator[Architecture]:
        """Every assignment, or those of the given depth(s): by depth, then in dictionary order."""
        depths = self.depths(depth)
        return itertools.chain.from_iterable(self._fill(0, layers) for layers in depths)

    def _fill(self, group: int, layers: int) -> Iterator[Architecture]:
        """Every way for the groups from `group` on to hold `layers` together."""
        if group == self.groups:
            yield ()
            return
        after = self.max_layers[group + 1 :]
        fewest = max(1, layers - sum(after))
        most = min(self.max_layers[group], layers - len(after))
        for own in range(fewest, most + 1):
            for rest in self._fill(group + 1, layers - own):
                yield (own, *rest)

    def sample(self, rng: random.Random, depth: int | Iterable[int] | None = None) -> Architecture:
        """Draw one assignment, of the given depth(s) if any, each with exactly the same probability.

        A number below the count is drawn, and the assignment with that number is built group by group from
        the table of partial counts: nothing is rejected.
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
        """The assignments one layer deeper (Eq. 6): one more layer in each group in turn, in group order.

        Groups at their bound are left out, so there are n of them or fewer, and none for the deepest.
        """
        parent = self.validate(architecture)
        return tuple(
            (*parent[:group], layers + 1, *parent[group + 1 :])
            for group, layers in enumerate(parent)
            if layers < self.max_layers[group]
        )

    def even(self, depth: int) -> Architecture:
        """The most even assignment of a depth, a handcrafted baseline; the last groups get the remainder."""
        (depth,) = self.depths(as_int("depth", depth, minimum=1))
        assignment = list(self.seed_architecture)
        for _ in range(depth - self.groups):
            room = [group for group in range(self.groups) if assignment[group] < self.max_layers[group]]
            assignment[min(reversed(room), key=assignment.__getitem__)] += 1
        return tuple(assignment)

    def describe(self) -> dict[str, Any]:
        """Name, groups and bounds."""
        return {"name": "LayerAssignmentSpace", "groups": self.groups, "max_layers": list(self.max_layers)}
