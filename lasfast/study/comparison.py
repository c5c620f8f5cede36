"""The comparison of what a search found with the whole network, a uniformly scaled one and random ones."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from lasfast.constraints import Bound, Cost, NamedCost, UnknownCostError
from lasfast.measurements.evaluation import Evaluation
from lasfast.measurements.measurement import Measurement, json_of_number, number_of_json
from lasfast.searchers import Searcher
from lasfast.searchers.limits import limit, limits_of
from lasfast.searchers.operators import sample_distinct
from lasfast.spaces import Architecture

SAME_COST = 0.05
"""By which share the cost of random architectures may be off from the winner's."""
CHANCE = 0.05
"""A difference that is called one is noise with at most this probability."""
WHOLE, SCALED, RANDOM = "whole network", "scaled alike", "random"
_ERRORS = ("standard_error", "lead_error")
BETTER, WORSE, UNSURE, ITSELF = WORDS = "better", "worse", "not told from noise", "the same network"


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One or more architectures that the winner of a search is compared with.

    Attributes:
        kind: `WHOLE`, the architecture that has all weights; `SCALED`, the one that is scaled alike
            everywhere to the winner's cost (`Supernet.scaled`); or `RANDOM`, drawn uniformly of those that
            cost as much.
        architectures: their text forms.
        costs: the least and the greatest of their costs.
        top1: the mean of their shares of right answers.
        standard_error: that of the mean, over the images; NaN where it is not known.
        deviation: the standard deviation of their shares of right answers; 0 for a single one.
        better: how many of them are better than the winner.
        lead: the winner's top-1 less theirs.
        lead_error: the standard error of the lead over the images and, of random ones, over which were drawn;
            NaN where that over the images is not known.
        paired: whether that is the error of a difference on the same images. If measurements do not say which
            images were right, it is that of separate samples, which is greater.
        verdict: the lead in words, one of `WORDS`, by the rule that `Comparison` has.
    """

    kind: str
    architectures: tuple[str, ...]
    costs: tuple[float, float]
    top1: float
    standard_error: float
    deviation: float
    better: int
    lead: float
    lead_error: float
    paired: bool
    verdict: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The winner of a search beside others, which were measured together with it, on the same images.

    The winner was chosen for its accuracy on these images, which flatters it. So a lead counts as more than
    noise where it is greater than the leads of as many architectures as the search measured would be by
    chance, all of them, with a probability of 1 - `CHANCE` (Bonferroni). A lag needs no such correction.

    Attributes:
        cost: the name of the cost that is alike: the first of the constraint, or FLOPs.
        winner: the winner's text form.
        winner_cost: its cost.
        top1, standard_error: the winner's share of right answers, and its standard error over the images.
        measured: how many architectures the search measured.
        baselines: those that it is compared with.
    """

    cost: str
    winner: str
    winner_cost: float
    top1: float
    standard_error: float
    measured: int
    baselines: tuple[Baseline, ...]

    @property
    def errors_of_a_lead(self) -> float:
        """The number of standard errors from which on a lead counts as more than noise."""
        return errors_of_a_lead(self.measured)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        values = dataclasses.asdict(self)
        for one in (values, *values["baselines"]):
            one |= {name: json_of_number(one[name]) for name in _ERRORS if name in one}
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """Read what `to_json` gave."""
        baselines = tuple(
            Baseline(
                **_with_errors(one)
                | {"architectures": tuple(one["architectures"]), "costs": tuple(one["costs"])}
            )
            for one in values["baselines"]
        )
        return cls(**_with_errors(values) | {"baselines": baselines})


