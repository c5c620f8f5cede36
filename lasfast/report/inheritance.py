"""The inheritance relation of a table of layer assignments: as a table, in words, and as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from lasfast.measurements.inheritance import AgainstChance, Inheritance
from lasfast.report.style import COLORS, GRAY, plain
from lasfast.report.tables import make_table
from lasfast.spaces import Architecture


def inheritance_table(title: str, found: Inheritance) -> Table:
    """Return a table of a relation's depths."""
    columns = ("depth", "assignments", "best", "top-1", "heir of the best", f"heir of the {found.top} best")
    regrets = ("regret of best heirs", "of two", "of any heirs")
    table = make_table(title, *columns, *regrets)
    for one in found.steps:
        inherits = ["yes" if is_heir else "no" for is_heir in (one.inherits_from_best, one.inherits_from_top)]
        lost = [f"{100 * regret:.2f}" for regret in (one.regret, one.regret_of_two, one.regret_of_random)]
        best = "-".join(map(str, one.best))
        table.add_row(str(one.depth), str(one.networks), best, f"{100 * one.top1:.2f} %", *inherits, *lost)
    return table


def inheritance_text(found: Inheritance) -> str:
    """Return the sentences that say how the relation compares with chance."""
    depths = len(found.steps)

    def beside_chance(one: AgainstChance) -> str:
        return f"{one.found:.0f} of {depths} depths, by chance in {one.by_chance:.1f} (p = {one.p:.2g})"

    regret = found.regret
    return "\n".join(
        [
            f"The best assignment is an heir of the best of the depth before in "
            f"{beside_chance(found.from_best)},",
            f"and of one of the {found.top} best in {beside_chance(found.from_top)}.",
            f"Keeping to the best heir loses {100 * regret.found:.2f} points on average, and "
            f"{100 * regret.by_chance:.2f} by chance (p = {regret.p:.2g}).",
            "Chance is a table with accuracies shuffled within each depth; p is how often it is as good.",
        ]
    )


def plot_inheritance(
    accuracies: Mapping[Architecture, float], path: str | os.PathLike[str], *, top: int = 4
) -> Path:
    """Write a picture of the best assignments of each depth and of which inherit from which.

    It shows all assignments as dots, and the `top` best of each depth joined with those of the depth before
    that they inherit from, as Figure 4 of Meng et al. does.

    Args:
        accuracies: shares of right answers by layer assignment.
        path: the picture's file; its suffix is the format.
        top: how many of each depth are joined.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    depths = sorted({sum(one) for one in accuracies})
    ranked = {
        depth: sorted((one for one in accuracies if sum(one) == depth), key=lambda one: -accuracies[one])
        for depth in depths
    }
    figure = Figure(figsize=(1.1 * len(depths) + 2.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for depth in depths:
        rest = [100 * accuracies[one] for one in ranked[depth][top:]]
        axes.plot([depth] * len(rest), rest, "o", color=GRAY, alpha=0.4, markersize=4)
        leading = [100 * accuracies[one] for one in ranked[depth][:top]]
        axes.plot([depth] * len(leading), leading, "o", color=COLORS[0], markersize=5)
    for depth in depths[1:]:
        for parent in ranked.get(depth - 1, [])[:top]:
            for heir in ranked[depth][:top]:
                if not all(more >= fewer for more, fewer in zip(heir, parent, strict=True)):
                    continue
                best = parent == ranked[depth - 1][0] and heir == ranked[depth][0]
                color, width = (COLORS[4], 2.2) if best else (COLORS[0], 0.8)
                ends = [100 * accuracies[parent], 100 * accuracies[heir]]
                axes.plot([depth - 1, depth], ends, color=color, linewidth=width)
    names = ["-".join(map(str, ranked[depth][0])) for depth in depths]
    axes.set_xticks(
        depths, [f"{depth}\n{name}" for depth, name in zip(depths, names, strict=True)], fontsize=8
    )
    axes.set_xlabel("depth, and its best assignment")
    axes.set_ylabel("top-1 (%)")
    plain(axes)
    figure.savefig(Path(path), dpi=150)
    return Path(path)
