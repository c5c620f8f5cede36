"""`lasfast report RUN`: the table and the picture of a study, finished or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lasfast.cli.display import make_console
from lasfast.cli.options import command
from lasfast.report import Run, front_table, plot_search, ranking_table, winners_table


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What to report, and where to."""

    run: Annotated[Path, typer.Argument(help="A study's directory.", metavar="RUN")]
    plot: Annotated[
        Path | None, typer.Option(help="The picture's file, .png, .svg or .pdf (default: RUN/search.png).")
    ] = None
    candidates: Annotated[
        bool, typer.Option("--candidates", help="Show every candidate, not the winners only.")
    ] = False


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "report", ReportOptions)
    def report(options: ReportOptions) -> None:
        """Show a study's winners per depth, or its Pareto front, and draw its picture; also while it runs.

        **Examples**

        lasfast report runs/nir-digits

        lasfast report runs/nir-digits --candidates --plot search.svg
        """
        console = make_console()
        run = Run.load(options.run)
        if options.candidates:
            for number, step in enumerate(run.steps, start=1):
                console.print(ranking_table(f"step {number}", step))
        if run.has_depths:
            state = "" if run.finished else " (not finished)"
            console.print(
                winners_table(f"{run.title}: the winner of each depth{state}", run.winners.values())
            )
        elif run.finished:
            console.print(front_table(f"{run.title}: the Pareto front", run.front))
        else:
            candidates = (one for step in run.steps for one in step)
            best = sorted(candidates, key=lambda one: -one.measurement.top1)[:10]
            console.print(front_table(f"{run.title}: the ten best so far (not finished)", best))
        path = plot_search(run, options.plot or run.directory / "search.png")
        console.print(f"picture: {path}")
