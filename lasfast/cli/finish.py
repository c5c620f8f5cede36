"""The end of a search: it shows winners and picture, exports a network, and may train it from scratch."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

from torch import nn

from lasfast.cli.display import (
    Meter,
    make_console,
    show_cells,
    show_certainty,
    show_comparison,
    show_written,
)
from lasfast.cli.from_scratch import show_rows, train_from_scratch
from lasfast.cli.setup import TrainingSetup
from lasfast.cli.winner import Winner, epochs
from lasfast.costs import LatencyTable
from lasfast.evaluation import latency
from lasfast.evaluation.evaluator import Evaluator
from lasfast.evaluation.scoring import evaluate_network
from lasfast.ir import layers
from lasfast.measurements.measurement import Measurement
from lasfast.report import Run, front_table, plot_search, winners_table
from lasfast.runtime.distributed import World
from lasfast.searchers.operators import sample_nearest
from lasfast.spaces import Architecture
from lasfast.study.files import CHECKPOINT, JOURNAL, LOG, RESULT
from lasfast.study.result import Measured, StudyResult, format_top1
from lasfast.study.study import Study
from lasfast.supernets import LayerAssignmentSupernet, Supernet
from lasfast.train import Distillation, StandaloneTrainer, SupernetTrainer
from lasfast.train.adapt import SLOWER

SO_FAR = "best-so-far.pt2"
"""The network that a search leaves which is stopped."""


def finish(
    given: TrainingSetup,
    study: Study,
    result: StudyResult,
    *,
    retrain: bool,
    retrained: Supernet | None = None,
    tune_epochs: int = 0,
    distill: Distillation | None = None,
    latency_table: Path | None = None,
) -> None:
    """Show and write what a search found.

    With `retrain`, train its winner from scratch, as the network that `retrained` makes of it (None: the
    supernet that was searched). Else train the winner on for `tune_epochs` from the weights it inherits. In
    both cases it learns as `distill` says, or from labels.
    """
    assert study.directory is not None
    assert isinstance(study.evaluator, Evaluator)
    console, directory = given.console, study.directory
    run = Run.load(directory)
    if run.has_depths:
        console.print(winners_table(f"{run.title}: the winner of each depth", run.winners.values()))
    if not run.is_derived:
        console.print(front_table(f"{run.title}: the Pareto front", run.front))
        console.print(f"{result.best.text} is the best: {result.why_best}", soft_wrap=True)
    show_cells(console, run)
    show_certainty(console, run)
    show_comparison(console, run)
    written = {
        JOURNAL: "every measurement",
        RESULT: "the winners" if run.has_depths else "all candidates with costs",
        plot_search(run, directory / "search.png").name: "the picture",
        CHECKPOINT: "the supernet's weights",
        LOG: "losses and times",
    }
    if study.trainer is None:
        del written[CHECKPOINT]
    if retrain:
        supernet = retrained or study.evaluator.supernet
        winner = _retrain(given, study, supernet, result, directory / "scratch", distill)
        written["scratch/"] = "the networks trained from scratch"
    else:
        winner = _inherited(given, study.evaluator, result.best, tune_epochs, distill)
    if latency_table is not None and not retrained:
        _show_latency(given, study, winner, LatencyTable.load(latency_table))
    network = winner.write(directory, given.data)
    written[network.name] = f"the winner, {winner.weights}: `lasfast predict` and `lasfast export` take it"
    was_trained = retrain or tune_epochs
    before = f" ({100 * result.best.top1:.1f} % with inherited weights)" if was_trained else ""
    make_console().print(f"best: {winner}{before}", soft_wrap=True)
    show_written(console, directory, written)
    (directory / SO_FAR).unlink(missing_ok=True)


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
    assert isinstance(study.evaluator, Evaluator)
    console, evaluator = given.console, study.evaluator
    try:
        best, top1 = study.searcher.best
    except RuntimeError:
        console.print("\nno network is exported: nothing was measured yet that may be the best")
        return
    text = evaluator.space.format(best)
    make_console().print(f"\nbest so far: {text}  top-1 {100 * top1:.1f} %")
    if isinstance(study.trainer, SupernetTrainer):
        console.print("no network is exported: the supernet's weights are in training until the search ends")
        return
    network = evaluator.extract(best)
    found = evaluate_network(network, given.data.validation, best, precision=given.settings.precision)
    measured = Measured(found, text, evaluator.costs(best))
    winner = Winner(network, measured, "with inherited weights", evaluator.supernet)
    path = winner.write(study.directory, given.data, SO_FAR)
    console.print(f"exported with inherited weights to {path}")


def _inherited(
    given: TrainingSetup, evaluator: Evaluator, best: Measured, tune_epochs: int, distill: Distillation | None
) -> Winner:
    """Return the best with the weights that it inherits, after `tune_epochs` of further training."""
    network: nn.Module = evaluator.extract(best.architecture)
    weights = "with inherited weights"
    if tune_epochs:
        path = evaluator.supernet.extracted_path(best.architecture)
        network, found = _tune(given, network, path, best.architecture, tune_epochs, distill)
        weights += f", trained on for {epochs(tune_epochs)}"
    else:
        # The supernet may have been trained further since the best was measured.
        validation, precision = given.data.validation, given.settings.precision
        found = evaluate_network(network, validation, best.architecture, precision=precision)
        if found.top1 != best.top1:
            given.console.print(
                f"measured when it was found: top-1 {format_top1(best.measurement)}; with the weights that "
                f"the search ended with: {format_top1(found)}"
            )
    measured = dataclasses.replace(best, measurement=found)
    return Winner(network, measured, weights, evaluator.supernet)


def _tune(
    given: TrainingSetup,
    network: nn.Module,
    path: layers.Path,
    architecture: Architecture,
    tune_epochs: int,
    distill: Distillation | None,
) -> tuple[nn.Module, Measurement]:
    """Train a network of known layers on from the weights that it has.

    Show how good it is then, and return what was trained with its measurement.
    """
    settings, data = given.settings, given.data
    settings = settings.replace(standalone_epochs=tune_epochs, learning_rate=SLOWER * settings.learning_rate)

    def measured(network: nn.Module) -> Measurement:
        return evaluate_network(network, data.validation, architecture, precision=settings.precision)

    trainer = StandaloneTrainer(
        network,
        given.images,
        settings,
        world=World(),
        distill=distill,
        path=path,
        validate=lambda network: measured(network).top1,
    )
    with Meter(given.console) as meter:
        for progress in trainer.train():
            left = progress.seconds / progress.done * (progress.total - progress.done)
            meter.show("the winner", progress, left)
    trained = trainer.trained.eval()
    found = measured(trained)
    make_console().print(f"trained on for {epochs(tune_epochs)}: top-1 {format_top1(found)}")
    return trained, found


def _retrain(
    given: TrainingSetup,
    study: Study,
    supernet: Supernet,
    result: StudyResult,
    directory: Path,
    distill: Distillation | None,
) -> Winner:
    """Train the winner and its baseline from scratch, show both, and return the winner."""
    winner, settings = result.best.architecture, given.settings
    kind, baseline = _baseline(study, winner, settings.seed)
    same = winner == baseline
    given.console.print(f"the winner is the {kind} one" if same else "training from scratch")
    builder, rows = train_from_scratch(
        given, supernet, [winner, baseline], directory, keep_weights=True, resume=True, distill=distill
    )
    notes = {baseline: kind, winner: f"searched, {kind}" if same else "searched"}
    shown = [row for row in rows if row.architecture in notes]
    title = f"trained from scratch, {settings.standalone_epochs} epochs"
    show_rows(given.console, supernet.space, title, shown, notes)
    trained = Winner.trained(builder, rows, winner, given.data)
    if supernet is not study.evaluator.supernet:
        return trained  # a larger network, whose costs are its own
    measured = dataclasses.replace(trained.measured, costs=result.best.costs)
    return dataclasses.replace(trained, measured=measured)


def _baseline(study: Study, winner: Architecture, seed: int) -> tuple[str, Architecture]:
    """Return the kind and the architecture of the baseline, which the winner is compared with.

    That is the handcrafted assignment of its depth, if a paper has one, or else the most even one. Where
    nothing has a depth, it is the one of some hundred random architectures within the constraint whose cost
    (the constraint's first, or FLOPs) is nearest to the winner's.
    """
    supernet, searcher = study.evaluator.supernet, study.searcher
    if isinstance(supernet, LayerAssignmentSupernet):
        assignment = supernet.handcrafted(sum(winner))
        return "handcrafted" if assignment in supernet.handcrafted_assignments else "even", assignment

    def admits(architecture: Architecture) -> bool:
        return architecture != winner and searcher.admits(architecture)

    def flops(architecture: Architecture) -> float:
        return study.evaluator.costs(architecture)["flops"]

    rng = random.Random(f"baseline {seed}")
    cost = searcher.cost or flops
    return "random", sample_nearest(searcher.space, rng, cost, cost(winner), admits) or winner
