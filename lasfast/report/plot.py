"""The picture that a search ends with: of layer assignments, the winner of each depth and how it grew."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lasfast.report.cells import draw_cells, space_of
from lasfast.report.front import draw_front
from lasfast.report.run import Run
from lasfast.report.style import COLORS, GRAY, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_search(run: Run, path: str | os.PathLike[str]) -> Path:
    """Write a picture of a study; the suffix of `path` decides the format.

    A search of cells shows the cells. One of layer assignments shows, on the left, the top-1 accuracy of
    every candidate by depth, with the winners joined, and on the right, the layers of each group in the
    winner of each depth. Others are drawn by `lasfast.report.front`.

    Raises:
        ValueError: nothing was measured yet.
    """
    draw_search(run).savefig(Path(path), dpi=150)
    return Path(path)


def draw_search(run: Run) -> Figure:
    """Return the picture that `plot_search` writes; ValueError where nothing was measured yet."""
    if not run.steps:
        raise ValueError(f"{run.directory} has no measurement yet; there is nothing to plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    space = space_of(run)
    if run.is_derived and space is not None:
        draw_cells(figure, space, run.steps[0][0].measurement.architecture)
    elif run.has_depths:
        _draw_depths(figure, run)
    else:
        draw_front(figure, run)
    figure.suptitle(run.title, fontsize=11)
    return figure


def _draw_depths(figure: Figure, run: Run) -> None:
    accuracy, growth = figure.subplots(1, 2, width_ratios=(3, 2))
    _plot_accuracy(accuracy, run)
    _plot_growth(growth, run)


def _plot_accuracy(axes: Axes, run: Run) -> None:
    candidates = [one for step in run.steps for one in step]
    winners = run.winners
    # Where nothing says how large they are, errors are left out.
    errors = {depth: one.measurement.standard_error for depth, one in winners.items()}
    known = not any(map(math.isnan, errors.values()))
    axes.plot(
        [one.depth for one in candidates],
        [100 * one.measurement.top1 for one in candidates],
        "o",
        color=GRAY,
        markersize=5,
        label="candidates",
    )
    axes.errorbar(
        list(winners),
        [100 * one.measurement.top1 for one in winners.values()],
        [100 * error for error in errors.values()] if known else None,
        marker="o",
        markersize=6,
        capsize=2,
        elinewidth=0.8,
        color=COLORS[0],
        label="winner (± 1 standard error)" if known else "winner",
    )
    for depth, one in winners.items():
        axes.annotate(
            one.name,
            (depth, 100 * (one.measurement.top1 + (errors[depth] if known else 0))),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.margins(x=0.08, y=0.15)
    axes.set_xticks(list(winners))
    axes.set_xlabel("depth (layers)")
    axes.set_ylabel("top-1 with inherited weights (%)")
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    plain(axes)


def _plot_growth(axes: Axes, run: Run) -> None:
    winners = run.winners
    depths = list(winners)
    below = [0] * len(depths)
    groups = len(next(iter(winners.values())).measurement.architecture)
    for group in range(groups):
        layers = [one.measurement.architecture[group] for one in winners.values()]
        color = COLORS[group % len(COLORS)]
        bars = axes.bar(depths, layers, bottom=below, color=color, label=f"group {group + 1}", width=0.75)
        axes.bar_label(bars, label_type="center", fontsize=8, color="white")
        below = [low + count for low, count in zip(below, layers, strict=True)]
    axes.set_xticks(depths)
    axes.set_xlabel("depth (layers)")
    axes.set_ylabel("layers in each group of the winner")
    axes.margins(y=0.2)
    axes.legend(loc="upper left", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
