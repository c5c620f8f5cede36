"""A constraint says whether an architecture's costs lie within bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lasfast.constraints.bounds import Bound, parse_bounds
from lasfast.constraints.cost import Cost, known_cost
from lasfast.spaces.base import Architecture


class Constraint:
    """The predicate that searchers take as `constraint`: an architecture's costs lie within bounds.

    Args:
        bounds: text that `parse_bounds` reads, or one bound for each cost.
        costs: the cost functions by name.
        whole: the architecture that numbers with `%` or `x` are relative to, if there is one.

    Attributes:
        bounds: the bounds.
        costs: the functions of the bounded costs, by name.

    Raises:
        TypeError, ValueError: malformed bounds, no bounds, or a cost that is not among `costs`.
    """

    def __init__(
        self, bounds: str | Iterable[Bound], costs: Mapping[str, Cost], whole: Architecture | None = None
    ) -> None:
        def of_whole(name: str) -> float:
            _check_known(name, name, costs)
            assert whole is not None
            return known_cost(name, costs[name], whole)

        if isinstance(bounds, str):
            self.bounds = parse_bounds(bounds, None if whole is None else of_whole)
        else:
            self.bounds = tuple(bounds)
        if not self.bounds:
            raise ValueError("bounds must be at least one, got none")
        for bound in self.bounds:
            _check_known(bound.cost, str(bound), costs)
        self.costs = {bound.cost: costs[bound.cost] for bound in self.bounds}

    def __call__(self, architecture: Architecture) -> bool:
        """Return whether the architecture meets all bounds.

        Raises:
            UnknownCostError: what the architecture costs is not known.
        """
        return all(
            bound.low <= known_cost(bound.cost, self.costs[bound.cost], architecture) <= bound.high
            for bound in self.bounds
        )

    def __str__(self) -> str:
        return ",".join(map(str, self.bounds))

    def describe(self) -> str:
        """Return the bounds as text, in plain numbers."""
        return str(self)


def _check_known(name: str, bound: str, costs: Mapping[str, Cost]) -> None:
    if name not in costs:
        table = "; latencies need a table of that name (--latency-table on the command line)"
        raise ValueError(
            f"constraint {bound!r}: the cost must be one of {', '.join(costs)}"
            f"{table if name.partition('@')[0] == 'latency' else ''}"
        )
