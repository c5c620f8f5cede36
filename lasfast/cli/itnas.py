"""`lasfast search itnas`: differentiable search of the two cells that a network is a stack of."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from lasfast.cli import setup
from lasfast.cli.options import CellOptions, SupernetSearchOptions, command, panel
from lasfast.cli.search_supernet import run_search, set_up
from lasfast.cli.setup import TrainingSetup
from lasfast.searchers import ITNAS
from lasfast.supernets import CellNet
from lasfast.train import ITNASTrainer

# Ours, of the preset small: for some hundred steps on a CPU, where the paper's are for tens of thousands.
SMALL_SIZE = {"cells": 5, "cell_channels": 8}
SMALL = {"architecture_learning_rate": 0.05, "temperature": (10.0, 0.5)}


@dataclass(frozen=True, kw_only=True)
class ITNASOptions(CellOptions, SupernetSearchOptions):
    """Options of ITNAS."""

    supernet: Annotated[str, panel("Supernet", "cells, which alone ITNAS searches.")] = "cells"
    cells: Annotated[
        int | None, panel("Supernet", "Cells of the supernet (default: 8; preset small: 5).")
    ] = None
    cell_channels: Annotated[
        int | None, panel("Supernet", "Channels of the first cells' nodes (default: 16; preset small: 8).")
    ] = None
    supernet_epochs: Annotated[
        int | None, panel("Training", "Epochs of the search.", "--supernet-epochs", "--epochs")
    ] = None
    architecture_learning_rate: Annotated[
        float | None,
        panel("Training", "Adam's learning rate, for the architecture (default: 3e-4; preset small: 0.05)."),
    ] = None
    temperature: Annotated[
        str | None,
        panel(
            "Search",
            "Temperatures of the Gumbel softmax, first and last (default: 10,0.1; preset small: 10,0.5).",
        ),
    ] = None
    transition: Annotated[
        bool, panel("Search", "Derive inner edges from their predecessors.", "--transition/--no-transition")
    ] = True
    gumbel: Annotated[
        bool,
        panel("Search", "Draw operations, rather than mix them by DARTS' softmax.", "--gumbel/--no-gumbel"),
    ] = True
    none: Annotated[
        bool, panel("Search", "Let edges do nothing, too, while they are searched.", "--none")
    ] = False
    pruning: Annotated[
        str, panel("Search", "How edges are pruned: iterative (the paper's) or hard (DARTS').")
    ] = "iterative"
    retrain_cells: Annotated[
        int | None, panel("Search", "Cells of the networks that --retrain trains (default: as searched).")
    ] = None
    retrain_channels: Annotated[
        int | None, panel("Search", "Channels of their first cells' nodes (default: as searched).")
    ] = None


def register(app: typer.Typer) -> None:
    """Add the command to the app."""

    @command(app, "itnas", ITNASOptions)
    def itnas(options: ITNASOptions) -> None:
        """Learn which operations the edges of a normal and a reduction cell take (ITNAS, Ma et al. 2020).

        All operations of all edges are trained at once on one half of the training images, and on the other,
        in turn, how much each edge takes of each: inner edges by transition from those before them. Pruning
        then leaves two edges for each node. The accuracy that is shown is that with inherited weights, which
        were trained beside all the others: --retrain says what the cells are worth.

        **Examples**

        lasfast search itnas --retrain

        lasfast search itnas --data cifar10 --preset darts --retrain --retrain-cells 20 --retrain-channels 36

        lasfast search itnas --no-transition --no-gumbel --none -o runs/darts-digits

        lasfast search itnas --data cifar10 --limit 4000 --cells 5 --resume
        """
        if options.supernet != "cells":
            raise ValueError(f"--supernet must be cells for ITNAS, got {options.supernet!r}")
        if options.constraint is not None:
            raise ValueError(
                f"--constraint {options.constraint!r}: ITNAS knows no costs; search --supernet cells by "
                "evolution or random within one"
            )
        options = _sized(options)
        arguments = _arguments(options)
        given = set_up(options)
        supernet = _supernet(options, given)
        trainer = ITNASTrainer(supernet.to(given.device), given.images, given.settings, **arguments)
        searcher = ITNAS(supernet.space, learned=trainer.learned, pruning=options.pruning)
        what = f" of {len(supernet.shapes)} cells of {supernet.channels} channels"
        retrained = _retrained(options, given)
        run_search("itnas", what, options, given, searcher, supernet, trainer, retrained=retrained)


def _sized(options: ITNASOptions) -> ITNASOptions:
    """Return the options with the sizes of their preset, which the run's configuration has to say."""
    sizes = SMALL_SIZE if options.preset == "small" else {}
    asked: dict[str, Any] = {name: size for name, size in sizes.items() if getattr(options, name) is None}
    return dataclasses.replace(options, **asked)


def _arguments(options: ITNASOptions) -> dict[str, Any]:
    """Return the arguments of the trainer besides its settings."""
    arguments: dict[str, Any] = dict(SMALL) if options.preset == "small" else {}
    if options.architecture_learning_rate is not None:
        arguments["architecture_learning_rate"] = options.architecture_learning_rate
    if options.temperature is not None:
        try:
            first, last = map(float, options.temperature.split(","))
        except ValueError:
            raise ValueError(
                f"--temperature must be two numbers such as 10,0.1, got {options.temperature!r}"
            ) from None
        arguments["temperature"] = (first, last)
    return arguments | {name: getattr(options, name) for name in ("transition", "gumbel", "none")}


def _supernet(options: ITNASOptions, given: TrainingSetup) -> CellNet:
    supernet = setup.make_choice_supernet(options, given.data, options, options.seed)
    assert isinstance(supernet, CellNet)
    return supernet


def _retrained(options: ITNASOptions, given: TrainingSetup) -> CellNet | None:
    """Return the supernet of the networks that are trained from scratch, or None for the one searched."""
    sizes: dict[str, Any] = {"cells": options.retrain_cells, "cell_channels": options.retrain_channels}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    if sizes and not options.retrain:
        raise ValueError("--retrain-cells and --retrain-channels are of --retrain: give that, too")
    if not sizes:
        return None
    return _supernet(dataclasses.replace(options, **sizes), given).to(given.device)
