"""The files that people and other programs take from a finished study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from lasfast import costs, deploy
from lasfast.costs.flops import model_input
from lasfast.data import Dataset
from lasfast.evaluation.evaluator import Evaluator
from lasfast.evaluation.scoring import evaluate_network
from lasfast.ir.layers import path_shapes
from lasfast.measurements.measurement import Measurement
from lasfast.report.candidates import write_candidates
from lasfast.report.plot import plot_search
from lasfast.report.run import Run
from lasfast.study.result import Measured
from lasfast.study.study import Study
from lasfast.supernets import Supernet

COMPARED = 32
"""On so many validation images a written network is compared with the one in memory."""
PICTURE, CANDIDATES = "search.png", "candidates.csv"


def leave(study: Study, data: Dataset | None = None) -> dict[str, Path]:
    """Write the files that a search on the command line ends with, after `study.run()`.

    Args:
        study: has run, with a directory.
        data: the dataset that the study's evaluator measures on; None leaves the network out.

    Returns:
        The files: `picture`, `candidates` (csv), and `network`, the best with its inherited weights as a
        `torch.export` program with a model card, which `lasfast predict` and `lasfast export` take.

    Raises:
        ValueError: the study has no directory or no result; or data are given where there are no weights.
    """
    if study.directory is None:
        raise ValueError("study must have a directory to leave files in, got one without")
    run = Run.load(study.directory)
    if run.best is None:
        raise ValueError(f"study must have run to its end, got one in {study.directory} that has not")
    written = {
        "picture": plot_search(run, study.directory / PICTURE),
        "candidates": write_candidates(run, study.directory / CANDIDATES),
    }
    if data is None:
        return written
    evaluator, architecture = study.evaluator, run.best.measurement.architecture
    if not isinstance(evaluator, Evaluator):
        raise ValueError(f"data must be None for candidates without weights, which {evaluator!r} measures")
    network = evaluator.extract(architecture)
    found = evaluate_network(network, data.validation, architecture)
    measured = Measured(found, run.best.text, study.costs(architecture))
    written["network"] = write_network(
        network, measured, evaluator.supernet, data, study.directory, weights="with inherited weights"
    )
    return written


def write_network(
    network: nn.Module,
    measured: Measured,
    supernet: Supernet,
    data: Dataset,
    directory: Path,
    *,
    weights: str,
    tested: Measurement | None = None,
    name: str = "",
) -> Path:
    """Write a network as a `torch.export` program with its card; return the file.

    Args:
        network: takes normalized images and gives logits.
        measured: its architecture, accuracy and costs.
        supernet: the supernet that it is a sub-network of.
        data: the images that it was trained and measured on.
        directory: the run's, where the file goes.
        weights: a text that says where its weights come from.
        tested: its measurement on the test split, if there is one.
        name: the file's; "" takes that of the architecture.
    """
    card = deploy.ModelCard.of(
        data,
        measured.measurement,
        architecture=measured.text,
        supernet=type(supernet).__name__,
        weights=weights,
        costs=measured.costs,
        run=directory.name,
        layers=_layers(supernet, measured, data.image_size),
        tested=tested,
    )
    path = directory / (name or f"{measured.name}.pt2")
    deploy.save(network, card, path, data.samples(COMPARED))
    return path


def _layers(supernet: Supernet, measured: Measured, image_size: tuple[int, int]) -> list[dict[str, Any]]:
    """Return what the card says of each layer."""
    path = supernet.extracted_path(measured.architecture)
    return [
        {
            "name": layer.name,
            "output": list(shapes[-1]),
            "flops": costs.path_flops((layer,), shapes[0]),
            "params": costs.path_params((layer,)),
        }
        for layer, shapes in path_shapes(path, model_input(supernet, image_size))
    ]
