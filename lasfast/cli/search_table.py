"""Searches in a table of trained networks: options become a study, which is run, shown and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.text import Text

from lasfast.cli.config import write_config
from lasfast.cli.display import FrontDisplay, make_console, show_written
from lasfast.cli.options import (
    ChoiceOptions,
    MachineOptions,
    SearchOptions,
    StudyOptions,
    names_of,
    panel,
    refuse,
)
from lasfast.constraints import Constraint
from lasfast.measurements.table import ArchitectureTable, Schema
from lasfast.measurements.tabular import TabularEvaluator
from lasfast.report import Run, front_table, plot_search
from lasfast.runtime import distributed
from lasfast.searchers import Searcher
from lasfast.spaces import ChoiceSpace
from lasfast.study.files import JOURNAL, RESULT
from lasfast.study.result import StudyResult
from lasfast.study.study import Study


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Options that name a table and its columns."""

    table: Annotated[
        Path | None,
        panel("Table", "Search in this table of trained networks (.npz or .csv) and train nothing."),
    ] = None
    architecture_column: Annotated[
        str, panel("Table", "Column of architectures: ints [N, layers] in .npz, text such as 2-0-1 in .csv.")
    ] = "arch"
    accuracy_column: Annotated[
        str, panel("Table", "Column of accuracies: shares or percent; in .npz also [N, runs].")
    ] = "mean_acc"
    cost_columns: Annotated[str, panel("Table", "Columns of costs, by which constraints name them.")] = (
        "flops,params"
    )
    table_run: Annotated[
        int | None, panel("Table", "Take the accuracies of this run, from 0 (default: their mean).")
    ] = None


def read_table(options: TableOptions) -> ArchitectureTable:
    """Read the table that the options name; ValueError where it cannot be read."""
    assert options.table is not None
    costs = tuple(name.strip() for name in options.cost_columns.split(",") if name.strip())
    return ArchitectureTable.load(
        options.table, Schema(options.architecture_column, options.accuracy_column, costs)
    )


def search_table(
    name: str,
    options: TableOptions,
    study_options: StudyOptions,
    make_searcher: Callable[[ChoiceSpace, Constraint | None], Searcher],
) -> None:
    """Search the table, and show and write what was found."""
    of_networks = names_of(SearchOptions, ChoiceOptions) - names_of(StudyOptions, MachineOptions) - {"seed"}
    refuse(options, of_networks, "is not for the search of a --table")
    console = make_console(study_options.quiet)
    table = read_table(options)
    evaluator = TabularEvaluator(table, run=options.table_run)
    constraint = None
    if study_options.constraint is not None:
        constraint = Constraint(study_options.constraint, {cost: table.cost(cost) for cost in table.costs})
    space = table.space()
    searcher = make_searcher(space, constraint)
    assert options.table is not None
    directory = study_options.directory or Path("runs") / f"{name}-{options.table.stem}"
    study = Study(searcher, evaluator, directory=directory, callbacks=[FrontDisplay(console)])
    within = "" if constraint is None else f" within {constraint}"
    console.print(
        Text.assemble((name, "bold"), f" search of {space}{within}, {options.table}, in {directory}")
    )
    main = distributed.world().main
    if main:
        write_config(directory, options, search=name)
    result = study.run(resume=study_options.resume)
    if main:
        _finish(console, study, result, table, constraint)


def _finish(
    console: Console,
    study: Study,
    result: StudyResult,
    table: ArchitectureTable,
    constraint: Constraint | None,
) -> None:
    assert study.directory is not None
    run = Run.load(study.directory)
    console.print(front_table(f"{run.title}: the Pareto front", run.front))
    architecture, accuracy = table.best(constraint or (lambda _: True))
    picture = plot_search(run, study.directory / "search.png")
    console.print(f"{len(result.measurements)} of {len(table)} architectures measured")
    console.print(
        f"the best there is: {study.evaluator.space.format(architecture)}  top-1 {100 * accuracy:.2f} %"
    )
    make_console().print(f"best: {result.best}")
    written = {JOURNAL: "every measurement", RESULT: "all candidates with costs", picture.name: "the picture"}
    show_written(console, study.directory, written)
