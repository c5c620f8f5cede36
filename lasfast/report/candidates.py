"""The candidates of a study as a csv file."""

from __future__ import annotations

import csv
import io
import math
import os
from pathlib import Path

from lasfast.core.files import atomic_write_text
from lasfast.report.run import Run


def write_candidates(run: Run, path: str | os.PathLike[str]) -> Path:
    """Write a line for each measurement of a study, the most accurate first.

    Columns are `rank` (by accuracy), `name`, `architecture` (the whole text form), `step` (from 1), `top1`,
    `standard_error` and `top5` (from 0 to 1), `loss`, `images`, the costs by their names, as far as they are
    known (seconds for latencies), and `is_best` (1 or 0). An error that is not known is empty. Equal studies
    give equal bytes.

    Raises:
        ValueError: nothing was measured yet.
    """
    rows = [(number, one) for number, step in enumerate(run.steps, start=1) for one in step]
    if not rows:
        raise ValueError(f"{run.directory} has no measurement yet; there is nothing to write")
    rows.sort(key=lambda row: -row[1].measurement.top1)
    costs = list(dict.fromkeys(name for _, one in rows for name in one.costs))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    measured = ("top1", "standard_error", "top5", "loss", "images")
    lines.writerow(["rank", "name", "architecture", "step", *measured, *costs, "is_best"])
    for rank, (step, one) in enumerate(rows, start=1):
        values = [getattr(one.measurement, name) for name in measured]
        if math.isnan(one.measurement.standard_error):
            values[measured.index("standard_error")] = None
        known = [one.costs.get(name, "") for name in costs]
        best = run.best is not None and one.text == run.best.text
        lines.writerow([rank, one.name, one.text, step, *values, *known, int(best)])
    atomic_write_text(path, text.getvalue())
    return Path(path)
