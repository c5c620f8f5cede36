"""Evolution whose children begin as a parent does: how much they share, and whether the search is as good.

    python -m benchmarks.record_sharing record TABLE.npz benchmarks/results/sharing.json
    python -m benchmarks.record_sharing page benchmarks/results/sharing.json docs/sharing.md

On NAS-Bench-Macro's table, regret is that of `benchmarks.record_tabular`. In MobileNet's space, which has 17
decisions, no accuracies are known, so that a made-up value takes their place: each option, and each pair of
neighbouring options, adds a normal random number. Sharing is the multiply-adds of all candidates of a
generation over those of the layers that are run, where layers that they begin with in common are run once.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import typer

import lasfast
from benchmarks import _harness
from benchmarks.record_ranking import load_table
from benchmarks.record_tabular import Problem, cell, markdown, mean_and_error
from lasfast.costs.flops import path_flops
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.measurements.tabular import TabularEvaluator
from lasfast.searchers import Evolution
from lasfast.spaces import Architecture, ProductSpace
from lasfast.supernets import MacroNet, MobileNet, Supernet

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
SHARES = (0.0, 0.5, 1.0)
BOUNDS = (0.4, 0.6, 1.0)
BUDGETS = (100, 200, 400)
GENERATIONS = BUDGETS[-1] // 50 - 1
IMAGE = (3, 32, 32)
TIMED = 5
"""The generation whose measurement is timed."""


@app.command()
def record(table: Path, output: Path, seeds: int = 100, timed_seeds: int = 3, images: int = 250) -> None:
    """Search with each share, and time the measurement of what searches ask for."""
    torch.set_num_threads(1)
    known = load_table(table)
    macro, mobilenet = MacroNet(), MobileNet("60M", 10, stem="cifar", width=0.5)
    result: dict[str, Any] = {
        "benchmark": "sharing",
        "machine": _harness.machine(),
        "seeds": seeds,
        "table": {},
        "made_up": _search_made_up(mobilenet, seeds),
    }
    for bound in BOUNDS:
        problem = Problem(known, bound)
        result["table"][f"{bound:g}"] = {
            f"{share:g}": _search_table(problem, macro, share, seeds) for share in SHARES
        }
        typer.echo(f"{bound:g}: {result['table'][f'{bound:g}']}")
    result["seconds"] = _time(mobilenet, timed_seeds, images)
    _harness.write(result, output)


def sharing(supernet: Supernet, asked: Sequence[Architecture]) -> float:
    """Return the multiply-adds of all networks over those of the layers that the prefix tree has."""
    paths = [supernet.path(one) for one in asked]
    tree = PrefixTree(paths)
    shapes = tree.shapes(IMAGE)
    run = sum(path_flops((node.layer,), shapes[at][0]) for at, node in enumerate(tree.nodes))
    return sum(path_flops(path, IMAGE) for path in paths) / run


def _search_table(problem: Problem, supernet: Supernet, share: float, seeds: int) -> dict[str, Any]:
    """Return regrets after the budgets, and the sharing of generations but the first."""
    best = problem.table.best(problem.within)[1]
    regrets, shared = [], []
    for seed in range(seeds):
        searcher = Evolution(
            problem.space, constraint=problem.within, generations=GENERATIONS, share=share, seed=seed
        )
        evaluator = TabularEvaluator(problem.table, run=seed % problem.table.accuracies.shape[1])
        seen, regret = 0.0, []
        while asked := searcher.ask():
            if regret:
                shared.append(sharing(supernet, asked))
            for one in evaluator(asked):
                searcher.tell(one.architecture, one)
                if one.top1 > seen:
                    seen, truth = one.top1, problem.truth[problem.table.row(one.architecture)]
                regret.append(100 * (best - truth))
        regrets.append([regret[budget - 1] for budget in BUDGETS])
    return {
        "regret": [mean_and_error(list(one)) for one in zip(*regrets, strict=True)],
        "sharing": round(statistics.fmean(shared), 3),
    }


def made_up(space: ProductSpace, seed: int) -> Callable[[Architecture], float]:
    """Return a value of architectures: a sum over options and over pairs of neighbouring ones."""

    def drawn(*of: int) -> float:
        return random.Random(f"{seed} {of}").gauss(0, 1)

    def value(architecture: Architecture) -> float:
        pairs = pairwise(architecture)
        alone = sum(drawn(at, option) for at, option in enumerate(architecture))
        return alone + sum(drawn(at, *pair) for at, pair in enumerate(pairs))

    return value


def _search_made_up(supernet: MobileNet, seeds: int) -> dict[str, Any]:
    """Return, by share, the highest values after the budgets, and the sharing."""
    found = {}
    for share in SHARES:
        values, shared = [], []
        for seed in range(seeds):
            value, highest = made_up(supernet.space, seed), [float("-inf")]
            searcher = Evolution(supernet.space, generations=GENERATIONS, share=share, seed=seed)
            while asked := searcher.ask():
                if len(highest) > 1 and seed < 10:
                    shared.append(sharing(supernet, asked))
                for one in asked:
                    searcher.tell(one, value(one))
                    highest.append(max(highest[-1], value(one)))
            values.append([highest[budget] for budget in BUDGETS])
        found[f"{share:g}"] = {
            "value": [mean_and_error(list(one)) for one in zip(*values, strict=True)],
            "sharing": round(statistics.fmean(shared), 3),
        }
        typer.echo(f"made up, {share:g}: {found[f'{share:g}']}")
    return found


def _time(supernet: MobileNet, seeds: int, images: int) -> dict[str, list[float]]:
    """Return, by share, the seconds for measuring a generation of each seed."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, *IMAGE, generator=generator)
    labels = torch.randint(10, (images,), generator=generator)
    evaluator = lasfast.Evaluator(supernet, pixels[:100], (pixels, labels), "native", "fp32")
    seconds: dict[str, list[float]] = {f"{share:g}": [] for share in SHARES}
    for seed in range(seeds):
        value = made_up(supernet.space, seed)
        asked_of = {}
        for share in SHARES:
            searcher = Evolution(supernet.space, generations=GENERATIONS, share=share, seed=seed)
            for _ in range(TIMED):
                for one in searcher.ask():
                    searcher.tell(one, value(one))
            asked_of[f"{share:g}"] = searcher.ask()
        if not seed:
            evaluator(asked_of["0"])  # warm up
        for name, asked in asked_of.items():
            began = time.process_time()
            evaluator(asked)
            seconds[name].append(round(time.process_time() - began, 3))
        typer.echo(f"seed {seed}: { ({name: times[-1] for name, times in seconds.items()}) }")
    return seconds


