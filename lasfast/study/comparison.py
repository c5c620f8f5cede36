"""The comparison of what a search found with the whole network, a uniformly scaled one and random ones.

Which weights are compared decides what the comparison shows. Inherited weights compare fairly where the
supernet was trained for all architectures alike. Where it was trained for the search's own candidates, as NIR
does, they favor the winner. Networks that are trained from scratch compare fairly, but for chance: each is
trained once.
"""

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
from lasfast.spaces import Architecture, LayerAssignmentSpace

SAME_COST = 0.05
"""By which share the cost of random architectures may be off from the winner's."""
CHANCE = 0.05
"""A difference that is called one is noise with at most this probability."""
WHOLE, SCALED, EVEN, RANDOM = "whole network", "scaled alike", "even", "random"
BETTER, WORSE, UNSURE, ITSELF = "better", "worse", "not told from noise", "the same network"
AHEAD, BEHIND = "ahead", "behind"  # by more than the noise of the images; another cause may explain it
INHERITED, FAVORED, SCRATCH = "inherited", "inherited, trained for the candidates", "trained from scratch"
_ERRORS = ("standard_error", "lead_error")


@dataclasses.dataclass(frozen=True)
class Baseline:
    """One or more architectures that the winner of a search is compared with.

    Attributes:
        kind: `WHOLE`, the architecture that has all weights; `SCALED`, the one that is scaled alike
            everywhere to the winner's cost (`Supernet.scaled`), which of layer assignments is called `EVEN`;
            or `RANDOM`, drawn uniformly of those that cost as much. Beside networks that are trained from
            scratch, it may be a name that says who chose it, such as "handcrafted".
        architectures: their text forms.
        costs: the least and the greatest of their costs.
        top1: the mean of their shares of right answers.
        standard_error: that of the mean, over the images; NaN where it is not known.
        deviation: the standard deviation of their shares of right answers; 0 for a single one.
        better: how many of them are better than the winner.
        level: how many are exactly as good.
        lead: the winner's top-1 less theirs.
        lead_error: the standard error of the lead over the images and, of random ones, over which were drawn;
            NaN where that over the images is not known. Where all are trained from scratch, random ones also
            tell how much the winner's own accuracy might be another after another training: their deviation
            bounds that, and is counted in.
        paired: whether that is the error of a difference on the same images. If measurements do not say which
            images were right, it is that of separate samples, which is greater.
        verdict: the lead in words, by the rules that `Comparison` has: `BETTER`, `WORSE`, `AHEAD`, `BEHIND`,
            `UNSURE` or `ITSELF`.
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
    level: int = 0

    def chance(self, measured: int = 1) -> float:
        """Return how probably an architecture that was drawn like these would be as far ahead of them.

        All being trained alike, each order is equally probable, whatever the noise. Of the best of `measured`
        architectures, the probability is at most so many times as great (Bonferroni).
        """
        return min(1.0, measured * (self.better + self.level + 1) / (len(self.architectures) + 1))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The winner of a search beside others, which were measured on the same images.

    The winner was chosen for its accuracy on these images, which flatters it. So a lead counts as more than
    noise where it is greater than the leads of as many architectures as the search measured would be by
    chance, all of them, with a probability of 1 - `CHANCE` (Bonferroni). A lag needs no such correction.

    Such a lead makes the winner `BETTER`, and such a lag `WORSE`, where weights are `INHERITED` from a
    supernet that was trained for all architectures alike. `FAVORED` weights were trained for the search's
    candidates and for the whole network. Others would have better weights, too, had these been trained for
    them: beside such others, the winner is no more than `AHEAD`. A lag counts all the more.

    Networks from `SCRATCH` were trained once each, and another training would give other accuracies. Beside
    random ones, the winner is `BETTER` if one that is drawn like them would do as well with a probability of
    at most `CHANCE` (`Baseline.chance`), and `WORSE` if it would do as badly. A single other network does not
    tell how much is noise: the winner is no more than `AHEAD` or `BEHIND`.

    Attributes:
        cost: the name of the cost that is alike: the first of the constraint, or FLOPs, or of layer
            assignments the depth.
        winner: the winner's text form.
        winner_cost: its cost.
        top1, standard_error: the winner's share of right answers, and its standard error over the images.
        measured: of how many architectures the winner is the best: those that the search measured, or those
            that were trained from scratch to choose among them.
        baselines: those that it is compared with.
        weights: `INHERITED`, `FAVORED` or `SCRATCH`.
        others: how many other architectures cost the same; None where that is not known.
    """

    cost: str
    winner: str
    winner_cost: float
    top1: float
    standard_error: float
    measured: int
    baselines: tuple[Baseline, ...]
    weights: str = INHERITED
    others: int | None = None

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
    evaluator: Evaluation,
    searcher: Searcher,
    winner: Architecture,
    measured: int,
    wanted: int,
    weights: str = INHERITED,
) -> Comparison:
    """Measure the winner of a search, with inherited weights, beside what it has to be better than.

    Args:
        evaluator: measures all of them in one call.
        searcher: has searched; random and scaled ones are within its constraint.
        winner: what it found.
        measured: how many architectures it has measured.
        wanted: how many random architectures of the same cost to draw. Fewer come where fewer are found.
        weights: `INHERITED`, or `FAVORED` where the supernet was trained for the search's candidates.

    Raises:
        ValueError: the searcher has no cost, and the evaluator knows no FLOPs.
    """
    bound, cost = _cost_of(evaluator, searcher, winner)
    supernet, whole = evaluator.supernet, evaluator.space.largest()
    scaled = EVEN if isinstance(evaluator.space, LayerAssignmentSpace) else SCALED
    groups = {
        WHOLE: [] if whole is None or not _is_known(cost, whole) else [whole],
        scaled: [] if supernet is None else _nearest(searcher, supernet.scaled(), cost, cost(winner)),
        RANDOM: _drawn(searcher, bound, cost, winner, wanted),
    }
    asked = list(dict.fromkeys([winner, *(one for group in groups.values() for one in group)]))
    found = dict(zip(asked, evaluator(asked), strict=True))
    return _compared(evaluator, searcher, bound, cost, winner, found, groups, measured, weights)


