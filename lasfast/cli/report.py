"""`lasfast report RUN`: the table and the picture of a study, finished or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lasfast.cli.display import make_console, show_cells, show_comparison
from lasfast.cli.options import command
from lasfast.report import (
    Run,
    cells_table,
    front_table,
    plot_search,
    pruned_so_far,
    ranking_table,
    space_of,
    winners_table,
)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `lasfast report`."""

    run: Annotated[Path, typer.Argument(help="A study's directory.", metavar="RUN")]
    plot: Annotated[
        Path | None, typer.Option(help="The picture's file, .png, .svg or .pdf (default: RUN/search.png).")
    ] = None
    candidates: Annotated[
        bool, typer.Option("--candidates", help="Show every candidate, not only the winners.")
    ] = False


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "report", ReportOptions)
    def report(options: ReportOptions) -> None:
        """Show the winner of each depth of a study, or its Pareto front, and draw its picture.

        The study may still be running.

        **Examples**

        lasfast report runs/nir-digits

        lasfast report runs/nir-digits --candidates --plot search.svg
        """
        console = make_console()
        run = Run.load(options.run)
        if run.is_derived and not run.steps:
            _show_training(console, run)
            return
        if options.candidates:
            for number, step in enumerate(run.steps, start=1):
                console.print(ranking_table(f"step {number}", step))
        if run.has_depths:
            state = "" if run.finished else " (not finished)"
            console.print(
                winners_table(f"{run.title}: the winner of each depth{state}", run.winners.values())
            )
        elif run.finished:
            what = "what pruning left" if run.is_derived else "the Pareto front"
            console.print(front_table(f"{run.title}: {what}", run.front))
            show_cells(console, run)
        else:
            candidates = (one for step in run.steps for one in step)
            best = sorted(candidates, key=lambda one: -one.measurement.top1)[:10]
            console.print(front_table(f"{run.title}: the ten best so far (not finished)", best))
        show_comparison(console, run)
        path = plot_search(run, options.plot or run.directory / "search.png")
        console.print(f"picture: {path}")


def _show_training(console: Console, run: Run) -> None:
    """Show the training of a search that measures only at its end: how far it is, and what it has learned."""
    found = pruned_so_far(run)
    space = space_of(run)
    if found is None or space is None:
        console.print(f"{run.title}: nothing was saved yet")
        return
    batches, architecture = found
    epoch = batches / run.description["trainer"]["data"]["batches"]
    epochs = run.description["trainer"]["settings"]["supernet_epochs"]
    where = f"epoch {epoch:.1f} of {epochs} (not finished), pruned now"
    console.print(cells_table(f"{run.title}: {where}", space, architecture))
    console.print(space.format(architecture), soft_wrap=True)
