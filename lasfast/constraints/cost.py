"""A cost is a function of an architecture; a name identifies it in a study's description."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from lasfast.core.checks import as_real
from lasfast.spaces.base import Architecture

Cost: TypeAlias = Callable[[Architecture], float]
"""A function that returns what an architecture costs: a finite number, the same each time."""


class UnknownCostError(ValueError):
    """An error that says: the cost of an architecture is no finite number, or a table has no entry for it."""


def known_cost(name: str, cost: Cost, architecture: Architecture) -> float:
    """Return what an architecture costs.

    Raises:
        TypeError: the cost is no number.
        UnknownCostError: the cost is NaN or infinite, or the function says that it is not known.
    """
    number = as_real(name, cost(architecture))
    if not math.isfinite(number):
        raise UnknownCostError(f"{name} must be a finite number, got {number} for {architecture}")
    return number


class NamedCost:
    """A cost with the name that a study describes it by.

    Args:
        name: the name in a constraint, such as `flops` or `latency@cpu`.
        cost: the function of an architecture.
    """

    def __init__(self, name: str, cost: Cost) -> None:
        self.name = name
        self._cost = cost

    def __call__(self, architecture: Architecture) -> float:
        """Return what the architecture costs."""
        return self._cost(architecture)

    def describe(self) -> str:
        """Return the name."""
        return self.name


def describe_function(function: Callable[..., object] | None) -> str | None:
    """Return the text that identifies a cost or a constraint in a study's description; None for None."""
    if function is None:
        return None
    describe = getattr(function, "describe", None)
    if describe is not None:
        return str(describe())
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
