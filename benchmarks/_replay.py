"""Searches in a table of networks, and what their choices lose."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lasfast.measurements.measurement import Measurement
from lasfast.measurements.tabular import TabularEvaluator
from lasfast.spaces import Architecture


def play(searcher: Any, evaluator: TabularEvaluator, most: int | None = None) -> Iterator[Measurement]:
    """Run a search, of ours or of Optuna's, and yield what it measures, `most` architectures at most."""
    return itertools.islice(_play(searcher, evaluator), most)


def _play(searcher: Any, evaluator: TabularEvaluator) -> Iterator[Measurement]:
    while asked := searcher.ask():
        for one in evaluator(asked):
            searcher.tell(one.architecture, one)
            yield one


def regrets(
    measured: Iterable[Measurement], truth: Callable[[Architecture], float | None], best: float
) -> list[float | None]:
    """Return the regret after each measurement, in points; None before the first that is within the bound.

    The choice is the architecture of the highest accuracy so far. `truth` returns the accuracy by which it is
    judged, or None where it is not within the bound; `best` is the highest of these.
    """
    seen, regret = -1.0, None
    found: list[float | None] = []
    for one in measured:
        if one.top1 > seen and (value := truth(one.architecture)) is not None:
            seen, regret = one.top1, 100 * (best - value)
        found.append(regret)
    return found
