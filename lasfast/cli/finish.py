"""The end of a search: it shows winners and picture, exports a network, and may train it from scratch."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

from torch import nn

from lasfast.cli.display import Meter, make_console, show_cells, show_comparison, show_written
from lasfast.cli.from_scratch import export_trained, show_rows, train_from_scratch
from lasfast.cli.setup import TrainingSetup
from lasfast.core.files import file_stem
from lasfast.evaluation.evaluator import Evaluator
from lasfast.evaluation.scoring import evaluate_network
from lasfast.report import Run, front_table, plot_search, winners_table
from lasfast.runtime.distributed import World
from lasfast.searchers.operators import sample_nearest
from lasfast.spaces import Architecture
from lasfast.study.architecture_table import Row
from lasfast.study.files import CHECKPOINT, JOURNAL, LOG, RESULT
from lasfast.study.result import Measured, StudyResult
from lasfast.study.study import Study
from lasfast.supernets import LayerAssignmentSupernet, Supernet, save_network
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
    elif not run.is_derived:
        console.print(front_table(f"{run.title}: the Pareto front", run.front))
    show_cells(console, run)
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
    network = directory / f"{file_stem(result.best.text)}.pt2"
    last = str(result.best)
    if retrain:
        supernet = retrained or study.evaluator.supernet
        row = _retrain(given, study, supernet, result, directory / "scratch", network, distill)
        last = _trained(result.best, row.top1, "from scratch", flops=row.flops, params=row.params)
        written["scratch/"] = "the networks trained from scratch"
        written[network.name] = "the winner, trained from scratch, as a torch.export program"
    else:
        inherited = study.evaluator.extract(result.best.architecture)
        if tune_epochs:
            top1 = _tune(given, inherited, tune_epochs, distill)
            last = _trained(result.best, top1, f"on for {_epochs(tune_epochs)}")
        save_network(inherited, network, study.evaluator.image_shape)
        trained = ", trained on" if tune_epochs else ""
        written[network.name] = f"the winner, with inherited weights{trained}, as a torch.export program"
    make_console().print(f"best: {last}", soft_wrap=True)
    show_written(console, directory, written)
    (directory / SO_FAR).unlink(missing_ok=True)


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
    text = f"{evaluator.space.format(best)}  top-1 {100 * top1:.1f} %"
    make_console().print(f"\nbest so far: {text}")
    if isinstance(study.trainer, SupernetTrainer):
        console.print("no network is exported: the supernet's weights are in training until the search ends")
        return
    path = study.directory / SO_FAR
    save_network(evaluator.extract(best), path, evaluator.image_shape)
    console.print(f"exported with inherited weights to {path}")


def _trained(best: Measured, top1: float, how: str, **costs: float) -> str:
    """Return the line of a winner that was trained, with its accuracies after and before."""
    measurement = dataclasses.replace(best.measurement, top1=top1, correct=b"")
    after = dataclasses.replace(best, measurement=measurement, costs={**best.costs, **costs})
    return f"{after}  (trained {how}; {100 * best.top1:.1f} % with inherited weights)"


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' if count != 1 else ''}"


def _tune(given: TrainingSetup, network: nn.Module, epochs: int, distill: Distillation | None) -> float:
    """Train a network on from the weights that it has, in place; show and return its top-1 after that."""
    settings, data = given.settings, given.data
    settings = settings.replace(standalone_epochs=epochs, learning_rate=SLOWER * settings.learning_rate)
    trainer = StandaloneTrainer(network, given.images, settings, world=World(), distill=distill)
    with Meter(given.console) as meter:
        for progress in trainer.train():
            left = progress.seconds / progress.done * (progress.total - progress.done)
            meter.show("the winner", progress, left)
    network.eval()
    found = evaluate_network(network, data.validation, precision=settings.precision)
    error = 100 * found.standard_error
    make_console().print(f"trained on for {_epochs(epochs)}: top-1 {100 * found.top1:.1f} ± {error:.1f} %")
    return found.top1


def _retrain(
    given: TrainingSetup,
    study: Study,
    supernet: Supernet,
    result: StudyResult,
    directory: Path,
    network: Path,
    distill: Distillation | None,
) -> Row:
    """Train the winner and its baseline from scratch, show both, and write the winner's network.

    Return what the winner is then.
    """
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
    export_trained(builder, winner, given.data, network)
    return next(row for row in rows if row.architecture == winner)


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
