"""Limits on costs, and what an error says where no architecture meets them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from lasfast.constraints import (
    Bound,
    Constraint,
    Cost,
    NamedCost,
    UnknownCostError,
    describe_function,
    known_cost,
)
from lasfast.spaces import Architecture

Limit: TypeAlias = tuple[Bound, Cost]
"""A bound, and the cost that it bounds."""


def limit(cost: Cost, low: float, high: float) -> Limit:
    """Return the limit low <= cost <= high, which has the cost's name if it has one, or else "cost"."""
    return Bound(cost.name if isinstance(cost, NamedCost) else "cost", low, high), cost


def limits_of(constraint: object) -> list[Limit]:
    """Return the limits of a constraint; none for another function, which does not say what it bounds."""
    if not isinstance(constraint, Constraint):
        return []
    return [(bound, constraint.costs[bound.cost]) for bound in constraint.bounds]


def unmet(
    what: str,
    limits: Iterable[Limit],
    tried: Iterable[Architecture],
    condition: Callable[..., object] | None = None,
) -> ValueError:
    """Return the error that says which limits no architecture meets, and what there is.

    Args:
        what: the beginning of the text, such as "constraint must leave architectures of ChoiceSpace([3, 3])".
        limits: the limits.
        tried: architectures whose costs the error tells, from the least to the greatest.
        condition: a further condition that must be met; None for none.
    """
    limits = list(limits)
    have = f", which have {ranges}" if (ranges := ranges_of(limits, tried)) else ""
    got = condition_text(limits, condition)
    return ValueError(f"{what}{have}; got {got}: none that meets it was found")


def condition_text(limits: Iterable[Limit], condition: Callable[..., object] | None = None) -> str:
    """Return limits, and a further condition that must be met, as text; "" for none."""
    texts = [bound.readable() for bound, _ in limits]
    if condition is not None and not isinstance(condition, Constraint):
        texts.append(str(describe_function(condition)))
    return ",".join(texts)


def ranges_of(limits: Iterable[Limit], tried: Iterable[Architecture]) -> str:
    """Return the least and the greatest of the costs that are bounded, as text; "" where none is."""
    tried = list(tried)
    return ", ".join(_range(bound, cost, tried) for bound, cost in limits)


def _range(bound: Bound, cost: Cost, tried: Iterable[Architecture]) -> str:
    """Return the least and the greatest cost that is known, as text."""
    known, unknown = [], ""
    for architecture in tried:
        try:
            known.append(known_cost(bound.cost, cost, architecture))
        except UnknownCostError as error:
            unknown = str(error)
    if not known:
        return f"unknown {bound.cost} ({unknown})"
    ends = dict.fromkeys(map(bound.quantity, (min(known), max(known))))
    return f"{' to '.join(ends)} {bound.cost}"
