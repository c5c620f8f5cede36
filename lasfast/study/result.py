"""The result of a study, for its caller and for result.json."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from lasfast.measurements.measurement import Measurement
from lasfast.measurements.schema import SECONDS
from lasfast.searchers.operators import pareto_front
from lasfast.spaces import Architecture
from lasfast.spaces.names import short_name
from lasfast.study.certainty import Certainty
from lasfast.study.comparison import Comparison


@dataclasses.dataclass(frozen=True)
class Measured:
    """An architecture that was measured, with its accuracy and costs.

    Attributes:
        measurement: its accuracy.
        text: the architecture as its space writes it.
        costs: its costs by name. Those of a supernet's are `flops` (multiply-adds for one image of the size
            that was evaluated), `params`, `params_without_batch_norm` as in the papers' tables, and `bitops`
            where layers are quantized; those of a table's are its columns. Costs that the search's constraint
            names, as `latency@cpu` (seconds), are among them.
        test_top1: the best's accuracy by a table's test column, 0 to 1; None where there is none.
    """

    measurement: Measurement
    text: str
    costs: Mapping[str, float]
    test_top1: float | None = dataclasses.field(default=None, compare=False)

    @property
    def architecture(self) -> Architecture:
        """The architecture, as `supernet.extract` takes it."""
        return self.measurement.architecture

    @property
    def name(self) -> str:
        """The text, or where that is long, a short name, by which commands take the architecture, too."""
        return short_name(self.text)

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
        """Return a line such as `2-4-6  top-1 93.1 ± 0.6 %  12.3 MFLOPs  0.45 M params`."""
        parts = [self.name, f"top-1 {format_top1(self.measurement)}"]
        if "flops" in self.costs:
            parts.append(f"{self.flops / 1e6:.1f} MFLOPs")
        if "bitops" in self.costs:
            parts.append(f"{self.costs['bitops'] / 1e6:.1f} Mbitops")
        if "params" in self.costs:
            parts.append(f"{format_params(self.params)} params")
        if latency := latency_of(self.costs):
            parts.append(format_latency(*latency))
        return "  ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, without which images were right: that is in the journal alone."""
        values = self.measurement.to_json()
        del values["correct"]
        test = {} if self.test_top1 is None else {"test_top1": self.test_top1}
        name = {} if self.name == self.text else {"name": self.name}
        return {"text": self.text, **name, **values, **test, **self.costs}


def choose_best(
    candidates: Sequence[Measured], cost: Callable[[Measured], float], *, exact: bool = False
) -> tuple[Measured, Measured]:
    """Return the best candidate by the one-standard-error rule, and the one of the highest accuracy.

    The best is the cheapest of those whose accuracy is at most one standard error below the highest, so that
    no cost is paid for what may be chance (Breiman et al., Classification and Regression Trees, 1984). Of
    equal costs the higher accuracy counts, then the order.

    Args:
        candidates: one or more.
        cost: returns what a candidate costs.
        exact: whether accuracies have no error that counts; the highest then is the best, as where the error
            is not known.
    """
    highest = min(candidates, key=lambda one: (-one.top1, cost(one)))
    error = highest.measurement.standard_error
    least = highest.top1 if exact or math.isnan(error) else highest.top1 - error
    near = [one for one in candidates if one.top1 >= least]
    return min(near, key=lambda one: (cost(one), -one.top1)), highest


