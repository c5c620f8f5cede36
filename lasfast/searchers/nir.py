"""Neural Inheritance Relation search: the best assignment grows by one layer each step (Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from lasfast.constraints import describe_function
from lasfast.core.checks import as_int
from lasfast.searchers.base import Searcher, best_per_depth
from lasfast.searchers.limits import condition_text, limits_of, ranges_of, unmet
from lasfast.searchers.operators import Result, ranked
from lasfast.spaces import Architecture, LayerAssignmentSpace, ListedAssignmentSpace


class NIR(Searcher):
    """Greedy search over layer assignments, from shallow to deep (Eq. 6, Algorithm 1).

    The best assignments for deep networks are taken to inherit from those for shallow ones. So each step
    tries the (at most n) assignments with one layer more than the best of the step before, and keeps the best
    of them: O(depth * n) evaluations where enumeration takes O(depth ** n).

    Each step is a depth; the depth of the start, which has one candidate only, is not evaluated. Of equal
    values the candidate that was asked for first wins: the better parent's, and the earlier group's.

    Args:
        space: the space of layer assignments.
        depth: the depth to reach, beyond that of `start`. It may be greater than any that a list of
            assignments has, such as a table's: the search then ends before, and `ended_early` says where.
        beam: how many assignments of a depth are kept as parents; 1 in the paper.
        start: the assignment to start from; None is one layer in each group.
        constraint: says whether an assignment may be proposed; the search ends where none may. A lower bound
            must be met from the first step on.

    Attributes:
        history: for each completed depth, (assignment, value) of its candidates.
    """

    space: LayerAssignmentSpace
    extent = "depth"

    def __init__(
        self,
        space: LayerAssignmentSpace,
        *,
        depth: int,
        beam: int = 1,
        start: Iterable[int] | None = None,
        constraint: Callable[[Architecture], bool] | None = None,
    ) -> None:
        if not isinstance(space, LayerAssignmentSpace):
            raise TypeError(f"space must be a LayerAssignmentSpace, got {type(space).__name__}")
        super().__init__(space, constraint)
        self.start = space.seed_architecture if start is None else space.validate(start)
        self.depth = as_int("depth", depth, minimum=1)
        self.beam = as_int("beam", beam, minimum=1)
        most = math.inf if isinstance(space, ListedAssignmentSpace) else space.max_depth
        if not sum(self.start) < self.depth <= most:
            raise ValueError(
                f"depth must be from {sum(self.start) + 1} (one layer more than the start {self.start}) "
                f"to {space.max_depth} (all that {space} has), got {depth}"
            )

    def propose(self) -> list[Architecture]:
        """Return the heirs, which have one layer more than a parent, in each group in turn.

        Raises:
            ValueError: none of the first heirs is in the space, or meets the constraint.
        """
        if self.reached == self.depth:
            return []
        heirs = self._heirs()
        admitted = [heir for heir in heirs if self.admits(heir)]
        if not self.history and all(map(self.space.lacks, heirs)):
            raise ValueError(
                f"space must have an assignment with one layer more than {self.space.format(self.start)}, "
                f"where the search starts, got {self.space}, which has none"
            )
        if not admitted and not self.history:
            what = f"constraint must leave assignments with one layer more than the start {self.start}"
            raise unmet(what, limits_of(self.constraint), heirs, self.constraint)
        return admitted

    def _heirs(self) -> list[Architecture]:
        """Return the assignments with one layer more than a parent, whether or not they are admitted."""
        parents = self._parents()
        return list(dict.fromkeys(child for parent in parents for child in self.space.inherit(parent)))

    def _parents(self) -> list[Architecture]:
        return [architecture for architecture, _ in self.kept] if self.history else [self.start]

    @property
    def reached(self) -> int:
        """The greatest depth that was completed; before the first, that of the start."""
        return sum(self._parents()[0])

    @property
    def ended_early(self) -> str:
        """A sentence that says at which depth the search stands, and why; "" where it has reached `depth`."""
        if self.reached == self.depth:
            return ""
        return f"The search ended at depth {self.reached} of {self.depth}: {self._why_ended()}."

    def _why_ended(self) -> str:
        if not self.finished:
            return "its budget was spent"
        listed = f"none of the {self.space.count()} assignments in the space"
        if self.reached == self.space.max_depth:
            return f"{listed} is deeper"
        heirs = self._heirs()
        there = [heir for heir in heirs if not self.space.lacks(heir)]
        what = f"one layer more than {' or '.join(map(self.space.format, self._parents()))}"
        if not there:
            return f"{listed} has {what}"
        limits = limits_of(self.constraint)
        have = f" (they have {ranges})" if (ranges := ranges_of(limits, there)) else ""
        return f"no assignment in the space with {what} meets {condition_text(limits, self.constraint)}{have}"

    @property
    def kept(self) -> list[Result]:
        """The best `beam` of the last completed depth, the parents of the next; [] before the first."""
        return ranked(self.history[-1])[: self.beam] if self.history else []

    @property
    def winners(self) -> dict[int, Result]:
        """(assignment, value) of the best of each completed depth, by depth."""
        return best_per_depth(result for step in self.history for result in step)

    @property
    def best(self) -> Result:
        """(assignment, value) of the winner at the deepest completed depth.

        Raises:
            RuntimeError: no depth was completed yet.
        """
        if not self.history:
            raise RuntimeError("there is no best architecture yet: no depth was completed")
        return self.kept[0]

    def describe(self) -> dict[str, Any]:
        """Return name, hyper-parameters and space, as JSON values."""
        return {
            "name": "nir",
            "depth": self.depth,
            "beam": self.beam,
            "start": list(self.start),
            "constraint": describe_function(self.constraint),
            "space": self.space.describe(),
        }
