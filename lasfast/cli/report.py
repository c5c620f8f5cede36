"""`lasfast report RUN`: the table and the picture of a study, finished or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from lasfast.cli.config import COMMAND, CONFIG, command_of, read_options
from lasfast.cli.display import (
    make_console,
    show_cells,
    show_certainty,
    show_choice,
    show_comparison,
    show_end,
    show_from_scratch,
    show_whole_text,
)
from lasfast.cli.options import command
from lasfast.deploy.pt2 import read_card
from lasfast.report import (
    Run,
    cells_table,
    front_table,
    plot_search,
    pruned_so_far,
    ranking_table,
    space_of,
    winners_table,
    write_candidates,
    write_page,
)
from lasfast.spaces.names import short_name


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `lasfast report`."""

    run: Annotated[Path, typer.Argument(help="A study's directory.", metavar="RUN")]
    plot: Annotated[
        Path | None, typer.Option(help="The picture's file, .png, .svg or .pdf (default: RUN/search.png).")
    ] = None
    html: Annotated[
        bool, typer.Option("--html", help="Write RUN/report.html, too: one page that needs no network.")
    ] = False
    csv: Annotated[
        Path | None,
        typer.Option(help="Write a line for each architecture to this file, with accuracy and costs."),
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

        lasfast report runs/nir-digits --html --csv candidates.csv
        """
        console = make_console()
        run = Run.load(options.run)
        if options.html and not run.steps:
            raise ValueError(f"--html must wait for the first measurement; {options.run} has none yet")
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
            if run.front:
                console.print(front_table(f"{run.title}: {what}", run.front))
            show_cells(console, run)
        else:
            candidates = (one for step in run.steps for one in step)
            best = sorted(candidates, key=lambda one: -one.measurement.top1)[:10]
            console.print(front_table(f"{run.title}: the ten best so far (not finished)", best))
        show_end(console, run)
        if run.best is not None:
            show_whole_text(console, run.best)
        show_choice(console, run)
        show_certainty(console, run)
        show_comparison(console, run)
        show_from_scratch(console, run)
        path = plot_search(run, options.plot or run.directory / "search.png")
        console.print(f"picture: {path}")
        if options.csv is not None:
            console.print(f"candidates: {write_candidates(run, options.csv)}")
        if options.html:
            console.print(f"page: {_write_page(run)}")


def _write_page(run: Run) -> Path:
    """Write the page of a run, with what its configuration and its network's card say, if they are there."""
    facts: list[tuple[str, str]] = []
    again = None
    if (run.directory / CONFIG).exists():
        options = read_options(run.directory)
        again = command_of(options) if COMMAND in options else None
        names = ("supernet", "model", "weights", "table", "data", "constraint", "preset", "precision", "seed")
        facts += [(name, str(options[name])) for name in names if options.get(name) is not None]
    if run.best is not None and run.best.name != run.best.text:
        facts += [(run.best.name, run.best.text)]
    layers: Sequence[Mapping[str, Any]] = ()
    path = run.directory / f"{short_name(run.best.text)}.pt2" if run.best else run.directory
    if path.is_file():
        card = read_card(path)
        parts = ", ".join(f"{card.data[part]} for {part}" for part in ("train", "calibration", "validation"))
        size = "x".join(map(str, card.image_shape))
        facts += [("images", f"{len(card.classes)} classes, {size}: {parts}"), ("lasfast", card.lasfast)]
        top1, error = (100 * card.accuracy[name] for name in ("top1", "standard_error"))
        facts += [("network", f"{path.name}, {card.weights}: top-1 {top1:.1f} ± {error:.1f} %")]
        if "test_top1" in card.accuracy:
            top1, error = (100 * card.accuracy[f"test_{name}"] for name in ("top1", "standard_error"))
            images = f"{card.accuracy['test_images']} images"
            facts += [("test split", f"top-1 {top1:.1f} ± {error:.1f} %, {images}")]
        layers = card.layers
    return write_page(run, run.directory / "report.html", facts=facts, layers=layers, command=again)


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
