"""Searches of a supernet: options become a study, which is run, shown and written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.text import Text

from lasfast import costs
from lasfast.cli import setup
from lasfast.cli.config import write_config
from lasfast.cli.display import FrontDisplay, Meter, StudyDisplay
from lasfast.cli.finish import finish
from lasfast.cli.options import ChoiceOptions, SearchOptions, SupernetSearchOptions
from lasfast.cli.setup import TrainingSetup
from lasfast.constraints import Constraint
from lasfast.data import Dataset
from lasfast.runtime import distributed
from lasfast.searchers import Searcher
from lasfast.spaces import LayerAssignmentSpace
from lasfast.study.study import Study
from lasfast.supernets import LayerAssignmentSupernet, Supernet
from lasfast.train import OneShotTrainer, PathTrainer, SupernetTrainer

MakeSearcher = Callable[[Any, Constraint | None], Searcher]
"""Makes a searcher of a space and a constraint."""


def search_assignments(
    name: str,
    options: SearchOptions,
    make_searcher: MakeSearcher,
    paths: str,
    update: str = "sequential",
) -> None:
    """Search layer assignments, training the supernet for the candidates of each step."""
    max_layers = setup.parse_max_layers(options, options.depth)
    distill = setup.make_distillation(options)
    given = TrainingSetup.of(options)
    supernet = setup.make_supernet(options, given.data, max_layers, options.seed).to(given.device)
    searcher = make_searcher(supernet.space, _constraint(options, supernet, given.data))
    given.console.print(_shut_out(supernet.space, options.depth))
    trainer = SupernetTrainer(
        supernet, given.images, given.settings, paths=paths, update=update, distill=distill
    )
    more = {"max_layers": supernet.space.format(max_layers)}
    run_search(name, f" to depth {options.depth}", options, given, searcher, trainer, more)


def _shut_out(space: LayerAssignmentSpace, depth: int) -> str:
    """Return the text that says how many assignments of a depth exceed the space in a group."""
    every = math.comb(depth - 1, space.groups - 1)
    if not (missing := every - space.count(depth)):
        return f"all {every} assignments of depth {depth} can be found"
    return (
        f"{every - missing} of the {every} assignments of depth {depth} can be found: the others exceed "
        f"{space.format(space.max_layers)} layers in a group (--max-layers {depth - space.groups + 1} admits "
        "them, and makes the supernet larger)"
    )


def search_choices(name: str, options: ChoiceOptions, make_searcher: MakeSearcher) -> None:
    """Search choices, with a supernet that is trained beforehand."""
    distill = setup.make_distillation(options)
    if distill is not None and options.sampling != "sandwich":
        raise ValueError(
            "--sampling must be sandwich for --distill full, so that every batch trains the largest "
            f"sub-network, got {options.sampling!r}"
        )
    given = TrainingSetup.of(options)
    supernet = setup.make_choice_supernet(options, given.data, options, options.seed).to(given.device)
    constraint = _constraint(options, supernet, given.data)
    searcher = make_searcher(supernet.space, constraint)
    trained = constraint
    if options.sampling_range is not None:
        if options.sampling != "uniform-cost":
            raise ValueError(f"--sampling-range is of --sampling uniform-cost alone, got {options.sampling}")
        trained = _within(options.sampling_range, options, supernet, given.data)
    sampler = setup.make_sampler(options.sampling, supernet, trained, given.data.image_size)
    trainer = OneShotTrainer(supernet, given.images, given.settings, sampler=sampler, distill=distill)
    within = "" if constraint is None else f" within {constraint}"
    run_search(name, within, options, given, searcher, trainer, {})


def _constraint(options: SupernetSearchOptions, supernet: Supernet, data: Dataset) -> Constraint | None:
    return None if options.constraint is None else _within(options.constraint, options, supernet, data)


def _within(bounds: str, options: SupernetSearchOptions, supernet: Supernet, data: Dataset) -> Constraint:
    """Return the constraint of bounds, as text."""
    tables = [costs.LatencyTable.load(options.latency_table)] if options.latency_table else []
    return Constraint(bounds, costs.functions(supernet, data.image_size, tables))


def run_search(
    name: str,
    what: str,
    options: SupernetSearchOptions,
    given: TrainingSetup,
    searcher: Searcher,
    trainer: PathTrainer,
    more: dict[str, str],
    retrained: Supernet | None = None,
) -> None:
    """Run the study, and show and write what it found.

    Args:
        name: the name of the search method.
        what: a text about the search, for the heading.
        options: the options of the command.
        given: what they set up.
        searcher: proposes architectures.
        trainer: trains the supernet.
        more: further values for the configuration of the run.
        retrained: gives the networks that are trained from scratch; None is the supernet.
    """
    console, data, supernet = given.console, given.data, trainer.supernet
    main = distributed.world().main
    evaluator = setup.make_evaluator(options, supernet, data)
    source = options.data.rpartition("/")[2].replace(":", "-")
    directory = options.directory or Path("runs") / f"{name}-{source}"
    with Meter(console) as meter:
        by_depth = isinstance(supernet, LayerAssignmentSupernet)
        display = StudyDisplay(console, meter) if by_depth else FrontDisplay(console, meter)
        study = Study(searcher, evaluator, trainer=trainer, directory=directory, callbacks=[display])
        console.print(Text.assemble((name, "bold"), f" search{what} in {directory}"))
        console.print(f"{data!r}")
        console.print(f"{_title(supernet)}; {options.precision} on {_machine(given.device)}")
        if main:
            write_config(directory, options, search=name, **more)
        result = study.run(resume=options.resume)
    if main:
        finish(given, study, result, retrain=options.retrain, retrained=retrained)


def _title(supernet: Supernet) -> str:
    weights = f"{sum(parameter.numel() for parameter in supernet.parameters()) / 1e6:.2f} M weights"
    if isinstance(supernet, LayerAssignmentSupernet):
        deepest = supernet.space.format(supernet.space.deepest)
        return f"{type(supernet).__name__}, at most {deepest} layers, {weights}"
    return f"{type(supernet).__name__}, {supernet.space.count():.3g} architectures, {weights}"


def _machine(device: torch.device) -> str:
    processes = f", {distributed.world().size} processes" if distributed.world().size > 1 else ""
    threads = torch.get_num_threads()
    return f"{device.type} ({threads} thread{'s' if threads > 1 else ''}{processes})"
