"""`lasfast search auto|layernas|evolution|regularized|predictor|local|pareto`: search options of layers.

The search is in a supernet that is trained beforehand, or in a table of trained networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import typer

from lasfast.cli.display import make_console
from lasfast.cli.earlier import names_run
from lasfast.cli.functions import load_function
from lasfast.cli.options import ChoiceOptions, SearchOptions, command, panel
from lasfast.cli.search_supernet import MakeSearcher, search_again, search_choices, search_model
from lasfast.cli.search_table import TableOptions, search_table
from lasfast.constraints import Constraint
from lasfast.searchers import (
    Evolution,
    LayerNAS,
    LocalSearch,
    ParetoLocalSearch,
    Predictor,
    RegularizedEvolution,
    Searcher,
)
from lasfast.searchers.choose import choose, fitting_population
from lasfast.spaces import Architecture, ChoiceSpace


@dataclass(frozen=True, kw_only=True)
class ChoiceSearchOptions(ChoiceOptions, TableOptions):
    """Options of all these searches."""

    supernet: Annotated[
        str,
        panel(
            "Supernet",
            "shufflenet-v2, proxyless or another in `lasfast spaces`, of layer assignments, too; or one of "
            "your own, FILE.py:CLASS or PACKAGE.MODULE:CLASS.",
        ),
    ] = "proxyless"
    max_layers: Annotated[
        str | None,
        panel(
            "Supernet",
            "Most layers of each group of a supernet of layer assignments, such as 6,6,6 (default: what "
            f"assignments of {SearchOptions.depth} layers need).",
        ),
    ] = None


LAYERNAS_EVALUATIONS = 1000
"""LayerNAS measures so many architectures of a supernet: to its end, it would be ten thousand or so."""


@dataclass(frozen=True, kw_only=True)
class LayerNASOptions(ChoiceSearchOptions):
    """Options of LayerNAS."""

    buckets: Annotated[int, panel("Search", "Cost buckets for each layer's candidates, H.")] = 100
    replicas: Annotated[int, panel("Search", "Candidates that a bucket keeps, k.")] = 3
    parents: Annotated[int, panel("Search", "Candidates that a step goes on from, R.")] = 2
    children: Annotated[int, panel("Search", "Children of each parent, T.")] = 2
    select: Annotated[
        str, panel("Search", "Which candidates are parents: random (the paper) or best (ours).")
    ] = "best"
    whole_layers: Annotated[
        bool,
        panel(
            "Search",
            "Take, in each step, all children of all candidates of a layer (Algorithm 2).",
            "--whole-layers",
        ),
    ] = False
    evaluations: Annotated[
        int | None,
        panel(
            "Search",
            f"Architectures to measure at most (default: {LAYERNAS_EVALUATIONS}; in a table, to the search's "
            "own end).",
        ),
    ] = None
    default: Annotated[
        str | None,
        panel(
            "Search",
            "The architecture whose options layers have before they are searched (default: the dearest).",
        ),
    ] = None
    phi: Annotated[
        str | None,
        panel(
            "Search",
            "A function that gives the bucket of an architecture, in place of Eq. 4: FILE.py:FUNCTION or "
            "PACKAGE.MODULE:FUNCTION.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EvolutionOptions(ChoiceSearchOptions):
    """Options of evolutionary search."""

    population: Annotated[
        int | None,
        panel("Search", "Architectures of a generation, P (default: 50; 20 for up to 200 --evaluations)."),
    ] = None
    generations: Annotated[
        int | None,
        panel(
            "Search", "Generations after the first, T (default: 20; with --evaluations, as many as it takes)."
        ),
    ] = None
    top: Annotated[int, panel("Search", "How many of the best so far are parents, k.")] = 10
    probability: Annotated[float, panel("Search", "Probability that a decision mutates.")] = 0.1
    share: Annotated[
        float,
        panel("Search", "Share of children that begin as a parent does, which are measured faster together."),
    ] = 0.0


@dataclass(frozen=True, kw_only=True)
class RegularizedEvolutionOptions(ChoiceSearchOptions):
    """Options of regularized evolution."""

    population: Annotated[
        int | None, panel("Search", "Members, P (default: 50; 20 for up to 200 --evaluations).")
    ] = None
    sample: Annotated[int, panel("Search", "How many members a parent is the best of, S.")] = 10
    evaluations: Annotated[int, panel("Search", "Architectures to measure in all.")] = 1000
    children: Annotated[int, panel("Search", "Children of a step.")] = 1


@dataclass(frozen=True, kw_only=True)
class LocalSearchOptions(ChoiceSearchOptions):
    """Options of local search."""

    evaluations: Annotated[int, panel("Search", "Architectures to measure in all.")] = 200
    children: Annotated[int, panel("Search", "Neighbours of a step, of which the best counts.")] = 1


@dataclass(frozen=True, kw_only=True)
class AutoOptions(ChoiceSearchOptions):
    """Options of the search that is chosen by its budget."""

    evaluations: Annotated[int, panel("Search", "Architectures to measure in all.")] = 200


@dataclass(frozen=True, kw_only=True)
class ParetoOptions(ChoiceSearchOptions):
    """Options of Pareto local search."""

    initial: Annotated[int, panel("Search", "Random architectures to begin with.")] = 10
    evaluations: Annotated[int, panel("Search", "Architectures to measure in all.")] = 400
    children: Annotated[int, panel("Search", "Neighbours of a step, which are measured together.")] = 1


@dataclass(frozen=True, kw_only=True)
class PredictorOptions(ChoiceSearchOptions):
    """Options of predictor-guided search."""

    initial: Annotated[int, panel("Search", "Random architectures to begin with.")] = 10
    evaluations: Annotated[int, panel("Search", "Architectures to measure in all.")] = 200
    children: Annotated[int, panel("Search", "Architectures of a step, which are measured together.")] = 5


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""

    @command(app, "auto", AutoOptions)
    def auto(options: AutoOptions) -> None:
        """Search with what fits the number of evaluations: a predictor, or evolution.

        A predictor says what to measure for up to 1,000 evaluations; beyond, a population evolves.

        **Examples**

        lasfast search auto --data cifar10 --supernet proxyless --constraint "flops<=60M" --evaluations 500

        lasfast search auto --table nasbench_macro.npz --constraint "flops<=42M" --evaluations 100
        """

        def make(space: ChoiceSpace, constraint: Constraint | None) -> Searcher:
            return choose(space, constraint=constraint, evaluations=options.evaluations, seed=options.seed)

        _search("auto", options, make)

    @command(app, "pareto", ParetoOptions)
    def pareto(options: ParetoOptions) -> None:
        """Improve the whole front of accuracy and a cost, by neighbours of what is on it.

        The cost is the first one of the constraint; flops>=0 bounds nothing.

        **Examples**

        lasfast search pareto --data cifar10 --constraint "flops<=50M" --children 20

        lasfast search pareto --table nasbench_macro.npz --constraint "flops>=0" --evaluations 400
        """

        def make(space: ChoiceSpace, constraint: Constraint | None) -> Searcher:
            if constraint is None:
                raise ValueError("--constraint must be given: it names the cost of the front, as flops>=0")
            return ParetoLocalSearch(
                space,
                cost=constraint.costs[constraint.bounds[0].cost],
                constraint=constraint,
                initial=options.initial,
                evaluations=options.evaluations,
                children=options.children,
                seed=options.seed,
            )

        _search("pareto", options, make)

    @command(app, "layernas", LayerNASOptions)
    def layernas(options: LayerNASOptions) -> None:
        """Search layer by layer within a cost (LayerNAS).

        The first bound of the constraint is the target, and its cost fills the buckets. A lower bound beside
        the upper one makes the search shorter.

        **Examples**

        lasfast search layernas --data cifar10 --supernet proxyless --constraint "flops<=60M"

        lasfast search layernas --data cifar10 --supernet mobilenet-60m --constraint "flops<=20M" --standalone
        --standalone-epochs 5 --evaluations 50

        lasfast search layernas --table nasbench_macro.npz --constraint "flops<=42M"

        lasfast search layernas --table t.npz --constraint "flops>=38M,flops<=42M" --whole-layers --buckets 10
        """
        _search("layernas", options, lambda space, within: _layernas(options, space, within))

    @command(app, "evolution", EvolutionOptions)
    def evolution(options: EvolutionOptions) -> None:
        """Evolve a population by crossover and mutation (Single Path One-Shot, Algorithm 1).

        **Examples**

        lasfast search evolution --data cifar10 --supernet shufflenet-v2 --constraint "flops<=100M" --retrain

        lasfast search evolution --supernet residual --max-layers 6,6,6 --constraint "flops<=50%"

        lasfast search evolution --model timm:resnet18 --weights mine.safetensors --data imagefolder:photos
        --constraint "flops<=50%" --adapt-epochs 5

        lasfast search evolution --weights runs/evolution-cifar10 --constraint "flops<=90M" -o runs/smaller

        lasfast search evolution --table nasbench_macro.npz --constraint "flops<=42M,params<=2M"

        lasfast search evolution --table mine.csv --architecture-column architecture --accuracy-column top1

        torchrun --nproc-per-node 2 -m lasfast search evolution --data cifar10 --supernet shufflenet-v2
        """

        def make(space: ChoiceSpace, constraint: Constraint | None) -> Searcher:
            population = options.population or fitting_population(options.evaluations)
            generations = options.generations
            if generations is None:
                wanted = options.evaluations
                generations = 20 if wanted is None else max(0, math.ceil(wanted / population) - 1)
            return Evolution(
                space,
                constraint=constraint,
                population=population,
                generations=generations,
                top=options.top,
                probability=options.probability,
                share=options.share,
                seed=options.seed,
            )

        _search("evolution", options, make)

    @command(app, "regularized", RegularizedEvolutionOptions)
    def regularized_evolution(options: RegularizedEvolutionOptions) -> None:
        """Evolve a population in which the oldest makes room (Real et al., AAAI 2019).

        **Examples**

        lasfast search regularized --data cifar10 --constraint "flops<=60M" --evaluations 500

        lasfast search regularized --table nasbench_macro.npz --constraint "flops<=42M"
        """

        def make(space: ChoiceSpace, constraint: Constraint | None) -> Searcher:
            return RegularizedEvolution(
                space,
                constraint=constraint,
                population=options.population or fitting_population(options.evaluations),
                sample=options.sample,
                evaluations=options.evaluations,
                children=options.children,
                seed=options.seed,
            )

        _search("regularized", options, make)

    @command(app, "predictor", PredictorOptions)
    def predictor(options: PredictorOptions) -> None:
        """Measure what a Gaussian process expects most of; the best choice for few measurements.

        **Examples**

        lasfast search predictor --data cifar10 --constraint "flops<=60M" --evaluations 300 --children 20

        lasfast search predictor --table nasbench_macro.npz --constraint "flops<=42M" --evaluations 100
        """

        def make(space: ChoiceSpace, constraint: Constraint | None) -> Searcher:
            return Predictor(
                space,
                constraint=constraint,
                initial=options.initial,
                evaluations=options.evaluations,
                children=options.children,
                seed=options.seed,
            )

        _search("predictor", options, make)

    @command(app, "local", LocalSearchOptions)
    def local_search(options: LocalSearchOptions) -> None:
        """Climb from random architectures to better neighbours, as a baseline.

        **Examples**

        lasfast search local --data cifar10 --constraint "flops<=60M" --children 20

        lasfast search local --table nasbench_macro.npz --constraint "flops<=42M" --evaluations 200
        """

        def make(space: ChoiceSpace, constraint: Constraint | None) -> Searcher:
            return LocalSearch(
                space,
                constraint=constraint,
                evaluations=options.evaluations,
                children=options.children,
                seed=options.seed,
            )

        _search("local", options, make)


def _search(name: str, options: ChoiceSearchOptions, make: MakeSearcher) -> None:
    if options.table is not None:
        search_table(name, options, options, make)
    elif names_run(options):
        search_again(name, options, make)
    elif options.model is not None:
        search_model(name, options, make, options.vary)
    else:
        search_choices(name, options, make)


def _layernas(options: LayerNASOptions, space: ChoiceSpace, constraint: Constraint | None) -> LayerNAS:
    if constraint is None:
        raise ValueError(
            "--constraint must be given: LayerNAS searches within a cost, as flops<=42M, or flops>=0 for any"
        )
    target, *others = constraint.bounds
    if math.isinf(target.low) and math.isfinite(target.high):
        low, high = target.quantity(0.9 * target.high), target.quantity(target.high)
        make_console(options.quiet).print(
            f"a range finds more with fewer evaluations: --constraint '{low}<={target.cost}<={high}'"
        )
    most = None if options.table is not None else LAYERNAS_EVALUATIONS
    return LayerNAS(
        space,
        cost=constraint.costs[target.cost],
        target=(target.low, target.high),
        buckets=options.buckets,
        replicas=options.replicas,
        parents=None if options.whole_layers else options.parents,
        children=None if options.whole_layers else options.children,
        select=options.select,
        default=None if options.default is None else _default(space, options.default),
        constraint=Constraint(others, constraint.costs) if others else None,
        phi=None if options.phi is None else load_function("--phi", options.phi),
        evaluations=most if options.evaluations is None else options.evaluations,
        seed=options.seed,
    )


def _default(space: ChoiceSpace, text: str) -> Architecture:
    try:
        return space.parse(text)
    except ValueError as error:
        raise ValueError(f"--default {text}: {error}") from error
