"""The result of a study, for its caller and for result.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lasfast.measurements.measurement import Measurement
from lasfast.searchers.operators import pareto_front
from lasfast.spaces import Architecture
from lasfast.study.comparison import Comparison


@dataclasses.dataclass(frozen=True)
class Measured:
    """An architecture that was measured, with its accuracy and costs.

    Attributes:
        measurement: its accuracy.
        text: the architecture as its space writes it.
        costs: its costs by name. Those of a supernet's are `flops` (multiply-adds for one image of the size
            that was evaluated), `params`, `params_without_batch_norm` as in the papers' tables, and `bitops`
            where layers are quantized; those of a table's are its columns.
    """

    measurement: Measurement
    text: str
    costs: Mapping[str, float]

    @property
    def architecture(self) -> Architecture:
        """The architecture, as `supernet.extract` takes it."""
        return self.measurement.architecture

    @property
    def top1(self) -> float:
        """The share of validation images that were classified right, 0 to 1."""
        return self.measurement.top1

    @property
    def flops(self) -> float:
        """Multiply-adds; KeyError where they are not known."""
        return self.costs["flops"]

    @property
    def params(self) -> float:
        """The number of weights, those of BatchNorm included; KeyError where it is not known."""
        return self.costs["params"]

    @property
    def params_without_batch_norm(self) -> float:
        """The number of weights, those of BatchNorm left out; KeyError where it is not known."""
        return self.costs["params_without_batch_norm"]

    def __str__(self) -> str:
        """Return a line such as `2-4-6  top-1 93.1 %  12.3 MFLOPs  0.45 M params`."""
        parts = [self.text, f"top-1 {100 * self.top1:.1f} %"]
        if "flops" in self.costs:
            parts.append(f"{self.flops / 1e6:.1f} MFLOPs")
        if "bitops" in self.costs:
            parts.append(f"{self.costs['bitops'] / 1e6:.1f} Mbitops")
        if "params" in self.costs:
            parts.append(f"{format_params(self.params)} params")
        return "  ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, without which images were right: that is in the journal alone."""
        values = self.measurement.to_json()
        del values["correct"]
        return {"text": self.text, **values, **self.costs}


def format_params(params: float) -> str:
    """Return a number of weights as text with its unit, such as 0.27 M or 12.3 k."""
    return f"{params / 1e6:.2f} M" if params >= 1e5 else f"{params / 1e3:.1f} k"


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """The result of a study.

    Attributes:
        best: the best architecture.
        winners: the winner of each depth, of searches that have depths.
        steps: the measurements of each step.
        description: what the result is a function of, as the journal's header has it.
        candidates: all measurements with their costs, in the order in which they were asked for.
        comparison: how the best compares with what costs the same, where the study was asked for it.
    """

    best: Measured
    winners: dict[int, Measured]
    steps: list[list[Measurement]] = dataclasses.field(repr=False)  # a search has thousands
    description: dict[str, Any] = dataclasses.field(repr=False)
    candidates: list[Measured] = dataclasses.field(repr=False)
    comparison: Comparison | None = None

    @property
    def measurements(self) -> list[Measurement]:
        """All measurements, in the order in which they were asked for."""
        return [measurement for step in self.steps for measurement in step]

    def front(self, cost: str = "flops") -> list[Measured]:
        """Return the Pareto front, the highest accuracies for the lowest costs, the cheapest first.

        Raises:
            KeyError: the cost is not known of the candidates.
        """
        known = {candidate.architecture: candidate for candidate in self.candidates}
        values = [(architecture, candidate.top1) for architecture, candidate in known.items()]
        front = pareto_front(values, lambda architecture: known[architecture].costs[cost])
        return [known[architecture] for architecture, _ in front]

    def to_json(self) -> dict[str, Any]:
        """Return what result.json holds: it has no times, so that equal studies give equal bytes."""
        candidates = iter(self.candidates)
        compared = {} if self.comparison is None else {"comparison": self.comparison.to_json()}
        return {
            "format": 1,
            "study": self.description,
            "best": self.best.to_json(),
            "winners": {str(depth): winner.to_json() for depth, winner in self.winners.items()},
            **compared,
            "steps": [[next(candidates).to_json() for _ in step] for step in self.steps],
        }
