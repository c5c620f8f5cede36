"""Searches of a supernet: options become a study, which is run, shown and written."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.text import Text

from lasfast import costs
from lasfast.cli import setup
from lasfast.cli.config import write_config
from lasfast.cli.context import Replay, replayed
from lasfast.cli.display import FrontDisplay, Meter, StudyDisplay, format_seconds, watch
from lasfast.cli.earlier import EarlierRun, SavedWeights
from lasfast.cli.finish import Ending, finish, leave_best
from lasfast.cli.model import begins_untrained, check_for_model, check_without_model, make_model_supernet
from lasfast.cli.options import (
    BudgetOptions,
    ChoiceOptions,
    FinalistOptions,
    ModelSearchOptions,
    OneShotOptions,
    SearchOptions,
    SizeOptions,
    StepOptions,
    SupernetSearchOptions,
    names_of,
    refuse,
)
from lasfast.cli.setup import TrainingSetup
from lasfast.cli.teacher import read_teacher
from lasfast.cli.terminal import resumable
from lasfast.constraints import Constraint
from lasfast.core.checks import check_choice
from lasfast.data import Dataset
from lasfast.evaluation.standalone import StandaloneEvaluator
from lasfast.measurements.evaluation import Evaluation
from lasfast.runtime import distributed
from lasfast.searchers import Searcher
from lasfast.spaces import LayerAssignmentSpace
from lasfast.study.study import Callback, Study
from lasfast.study.trackers import MLflow, TensorBoard
from lasfast.supernets import LayerAssignmentSupernet, Supernet
from lasfast.train import OneShotTrainer, PathTrainer, SupernetTrainer, adaptation
from lasfast.train.adapt import SLOWER
from lasfast.train.objective import FULL
from lasfast.train.presets import PRESETS

BASELINES = 20
"""With so many random architectures the winner is compared, unless the options say otherwise."""
SUPERNET_TRAINING = names_of(OneShotOptions, StepOptions) - names_of(SizeOptions) - {"standalone"}
SUPERNET_TRAINING |= {"adapt_epochs", "update", "distill"}
"""Options that say how a supernet is trained."""
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
    setup.check_family(options)
    if not setup.is_own(options):
        setup.parse_max_layers(options, options.depth)  # before the images are read
    distill = setup.make_distillation(options)
    given = set_up(options)
    supernet = setup.make_any_supernet(
        options, given.data, depth=options.depth, size=None, seed=options.seed
    ).to(given.device)
    if not isinstance(supernet, LayerAssignmentSupernet):
        raise ValueError(
            f"--supernet must be one of layer assignments for this search, got {options.supernet}, which has "
            f"{supernet.space}; lasfast search evolution takes it"
        )
    searcher = make_searcher(supernet.space, _constraint(options, supernet, given.data))
    given.console.print(_shut_out(supernet.space, options.depth))
    trainer = SupernetTrainer(
        supernet, given.images, given.settings, paths=paths, update=update, distill=distill
    )
    more = {} if setup.is_own(options) else {"max_layers": supernet.space.format(supernet.space.max_layers)}
    what = f" to depth {options.depth}"
    run_search(name, what, options, given, searcher, supernet, trainer, more=more)


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
    """Search choices, with a supernet that is trained beforehand, or training each candidate.

    Layer assignments are choices, too: of a number of layers for each group.
    """
    check_without_model(options)
    setup.check_any_family(options)
    if options.standalone:
        refuse(options, SUPERNET_TRAINING, "trains a supernet, and --standalone trains none")
    distill = setup.make_distillation(options)
    if distill is not None and options.sampling != "sandwich":
        raise ValueError(
            "--sampling must be sandwich for --distill full, so that every batch trains the largest "
            f"sub-network, got {options.sampling!r}"
        )
    given = set_up(options)
    supernet = setup.make_any_supernet(
        options, given.data, depth=SearchOptions.depth, size=options, seed=options.seed
    ).to(given.device)
    more = {}
    if isinstance(supernet, LayerAssignmentSupernet) and not setup.is_own(options):
        more = {"max_layers": supernet.space.format(supernet.space.max_layers)}
    constraint = _constraint(options, supernet, given.data)
    searcher = make_searcher(supernet.space, constraint)
    trainer = None
    if not options.standalone:
        trained = constraint
        if options.sampling_range is not None:
            if options.sampling != "uniform-cost":
                raise ValueError(
                    f"--sampling-range is of --sampling uniform-cost alone, got {options.sampling}"
                )
            trained = _within(options.sampling_range, options, supernet, given.data)
        sampler = setup.make_sampler(options.sampling, supernet, trained, given.data.image_size)
        trainer = OneShotTrainer(supernet, given.images, given.settings, sampler=sampler, distill=distill)
    run_search(name, _inside(constraint), options, given, searcher, supernet, trainer, more=more)


def search_model(
    name: str, options: SearchOptions | ChoiceOptions, make_searcher: MakeSearcher, vary: str
) -> None:
    """Search the versions of a model, which is adapted beforehand where the options say so."""
    check_for_model(options)
    distill = setup.make_distillation(options)
    if distill is not None and not options.adapt_epochs:
        raise ValueError("--distill needs --adapt-epochs, which trains versions of the --model")
    given = set_up(options)
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
    what = f" of {options.model}{_inside(constraint)}"
    run_search(name, what, options, given, searcher, supernet, trainer, more={"vary": vary})


def search_again(
    name: str,
    options: SearchOptions | ChoiceOptions,
    make_searcher: MakeSearcher,
    make_of_depth: MakeSearcher | None = None,
) -> None:
    """Search the supernet of an earlier run, which `--weights` names, with the weights that it has.

    `make_of_depth` makes the searcher of assignments, where that is another; it alone then reads `--depth`.
    """
    if isinstance(options, OneShotOptions) and options.standalone:
        raise ValueError("--standalone trains each candidate, --weights takes a trained supernet: give one")
    refuse(options, SUPERNET_TRAINING, "trains a supernet, and that of --weights is trained already")
    setup.make_distillation(options)  # raises an error where options of it would not be read
    earlier = EarlierRun.read(Path(str(options.weights)))
    if not earlier.checkpoint.exists():
        raise FileNotFoundError(
            f"--weights {earlier.directory} has no weights: there is no {earlier.checkpoint}"
        )
    saved = SavedWeights.read(earlier.checkpoint)
    if not saved.were_measured:
        raise ValueError(f"--weights {earlier.directory} is still in training: --resume it first")
    options = earlier.adopt(options)
    given = set_up(options, split_seed=earlier.options.seed)
    supernet = earlier.make_supernet(given.data).to(given.device)
    saved.load_into(supernet)
    if saved.favor_candidates:
        refuse(options, ["baselines"], "is not for weights that were trained for the candidates of a search")
    if isinstance(supernet, LayerAssignmentSupernet):
        make_searcher = make_of_depth or make_searcher
    elif make_of_depth is not None:
        refuse(options, ["depth"], "is for supernets of layer assignments")
    constraint = _constraint(options, supernet, given.data)
    try:
        searcher = make_searcher(supernet.space, constraint)
    except TypeError as error:  # it searches another kind of space
        raise ValueError(f"--weights {earlier.directory} is not for this search: {error}") from error
    given.console.print(f"weights of {earlier.directory} as of step {saved.step}")
    what = f" of the supernet of {earlier.directory}{_inside(constraint)}"
    run_search(name, what, options, given, searcher, supernet, None, saved=saved)


def set_up(options: SupernetSearchOptions, split_seed: int | None = None) -> TrainingSetup:
    """Set up what a search asks for; ValueError where what it asks for at its end does not fit together."""
    count = options.retrain_best if isinstance(options, FinalistOptions) else 1
    if count < 1:
        raise ValueError(f"--retrain-best must be 1 or more, got {count}")
    if (options.retrain_random or 0) < 0:
        raise ValueError(f"--retrain-random must be 0 or more, got {options.retrain_random}")
    of_retrain = (options.retrain_preset, options.retrain_random)
    if not options.retrain and (count > 1 or any(one is not None for one in of_retrain)):
        raise ValueError(
            "--retrain-best, --retrain-preset and --retrain-random are of --retrain: give that, too"
        )
    if options.retrain_preset is not None:
        check_choice("--retrain-preset", options.retrain_preset, tuple(PRESETS))
    if options.retrain and isinstance(options, ModelSearchOptions) and options.tune_epochs:
        raise ValueError("--retrain trains the winner from scratch, --tune-epochs on: give one of them")
    given = TrainingSetup.of(options, split_seed)
    if options.test:
        _ = given.data.test  # read now, so that what is missing or broken is found before the search
    return given


def _inside(constraint: Constraint | None) -> str:
    return "" if constraint is None else f" within {constraint}"


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
    supernet: Supernet,
    trainer: PathTrainer | None,
    *,
    more: Mapping[str, str] = MappingProxyType({}),
    retrained: Supernet | None = None,
    saved: SavedWeights | None = None,
) -> None:
    """Run the study, and show and write what it found.

    Args:
        name: the name of the search method.
        what: a text about the search, for the heading.
        options: the options of the command.
        given: what they set up.
        searcher: proposes architectures.
        supernet: is searched.
        trainer: trains it; None leaves it as it is.
        more: further values for the configuration of the run.
        retrained: gives the networks that are trained from scratch; None is the supernet.
        saved: the weights that the supernet has taken, whose search had the same images.
    """
    console, data = given.console, given.data
    teach = read_teacher(options, data) if isinstance(options, SearchOptions | ChoiceOptions) else None
    ending = _ending(options, given, retrained)
    main, replays = distributed.world().main, replayed.get()
    source = options.data.rpartition("/")[2].replace(":", "-")
    source = re.split(r"[{*?]", source)[0].rstrip("-_.") or "data"  # of train-{000..146}.tar, "train"
    directory = options.directory or Path("runs") / f"{name}-{source}"
    trackers = _trackers(options.track, directory) if main else []
    with Meter(console) as meter:
        by_depth = isinstance(supernet.space, LayerAssignmentSpace) and (
            name == "nir" or (name == "random" and not isinstance(trainer, OneShotTrainer))
        )
        display = StudyDisplay(console, meter) if by_depth else FrontDisplay(console, meter)
        evaluator = _evaluator(options, given, supernet, meter)
        if saved is not None:
            saved.check_images(evaluator)
        study = Study(
            searcher,
            evaluator,
            trainer=trainer,
            directory=directory,
            callbacks=[display, *trackers],
            baselines=0 if replays is not None else _baselines(options, saved),
            **_budget(options),
        )
        console.print(Text.assemble((name, "bold"), f" search{what} in {directory}"))
        console.print(f"{data!r}")
        console.print(f"{_title(supernet)}; {options.precision} on {setup.describe_machine(given.device)}")
        if study.seconds is not None:
            console.print(f"the search ends when {format_seconds(study.seconds)} are spent, if not before")
        if main:
            write_config(directory, options, ("search", name), more)
        with resumable(directory):
            try:
                result = study.run(resume=options.resume)
            except KeyboardInterrupt:
                if main:
                    leave_best(given, study)
                raise
    if replays is not None:
        replays.append(Replay(result, searcher, _baselines(options, saved), study.weights))
        return
    with resumable(directory):
        finish(given, study, result, dataclasses.replace(ending, distill=teach and teach(study)))


def _budget(options: SupernetSearchOptions) -> dict[str, Any]:
    """Return what bounds a search of many architectures: their number, and the seconds that it takes."""
    if not isinstance(options, BudgetOptions):
        return {}
    return {"evaluations": options.evaluations, "seconds": options.seconds}


def _trackers(names: str | None, directory: Path) -> list[Callback]:
    """Return the callbacks that --track names; ImportError where the package of one is not installed."""
    known: dict[str, Callable[[], Callback]] = {
        "tensorboard": lambda: TensorBoard(directory / "tensorboard"),
        "mlflow": lambda: MLflow(f"sqlite:///{(directory / 'mlflow.db').absolute()}"),
    }
    wanted = [] if names is None else names.split(",")
    for name in wanted:
        check_choice("--track", name, tuple(known))
    return [known[name]() for name in wanted]


def _evaluator(
    options: SupernetSearchOptions, given: TrainingSetup, supernet: Supernet, meter: Meter
) -> Evaluation:
    """Return what measures candidates: with inherited weights, or training each, which the meter shows."""
    if not _trains_each(options):
        return setup.make_evaluator(options, supernet, given.data)
    return StandaloneEvaluator(
        supernet,
        given.images,
        given.data.validation,
        given.settings,
        on_progress=watch(meter, supernet.space.name),
    )


def _trains_each(options: SupernetSearchOptions) -> bool:
    return isinstance(options, OneShotOptions) and options.standalone


def _baselines(options: SupernetSearchOptions, saved: SavedWeights | None) -> int:
    """Return with how many random architectures the winner is compared; to train them would take long."""
    if not isinstance(options, FinalistOptions) or (saved is not None and saved.favor_candidates):
        return 0
    if options.baselines is None:
        return 0 if _trains_each(options) else BASELINES
    return options.baselines


def _ending(options: SupernetSearchOptions, given: TrainingSetup, retrained: Supernet | None) -> Ending:
    """Return what the options say of the end of a search.

    Where candidates were trained from scratch, whose weights are not kept, the best is trained again.
    """
    count = options.retrain_best if isinstance(options, FinalistOptions) else 1
    if options.retrain_preset is not None:
        settings = setup.make_settings(dataclasses.replace(options, preset=options.retrain_preset))
        given = dataclasses.replace(given, settings=settings)
    return Ending(
        given,
        count=count if options.retrain or _trains_each(options) else 0,
        baseline=options.retrain,
        drawn=options.retrain_random,
        supernet=retrained,
        tune_epochs=options.tune_epochs if isinstance(options, ModelSearchOptions) else 0,
        latency_table=options.latency_table,
        test=options.test,
    )


def _title(supernet: Supernet) -> str:
    weights = f"{sum(parameter.numel() for parameter in supernet.parameters()) / 1e6:.2f} M weights"
    if isinstance(supernet, LayerAssignmentSupernet):
        deepest = supernet.space.format(supernet.space.deepest)
        return f"{type(supernet).__name__}, at most {deepest} layers, {weights}"
    return f"{type(supernet).__name__}, {supernet.space.count():.3g} architectures, {weights}"
