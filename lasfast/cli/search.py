"""`lasfast search`: train a supernet, or take a table of trained networks, find the best, report it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from lasfast.cli import choices, itnas, setup
from lasfast.cli.earlier import names_run
from lasfast.cli.options import (
    ChoiceOptions,
    OneShotOptions,
    SearchOptions,
    StepOptions,
    command,
    names_of,
    panel,
    refuse,
)
from lasfast.cli.search_supernet import search_again, search_assignments, search_choices, search_model
from lasfast.cli.search_table import TableOptions, search_table
from lasfast.constraints import Constraint
from lasfast.searchers import NIR, Random, Searcher

app = typer.Typer(rich_markup_mode="markdown")


@dataclass(frozen=True, kw_only=True)
class NIROptions(SearchOptions, TableOptions):
    """Options of NIR."""

    epochs_per_step: Annotated[
        int | None, panel("Training", "Epochs of each search step.", "--epochs-per-step", "--epochs")
    ] = None
    beam: Annotated[int, panel("Search", "Assignments of each depth that are kept as parents.")] = 1
    update: Annotated[
        str,
        panel(
            "Training",
            "sequential, with an update for each sub-network of a batch (the paper), or joint, with one for "
            "all, so that batches are faster and updates fewer.",
        ),
    ] = "sequential"


@dataclass(frozen=True, kw_only=True)
class RandomOptions(SearchOptions, ChoiceOptions, TableOptions):
    """Options of random search."""

    supernet_epochs: Annotated[
        int | None, panel("Training", "Epochs of training a supernet of choices, before the search.")
    ] = None
    epochs: Annotated[
        int | None,
        panel(
            "Training", "Epochs of training the supernet: --epochs-per-step, or of choices --supernet-epochs."
        ),
    ] = None
    samples: Annotated[
        int, panel("Search", "How many architectures to try, unless --evaluations says it.")
    ] = 20


@command(app, "nir", NIROptions)
def nir(options: NIROptions) -> None:
    """Grow the best assignment one layer at a time (Meng et al., AAAI 2020).

    Each step trains the deepest sub-network and the few assignments one layer deeper than the last winner,
    recalibrates their BatchNorm statistics, measures them and keeps the best.

    **Examples**

    lasfast search nir --depth 12 --retrain

    lasfast search nir --data cifar10 --download --preset cifar100 --depth 15 --precision bf16

    lasfast search nir --data imagefolder:photos --supernet mobilenet-v1 --depth 12 --resume

    lasfast search nir --data imagefolder:photos --model mymodule.py:make_network --depth 6

    lasfast search nir --data csv:labels.csv --supernet mynet.py:MyNet --depth 6 --test --track tensorboard

    lasfast search nir --table runs/dataset/table.csv --depth 8

    torchrun --nproc-per-node 2 -m lasfast search nir --data cifar10 --depth 15
    """

    def make(space: Any, constraint: Constraint | None) -> Searcher:
        return NIR(space, depth=options.depth, beam=options.beam, constraint=constraint)

    if options.table is not None:
        refuse(options, ["update"], "is for supernets of layer assignments, not for a --table")
        search_table("nir", options, options, make, assignments=True)
    elif names_run(options):
        search_again("nir", options, make)
    elif options.model is not None:
        if options.vary == "widths":
            raise ValueError("--vary must be depth or both for NIR, which searches depths, got 'widths'")
        refuse(options, ["update"], "is for supernets of layer assignments, not for a --model")
        search_model("nir", options, make, "depth")
    else:
        search_assignments("nir", options, make, "every", options.update)


@command(app, "random", RandomOptions)
def random(options: RandomOptions) -> None:
    """Try random architectures, as a baseline: assignments of one depth, choices, or those of a table.

    A supernet of layer assignments is trained, in each batch, on one of them, drawn uniformly, and on the
    deepest; then all are measured. A supernet of choices is trained beforehand.

    **Examples**

    lasfast search random --depth 9 --samples 20

    lasfast search random --data cifar10 --depth 12 --samples 50 --epochs 60

    lasfast search random --data cifar10 --supernet proxyless --constraint "flops<=60M" --samples 1000

    lasfast search random --weights runs/evolution-cifar10 --constraint "flops<=90M" --samples 1000

    lasfast search random --table nasbench_macro.npz --constraint "flops<=42M" --samples 400
    """
    options = _with_epochs(options)
    samples = options.samples if options.evaluations is None else options.evaluations

    def make(space: Any, constraint: Constraint | None) -> Searcher:
        return Random(space, samples=samples, constraint=constraint, seed=options.seed)

    def make_of_depth(space: Any, constraint: Constraint | None) -> Searcher:
        return Random(space, samples=samples, depth=options.depth, constraint=constraint, seed=options.seed)

    if options.table is not None:
        search_table("random", options, options, make)
    elif names_run(options):
        search_again("random", options, make, make_of_depth)
    elif options.model is not None:
        refuse(options, ["depth"], "is for supernets of layer assignments, not for a --model")
        search_model("random", options, make, options.vary)
    elif not setup.is_of_assignments(options):
        setup.check_any_family(options)
        of_assignments = {"depth", "max_layers"} | names_of(StepOptions)
        refuse(options, of_assignments, "is for supernets of layer assignments")
        search_choices("random", options, make)
    else:
        refuse(options, names_of(OneShotOptions), "is for supernets of choices")
        search_assignments("random", options, make_of_depth, "uniform")


def _with_epochs(options: RandomOptions) -> RandomOptions:
    """Return the options with --epochs under the name that it has for their supernet."""
    if options.epochs is None:
        return options
    name = "epochs_per_step" if setup.is_of_assignments(options) else "supernet_epochs"
    if getattr(options, name) is not None:
        raise ValueError(f"--epochs and --{name.replace('_', '-')} say the same: give one of them")
    given: dict[str, Any] = {name: options.epochs, "epochs": None}
    return dataclasses.replace(options, **given)


choices.register(app)
itnas.register(app)
