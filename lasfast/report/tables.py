"""Tables of candidates and winners."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rich import box
from rich.table import Table

from lasfast.report.run import Candidate
from lasfast.study.result import format_params, format_top1


def ranking_table(title: str, candidates: Iterable[Candidate]) -> Table:
    """Return a table of the candidates of a step, the best first."""
    ranked = sorted(candidates, key=lambda one: -one.measurement.top1)
    costs = cost_columns(ranked)
    table = make_table(title, "rank", "architecture", "top-1", "loss", *costs)
    for rank, one in enumerate(ranked, start=1):
        style = "bold green" if one.won else None
        cells = [
            format_top1(one.measurement),
            f"{one.measurement.loss:.3f}",
            *(cost(one) for cost in costs.values()),
        ]
        table.add_row(str(rank), one.text, *cells, style=style)
    return table


def winners_table(title: str, winners: Iterable[Candidate]) -> Table:
    """Return a table of the winner of each depth, the shallowest first."""
    shown = list(winners)
    costs = cost_columns(shown)
    table = make_table(title, "depth", "assignment", "top-1", *costs)
    for one in shown:
        cells = [format_top1(one.measurement), *(cost(one) for cost in costs.values())]
        table.add_row(str(one.depth), one.text, *cells)
    return table


def front_table(title: str, front: Iterable[Candidate]) -> Table:
    """Return a table of a Pareto front, in the order given."""
    shown = list(front)
    costs = cost_columns(shown)
    table = make_table(title, "architecture", "top-1", *costs)
    for one in shown:
        table.add_row(one.text, format_top1(one.measurement), *(cost(one) for cost in costs.values()))
    return table


def cost_columns(shown: Sequence[Candidate]) -> dict[str, Callable[[Candidate], str]]:
    """Return the columns of costs that candidates have, each with a function that gives its text."""

    def megas(cost: float | None) -> str:
        return "" if cost is None else f"{cost / 1e6:.1f}"

    columns: dict[str, Callable[[Candidate], str]] = {
        "MFLOPs": lambda one: megas(one.flops),
        "params": lambda one: "" if one.params is None else format_params(one.params),
    }
    if any(one.bitops for one in shown):
        columns["Mbitops"] = lambda one: megas(one.bitops)
    if latency := next((one.latency for one in shown if one.latency), None):
        columns[f"{latency[0]} (ms)"] = lambda one: f"{1e3 * one.latency[1]:.2f}" if one.latency else ""
    return columns


def make_table(title: str, *columns: str) -> Table:
    """Return an empty table, in the style of all tables here."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        if column in ("architecture", "assignment", "supernet", "predicted by"):
            # An option for each of many layers takes several lines.
            table.add_column(column, overflow="fold", max_width=60)
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table
