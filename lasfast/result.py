"""What a study found, as its caller and result.json have it."""

from __future__ import annotations

import dataclasses
from typing import Any

from lasfast.measurement import Measurement
from lasfast.spaces import Architecture


@dataclasses.dataclass(frozen=True)
class Winner:
    """An architecture that won, with its accuracy and costs.

    `flops` are multiply-adds for one image of the size that was evaluated; `params` include those of
    BatchNorm, `params_without_batch_norm` do not, as the papers' tables. `text` is the architecture as its
    space writes it.
    """

    measurement: Measurement
    text: str
    flops: int
    params: int
    params_without_batch_norm: int

    @property
    def architecture(self) -> Architecture:
        """The architecture, as `supernet.extract` takes it."""
        return self.measurement.architecture

    @property
    def top1(self) -> float:
        """Share of validation images ranked right, 0 to 1."""
        return self.measurement.top1

    def __str__(self) -> str:
        """For example `2-4-6  top-1 93.1 %  12.3 MFLOPs  0.45 M params`."""
        return (
            f"{self.text}  top-1 {100 * self.top1:.1f} %  {self.flops / 1e6:.1f} MFLOPs  "
            f"{self.params / 1e6:.2f} M params"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values; which images were right is in the journal alone."""
        return {
            "text": self.text,
            **_summary(self.measurement),
            "flops": self.flops,
            "params": self.params,
            "params_without_batch_norm": self.params_without_batch_norm,
        }


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """What a study found: `best`, the winner of each depth, and every measurement, step by step."""

    best: Winner
    winners: dict[int, Winner]
    steps: list[list[Measurement]]
    description: dict[str, Any]

    @property
    def measurements(self) -> list[Measurement]:
        """Every measurement in the order asked."""
        return [measurement for step in self.steps for measurement in step]

    def to_json(self) -> dict[str, Any]:
        """What result.json holds: no times, so that equal studies give equal bytes."""
        return {
            "format": 1,
            "study": self.description,
            "best": self.best.to_json(),
            "winners": {str(depth): winner.to_json() for depth, winner in self.winners.items()},
            "steps": [[_summary(measurement) for measurement in step] for step in self.steps],
        }


def _summary(measurement: Measurement) -> dict[str, Any]:
    values = measurement.to_json()
    del values["correct"]
    return values
