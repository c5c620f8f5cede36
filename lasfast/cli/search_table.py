"""Searches in a table of trained networks: options become a study, which is run, shown and written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.text import Text

from lasfast.cli.config import write_config
from lasfast.cli.context import Replay, replayed
from lasfast.cli.display import (
    FrontDisplay,
    format_seconds,
    make_console,
    show_certainty,
    show_end,
    show_written,
)
from lasfast.cli.options import (
    BudgetOptions,
    ChoiceOptions,
    MachineOptions,
    SearchOptions,
    StudyOptions,
    names_of,
    panel,
    refuse,
)
from lasfast.cli.terminal import resumable
from lasfast.constraints import Constraint
from lasfast.core.checks import as_int
from lasfast.measurements.schema import SECONDS, Schema
from lasfast.measurements.table import ArchitectureTable
from lasfast.measurements.tabular import TabularEvaluator
from lasfast.report import Run, front_table, plot_search
from lasfast.runtime import distributed
from lasfast.searchers import NIR, Searcher
from lasfast.searchers.limits import condition_text, limits_of
from lasfast.spaces import Architecture
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
        str | None,
        panel(
            "Table",
            "Column of architectures: ints [N, layers] in .npz, or text such as 2-0-1 (default: arch, or "
            "architecture as lasfast dataset writes it).",
        ),
    ] = None
    accuracy_column: Annotated[
        str | None,
        panel(
            "Table",
            "Column of accuracies: shares or percent; in .npz also [N, runs], and NAME[SET] for a set of "
            "[N, sets, ...] (default: mean_acc, or top1).",
        ),
    ] = None
    test_column: Annotated[
        str | None,
        panel("Table", "Column of accuracies that the search does not see, for its end."),
    ] = None
    cost_columns: Annotated[
        str | None,
        panel(
            "Table",
            "Columns of costs, [NAME=]COLUMN[:UNIT], such as flops=MACs:M,latency=t:ms (default: flops and "
            "params, where they are there).",
        ),
    ] = None
    time_column: Annotated[
        str | None,
        panel("Table", "Column of training times, COLUMN[:UNIT] (seconds by default)."),
    ] = None
    key_column: Annotated[
        str | None,
        panel("Table", "Column that architectures of one function share; one is measured."),
    ] = None
    table_run: Annotated[
        int | None, panel("Table", "Take the accuracies of this run, from 0 (default: their mean).")
    ] = None
    table_images: Annotated[
        int | None,
        panel(
            "Table",
            "On how many images the accuracies were measured, for their standard errors (default: unknown).",
        ),
    ] = None


def read_table(options: TableOptions) -> ArchitectureTable:
    """Read the table that the options name; ValueError where it cannot be read."""
    assert options.table is not None
    costs = options.cost_columns
    given = {
        "architecture": options.architecture_column,
        "accuracy": options.accuracy_column,
        "costs": None if costs is None else Schema.split(costs),
        "test": options.test_column,
        "seconds": options.time_column,
        "key": options.key_column,
    }
    schema = Schema.of(options.table)
    replaced: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return ArchitectureTable.load(options.table, dataclasses.replace(schema, **replaced))


def search_table(
    name: str,
    options: TableOptions,
    study_options: BudgetOptions,
    make_searcher: Callable[[Any, Constraint | None], Searcher],
    *,
    assignments: bool = False,
) -> None:
    """Search the table, and show and write what was found.

    Args:
        name: the name of the search method.
        options: the table.
        study_options: the options of any search.
        make_searcher: makes the searcher of a space and a constraint.
        assignments: whether the space is that of layer assignments, which have a depth.
    """
    of_searches = names_of(StudyOptions, BudgetOptions, MachineOptions) | {"seed"}
    of_networks = names_of(SearchOptions, ChoiceOptions) - of_searches - ({"depth"} if assignments else set())
    refuse(options, of_networks, "is not for the search of a --table")
    if assignments:
        refuse(options, ["key_column"], "is not for layer assignments, which compute different functions")
    console = make_console(study_options.quiet)
    table = read_table(options)
    space = table.assignments() if assignments else table.space()
    training_cost = None if options.time_column is None else SECONDS
    images = options.table_images
    evaluator = TabularEvaluator(
        table,
        space=space,
        run=options.table_run,
        images=None if images is None else as_int("--table-images", images, minimum=1),
        training_cost=training_cost,
    )
    constraint = None
    if study_options.constraint is not None:
        if not table.costs:
            raise ValueError(
                f"--constraint must bound a cost, but {options.table} has none of {', '.join(Schema.costs)}; "
                "--cost-columns names columns of costs"
            )
        constraint = Constraint(study_options.constraint, {cost: table.cost(cost) for cost in table.costs})
    searcher = make_searcher(space, constraint)
    assert options.table is not None
    directory = study_options.directory or Path("runs") / f"{name}-{options.table.stem}"
    study = Study(
        searcher,
        evaluator,
        directory=directory,
        callbacks=[FrontDisplay(console)],
        evaluations=study_options.evaluations,
        seconds=study_options.seconds,
    )
    within = "" if constraint is None else f" within {condition_text(limits_of(constraint))}"
    console.print(
        Text.assemble((name, "bold"), f" search of {space}{within}, {options.table}, in {directory}")
    )
    main = distributed.world().main
    if main:
        write_config(directory, options, ("search", name))
    with resumable(directory):
        result = study.run(resume=study_options.resume)
    if (replays := replayed.get()) is not None:
        replays.append(Replay(result, searcher))
    elif main:
        _finish(console, study, result, evaluator, within)


def _finish(
    console: Console, study: Study, result: StudyResult, evaluator: TabularEvaluator, within: str
) -> None:
    assert study.directory is not None
    run = Run.load(study.directory)
    if run.front:
        console.print(front_table(f"{run.title}: the Pareto front", run.front))
    show_end(console, run)
    show_certainty(console, run)
    picture = plot_search(run, study.directory / "search.png")
    measured = [measurement.architecture for measurement in result.measurements]
    console.print(f"{len(measured)} of {len(evaluator.table)} architectures measured")
    if evaluator.training_cost is not None:
        console.print(f"training them takes {format_seconds(math.fsum(evaluator.trainings(measured)))}")
    console.print(_standing_text(study.searcher, evaluator, result.best.architecture, within), soft_wrap=True)
    test = "" if result.best.test_top1 is None else f"  test {100 * result.best.test_top1:.2f} %"
    make_console().print(f"best: {result.best}{test}")
    written = {JOURNAL: "every measurement", RESULT: "all candidates with costs", picture.name: "the picture"}
    show_written(console, study.directory, written)


def _standing_text(searcher: Searcher, evaluator: TabularEvaluator, winner: Architecture, within: str) -> str:
    """Return what the best is that the search might have found, and whether the winner is as good."""
    depths = (-math.inf, math.inf)
    if isinstance(searcher, NIR):
        depths = (sum(searcher.start) + 1, min(searcher.depth, searcher.space.max_depth))

    def might_win(architecture: Architecture) -> bool:
        able = searcher.admits(architecture) and searcher.may_win(architecture)
        return able and depths[0] <= sum(architecture) <= depths[1]

    standing = evaluator.standing(winner, might_win)
    several = standing.functions < standing.architectures
    among = f"{_counted(standing.functions, 'function')} in " if several else ""
    among += _counted(standing.architectures, "architecture") + within
    if isinstance(searcher, NIR):
        among += f" of {' to '.join(map(str, dict.fromkeys(depths)))} layers"
    if evaluator.run is not None:
        among += f", by run {evaluator.run}"
    text = f"the best there is, of {among}: {_with_accuracies(evaluator, standing.best)}"
    if standing.best == winner:
        text += "; the winner is this one"
    elif standing.computes_best:
        text += "; the winner computes the same function"
    elif standing.better == 0:
        text += "; the winner is as accurate"
    else:
        text += f"; more accurate than the winner: {standing.better}"
    if standing.best_test is not None:
        text += f"\nthe highest test accuracy of these: {_with_accuracies(evaluator, standing.best_test)}"
    return text


def _with_accuracies(evaluator: TabularEvaluator, architecture: Architecture) -> str:
    """Return the name of an architecture and its accuracies."""
    top1, test = evaluator.top1(architecture), evaluator.test_top1(architecture)
    tested = "" if test is None else f", test {100 * test:.2f} %"
    return f"{evaluator.space.name(architecture)}  top-1 {100 * top1:.2f} %{tested}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
