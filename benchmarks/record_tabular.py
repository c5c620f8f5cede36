"""Searchers compared on a table of trained networks: regret after so many evaluations, over many seeds.

    python -m benchmarks.record_tabular record TABLE.npz benchmarks/results/searchers-macro.json
    python -m benchmarks.record_tabular plot benchmarks/results/searchers-macro.json docs/searchers.png
    python -m benchmarks.record_tabular page benchmarks/results/searchers-macro.json docs/searchers.md

A searcher sees one training run of each network (seed % runs), as a real search would. Regret is the highest
mean accuracy of all networks within the constraint, less the mean accuracy of the network that the searcher
would return. Every evaluation counts, also those of networks that cost more than the constraint allows.
LayerNAS depends on the order of the layers, which is another one for each seed.

`--optuna N` adds Optuna's samplers with N seeds, where nothing is bounded: it takes them seconds a search,
and minutes within a bound.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import random
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import typer

from benchmarks import _harness
from benchmarks._optuna import Optuna
from benchmarks._replay import play, regrets
from lasfast.measurements.measurement import Measurement
from lasfast.measurements.schema import Schema
from lasfast.measurements.table import ArchitectureTable
from lasfast.measurements.tabular import TabularEvaluator
from lasfast.report import plot_regret
from lasfast.searchers import (
    Evolution,
    LayerNAS,
    LocalSearch,
    ParetoLocalSearch,
    Predictor,
    Random,
    RegularizedEvolution,
    Searcher,
)
from lasfast.searchers.operators import pareto_front
from lasfast.spaces import Architecture, ChoiceSpace

app = typer.Typer(help=__doc__, no_args_is_help=True)

SHARES = (0.4, 0.6, 0.8, 1.0)  # the bounds, as fractions of the largest FLOPs; the last bounds nothing
BUDGETS = (50, 100, 200, 400)
LONGEST = 400  # evaluations of searchers that do not end by themselves
FEW = 200  # evaluations of those that take long to propose
TUNED_AT, TUNING_SEEDS, TUNING_BUDGET = 0.6, 20, 100
"""The bound at which settings of LayerNAS are chosen, by the mean regret of so many seeds after a budget."""


class Problem:
    """A table of trained networks, and a bound on FLOPs."""

    def __init__(self, table: ArchitectureTable, share: float) -> None:
        self.table = table
        self.share = share
        self.space: ChoiceSpace = table.space()
        self.flops = table.cost("flops")
        self.limit = share * float(max(table.costs["flops"]))
        self.truth: list[float] = table.accuracies.mean(axis=1).tolist()

    def within(self, architecture: Architecture) -> bool:
        """Return whether a network is within the bound."""
        return self.flops(architecture) <= self.limit

    def judged(self, architecture: Architecture) -> float | None:
        """Return the mean accuracy of a network; None if it is not within the bound."""
        return self.truth[self.table.row(architecture)] if self.within(architecture) else None

    def shuffled(self, seed: int) -> Problem:
        """Return the same problem with the layers in another order."""
        architectures = np.array(self.table.architectures)
        order = random.Random(f"order {seed}").sample(range(architectures.shape[1]), architectures.shape[1])
        table = ArchitectureTable(architectures[:, order], self.table.accuracies, self.table.costs)
        return Problem(table, self.share)

    def layernas(self, seed: int, **settings: Any) -> LayerNAS:
        """Return LayerNAS with a target of 90 to 100 % of the bound; from 0 on where nothing is bounded."""
        target = (0.9 * self.limit if self.share < 1 else 0.0, self.limit)
        return LayerNAS(
            self.space, cost=self.flops, target=target, evaluations=LONGEST, seed=seed, **settings
        )


Make: TypeAlias = Callable[[Problem, int], Searcher | Optuna]
"""Makes the searcher of a problem and a seed."""

LAYERNAS = "LayerNAS"
METHODS: dict[str, Make] = {
    "random": lambda problem, seed: Random(
        problem.space, samples=LONGEST, constraint=problem.within, seed=seed
    ),
    "regularized evolution, 50 members": lambda problem, seed: RegularizedEvolution(
        problem.space, constraint=problem.within, population=50, evaluations=LONGEST, seed=seed
    ),
    "regularized evolution, 20 members": lambda problem, seed: RegularizedEvolution(
        problem.space, constraint=problem.within, population=20, evaluations=LONGEST, seed=seed
    ),
    "evolution, generations of 50": lambda problem, seed: Evolution(
        problem.space, constraint=problem.within, generations=LONGEST // 50 - 1, seed=seed
    ),
    "evolution, generations of 20": lambda problem, seed: Evolution(
        problem.space, constraint=problem.within, population=20, generations=LONGEST // 20 - 1, seed=seed
    ),
    "local search": lambda problem, seed: LocalSearch(
        problem.space, constraint=problem.within, evaluations=LONGEST, seed=seed
    ),
    "predictor": lambda problem, seed: Predictor(
        problem.space, constraint=problem.within, evaluations=FEW, seed=seed
    ),
    LAYERNAS: lambda problem, seed: problem.layernas(seed),
    f"{LAYERNAS}, best parents": lambda problem, seed: problem.layernas(seed, select="best"),
}
TUNINGS: dict[str, dict[str, Any]] = {
    f"{LAYERNAS}, 100 buckets of 3, the best parent": {"select": "best", "parents": 1},
    f"{LAYERNAS}, 20 buckets of 3, best parents": {"buckets": 20, "select": "best"},
    f"{LAYERNAS}, 20 buckets of 1, best parents": {"buckets": 20, "replicas": 1, "select": "best"},
    f"{LAYERNAS}, 5 buckets of 3, best parents": {"buckets": 5, "select": "best"},
    f"{LAYERNAS}, 5 buckets of 2, whole layers": {
        "buckets": 5,
        "replicas": 2,
        "parents": None,
        "children": None,
    },
}
"""Settings of LayerNAS to choose from."""
TPE, NSGA, PARETO = "Optuna's TPE", "Optuna's NSGA-II", "Pareto local search"
OTHERS: dict[str, Make] = {
    TPE: lambda problem, seed: Optuna("TPESampler", problem.space, FEW, seed),
    NSGA: lambda problem, seed: Optuna("NSGAIISampler", problem.space, LONGEST, seed, problem.flops),
    PARETO: lambda problem, seed: ParetoLocalSearch(
        problem.space, cost=problem.flops, evaluations=LONGEST, seed=seed
    ),
}
"""Optuna's, and searchers of whole fronts."""

