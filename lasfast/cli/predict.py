"""`lasfast predict MODEL IMAGE...`: what an exported network says of images, and how often it is right."""

from __future__ import annotations

import csv
import io
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from lasfast import deploy
from lasfast.cli import setup
from lasfast.cli.display import make_console
from lasfast.cli.options import ThreadOptions, command, panel
from lasfast.core.files import atomic_write_text
from lasfast.data import DataError
from lasfast.deploy.classify import Prediction, classify, find_images
from lasfast.measurements.measurement import Measurement
from lasfast.report.tables import make_table

SHOWN_CLASSES = 12
"""The confusion matrix of so many classes fits on a screen."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions(ThreadOptions):
    """Options of `lasfast predict`."""

    model: Annotated[
        Path,
        typer.Argument(
            help="A network that a search or `lasfast export` wrote, in any of its formats.", metavar="MODEL"
        ),
    ]
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of some.", metavar="IMAGE...")]
    top: Annotated[int, panel("Output", "Most probable classes that are shown of each image.")] = 3
    csv: Annotated[
        Path | None, panel("Output", "Write a line for each image to this file, with its classes.")
    ] = None
    confusion: Annotated[
        Path | None, panel("Output", "Write the confusion matrix to this file, a row for each true class.")
    ] = None


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "predict", PredictOptions)
    def predict(options: PredictOptions) -> None:
        """Classify images with an exported network, resized as the images that it was evaluated on.

        Where all images are in folders with the names of classes, these are taken for their labels: then
        accuracies are shown rather than each image.

        **Examples**

        lasfast predict runs/nir-photos/2-4-3.pt2 cat.jpg dog.jpg

        lasfast predict runs/nir-photos/2-4-3.onnx photos/test --csv predictions.csv --confusion confusion.csv
        """
        if options.top < 1:
            raise ValueError(f"--top must be 1 or more, got {options.top}")
        setup.set_threads(options)
        model = deploy.load(options.model)
        classes = model.card.classes
        images = find_images(options.paths, classes)
        labelled = all(label is not None for _, label in images)
        if options.confusion is not None and not labelled:
            raise ValueError("--confusion needs images in folders that have the names of classes, for labels")
        predictions, errors = [], []
        console, results = make_console(options.quiet), make_console()
        for one in classify(model, images):
            if isinstance(one, DataError):
                errors.append(one)
                print(one, file=sys.stderr)
                continue
            predictions.append(one)
            if not labelled:
                top = "  ".join(f"{classes[number]} {100 * p:.1f} %" for number, p in one.top(options.top))
                results.print(f"{one.path}  {top}", soft_wrap=True)
        if options.csv is not None:
            _write_csv(options.csv, predictions, classes, options.top)
        if labelled and predictions:
            matrix = _confusion_matrix(predictions, len(classes))
            console.print(_class_table(matrix, classes))
            if len(classes) <= SHOWN_CLASSES:
                console.print(_matrix_table(matrix, classes))
            if options.confusion is not None:
                named = ([name, *row] for name, row in zip(classes, matrix, strict=True))
                _write_rows(options.confusion, [["class", *classes], *named])
            right, total = int(matrix.trace()), len(predictions)
            error = Measurement((), right / total, float("nan"), float("nan"), total).standard_error
            results.print(f"top-1 {100 * right / total:.1f} ± {100 * error:.1f} %, {total} images")
        if errors:
            raise typer.Exit(1)


def _confusion_matrix(predictions: Sequence[Prediction], classes: int) -> NDArray[np.int64]:
    """Return how many images of each class (row) were taken for each class (column)."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for one in predictions:
        matrix[one.label, one.top(1)[0][0]] += 1
    return matrix


def _class_table(matrix: NDArray[np.int64], classes: Sequence[str]) -> Table:
    """Return a table of each class: its images, the share that was right, what it was most taken for else."""
    table = make_table("accuracy of each class", "class", "images", "right", "most often taken for")
    for label, (name, row) in enumerate(zip(classes, matrix, strict=True)):
        total = int(row.sum())
        if not total:
            continue
        others = np.where(np.arange(len(classes)) == label, 0, row)
        wrong = f"{classes[int(others.argmax())]} ({others.max()})" if others.max() else ""
        table.add_row(name, str(total), f"{100 * row[label] / total:.1f} %", wrong)
    return table


def _matrix_table(matrix: NDArray[np.int64], classes: Sequence[str]) -> Table:
    table = make_table("confusion matrix: true classes by row, predicted by column", "", *classes)
    for name, row in zip(classes, matrix, strict=True):
        table.add_row(name, *(str(count) if count else "." for count in row))
    return table


def _write_csv(path: Path, predictions: Sequence[Prediction], classes: Sequence[str], top: int) -> None:
    """Write the file, its label ("" where it has none), and its most probable classes of each image."""
    count = min(top, len(classes))
    titles = [name for rank in range(1, count + 1) for name in (f"class_{rank}", f"probability_{rank}")]
    rows: list[list[object]] = [["file", "label", *titles]]
    for one in predictions:
        label = "" if one.label is None else classes[one.label]
        pairs = ((classes[number], f"{probability:.6f}") for number, probability in one.top(top))
        rows.append([one.path, label, *itertools.chain(*pairs)])
    _write_rows(path, rows)


def _write_rows(path: Path, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    atomic_write_text(path, text.getvalue())