def compare_from_scratch(
    evaluator: Evaluation,
    searcher: Searcher,
    winner: Architecture,
    trained: Mapping[Architecture, Measurement],
    groups: Mapping[str, Sequence[Architecture]],
    finalists: int = 1,
) -> Comparison:
    """Compare the winner of a search with others where all were trained from scratch.

    Args:
        evaluator: of the search.
        searcher: has searched.
        winner: what it found, or the best of its finalists after their training.
        trained: the measurements after training, of the winner and of all in `groups`.
        groups: what the winner is compared with, by kind; `RANDOM` is what `random_of_same_cost` gave for it.
        finalists: of how many that were trained the winner is the best.

    Raises:
        KeyError: one was not trained.
        ValueError: the searcher has no cost, and the evaluator knows no FLOPs.
    """
    bound, cost = _cost_of(evaluator, searcher, winner)
    return _compared(evaluator, searcher, bound, cost, winner, trained, groups, finalists, SCRATCH)


def random_of_same_cost(
    evaluator: Evaluation, searcher: Searcher, winner: Architecture, wanted: int
) -> list[Architecture]:
    """Return random architectures that cost as much as the winner and might have won, without the winner.

    They are drawn uniformly; those that `compare` measures begin with them. Fewer come where fewer are found.

    Raises:
        ValueError: the searcher has no cost, and the evaluator knows no FLOPs.
    """
    return _drawn(searcher, *_cost_of(evaluator, searcher, winner), winner, wanted)


def _compared(
    evaluator: Evaluation,
    searcher: Searcher,
    bound: Bound,
    cost: Cost,
    winner: Architecture,
    found: Mapping[Architecture, Measurement],
    groups: Mapping[str, Sequence[Architecture]],
    measured: int,
    weights: str,
) -> Comparison:
    """Return what the measurements say of the winner beside those of the groups that are not empty."""
    best, text = found[winner], evaluator.space.format
    baselines = [
        _baseline(kind, [text(one) for one in group], list(map(cost, group)), measured, weights, best, own)
        for kind, group in groups.items()
        if (own := [found[one] for one in group])
    ]
    return Comparison(
        bound.cost,
        text(winner),
        cost(winner),
        best.top1,
        best.standard_error,
        measured,
        tuple(baselines),
        weights,
        _others(searcher, winner),
    )


def _others(searcher: Searcher, winner: Architecture) -> int | None:
    """Return how many other layer assignments of the winner's depth there are, if that is the cost."""
    space = searcher.space
    if not isinstance(space, LayerAssignmentSpace) or searcher.constraint is not None:
        return None
    return space.count(sum(winner)) - 1


def _cost_of(evaluator: Evaluation, searcher: Searcher, winner: Architecture) -> tuple[Bound, Cost]:
    """Return the cost that is to be the same, and the bound of what counts as the same as the winner's.

    Layers of an assignment are alike in FLOPs by design, so that the depth is its cost, unless the search is
    bounded in another.
    """
    cost = searcher.cost
    if cost is None and isinstance(evaluator.space, LayerAssignmentSpace):
        cost = NamedCost("depth", sum)
        return limit(cost, sum(winner), sum(winner))[0], cost
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
    weights: str,
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
    # What the winner's own training adds is not known of the winner alone; the others' deviation has theirs.
    drawn = deviation**2 * (1 / len(others) + (weights == SCRATCH))
    lead, lead_error = winner.top1 - top1, math.hypot(over_images, math.sqrt(drawn))
    found = Baseline(
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
        verdict=ITSELF,
        level=sum(one == winner.top1 for one in accuracies),
    )
    if winner in others:
        return found
    return dataclasses.replace(found, verdict=verdict_of(found, measured, weights))


def _error_of_mean(values: np.ndarray) -> float:
    """Return the standard error of the mean of one value for each image, [N]."""
    return float(np.std(values)) / math.sqrt(len(values))


def verdict_of(beside: Baseline, measured: int, weights: str) -> str:
    """Return a lead of the best of so many in words; it is taken for noise where no error is known."""
    if weights == SCRATCH and beside.kind == RANDOM:
        if beside.chance(measured) <= CHANCE:
            return BETTER
        count = len(beside.architectures)
        return WORSE if (count - beside.better + 1) / (count + 1) <= CHANCE else UNSURE
    lead, error = beside.lead, beside.lead_error
    if lead > errors_of_a_lead(measured) * error:
        fair = weights == INHERITED or (weights == FAVORED and beside.kind == WHOLE)
        return BETTER if fair else AHEAD
    if lead < -errors_of_a_lead(1) * error:
        return BEHIND if weights == SCRATCH else WORSE
    return UNSURE


def fewest_random(of: int) -> int:
    """Return beside how many random ones, at least, the best of so many can be better, all from scratch."""
    return math.ceil(of / CHANCE) - 1


def errors_of_a_lead(of: int) -> float:
    """Return by how many standard errors the greatest of so many differences may be above 0 by chance."""
    return statistics.NormalDist().inv_cdf(1 - CHANCE / 2 / of)