Run: TypeAlias = tuple[dict[str, Any], list[Measurement]]
"""A searcher's description, and what it measured, in order."""
_problems: dict[float, Problem] = {}


def _load(path: Path, accuracy: str) -> None:
    table = ArchitectureTable.load(path, Schema(accuracy=accuracy))
    _problems.update({share: Problem(table, share) for share in SHARES})


def _make(name: str, problem: Problem, seed: int) -> Searcher | Optuna:
    if name in TUNINGS:
        return problem.layernas(seed, **TUNINGS[name])
    return {**METHODS, **OTHERS}[name](problem, seed)


def _run(name: str, problem: Problem, seed: int) -> Run:
    """Search a problem on one training run of each network."""
    evaluator = TabularEvaluator(problem.table, run=seed % problem.table.accuracies.shape[1])
    searcher = _make(name, problem, seed)
    measured = list(play(searcher, evaluator))
    return searcher.describe(), measured


def _regrets(job: tuple[str, float, int]) -> tuple[dict[str, Any], list[float | None]]:
    """Run one search; return its settings, and the regret after each evaluation (None before a valid one)."""
    name, share, seed = job
    problem = _problems[share].shuffled(seed) if name.startswith(LAYERNAS) else _problems[share]
    best = problem.table.best(problem.within)[1]
    settings, measured = _run(name, problem, seed)
    return settings, regrets(measured, problem.judged, best)


def _hypervolumes(job: tuple[str, int]) -> list[float]:
    """Run one search without a bound; return the share of the hypervolume that it has after each budget."""
    name, seed = job
    problem = _problems[SHARES[-1]]
    asked = [one.architecture for one in _run(name, problem, seed)[1]]
    whole = _hypervolume(problem, problem.table.architectures)
    return [100 * _hypervolume(problem, asked[:budget]) / whole for budget in BUDGETS]


def _hypervolume(problem: Problem, architectures: Sequence[Architecture]) -> float:
    """Return the area of FLOPs and mean accuracy that architectures dominate, up to the worst of all."""
    values = [(one, problem.truth[problem.table.row(one)]) for one in architectures]
    area, below = 0.0, min(problem.truth)
    for architecture, value in pareto_front(values, problem.flops):
        area += (problem.limit - problem.flops(architecture)) * (value - below)
        below = value
    return area


