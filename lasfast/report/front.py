"""The picture of a search of any space: accuracy against cost, and how the search went."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from lasfast.report.run import Candidate, Run
from lasfast.report.style import COLORS, GRAY, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_front(figure: Figure, run: Run) -> None:
    """Draw top-1 accuracy against cost with the Pareto front, and beside it what the search method did.

    The right side shows, for LayerNAS, the candidates of each layer by cost, and for others the accuracy of
    each candidate in order. It is alone while a study runs, since costs are not written yet.
    """
    candidates = [one for step in run.steps for one in step]
    if any(one.flops is None and one.latency is None and one.own is None for one in candidates):
        _draw_steps(figure.subplots(), run)
        return
    accuracy, method = figure.subplots(1, 2, width_ratios=(1, 1))
    _draw_accuracy(accuracy, run, candidates)
    if run.description["searcher"]["name"] == "layernas":
        _draw_layers(method, candidates, run.description["searcher"]["default"])
    else:
        _draw_steps(method, run)


def _draw_accuracy(axes: Axes, run: Run, candidates: list[Candidate]) -> None:
    _dots(axes, [_amount(one) for one in candidates], candidates)
    front = run.front
    axes.step(
        [_amount(one) for one in front],
        [_percent(one) for one in front],
        where="post",
        color=COLORS[0],
        linewidth=1,
        label="front",
    )
    if run.best is not None:
        axes.plot(
            _amount(run.best), _percent(run.best), "*", color=COLORS[4], markersize=12, label=run.best.name
        )
    axes.set_xlabel(_cost_label(candidates))
    axes.set_ylabel("top-1 (%)")
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    plain(axes)


def _draw_layers(axes: Axes, candidates: list[Candidate], default: list[int]) -> None:
    """Draw what LayerNAS's candidates of each layer cost; the layer is the last one off the default."""

    def layer_of(one: Candidate) -> int:
        pairs = zip(one.measurement.architecture, default, strict=True)
        return max((layer for layer, (taken, usual) in enumerate(pairs, 1) if taken != usual), default=1)

    costs, accuracies = [_amount(one) for one in candidates], [_percent(one) for one in candidates]
    shown = axes.scatter(costs, list(map(layer_of, candidates)), c=accuracies, s=14, cmap="viridis")
    axes.figure.colorbar(shown, ax=axes, label="top-1 (%)")
    axes.set_yticks(range(1, len(default) + 1))
    axes.invert_yaxis()
    axes.set_xlabel(_cost_label(candidates))
    axes.set_ylabel("layer searched")
    plain(axes)


def _draw_steps(axes: Axes, run: Run) -> None:
    """Draw the accuracy of every candidate in the order in which it was measured, and the best so far."""
    candidates = [one for step in run.steps for one in step]
    numbers = range(1, len(candidates) + 1)
    _dots(axes, list(numbers), candidates)
    best = list(itertools.accumulate(map(_percent, candidates), max))
    axes.step(numbers, best, where="post", color=COLORS[0], linewidth=1, label="best so far")
    axes.set_xlabel("architectures measured")
    axes.set_ylabel("top-1 (%)")
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    plain(axes)


def _dots(axes: Axes, places: list[float] | list[int], candidates: list[Candidate]) -> None:
    axes.plot(places, [_percent(one) for one in candidates], "o", color=GRAY, markersize=3, alpha=0.6)


def _amount(one: Candidate) -> float:
    """Return the cost in the unit of `_cost_label`."""
    if one.own is not None:
        return one.own[1]
    return 1e3 * one.latency[1] if one.latency else one.cost / 1e6


def _cost_label(candidates: list[Candidate]) -> str:
    if own := candidates[0].own:
        return f"{own[0]} (s)" if own[0] == "latency" else own[0]
    if latency := candidates[0].latency:
        return f"{latency[0]} (ms)"
    return "bit operations (M)" if any(one.bitops for one in candidates) else "multiply-adds (M)"


def _percent(one: Candidate) -> float:
    return 100 * one.measurement.top1
