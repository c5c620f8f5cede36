"""Training from scratch, for the commands that do so."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from lasfast.cli.display import Meter, watch
from lasfast.cli.setup import TrainingSetup
from lasfast.report.tables import make_table
from lasfast.spaces import Architecture, SearchSpace
from lasfast.study.architecture_table import Row
from lasfast.study.result import format_params
from lasfast.study.table_builder import TableBuilder
from lasfast.supernets import Supernet
from lasfast.train import Distillation


def train_from_scratch(
    given: TrainingSetup,
    supernet: Supernet,
    architectures: Iterable[Architecture],
    directory: Path,
    *,
    keep_weights: bool,
    resume: bool,
    distill: Distillation | None = None,
    data_parallel: bool = True,
    test: bool = False,
) -> tuple[TableBuilder, list[Row]]:
    """Train networks one after another, showing progress; return their table's builder and all its rows.

    All processes call this; `data_parallel` says whether they train each network together. Networks are
    measured on the validation images, or with `test` on the test split.
    """
    console = given.console
    builder = TableBuilder(
        supernet,
        given.images,
        given.data.test if test else given.data.validation,
        architectures,
        directory,
        given.settings,
        keep_weights=keep_weights,
        distill=distill,
        data_parallel=data_parallel,
    )
    shown: list[Row] = []
    total = len(builder.architectures)
    with Meter(console) as meter:
        on_progress = watch(meter, lambda one: f"{supernet.space.name(one)} ({len(shown) + 1}/{total})")

        def on_row(row: Row) -> None:
            shown.append(row)
            text = supernet.space.name(row.architecture)
            console.print(f"{text}: top-1 {100 * row.top1:.1f} % ({len(shown)}/{total})")

        rows = builder.run(resume=resume, on_progress=on_progress, on_row=on_row)
    return builder, rows


def show_rows(
    console: Console, space: SearchSpace, title: str, rows: Iterable[Row], notes: dict[Architecture, str]
) -> None:
    """Print networks trained from scratch, the best first."""
    table = make_table(title, "architecture", "top-1", "top-5", "loss", "MFLOPs", "params", "")
    for row in sorted(rows, key=lambda row: -row.top1):
        table.add_row(
            space.name(row.architecture),
            f"{100 * row.top1:.1f} %",
            f"{100 * row.top5:.1f} %",
            f"{row.loss:.3f}",
            f"{row.flops / 1e6:.1f}",
            format_params(row.params),
            notes.get(row.architecture, ""),
        )
    console.print(table)
