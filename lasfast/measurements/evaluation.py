"""The interface of evaluators, as studies use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from lasfast.measurements.measurement import Measurement
from lasfast.spaces import Architecture, SearchSpace


class Evaluation(Protocol):
    """Measures architectures: with a supernet's weights, by training them, or in a table of trained networks.

    `lasfast.Evaluator`, `lasfast.StandaloneEvaluator` and `lasfast.TabularEvaluator` do so. A study takes
    any object with these members.
    """

    @property
    def space(self) -> SearchSpace:
        """The architectures that can be measured."""

    @property
    def supernet(self) -> Any:
        """The supernet (`lasfast.supernets.Supernet`) whose sub-networks are measured; None where none is."""

    def __call__(self, architectures: Sequence[Architecture]) -> list[Measurement]:
        """Return a measurement for each architecture, in order."""

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Return the costs of an architecture by name."""

    def describe(self) -> dict[str, Any]:
        """Return what identifies the measurements, as JSON values: a study's journal begins with it."""
