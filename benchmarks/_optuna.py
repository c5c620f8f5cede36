"""Optuna's samplers, in the shape of a searcher, to compare with: `pip install optuna`."""

from __future__ import annotations

from typing import Any

from lasfast.constraints import Cost
from lasfast.measurements.measurement import Measurement
from lasfast.spaces import Architecture, ProductSpace

ATTEMPTS = 10  # times as many trials as evaluations, at most, repeated ones included


class Optuna:
    """Asks one of Optuna's samplers for architectures, by its default settings.

    What it proposes again is told again, which counts as no evaluation.

    Args:
        sampler: the name of a class in `optuna.samplers`.
        space: the architectures.
        evaluations: how many of them are tried in all.
        seed: the sampler's.
        cost: the second objective, which is minimised; None for none.
    """

    def __init__(
        self, sampler: str, space: ProductSpace, evaluations: int, seed: int, cost: Cost | None = None
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.evaluations, self.cost = space, evaluations, cost
        self.study = optuna.create_study(
            sampler=getattr(optuna.samplers, sampler)(seed=seed),
            directions=["maximize"] if cost is None else ["maximize", "minimize"],
        )
        self.settings = {"name": sampler, "optuna": optuna.__version__, "evaluations": evaluations}
        self._values: dict[Architecture, float] = {}
        self._trial: Any = None

    def ask(self) -> list[Architecture]:
        """Return the next architecture to measure; [] at the end."""
        while len(self._values) < self.evaluations and len(self.study.trials) < ATTEMPTS * self.evaluations:
            self._trial = self.study.ask()
            architecture = tuple(
                self._trial.suggest_categorical(str(decision), list(options))
                for decision, options in enumerate(self.space.options)
            )
            if architecture not in self._values:
                return [architecture]
            self._tell(architecture)
        return []

    def tell(self, architecture: Architecture, measurement: Measurement) -> None:
        """Observe the accuracy of what was asked for."""
        self._values[architecture] = measurement.top1
        self._tell(architecture)

    def _tell(self, architecture: Architecture) -> None:
        costs = [] if self.cost is None else [self.cost(architecture)]
        self.study.tell(self._trial, [self._values[architecture], *costs])

    def describe(self) -> dict[str, Any]:
        """Return name and settings."""
        return self.settings