def _with_errors(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with the errors as numbers, of which NaN is no JSON value."""
    return {name: number_of_json(value) if name in _ERRORS else value for name, value in values.items()}


def compare(
    evaluator: Evaluation, searcher: Searcher, winner: Architecture, measured: int, wanted: int
) -> Comparison:
    """Measure the winner of a search beside what it has to be better than.

    Args:
        evaluator: measures all of them in one call.
        searcher: has searched; random and scaled ones are within its constraint.
        winner: what it found.
        measured: how many architectures it has measured.
        wanted: how many random architectures of the same cost to draw. Fewer come where fewer are found.

    Raises:
        ValueError: the searcher has no cost, and the evaluator knows no FLOPs.
    """
    bound, cost = _cost_of(evaluator, searcher, winner)
    supernet, whole = evaluator.supernet, evaluator.space.largest()
    groups = {
        WHOLE: [] if whole is None or not _is_known(cost, whole) else [whole],
        SCALED: [] if supernet is None else _nearest(searcher, supernet.scaled(), cost, cost(winner)),
        RANDOM: _drawn(searcher, bound, cost, winner, wanted),
    }
    asked = list(dict.fromkeys([winner, *(one for group in groups.values() for one in group)]))
    found = dict(zip(asked, evaluator(asked), strict=True))
    best, text = found[winner], evaluator.space.format
    baselines = [
        _baseline(kind, [text(one) for one in group], list(map(cost, group)), measured, best, own)
        for kind, group in groups.items()
        if (own := [found[one] for one in group])
    ]
    return Comparison(
        bound.cost, text(winner), cost(winner), best.top1, best.standard_error, measured, tuple(baselines)
    )


def _cost_of(evaluator: Evaluation, searcher: Searcher, winner: Architecture) -> tuple[Bound, Cost]:
    """Return the cost that is to be the same, and the bound of what counts as the same as the winner's."""
    cost = searcher.cost
    if cost is None:
        if "flops" not in evaluator.costs(winner):
            raise ValueError("baselines must cost as much as the winner, but nothing says what it costs")
        cost = NamedCost("flops", lambda architecture: evaluator.costs(architecture)["flops"])
    known = lru_cache(None)(cost)
    bound, _ = limit(cost, (1 - SAME_COST) * known(winner), (1 + SAME_COST) * known(winner))
    return bound, known


def _admits(searcher: Searcher, architecture: Architecture) -> bool:
    return searcher.admits(architecture) and searcher.may_win(architecture)


def _is_known(cost: Cost, architecture: Architecture) -> bool:
    try:
        cost(architecture)
    except UnknownCostError:
        return False
    return True


def _nearest(
    searcher: Searcher, architectures: Iterable[Architecture], cost: Cost, wanted: float
) -> list[Architecture]:
    """Return the architecture that might have won and costs most nearly as much; [] where none might."""
    able = [one for one in architectures if _admits(searcher, one) and _is_known(cost, one)]
    return [min(able, key=lambda one: abs(cost(one) - wanted))] if able else []


def _drawn(
    searcher: Searcher, bound: Bound, cost: Cost, winner: Architecture, wanted: int
) -> list[Architecture]:
    """Return random architectures that cost as much as the winner does, and might have won."""

    def accept(architecture: Architecture) -> bool:
        able = architecture != winner and _admits(searcher, architecture) and _is_known(cost, architecture)
        return able and bound.low <= cost(architecture) <= bound.high

    limits = [(bound, cost), *limits_of(searcher.constraint)]
    return sample_distinct(searcher.space, random.Random("baselines"), wanted, accept, limits)


def _baseline(
    kind: str,
    texts: Sequence[str],
    costs: Sequence[float],
    measured: int,
    winner: Measurement,
    others: Sequence[Measurement],
) -> Baseline:
    """Return what the measurements of some architectures say beside the winner's."""
    accuracies = [one.top1 for one in others]
    top1 = statistics.fmean(accuracies)
    deviation = statistics.stdev(accuracies) if len(others) > 1 else 0.0
    paired = all(one.correct for one in (winner, *others))
    if paired:
        shares = np.mean([one.right() for one in others], axis=0)
        own_error, over_images = _error_of_mean(shares), _error_of_mean(winner.right() - shares)
    else:
        own_error = statistics.fmean(one.standard_error for one in others)
        over_images = math.hypot(own_error, winner.standard_error)
    lead, lead_error = winner.top1 - top1, math.hypot(over_images, deviation / math.sqrt(len(others)))
    return Baseline(
        kind=kind,
        architectures=tuple(texts),
        costs=(min(costs), max(costs)),
        top1=top1,
        standard_error=own_error,
        deviation=deviation,
        better=sum(one > winner.top1 for one in accuracies),
        lead=lead,
        lead_error=lead_error,
        paired=paired,
        verdict=ITSELF if winner in others else verdict_of(lead, lead_error, measured),
    )


def _error_of_mean(values: np.ndarray) -> float:
    """Return the standard error of the mean of one value for each image, [N]."""
    return float(np.std(values)) / math.sqrt(len(values))


def verdict_of(lead: float, error: float, measured: int) -> str:
    """Return a lead in words, of a winner that is the best of so many; noise is taken where none is known."""
    if lead > errors_of_a_lead(measured) * error:
        return BETTER
    return WORSE if lead < -errors_of_a_lead(1) * error else UNSURE


def errors_of_a_lead(of: int) -> float:
    """Return by how many standard errors the greatest of so many differences may be above 0 by chance."""
    return statistics.NormalDist().inv_cdf(1 - CHANCE / 2 / of)
