"""The report as one page that needs no network: what was searched, what was found, and how to do it again."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lasfast.core.files import atomic_write_text
from lasfast.report.plot import draw_search
from lasfast.report.run import Candidate, Run
from lasfast.report.tables import (
    certainty_text,
    choice_text,
    comparison_rows,
    comparison_text,
    cost_columns,
    end_text,
    unknown_noise_text,
)
from lasfast.study.result import format_top1


def write_page(
    run: Run,
    path: str | os.PathLike[str],
    *,
    facts: Sequence[tuple[str, str]] = (),
    layers: Sequence[Mapping[str, Any]] = (),
    command: str | None = None,
) -> Path:
    """Write the page of a study, finished or not.

    Args:
        run: the study.
        path: the page's file.
        facts: names and values of what was searched, and on which images.
        layers: what a model card says of the layers of the best.
        command: the command that does it again.

    Raises:
        ValueError: nothing was measured yet.
    """
    figure = _svg(run)
    candidates = [one for step in run.steps for one in step]
    costs = cost_columns(candidates)

    def rows(shown: Iterable[Candidate]) -> list[tuple[str, list[str]]]:
        return [
            (one.name, [format_top1(one.measurement), *(cost(one) for cost in costs.values())])
            for one in shown
        ]

    environment = Environment(
        loader=PackageLoader("lasfast.report", ""),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    text = environment.get_template("page.html.j2").render(
        title=run.title,
        verdict=verdict(run),
        choice=choice_text(run),
        certainty="" if run.certainty is None else certainty_text(run.certainty),
        comparisons=[
            (title, comparison_rows(one), comparison_text(one))
            for title, one in (
                ("The winner beside others", run.comparison),
                ("The winner beside others, from scratch", run.from_scratch),
            )
            if one is not None
        ],
        facts=[*facts, ("architectures measured", str(len(candidates)))],
        figure=figure,
        columns=["architecture", "top-1", *costs],
        front=rows(run.front),
        winners=rows(run.winners.values() if run.has_depths else ()),
        best=None if run.best is None else run.best.name,
        layers=layers,
        command=command,
    )
    atomic_write_text(path, text)
    return Path(path)


def verdict(run: Run) -> str:
    """Return what a search found, in words."""
    candidates = [one for step in run.steps for one in step]
    highest = run.highest or max(candidates, key=lambda one: one.measurement.top1)
    if run.best is None:
        return (
            f"The search has not finished. The highest accuracy so far is "
            f"{format_top1(highest.measurement)}, of {highest.name}."
        )
    best, top1 = run.best, format_top1(run.best.measurement)
    found = f"The best is {best.name}, with a top-1 accuracy of {top1} when it was found."
    limit = highest.measurement.top1 - highest.measurement.standard_error  # NaN where that is not known
    near = sum(one.measurement.top1 >= limit for one in candidates)
    other = f"The highest is {format_top1(highest.measurement)}, of {highest.name}"
    if best.measurement.top1 == highest.measurement.top1:
        why = "No architecture that was measured has a higher one."
    elif best.measurement.top1 >= limit:
        why = f"{other}: by no more than one standard error."
    else:
        why = f"{other}."
    chance = (
        f" {near} of the {len(candidates)} measurements lie within one standard error of the highest: the "
        "order among these may be chance."
    )
    ended = f" {end_text(run)}." if run.ended_by_seconds else ""
    early = f" {run.ended_early}" if run.ended_early else ""
    unknown = f" {noise}" if (noise := unknown_noise_text(run)) else ""
    return f"{found} {why}{chance if near > 1 else unknown}{ended}{early}"


def _svg(run: Run) -> Markup:
    """Return the picture of a study as an element of a page; equal studies give equal text."""
    import matplotlib

    content = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "lasfast"}):
        draw_search(run).savefig(content, format="svg", metadata={"Date": None})
    return Markup(content.getvalue().partition("<svg")[1] + content.getvalue().partition("<svg")[2])
