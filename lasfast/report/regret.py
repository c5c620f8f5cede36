"""The picture that compares searchers in a table, by how far what they find is from the best there is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lasfast.report.style import COLORS, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[int, float | None, float | None]
"""The number of evaluations, the mean regret over seeds in percentage points, and its standard error.

The last two are None where some seed had found nothing yet."""


def plot_regret(panels: Mapping[str, Mapping[str, Sequence[Point]]], path: str | os.PathLike[str]) -> Path:
    """Write a picture of mean regret against the number of evaluations; the suffix of `path` is the format.

    Args:
        panels: the points of each searcher, by the title of the panel and the searcher's name.
        path: the picture's file.

    Raises:
        ValueError: there are no panels.
    """
    if not panels:
        raise ValueError("panels must be at least one, got none")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(panels) + 1, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, searchers) in zip(every, panels.items(), strict=True):
        for number, (name, points) in enumerate(searchers.items()):
            _draw(axes, points, COLORS[number % len(COLORS)], name)
        axes.set_title(title, fontsize=10)
        axes.set_xscale("log")
        axes.set_ylim(bottom=-0.02, top=1.5)
        axes.set_xlabel("architectures measured")
        plain(axes)
    every[0].set_ylabel("mean regret (percentage points)")
    handles, names = every[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(Path(path), dpi=150)
    return Path(path)


def _draw(axes: Axes, points: Sequence[Point], color: str, name: str) -> None:
    """Draw a searcher's line, from where all seeds have found something, with a standard error around it."""
    known = [(at, regret, error) for at, regret, error in points if regret is not None and error is not None]
    evaluations = [at for at, _, _ in known]
    axes.plot(evaluations, [regret for _, regret, _ in known], color=color, linewidth=1.3, label=name)
    low, high = ([regret + side * error for _, regret, error in known] for side in (-1, 1))
    axes.fill_between(evaluations, low, high, color=color, alpha=0.2, linewidth=0)