INTRODUCTION = """# Children that begin as a parent does

Candidates which begin with the same layers are measured faster together, since these layers are run once.
Random architectures have little in common, and so have the children of evolution. With
`lasfast search evolution --share S`, a share S of the children keep what a parent begins with, up to a random
decision. Is such a search as good, and how much does it save? Made from
[the record](../benchmarks/results/{record}) by `python -m benchmarks.record_sharing page`; means of {seeds}
seeds ± one standard error, 50 architectures in a generation.
"""


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the page of a record."""
    found = json.loads(source.read_text(encoding="utf-8"))
    heads = [*(f"after {budget}" for budget in BUDGETS), "sharing"]
    rows = [
        [
            "none" if bound == "1" else f"{float(bound):.0%}",
            share,
            *map(cell, one["regret"]),
            f"{one['sharing']:.2f}",
        ]
        for bound, shares in found["table"].items()
        for share, one in shares.items()
    ]
    seconds = found["seconds"]
    times = {
        share: statistics.median(a / b for a, b in zip(seconds["0"], seconds[share], strict=True))
        for share in seconds
    }
    others = [
        [share, *map(cell, one["value"]), f"{one['sharing']:.2f}", f"{times[share]:.2f}"]
        for share, one in found["made_up"].items()
    ]
    lines = [
        INTRODUCTION.format(record=source.name, seeds=found["seeds"]),
        "On NAS-Bench-Macro, regret in points after so many evaluations, within a bound on FLOPs. *Sharing* "
        "is the multiply-adds of a generation's candidates over those that are run:\n",
        *markdown(["bound", "`--share`", *heads], rows),
        "\nIn MobileNet's space of 17 decisions, with a made-up value in place of accuracy (higher is "
        "better). *Speed* is how many times faster one core measures a generation than without `--share`: "
        f"the median over {len(seconds['0'])} seeds:\n",
        *markdown(["`--share`", *heads, "speed"], others),
        "\n" + " ".join(_words(share, found["made_up"], times) for share in found["made_up"] if share != "0"),
        "",
    ]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    typer.echo(f"wrote {target}")


def _words(share: str, found: dict[str, Any], times: dict[str, float]) -> str:
    """Return the sentence that weighs what a share saves against what it loses."""
    (plain, plain_error), (value, error) = (found[one]["value"][-1] for one in ("0", share))
    lost, of = plain - value, math.hypot(error, plain_error)
    judged = "which cannot be told from nothing" if lost < 2 * of else "which is more than noise"
    return (
        f"With `--share {share}`, candidates are measured {times[share]:.1f} times faster here, and the best "
        f"after {BUDGETS[-1]} is {lost:.1f} ± {of:.1f} less, {judged}."
    )


if __name__ == "__main__":
    app()
