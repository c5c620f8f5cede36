"""The end of a search: winners, picture, exported network, and training from scratch where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from lasfast.cli.display import make_console
from lasfast.cli.scratch import export_trained, show_rows, train_from_scratch
from lasfast.data import Dataset
from lasfast.evaluate import Evaluator
from lasfast.report import Run, plot_search, winners_table
from lasfast.study import CHECKPOINT, JOURNAL, LOG, RESULT, Study, StudyResult
from lasfast.supernets import LayerAssignmentSupernet, save_network
from lasfast.train import TrainSettings


def finish(
    console: Console,
    study: Study,
    result: StudyResult,
    data: Dataset,
    images: Any,
    settings: TrainSettings,
    *,
    retrain: bool,
) -> None:
    """Show and write what a search found; train its winner from scratch where `retrain`."""
    assert study.directory is not None
    assert isinstance(study.evaluator, Evaluator)
    directory = study.directory
    run = Run.load(directory)
    console.print(winners_table(f"{run.title}: the winner of each depth", run.winners.values()))
    written = {
        JOURNAL: "every measurement",
        RESULT: "the winners",
        plot_search(run, directory / "search.png").name: "the picture",
        CHECKPOINT: "the supernet's weights",
        LOG: "losses and times",
    }
    network = directory / f"{result.best.text}.pt2"
    if retrain:
        _retrain(console, study, result, data, images, settings, directory / "scratch", network)
        written["scratch/"] = "the networks trained from scratch"
        written[network.name] = "the winner, trained from scratch, as a torch.export program"
    else:
        inherited = study.evaluator.extract(result.best.architecture)
        save_network(inherited, network, study.evaluator.image_shape)
        written[network.name] = "the winner, with inherited weights, as a torch.export program"
    make_console().print(f"best: {result.best}")
    console.print(f"\nwritten to {directory}:")
    for name, what in written.items():
        console.print(f"  {name:<26}{what}")


def _retrain(
    console: Console,
    study: Study,
    result: StudyResult,
    data: Dataset,
    images: Any,
    settings: TrainSettings,
    directory: Path,
    network: Path,
) -> None:
    """Train the winner and a handcrafted assignment of its depth from scratch, and show both."""
    supernet = study.evaluator.supernet
    assert isinstance(supernet, LayerAssignmentSupernet)
    winner = result.best.architecture
    handcrafted = supernet.handcrafted(sum(winner))
    same = winner == handcrafted
    console.print("the winner is the handcrafted assignment" if same else "training from scratch")
    dataset, rows = train_from_scratch(
        console,
        supernet,
        [winner, handcrafted],
        data,
        images,
        settings,
        directory,
        keep_weights=True,
        resume=True,
    )
    notes = {handcrafted: "handcrafted", winner: "searched, handcrafted" if same else "searched"}
    shown = [row for row in rows if row.architecture in notes]
    title = f"trained from scratch, {settings.standalone_epochs} epochs"
    show_rows(console, title, shown, notes)
    export_trained(dataset, winner, data, network)
