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
from lasfast.cli.finish import finish, leave_best
from lasfast.cli.model import begins_untrained, check_for_model, check_without_model, make_model_supernet
from lasfast.cli.options import ChoiceOptions, SearchOptions, SupernetSearchOptions, refuse
from lasfast.cli.setup import TrainingSetup
from lasfast.cli.teacher import read_teacher
from lasfast.constraints import Constraint
from lasfast.data import Dataset
from lasfast.runtime import distributed
from lasfast.searchers import Searcher
from lasfast.spaces import LayerAssignmentSpace
from lasfast.study.study import Study
from lasfast.supernets import LayerAssignmentSupernet, Supernet
from lasfast.train import Distillation, OneShotTrainer, PathTrainer, SupernetTrainer, adaptation
from lasfast.train.adapt import SLOWER
from lasfast.train.objective import FULL

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
    check_without_model(options)
    refuse(options, ["baselines"], "is for searches of choices and of a --model")
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
    what = f" to depth {options.depth}"
    run_search(
        name,
        what,
        options,
        given,
        searcher,
        trainer,
        more,
        evaluations=options.evaluations,
        teach=read_teacher(options, given.data),
    )


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
    check_without_model(options)
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
    run_search(
        name,
        within,
        options,
        given,
        searcher,
        trainer,
        {},
        baselines=options.baselines,
        evaluations=options.evaluations,
        teach=read_teacher(options, given.data),
    )


def search_model(
    name: str, options: SearchOptions | ChoiceOptions, make_searcher: MakeSearcher, vary: str
) -> None:
    """Search the versions of a model, which is adapted beforehand where the options say so."""
    check_for_model(options)
    distill = setup.make_distillation(options)
    if distill is not None and not options.adapt_epochs:
        raise ValueError("--distill needs --adapt-epochs, which trains versions of the --model")
    if options.retrain and options.tune_epochs:
        raise ValueError("--retrain trains the winner from scratch, --tune-epochs on: give one of them")
    given = TrainingSetup.of(options)
    supernet = make_model_supernet(options, given.data, vary, options.seed).to(given.device)
    given.console.print(str(supernet))
    constraint = _constraint(options, supernet, given.data)
    searcher = make_searcher(supernet.space, constraint)
    trainer = None
    if options.adapt_epochs:
        settings = given.settings
        if options.learning_rate is None and not begins_untrained(options):
            settings = settings.replace(learning_rate=SLOWER * settings.learning_rate)
        epochs = options.adapt_epochs
        trainer = adaptation(supernet, given.images, settings, epochs=epochs, distill=distill or FULL)
    within = f" of {options.model}" + ("" if constraint is None else f" within {constraint}")
    run_search(
        name,
        within,
        options,
        given,
        searcher,
        trainer or supernet,
        {"vary": vary},
        tune_epochs=options.tune_epochs,
        baselines=options.baselines,
        evaluations=options.evaluations,
        teach=read_teacher(options, given.data),
    )


def _constraint(options: SupernetSearchOptions, supernet: Supernet, data: Dataset) -> Constraint | None:
    return None if options.constraint is None else _within(options.constraint, options, supernet, data)


def _within(bounds: str, options: SupernetSearchOptions, supernet: Supernet, data: Dataset) -> Constraint:
    """Return the constraint of bounds, as text; relative numbers are of the largest sub-network."""
    tables = [costs.LatencyTable.load(options.latency_table)] if options.latency_table else []
    known = costs.functions(supernet, data.image_size, tables)
    return Constraint(bounds, known, supernet.space.largest())


def run_search(
    name: str,
    what: str,
    options: SupernetSearchOptions,
    given: TrainingSetup,
    searcher: Searcher,
    trained: PathTrainer | Supernet,
    more: dict[str, str],
    retrained: Supernet | None = None,
    tune_epochs: int = 0,
    baselines: int = 0,
    evaluations: int | None = None,
    teach: Callable[[Study], Distillation] | None = None,
) -> None:
    """Run the study, and show and write what it found.

    Args:
        name: the name of the search method.
        what: a text about the search, for the heading.
        options: the options of the command.
        given: what they set up.
        searcher: proposes architectures.
        trained: the trainer of the supernet, or the supernet where nothing is to be trained.
        more: further values for the configuration of the run.
        retrained: gives the networks that are trained from scratch; None is the supernet.
        tune_epochs: how long the winner is trained on from the weights that it inherits.
        baselines: with how many random architectures of its cost the winner is compared.
        evaluations: how many architectures are measured at most, whatever the searcher would.
        teach: gives the teacher of the winner, where it has one when it is trained at the end.
    """
    console, data = given.console, given.data
    trainer = trained if isinstance(trained, PathTrainer) else None
    supernet = trained.supernet if isinstance(trained, PathTrainer) else trained
    main = distributed.world().main
    evaluator = setup.make_evaluator(options, supernet, data)
    source = options.data.rpartition("/")[2].replace(":", "-")
    directory = options.directory or Path("runs") / f"{name}-{source}"
    with Meter(console) as meter:
        by_depth = isinstance(supernet.space, LayerAssignmentSpace)
        display = StudyDisplay(console, meter) if by_depth else FrontDisplay(console, meter)
        study = Study(
            searcher,
            evaluator,
            trainer=trainer,
            directory=directory,
            callbacks=[display],
            baselines=baselines,
            evaluations=evaluations,
        )
        console.print(Text.assemble((name, "bold"), f" search{what} in {directory}"))
        console.print(f"{data!r}")
        console.print(f"{_title(supernet)}; {options.precision} on {_machine(given.device)}")
        if main:
            write_config(directory, options, search=name, **more)
        try:
            result = study.run(resume=options.resume)
        except KeyboardInterrupt:
            if main:
                leave_best(given, study)
            raise
    if main:
        finish(
            given,
            study,
            result,
            retrain=options.retrain,
            retrained=retrained,
            tune_epochs=tune_epochs,
            distill=None if teach is None else teach(study),
            latency_table=options.latency_table,
        )


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
