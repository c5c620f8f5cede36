"""Tables of candidates and winners."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table

from lasfast.report.run import Candidate
from lasfast.study.result import format_params, format_top1


def ranking_table(title: str, candidates: Iterable[Candidate]) -> Table:
    """Return a table of the candidates of a step, the best first."""
    table = make_table(title, "rank", "architecture", "top-1", "loss", "MFLOPs", "params")
    ranked = sorted(candidates, key=lambda one: -one.measurement.top1)
    for rank, one in enumerate(ranked, start=1):
        style = "bold green" if one.won else None
        table.add_row(
            str(rank), one.text, _top1(one), f"{one.measurement.loss:.3f}", *_costs(one), style=style
        )
    return table


def winners_table(title: str, winners: Iterable[Candidate]) -> Table:
    """Return a table of the winner of each depth, the shallowest first."""
    table = make_table(title, "depth", "assignment", "top-1", "MFLOPs", "params")
    for one in winners:
        table.add_row(str(one.depth), one.text, _top1(one), *_costs(one))
    return table


def front_table(title: str, front: Iterable[Candidate]) -> Table:
    """Return a table of a Pareto front, in the order given."""
    shown = list(front)
    quantized = any(one.bitops for one in shown)
    table = make_table(title, "architecture", "top-1", "MFLOPs", "params", *["Mbitops"] * quantized)
    for one in shown:
        bitops = [f"{(one.bitops or 0) / 1e6:.1f}"] * quantized
        table.add_row(one.text, _top1(one), *_costs(one), *bitops)
    return table


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


def _top1(one: Candidate) -> str:
    return format_top1(one.measurement)


def _costs(one: Candidate) -> tuple[str, str]:
    flops = "" if one.flops is None else f"{one.flops / 1e6:.1f}"
    params = "" if one.params is None else format_params(one.params)
    return flops, params
