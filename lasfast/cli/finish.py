"""The end of a search: it shows winners and picture, exports a network, and may train it from scratch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import nn

from lasfast.cli.display import (
    Meter,
    make_console,
    show_cells,
    show_certainty,
    show_choice,
    show_comparison,
    show_end,
    show_from_scratch,
    show_whole_text,
    show_written,
)
from lasfast.cli.from_scratch import show_rows, train_from_scratch
from lasfast.cli.setup import TrainingSetup
from lasfast.cli.winner import Winner, epochs, measure_on_test, measure_together
from lasfast.costs import LatencyTable
from lasfast.evaluation import latency
from lasfast.evaluation.evaluator import Evaluator
from lasfast.evaluation.scoring import evaluate_network
from lasfast.ir import layers
from lasfast.measurements.journal import Journal
from lasfast.measurements.measurement import Measurement
from lasfast.report import Run, front_table, plot_search, winners_table, write_candidates
from lasfast.report.leave import CANDIDATES, PICTURE
from lasfast.runtime import distributed
from lasfast.spaces import Architecture
from lasfast.study.architecture_table import Row
from lasfast.study.comparison import EVEN, RANDOM, Comparison, compare_from_scratch, random_of_same_cost
from lasfast.study.files import CHECKPOINT, JOURNAL, LOG, RESULT
from lasfast.study.result import Measured, StudyResult, format_top1
from lasfast.study.study import Study
from lasfast.study.table_builder import TableBuilder
from lasfast.supernets import LayerAssignmentSupernet, Supernet
from lasfast.train import Distillation, StandaloneTrainer, SupernetTrainer
from lasfast.train.adapt import SLOWER

SO_FAR = "best-so-far.pt2"
"""The network that a search leaves which is stopped."""


@dataclass(frozen=True)
class Ending:
    """The end of a search says what is done with the best that it found.

    Attributes:
        given: the images, the device and the settings of that training.
        count: how many of the best are trained from scratch; with 0, the best keeps its inherited weights.
        baseline: whether baselines are trained beside them.
        drawn: how many random ones are among these; None is none of layer assignments, and one of others.
        supernet: gives the networks that are trained from scratch; None is the supernet that was searched.
        tune_epochs: how long, where none is trained from scratch, the best is trained on.
        distill: how it learns in these trainings; None is from labels.
        latency_table: the table that latencies of the search are from.
        test: whether the winner is measured on the test split, too.
    """

    given: TrainingSetup
    count: int
    baseline: bool
    drawn: int | None = None
    supernet: Supernet | None = None
    tune_epochs: int = 0
    distill: Distillation | None = None
    latency_table: Path | None = None
    test: bool = False


def finish(given: TrainingSetup, study: Study, result: StudyResult, ending: Ending) -> None:
    """Show and write what a search found, and train as the ending says.

    All processes call this, and train together; the first one shows and writes.
    """
    assert study.directory is not None
    directory, main = study.directory, distributed.world().main
    run = Run.load(directory) if main else None
    written = {} if run is None else _show_search(given.console, study, run, result)
    searched = result.best
    if ending.count:
        winner, searched, compared = _retrain(study, result, ending, directory / "scratch")
        written["scratch/"] = "the networks trained from scratch"
        if run is not None and compared is not None:
            study.write(dataclasses.replace(result, from_scratch=compared))
            run = dataclasses.replace(run, from_scratch=compared)
            show_from_scratch(given.console, run)
    else:
        winner = _inherited(given, study, result.best, ending)
    if run is not None and ending.latency_table is not None and not ending.supernet:
        _show_latency(given, study, winner, LatencyTable.load(ending.latency_table))
    if ending.test:
        winner = measure_on_test(make_console(), given, winner)
    if run is None:
        return
    network = winner.write(directory, given.data)
    written[network.name] = f"the winner, {winner.weights}: `lasfast predict` and `lasfast export` take it"
    was_trained = isinstance(study.evaluator, Evaluator) and (ending.count or ending.tune_epochs)
    before = f" ({100 * searched.top1:.1f} % with inherited weights)" if was_trained else ""
    show_choice(given.console, run)
    show_whole_text(given.console, winner.measured)
    make_console().print(f"best: {winner}{before}", soft_wrap=True)
    show_written(given.console, directory, written)
    (directory / SO_FAR).unlink(missing_ok=True)


def _show_search(console: Console, study: Study, run: Run, result: StudyResult) -> dict[str, str]:
    """Show what a search found, and draw it; return the files that the search left, with what they hold."""
    directory = run.directory
    if run.has_depths:
        console.print(winners_table(f"{run.title}: the winner of each depth", run.winners.values()))
    if not run.is_derived:
        console.print(front_table(f"{run.title}: the Pareto front", run.front))
        console.print(f"{result.best.name} is the best: {result.why_best}", soft_wrap=True)
    show_end(console, run)
    show_cells(console, run)
    show_certainty(console, run)
    show_comparison(console, run)
    written = {
        JOURNAL: "every measurement",
        RESULT: "the winners" if run.has_depths else "all candidates with costs",
        plot_search(run, directory / PICTURE).name: "the picture",
        write_candidates(run, directory / CANDIDATES).name: "a line for each architecture, with its costs",
        CHECKPOINT: "the supernet's weights",
        LOG: "losses and times",
    }
    if study.trainer is None:
        del written[CHECKPOINT]
    return written


def _show_latency(given: TrainingSetup, study: Study, winner: Winner, table: LatencyTable) -> None:
    """Time the winner whole, and show how far the table is from that, if the search was bounded in it."""
    name = f"latency@{table.name}"
    if name not in winner.measured.costs:
        return
    try:
        supernet, architecture = study.evaluator.supernet, winner.measured.architecture
        whole = latency.whole_seconds(supernet, architecture, given.data.image_size, table)
    except ValueError as error:  # another machine's table, or one for other threads
        given.console.print(f"{name}: the winner is not timed here: {error}", soft_wrap=True)
        return
    predicted = winner.measured.costs[name]
    given.console.print(
        f"{name}: {1e3 * predicted:.2f} ms by the table, {1e3 * whole:.2f} ms measured whole; the table is "
        f"{100 * (predicted / whole - 1):+.0f} % off"
    )


def leave_best(given: TrainingSetup, study: Study) -> None:
    """Show and write the best network so far of a search that is stopped, or say why there is none."""
    assert study.directory is not None
    console, evaluator = given.console, study.evaluator
    try:
        best, top1 = study.searcher.best
    except RuntimeError:
        console.print("\nno network is exported: nothing was measured yet that may be the best")
        return
    make_console().print(f"\nbest so far: {evaluator.space.name(best)}  top-1 {100 * top1:.1f} %")
    run = Run.load(study.directory, study.costs)
    written = {
        write_candidates(run, study.directory / CANDIDATES).name: "a line for each architecture so far",
        plot_search(run, study.directory / PICTURE).name: "the picture so far",
    }
    if isinstance(evaluator, Evaluator):
        network = evaluator.extract(best)
        # Between the steps of a search that trains its supernet on, accuracies are other than they were.
        weights = "with inherited weights"
        if isinstance(study.trainer, SupernetTrainer):
            weights += ", in the middle of their training"
        winner = _winner(study, network, _measure(given, network, best), weights)
        winner.write(study.directory, given.data, SO_FAR)
        written[SO_FAR] = f"{winner}"
    else:
        console.print("no network is exported: candidates are trained from scratch, and not kept")
    show_written(console, study.directory, written)


def _inherited(given: TrainingSetup, study: Study, best: Measured, ending: Ending) -> Winner:
    """Return the best with the weights that it inherits, after `tune_epochs` of further training."""
    evaluator = study.evaluator
    assert isinstance(evaluator, Evaluator)
    network: nn.Module = evaluator.extract(best.architecture)
    weights = "with inherited weights"
    if ending.tune_epochs:
        path = evaluator.supernet.extracted_path(best.architecture)
        network = _tune(given, network, path, best.architecture, ending)
        weights += f", trained on for {epochs(ending.tune_epochs)}"
    # The supernet may have been trained further since the best was measured.
    found = measure_together(given, network, given.data.validation, best.architecture)
    if ending.tune_epochs:
        make_console().print(f"trained on for {epochs(ending.tune_epochs)}: top-1 {format_top1(found)}")
    elif found.top1 != best.top1:
        given.console.print(
            f"measured when it was found: top-1 {format_top1(best.measurement)}; with the weights that "
            f"the search ended with: {format_top1(found)}"
        )
    return _winner(study, network, found, weights)


def _measure(given: TrainingSetup, network: nn.Module, architecture: Architecture) -> Measurement:
    """Return how good a network is with the weights that it has, as this process alone finds it."""
    precision = given.settings.precision
    return evaluate_network(network, given.data.validation, architecture, precision=precision)


def _winner(study: Study, network: nn.Module, found: Measurement, weights: str) -> Winner:
    """Return the winner that a network of the supernet is, which was searched."""
    supernet, architecture = study.evaluator.supernet, found.architecture
    measured = Measured(found, supernet.space.format(architecture), study.costs(architecture))
    return Winner(network, measured, weights, supernet)


def _tune(
    given: TrainingSetup,
    network: nn.Module,
    path: layers.Path,
    architecture: Architecture,
    ending: Ending,
) -> nn.Module:
    """Train a network of known layers on from the weights that it has."""
    rate = SLOWER * given.settings.learning_rate
    settings = given.settings.replace(standalone_epochs=ending.tune_epochs, learning_rate=rate)

    trainer = StandaloneTrainer(
        network,
        given.images,
        settings,
        distill=ending.distill,
        path=path,
        validate=lambda network: _measure(given, network, architecture).top1,
    )
    with Meter(given.console) as meter:
        for progress in trainer.train():
            left = progress.seconds / progress.done * (progress.total - progress.done)
            meter.show("the winner", progress, left)
    return trainer.trained.eval()


def _retrain(
    study: Study, result: StudyResult, ending: Ending, directory: Path
) -> tuple[Winner, Measured, Comparison | None]:
    """Train the best, and baselines, from scratch; show them.

    The best then is returned, the same as searched, and how it compares with the baselines.
    """
    given, supernet = ending.given, ending.supernet or study.evaluator.supernet
    finalists = {one.architecture: one for one in _finalists(study, result, ending.count)}

    def train(architectures: Iterable[Architecture]) -> tuple[TableBuilder, list[Row]]:
        return train_from_scratch(
            given,
            supernet,
            architectures,
            directory,
            keep_weights=True,
            resume=True,
            distill=ending.distill,
            data_parallel=ending.baseline,  # else as the search has trained it, by one process
        )

    given.console.print("training from scratch")
    best = result.best
    if len(finalists) > 1:  # what the best costs decides which baselines are trained
        top1 = {row.architecture: row.top1 for row in train(finalists)[1]}
        best = max(finalists.values(), key=lambda one: top1[one.architecture])  # of equal ones, as searched
    groups = _baselines(study, best.architecture, ending.drawn) if ending.baseline else {}
    notes = dict.fromkeys(finalists, "searched")
    for kind, group in groups.items():
        notes |= {one: f"{notes[one]}, {kind}" if one in notes else kind for one in group}
    builder, rows = train(notes)
    shown = [row for row in rows if row.architecture in notes]
    title = f"trained from scratch, {given.settings.standalone_epochs} epochs"
    show_rows(given.console, supernet.space, title, shown, notes)
    winner = Winner.trained(builder, rows, best.architecture, given.data)
    compared = None
    if any(groups.values()) and distributed.world().main:
        trained = {one.architecture: one for _, one in Journal.read(directory / JOURNAL)[1]}
        compared = compare_from_scratch(
            study.evaluator, study.searcher, best.architecture, trained, groups, len(finalists)
        )
    if supernet is not study.evaluator.supernet:
        return winner, best, compared  # a larger network, whose costs are its own
    measured = dataclasses.replace(winner.measured, costs=best.costs)
    return dataclasses.replace(winner, measured=measured), best, compared


def _finalists(study: Study, result: StudyResult, count: int) -> list[Measured]:
    """Return the best of a search and those of the highest accuracies besides, `count` in all, if it has."""
    able = [one for one in result.candidates if study.searcher.may_win(one.architecture)]
    distinct: dict[Architecture, Measured] = {}
    for one in (result.best, *sorted(able, key=lambda one: -one.top1)):
        distinct.setdefault(one.architecture, one)
    return list(distinct.values())[:count]


def _baselines(study: Study, winner: Architecture, drawn: int | None) -> dict[str, list[Architecture]]:
    """Return by kind the architectures that the winner is compared with from scratch.

    Of layer assignments, one is the handcrafted assignment of the winner's depth, if a paper has one, or else
    the most even one. Others are drawn at random, of the winner's cost.
    """
    supernet, groups = study.evaluator.supernet, {}
    if isinstance(supernet, LayerAssignmentSupernet):
        assignment = supernet.handcrafted(sum(winner))
        kind = "handcrafted" if assignment in supernet.handcrafted_assignments else EVEN
        groups[kind] = [assignment]
    if drawn is None:
        drawn = 0 if groups else 1
    groups[RANDOM] = random_of_same_cost(study.evaluator, study.searcher, winner, drawn) if drawn else []
    return groups