def latency_of(costs: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return name and seconds of the first latency among costs by name; None where there is none."""
    return next(((name, costs[name]) for name in costs if name.startswith("latency@")), None)


def format_latency(name: str, seconds: float) -> str:
    """Return a latency as text, such as 1.23 ms (latency@cpu)."""
    return f"{1e3 * seconds:.2f} ms ({name})"


class Accuracy(Protocol):
    """A top-1 with its standard error, both from 0 to 1, such as a `Measurement` has."""

    @property
    def top1(self) -> float:
        """The share of right answers."""

    @property
    def standard_error(self) -> float:
        """The standard error of that share; NaN where it is not known."""


def format_top1(of: Accuracy) -> str:
    """Return an accuracy with its standard error as text, such as 93.1 ± 0.6 %, or 93.12 % without one."""
    if math.isnan(of.standard_error):
        return f"{100 * of.top1:.2f} %"
    return f"{100 * of.top1:.1f} ± {100 * of.standard_error:.1f} %"


def format_params(params: float) -> str:
    """Return a number of weights as text with its unit, such as 0.27 M or 12.3 k."""
    return f"{params / 1e6:.2f} M" if params >= 1e5 else f"{params / 1e3:.1f} k"


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """The result of a study.

    Attributes:
        best: the best architecture, by the rule of `choose_best`.
        highest: the architecture of the highest accuracy.
        winners: the winner of each depth, of searches that have depths.
        steps: the measurements of each step.
        description: what the result is a function of, as the journal's header has it.
        candidates: all measurements with their costs, in the order in which they were asked for.
        certainty: whether the best can be told from the others; None where measurements do not say which
            images were right, as those of a table.
        comparison: how the best compares with what costs the same, where the study was asked for it.
        from_scratch: the same of networks that were trained from scratch, where a caller has trained them.
        ended_by_seconds: whether the search ended because its seconds were spent.
        ended_early: a sentence that says what the search has not reached of what it was to, such as a depth,
            and why; "" for nothing.
    """

    best: Measured
    highest: Measured = dataclasses.field(repr=False)
    winners: dict[int, Measured]
    steps: list[list[Measurement]] = dataclasses.field(repr=False)  # a search has thousands
    description: dict[str, Any] = dataclasses.field(repr=False)
    candidates: list[Measured] = dataclasses.field(repr=False)
    certainty: Certainty | None = None
    comparison: Comparison | None = None
    ended_by_seconds: bool = False
    from_scratch: Comparison | None = None
    ended_early: str = ""

    @property
    def why_best(self) -> str:
        """A clause that says by which rule the best was chosen."""
        if self.description.get("supernet", "") is None and self.best == self.highest:
            return "it has the highest accuracy"
        if self.best == self.highest:
            return "it has the highest accuracy, and none within one standard error of it is cheaper"
        return (
            "it is the cheapest within one standard error of the highest accuracy, "
            f"{format_top1(self.highest.measurement)} of {self.highest.name}"
        )

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

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the best, by which rule, and the Pareto front as a table."""
        said = html.escape(f"The best is {self.best}: {self.why_best}. {self.ended_early}".strip())
        if "flops" not in self.best.costs:
            return f"<p>{said}</p>"
        rows = "".join(
            f"<tr><td>{html.escape(one.name)}</td><td>{format_top1(one.measurement)}</td>"
            f"<td>{one.flops / 1e6:.1f}</td><td>{format_params(one.costs.get('params', 0))}</td></tr>"
            for one in self.front()
        )
        columns = "".join(f"<th>{name}</th>" for name in ("architecture", "top-1", "MFLOPs", "params"))
        return f"<p>{said}</p><p>The Pareto front:</p><table><tr>{columns}</tr>{rows}</table>"

    def to_json(self) -> dict[str, Any]:
        """Return what result.json holds: it has no times, so that equal studies give equal bytes."""
        candidates = iter(self.candidates)
        certain = {} if self.certainty is None else {"certainty": self.certainty.to_json()}
        compared = {} if self.comparison is None else {"comparison": self.comparison.to_json()}
        scratch = {} if self.from_scratch is None else {"from_scratch": self.from_scratch.to_json()}
        ended = {"ended_by": SECONDS} if self.ended_by_seconds else {}
        early = {"ended_early": self.ended_early} if self.ended_early else {}
        return {
            "format": 1,
            "study": self.description,
            "best": self.best.to_json(),
            "highest": self.highest.to_json(),
            "winners": {str(depth): winner.to_json() for depth, winner in self.winners.items()},
            **certain,
            **compared,
            **scratch,
            **ended,
            **early,
            "steps": [[next(candidates).to_json() for _ in step] for step in self.steps],
        }
