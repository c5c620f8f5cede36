"""Optuna's samplers, in the shape of a searcher, to compare with: `pip install "optuna>=5"`."""

from __future__ import annotations

from typing import Any

from lasfast.constraints import Cost
from lasfast.measurements.measurement import Measurement
from lasfast.spaces import Architecture, ProductSpace

ATTEMPTS = 10  # times as many trials as evaluations, at most, repeated and refused ones included
UNKNOWN = 0.0  # the accuracy that is told of what exceeds the limit: samplers go by the excess alone


class Optuna:
    """Asks one of Optuna's samplers for architectures, by its default settings.

    What it proposes again is told again, which counts as no evaluation. Nor does what exceeds the limit,
    whose cost is known beforehand: it is not measured, and the sampler is told by how much it exceeds, as
    Optuna's constraints are (`Trial.set_constraint`).

    Args:
        sampler: the name of a class in `optuna.samplers`.
        space: the architectures.
        evaluations: how many of them are tried in all.
        seed: the sampler's.
        cost: the second objective, which is minimised; None for none. With a limit, it is the cost that is
            bounded, and no objective.
        limit: the most that an architecture may cost; None bounds nothing.
    """

    def __init__(
        self,
        sampler: str,
        space: ProductSpace,
        evaluations: int,
        seed: int,
        cost: Cost | None = None,
        limit: float | None = None,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.evaluations, self.cost, self.limit = space, evaluations, cost, limit
        self._second = cost is not None and limit is None
        self.study = optuna.create_study(
            sampler=getattr(optuna.samplers, sampler)(seed=seed),
            directions=["maximize", "minimize"] if self._second else ["maximize"],
        )
        self.settings = {"name": sampler, "optuna": optuna.__version__, "evaluations": evaluations}
        self._values: dict[Architecture, float] = {}
        self._trials = 0
        self._trial: Any = None

    def ask(self) -> list[Architecture]:
        """Return the next architecture to measure; [] at the end."""
        while len(self._values) < self.evaluations and self._trials < ATTEMPTS * self.evaluations:
            self._trial = self.study.ask()
            self._trials += 1
            architecture = tuple(
                self._trial.suggest_categorical(str(decision), list(options))
                for decision, options in enumerate(self.space.options)
            )
            exceeds = self._constrain(architecture)
            if not exceeds and architecture not in self._values:
                return [architecture]
            self._tell(architecture, UNKNOWN if exceeds else self._values[architecture])
        return []

    def tell(self, architecture: Architecture, measurement: Measurement) -> None:
        """Observe the accuracy of what was asked for."""
        self._values[architecture] = measurement.top1
        self._tell(architecture, measurement.top1)

    def _constrain(self, architecture: Architecture) -> bool:
        """Tell the sampler by what share an architecture exceeds the limit; return whether it does."""
        if self.cost is None or self.limit is None:
            return False
        excess = self.cost(architecture) / self.limit - 1
        self._trial.set_constraint("cost", excess)
        return excess > 0

    def _tell(self, architecture: Architecture, value: float) -> None:
        costs = [self.cost(architecture)] if self.cost is not None and self._second else []
        self.study.tell(self._trial, [value, *costs])

    def describe(self) -> dict[str, Any]:
        """Return name and settings."""
        return self.settings
