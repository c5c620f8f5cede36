"""A cost: a function of an architecture, with the name that a study knows it by."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from lasfast.spaces.base import Architecture

Cost: TypeAlias = Callable[[Architecture], float]
"""What an architecture costs; a finite number, the same each time."""


class NamedCost:
    """A cost that a study knows by its name.

    Args:
        name: as a constraint has it, `flops` or `latency@cpu`.
        cost: the function of an architecture.
    """

    def __init__(self, name: str, cost: Cost) -> None:
        self.name = name
        self._cost = cost

    def __call__(self, architecture: Architecture) -> float:
        """What the architecture costs."""
        return self._cost(architecture)

    def describe(self) -> str:
        """The name."""
        return self.name


def describe_function(function: Callable[..., object] | None) -> str | None:
    """What identifies a cost or a constraint in a study's description: its own, or its name; None of None."""
    if function is None:
        return None
    describe = getattr(function, "describe", None)
    if describe is not None:
        return str(describe())
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