@app.command()
def record(
    table: Path,
    output: Path,
    accuracy: str = "test_acc",
    seeds: int = 100,
    optuna: int = 0,
    processes: int = 2,
) -> None:
    """Run all searches and write the record; the table must have several training runs of each network.

    What the record has already is not run again, so that this can be stopped and goes on.
    """
    _load(table, accuracy)
    found: dict[str, Any] = {"tuning": {}, "problems": {}, "fronts": {}}
    if output.exists():
        found = json.loads(output.read_text(encoding="utf-8"))

    def add(where: dict[str, Any], name: str, make: Callable[[], Any]) -> None:
        if name not in where:
            print(name, flush=True)
            where[name] = make()
            about = {"record": "tabular", "machine": _harness.machine(), "seeds": seeds}
            about["table"] = {"file": table.name, "rows": len(_problems[SHARES[0]].table)}
            _harness.write(found | about, output)

    with multiprocessing.Pool(processes, _load, (table, accuracy)) as pool:
        for name in TUNINGS:
            add(found["tuning"], name, partial(_tuned, pool, name))
        tuned = min(TUNINGS, key=lambda name: found["tuning"][name][0])
        for share in reversed(SHARES):
            problem = found["problems"].setdefault(_title(share), _about(share))
            for name in (*METHODS, tuned):
                add(problem["methods"], name, partial(_played, pool, name, share, seeds))
            if optuna and share == SHARES[-1]:
                add(problem["methods"], TPE, partial(_played, pool, TPE, share, optuna))
        for name in ("random", "evolution, generations of 50", PARETO):
            add(found["fronts"], name, partial(_fronts, pool, name, seeds))
        if optuna:
            add(found["fronts"], NSGA, partial(_fronts, pool, NSGA, optuna))


def _title(share: float) -> str:
    return f"{share:.0%} of the largest FLOPs" if share < 1 else "No bound"


def _tuned(pool: Pool, name: str) -> list[float | None]:
    """Return the mean regret of settings of LayerNAS at the bound where they are chosen, with its error."""
    runs = pool.map(_regrets, [(name, TUNED_AT, seed) for seed in range(TUNING_SEEDS)])
    return _regret_after([curve for _, curve in runs], TUNING_BUDGET)


def _fronts(pool: Pool, name: str, seeds: int) -> dict[str, Any]:
    """Return the mean shares of the hypervolume after each budget, with their errors."""
    runs = pool.map(_hypervolumes, [(name, seed) for seed in range(seeds)])
    return {"seeds": seeds, "hypervolume": [mean_and_error(list(one)) for one in zip(*runs, strict=True)]}


def _about(share: float) -> dict[str, Any]:
    """Return the record of one problem, without methods: the bound and the optimum."""
    problem = _problems[share]
    architecture, accuracy = problem.table.best(problem.within)
    return {
        "limit": problem.limit,
        "networks_within": sum(map(problem.within, problem.table.architectures)),
        "best": {"architecture": list(architecture), "accuracy": 100 * accuracy},
        "methods": {},
    }


def _played(pool: Pool, name: str, share: float, seeds: int) -> dict[str, Any]:
    """Return a method's settings, how many evaluations it made, and its regret after some."""
    runs = pool.map(_regrets, [(name, share, seed) for seed in range(seeds)])
    curves = [curve for _, curve in runs]
    ends = [len(curve) for curve in curves]
    settings = {key: value for key, value in runs[0][0].items() if key not in ("space", "seed", "cost")}
    return {
        "seeds": seeds,
        "settings": settings,
        "evaluations": {"mean": statistics.mean(ends), "least": min(ends), "most": max(ends)},
        "points": [[at, *_regret_after(curves, at)] for at in sorted({*BUDGETS, *_logarithmic(max(ends))})],
    }


def _regret_after(curves: list[list[float | None]], after: int) -> list[float | None]:
    """Return the mean regret and its standard error after so many evaluations, or at the end of a search."""
    regrets = [curve[min(after, len(curve)) - 1] for curve in curves]
    known = [regret for regret in regrets if regret is not None]
    return [None, None] if len(known) < len(regrets) else [*mean_and_error(known)]


def mean_and_error(numbers: list[float]) -> list[float]:
    """Return a mean and its standard error."""
    error = statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else 0.0
    return [round(statistics.mean(numbers), 4), round(error, 4)]


def _logarithmic(most: int) -> set[int]:
    """Return numbers of evaluations, eight for each factor of ten."""
    return {round(10 ** (exponent / 8)) for exponent in range(int(8 * math.log10(most)) + 1)}


DRAWN = (
    "random",
    "regularized evolution, 20 members",
    "evolution, generations of 20",
    "local search",
    "predictor",
    f"{LAYERNAS}, best parents",
)
"""These six have a color each; the tables have the others, too."""


@app.command()
def plot(source: Path, output: Path) -> None:
    """Draw the regrets of some searchers."""
    problems = json.loads(source.read_text(encoding="utf-8"))["problems"]
    panels = {
        title: {name: problem["methods"][name]["points"] for name in DRAWN if name in problem["methods"]}
        for title, problem in problems.items()
    }
    print(plot_regret(panels, output))


@app.command()
def page(source: Path, output: Path) -> None:
    """Write the tables of a record as a page."""
    record = json.loads(source.read_text(encoding="utf-8"))
    lines = [INTRODUCTION.format(**record["table"], seeds=record["seeds"], record=source.name)]
    played = [len(problem["methods"]) for problem in record["problems"].values()]
    if len(played) < len(SHARES) or min(played) <= len(METHODS) or not record["fronts"]:
        lines.append(PARTIAL)
    for title, problem in record["problems"].items():
        lines += [f"## {title}\n", _best(problem), "", *_table(problem), ""]
    lines += ["## LayerNAS' settings\n", TUNING, *_tuning_table(record["tuning"]), ""]
    if record["fronts"]:
        lines += ["## Fronts\n", HYPERVOLUME, *_fronts_table(record["fronts"]), ""]
    output.write_text("\n".join(lines), encoding="utf-8")
    print(output)


INTRODUCTION = """# Searchers on a table of trained networks

`{file}` ({rows} networks, each trained several times), {seeds} seeds unless said otherwise, from
[the record](../benchmarks/results/{record}) by `python -m benchmarks.record_tabular page`. Regret is in
percentage points of mean accuracy, to the best network within the FLOPs, ± one standard error over the seeds.
A searcher sees one training run of each network, as a real search does, so that even a search of all networks
has a regret. Every network that is measured counts, those that LayerNAS measures outside the constraint
included.

- The *predictor* and Optuna's TPE end after FEW evaluations; *after 400* has what they found by then.
- *LayerNAS*: 100 buckets of 3 candidates, 2 children of 2 parents, which are random as in the paper or the
  best (ours). The target is a range, as in the paper's appendix I, from 90 to 100 % of the bound; where
  nothing is bounded, it is everything. Layers are searched in another order for each seed. The last row has
  settings that were [chosen at one bound](#layernas-settings).
- The table is small: 400 evaluations are a sixteenth of it, and a third of what is within 40 % of the FLOPs.
  What holds here need not hold in a space of 10^20.

![Mean regret against evaluations](searchers.png)
""".replace("FEW", str(FEW))
PARTIAL = """The record is not complete: bounds, searchers and fronts that no table here has were not run yet.
"""
TUNING = f"""Mean regret within {TUNED_AT:.0%} of the FLOPs after {TUNING_BUDGET} evaluations, {TUNING_SEEDS}
seeds. The settings with the least are judged above, at the other bounds, too.
"""
HYPERVOLUME = """The share of the hypervolume of FLOPs and mean accuracy, in percent of that of all networks,
where nothing is bounded.
"""


def _best(problem: dict[str, Any]) -> str:
    best = problem["best"]
    text = "-".join(map(str, best["architecture"]))
    return (
        f"{problem['networks_within']:,} networks within {problem['limit'] / 1e6:.1f} M multiply-adds; "
        f"the best is {text}, {best['accuracy']:.2f} %."
    )


def _table(problem: dict[str, Any]) -> list[str]:
    rows = []
    for name, one in problem["methods"].items():
        points = {at: regret for at, *regret in one["points"]}
        rows.append([name, one["seeds"], *(cell(points[budget]) for budget in BUDGETS)])
    return markdown(["searcher", "seeds", *(f"after {budget}" for budget in BUDGETS)], rows)


def _tuning_table(tuning: dict[str, Any]) -> list[str]:
    return markdown(["settings", "regret"], [[name, cell(one)] for name, one in tuning.items()])


def _fronts_table(fronts: dict[str, Any]) -> list[str]:
    rows = [[name, one["seeds"], *map(cell, one["hypervolume"])] for name, one in fronts.items()]
    return markdown(["searcher", "seeds", *(f"after {budget}" for budget in BUDGETS)], rows)


def markdown(heads: list[str], rows: list[list[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (heads, ["---"] * len(heads), *rows)]


def cell(of: Sequence[float | None]) -> str:
    mean, error = of
    return "none yet" if mean is None else f"{mean:.2f} ± {error:.2f}"


if __name__ == "__main__":
    app()
