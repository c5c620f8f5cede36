"""Does a supernet rank networks? One-shot accuracies in NAS-Bench-Macro's space against trained ones.

    python -m benchmarks.record_ranking train runs/ranking/uniform
    python -m benchmarks.record_ranking train runs/ranking/uniform-cost --sampling uniform-cost
    python -m benchmarks.record_ranking measure runs/ranking/uniform TABLE.npz
    python -m benchmarks.record_ranking measure runs/ranking/uniform TABLE.npz --begin 1250
    python -m benchmarks.record_ranking record runs/ranking TABLE.npz benchmarks/results/ranking-macro.json
    python -m benchmarks.record_ranking page benchmarks/results/ranking-macro.json docs/ranking.md

`train` trains the supernet of NAS-Bench-Macro's space on CIFAR-10. `measure` checks multiply-adds and
parameters of all 6,561 architectures against the table, to the digit, and measures each network (3,969 are
different) with inherited weights on images that nothing was trained on. It keeps in the directory which
images each got right, so that a second run goes on. `record` compares what was measured in all directories
with the table, and lets searchers choose by it. `page` writes the page.

The table's accuracies are of CIFAR-10's test images; one-shot accuracies are of held-out training images.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from scipy.stats import kendalltau

import lasfast
from benchmarks import _harness
from benchmarks._replay import play, regrets
from benchmarks.record_tabular import LAYERNAS, SHARES, Problem, cell, markdown, mean_and_error
from lasfast import costs
from lasfast.data import Dataset
from lasfast.evaluation.scoring import evaluate_network
from lasfast.measurements.schema import Schema
from lasfast.measurements.table import ArchitectureTable
from lasfast.measurements.tabular import TabularEvaluator
from lasfast.searchers import LocalSearch, Predictor, Random, RegularizedEvolution, Searcher
from lasfast.spaces import Architecture
from lasfast.supernets import MacroNet
from lasfast.train import OneShotTrainer, TrainSettings, UniformCostSampler, checkpoint, preset

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
SIZE = (32, 32)
CHUNK = 81
"""Architectures that are measured between two notes of the file: those with the same first four decisions."""
BANDS = 10
BUDGETS = (50, 100, 200, 400)
IMAGES = (125, 250, 500, 1000, 2000)
DRAWS = 20
"""So many samples of some of the images are drawn."""
SAMPLE, FEW = 200, 250
"""How many networks are measured at earlier epochs, and without recalibration; the latter on a few images."""


def load(data: str) -> Dataset:
    """Return CIFAR-10 with 5,000 images held out, which the one-shot accuracies are of."""
    return lasfast.data.load(data, validation=5000, calibration=500)


def load_table(path: Path) -> ArchitectureTable:
    """Return the table, accuracies in three runs."""
    return ArchitectureTable.load(path, Schema(accuracy="test_acc"))


def make(classes: int = 10) -> MacroNet:
    """Return the supernet with its first weights."""
    torch.manual_seed(0)
    return MacroNet(classes)


def settings_of(epochs: int, precision: str) -> TrainSettings:
    """Return how the supernet is trained.

    The rate is half of that of the table's networks, and rises to it in an epoch: from the first batch on,
    theirs makes losses of 4 and more, which cost most of an epoch.
    """
    return preset(
        "small",
        batch_size=128,
        learning_rate=0.05,
        supernet_ramp_epochs=1,
        weight_decay=5e-4,
        supernet_epochs=epochs,
        precision=precision,
    )


@app.command()
def train(
    directory: Path,
    sampling: str = "uniform",
    epochs: int = 16,
    data: str = "imagefolder:data/cifar10",
    precision: str = "bf16",
    threads: int = 1,
) -> None:
    """Train a supernet, and keep its weights after a quarter, a half and all of the epochs."""
    torch.set_num_threads(threads)
    directory.mkdir(parents=True, exist_ok=True)
    images, supernet = load(data), make()
    flops = costs.functions(supernet, SIZE)["flops"]
    sampler = UniformCostSampler(supernet.space, flops) if sampling == "uniform-cost" else None
    trainer = OneShotTrainer(supernet, images.train, settings_of(epochs, precision), sampler=sampler)
    about = {"sampling": sampling, "epochs": epochs, "precision": precision, "seconds": 0.0, "done": 0}
    state, noted = directory / "state.safetensors", directory / "training.json"
    start = 0
    if noted.exists():
        about = json.loads(noted.read_text(encoding="utf-8"))
        tensors, values = checkpoint.load(state)
        trainer.load_state(tensors, values["trainer"])
        start = about["done"] * trainer.batches
    before = about["seconds"] - time.process_time()
    for progress in trainer.train(0, start=start):
        if progress.last_of_epoch:
            done = progress.epoch + 1
            tensors, values = trainer.state()
            checkpoint.save(state, tensors, {"trainer": values})
            if done in (epochs // 4, epochs // 2, epochs):
                checkpoint.save(directory / f"epoch{done}.safetensors", supernet.state_dict(), {})
            about |= {"done": done, "seconds": before + time.process_time()}
            noted.write_text(json.dumps(about), encoding="utf-8")
            typer.echo(f"epoch {done}: loss {progress.loss:.3f}, {about['seconds']:.0f} CPU s")


def networks(supernet: MacroNet) -> list[Architecture]:
    """Return an architecture of each different network of the space, in order."""
    return sorted({supernet.space.key(one) for one in supernet.space.enumerate()})


def check_costs(supernet: MacroNet, table: ArchitectureTable) -> None:
    """Compare multiply-adds and parameters of all architectures with the table's; AssertionError if not."""
    ours = costs.functions(supernet, SIZE)
    for name in ("flops", "params"):
        theirs = table.cost(name)
        wrong = [one for one in table.architectures if ours[name](one) != theirs(one)]
        assert not wrong, f"{len(wrong)} architectures have other {name}, such as {wrong[0]}"


@app.command()
def measure(
    directory: Path,
    table: Path,
    data: str = "imagefolder:data/cifar10",
    precision: str = "bf16",
    begin: int = 0,
    count: int = 1250,
    some: int = 0,
    threads: int = 1,
) -> None:
    """Measure networks with the weights that were trained, and a few with those of earlier epochs.

    Of the images, which are in random order, `count` are predicted from `begin` on; a second run with the
    next ones adds to the first. `some` is how many random networks are measured; 0 measures all.
    """
    torch.set_num_threads(threads)
    images, supernet = load(data), make()
    check_costs(supernet, load_table(table))
    about = json.loads((directory / "training.json").read_text(encoding="utf-8"))
    epochs = about["epochs"]
    pixels, labels = images.validation
    # In a random order, so that the first images are a sample of all.
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    taken = order[begin : begin + count]
    validation = pixels[taken], labels[taken]
    # A sample's beginning is a sample, too.
    shuffled = random.Random("sample").sample(all_networks := networks(supernet), len(all_networks))
    sample, wanted = sorted(shuffled[:SAMPLE]), sorted(shuffled[: some or None])
    for done in (epochs, epochs // 4, epochs // 2):
        supernet.load_state_dict(checkpoint.load(directory / f"epoch{done}.safetensors")[0])
        asked = wanted if done == epochs else sample
        evaluator = lasfast.Evaluator(supernet, images.calibration, validation, "native", precision)
        _measure(evaluator, asked, directory / f"measured-epoch{done}-from{begin:04d}.json")
    supernet.load_state_dict(checkpoint.load(directory / f"epoch{epochs}.safetensors")[0])
    plain = directory / "measured-without-recalibration.json"
    if not plain.exists():
        few = pixels[order[:FEW]], labels[order[:FEW]]
        rows = []
        for one in sample:
            found = evaluate_network(supernet.extract(one), few, one, precision=precision)
            rows.append({"architecture": one, "correct": found.correct.hex()})
        found = {"seconds": 0.0, "images": len(few[1]), "rows": rows}
        plain.write_text(json.dumps(found), encoding="utf-8")


def _measure(evaluator: lasfast.Evaluator, asked: list[Architecture], path: Path) -> None:
    """Measure networks by an evaluator, in chunks; the file keeps what was measured."""
    found: dict[str, Any] = {"seconds": 0.0, "images": len(evaluator.validation[1]), "rows": []}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
    while rest := asked[len(found["rows"]) :]:
        began = time.process_time()
        for one in evaluator(rest[:CHUNK]):
            found["rows"].append({"architecture": one.architecture, "correct": one.correct.hex()})
        found["seconds"] += time.process_time() - began
        path.write_text(json.dumps(found), encoding="utf-8")
        rate = len(found["rows"]) / found["seconds"]
        typer.echo(f"{path.stem}: {len(found['rows'])} of {len(asked)}, {rate:.2f} a CPU second")


def read(directory: Path, name: str) -> tuple[list[Architecture], np.ndarray, float]:
    """Return the architectures of some files, which images each got right (bool [N, images]), and seconds.

    The files are those of one measurement, each of other images.
    """
    asked: list[Architecture] = []
    parts, seconds = [], 0.0
    for path in sorted(directory.glob(f"{name}*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        bits = [np.frombuffer(bytes.fromhex(row["correct"]), np.uint8) for row in found["rows"]]
        parts.append(np.unpackbits(np.stack(bits), axis=1, count=found["images"]).astype(bool))
        measured = [tuple(row["architecture"]) for row in found["rows"]]
        assert asked in ([], measured), f"{path} must have the networks of the files before it"
        asked, seconds = measured, seconds + found["seconds"]
    return asked, np.concatenate(parts, axis=1), seconds


def tau(first: np.ndarray, second: np.ndarray) -> float:
    """Return Kendall's tau-b."""
    return round(float(kendalltau(first, second).statistic), 4)


def _judge_sample(
    place: Path, epochs: int, asked: list[Architecture], right: np.ndarray, table: ArchitectureTable
) -> dict[str, Any]:
    """Return how some networks are ranked at several epochs; after the last, on few images, in two ways."""
    taus = {}
    for done in (epochs // 4, epochs // 2):
        some, theirs, _ = read(place, f"measured-epoch{done}-")
        truth = table.accuracies[[table.row(one) for one in some]].mean(axis=1)
        taus[str(done)] = tau(theirs.mean(axis=1), truth)
    # Earlier epochs may have been measured on the first images alone.
    whole = right[[asked.index(one) for one in some], : theirs.shape[1]]
    taus[str(epochs)] = tau(whole.mean(axis=1), truth)
    again, plain, _ = read(place, "measured-without-recalibration")
    assert again == some, "the same networks are measured in each way"
    few = plain.shape[1]
    return {
        "networks": len(some),
        "after_epochs": taus,
        "few_images": few,
        "recalibrated": tau(whole[:, :few].mean(axis=1), truth),
        "not_recalibrated": tau(plain.mean(axis=1), truth),
    }


class Chosen(Problem):
    """Searches that see one-shot accuracies, and are judged by those of trained networks."""

    def __init__(self, table: ArchitectureTable, share: float, seen: np.ndarray) -> None:
        super().__init__(table, share)
        self.seen = ArchitectureTable(np.array(table.architectures), seen, table.costs)

    def shuffled(self, seed: int) -> Chosen:
        """Return the same problem with the layers in another order."""
        other = super().shuffled(seed)
        return Chosen(other.table, self.share, self.seen.accuracies)


SEARCHERS = {
    "random": lambda problem, seed: Random(
        problem.space, samples=BUDGETS[-1], constraint=problem.within, seed=seed
    ),
    "regularized evolution, 20 members": lambda problem, seed: RegularizedEvolution(
        problem.space, constraint=problem.within, population=20, evaluations=BUDGETS[-1], seed=seed
    ),
    "local search": lambda problem, seed: LocalSearch(
        problem.space, constraint=problem.within, evaluations=BUDGETS[-1], seed=seed
    ),
    "predictor": lambda problem, seed: Predictor(
        problem.space, constraint=problem.within, evaluations=BUDGETS[-2], seed=seed
    ),
    f"{LAYERNAS}, best parents": lambda problem, seed: problem.layernas(seed, select="best"),
}
_problems: dict[float, Chosen] = {}


def _prepare(problems: dict[float, Chosen]) -> None:
    _problems.update(problems)


def _search(job: tuple[str, float, int]) -> list[float | None]:
    """Run one search; return the regret of its choice after each budget, None before one is within bounds."""
    name, share, seed = job
    problem = _problems[share]
    if name.startswith(LAYERNAS):
        problem = problem.shuffled(seed)
    evaluator = TabularEvaluator(problem.seen, run=0)
    searcher: Searcher = SEARCHERS[name](problem, seed)
    best = problem.table.best(problem.within)[1]
    curve = regrets(play(searcher, evaluator), problem.judged, best)
    return [curve[min(budget, len(curve)) - 1] for budget in BUDGETS]


def judge(asked: list[Architecture], right: np.ndarray, table: ArchitectureTable) -> dict[str, Any]:
    """Return how one-shot accuracies and multiply-adds rank networks that were trained."""
    rows = [table.row(one) for one in asked]
    truth = table.accuracies[rows].mean(axis=1)
    flops = table.costs["flops"][rows]
    seen = right.mean(axis=1)
    order = np.argsort(flops, kind="stable")
    bands = []
    for part in np.array_split(order, BANDS):
        bands.append(
            {
                "flops": [float(flops[part].min()), float(flops[part].max())],
                "networks": len(part),
                "one_shot": tau(seen[part], truth[part]),
                "flops_alone": tau(flops[part], truth[part]),
                "runs": _between_runs(table.accuracies[rows][part]),
            }
        )
    halves = right[:, 0::2].mean(axis=1), right[:, 1::2].mean(axis=1)
    return {
        "networks": len(asked),
        "top1": [round(float(value), 4) for value in (seen.min(), np.median(seen), seen.max())],
        "tau": tau(seen, truth),
        "tau_of_flops": tau(flops, truth),
        "tau_of_halves": tau(*halves),
        "tau_between_runs": _between_runs(table.accuracies[rows]),
        "by_images": {
            str(count): _by_images(right, count, truth) for count in IMAGES if count < right.shape[1]
        },
        "bands": bands,
    }


def _by_images(right: np.ndarray, count: int, truth: np.ndarray) -> list[float]:
    """Return the mean tau of samples of the images, and its standard deviation."""
    rng = np.random.default_rng(0)
    drawn = [rng.choice(right.shape[1], count, replace=False) for _ in range(DRAWS)]
    taus = [tau(right[:, images].mean(axis=1), truth) for images in drawn]
    return [round(statistics.mean(taus), 4), round(statistics.stdev(taus), 4)]


def _between_runs(accuracies: np.ndarray) -> float:
    """Return the mean tau between two of the trainings that the table has of each network."""
    pairs = [(a, b) for a in range(accuracies.shape[1]) for b in range(a)]
    return round(statistics.mean(tau(accuracies[:, a], accuracies[:, b]) for a, b in pairs), 4)


def _choices(problem: Chosen) -> dict[str, Any]:
    """Return the regrets, in points, of choosing within a bound by each figure with all networks measured."""
    inside = [row for row, one in enumerate(problem.table.architectures) if problem.within(one)]
    truth = np.array(problem.truth)[inside]
    best = 100 * truth.max()
    seen = problem.seen.accuracies[inside, 0]
    flops = problem.table.costs["flops"][inside]
    return {
        "limit": problem.limit,
        "networks": len(inside),
        "best": round(best, 3),
        "one_shot": round(best - 100 * float(truth[np.argmax(seen)]), 3),
        "most_flops": round(best - 100 * float(truth[np.argmax(flops)]), 3),
        "at_random": round(best - 100 * float(truth.mean()), 3),
        "among_the_best_10": round(best - 100 * float(truth[np.argsort(-seen)[:10]].max()), 3),
    }


def _part(table: ArchitectureTable, asked: list[Architecture]) -> ArchitectureTable:
    """Return the rows of some architectures."""
    rows = [table.row(one) for one in asked]
    costs_of = {name: column[rows] for name, column in table.costs.items()}
    return ArchitectureTable(np.array(asked), table.accuracies[rows], costs_of)


@app.command()
def record(directory: Path, table: Path, output: Path, seeds: int = 100, processes: int = 1) -> None:
    """Compare what was measured with the table, for each supernet in the directory."""
    known, supernet = load_table(table), make()
    result: dict[str, Any] = {
        "benchmark": "ranking",
        "machine": _harness.machine(),
        "table": {"file": table.name, "architectures": len(known), "networks": len(networks(supernet))},
        "seeds": seeds,
        "supernets": {},
    }
    for place in sorted(one for one in directory.iterdir() if (one / "training.json").exists()):
        training = json.loads((place / "training.json").read_text(encoding="utf-8"))
        epochs = training["epochs"]
        asked, right, seconds = read(place, f"measured-epoch{epochs}-")
        one: dict[str, Any] = {"training": training, "images": right.shape[1], "seconds": seconds}
        one["whole"] = judge(asked, right, known)
        one["sample"] = _judge_sample(place, epochs, asked, right, known)
        of = dict(zip(asked, right.mean(axis=1).tolist(), strict=True))
        complete = len(asked) == result["table"]["networks"]
        part = known if complete else _part(known, asked)
        seen = np.array([[of[supernet.space.key(architecture)]] for architecture in part.architectures])
        problems = {share: Chosen(part, share, seen) for share in SHARES}
        one["choices"] = {f"{share:g}": _choices(problem) for share, problem in problems.items()}
        one["searches"] = {}
        result["supernets"][training["sampling"]] = one
        if not complete:
            continue
        with multiprocessing.Pool(processes, _prepare, (problems,)) as pool:
            for share in SHARES:
                found = one["searches"][f"{share:g}"] = {}
                for name in SEARCHERS:
                    runs = pool.map(_search, [(name, share, seed) for seed in range(seeds)])
                    found[name] = [
                        [None, None] if None in values else mean_and_error(list(values))
                        for values in zip(*runs, strict=True)
                    ]
                    typer.echo(f"{place.name}, {share:.0%}, {name}: {found[name]}")
    _harness.write(result, output)


INTRODUCTION = """# Does a supernet rank networks?

NAS-Bench-Macro has {architectures:,} architectures, of which {networks:,} are different networks; all were
trained on CIFAR-10, three times each. So one can ask what no search can: how well do accuracies with
inherited weights rank networks? The supernet of its space (`--supernet macro`, whose multiply-adds and
parameters are the table's to the digit for all architectures) was trained on 45,000 images, and networks
were measured on {images:,} of the 5,000 others, with statistics recalibrated on 500. The table's accuracies
are of the test images. Made from [the record](../benchmarks/results/{record}) by
`python -m benchmarks.record_ranking page`; one core of a busy machine.

Kendall's tau is 1 where two rankings agree, and 0 where they have nothing to do with each other. *FLOPs
alone* ranks networks by their multiply-adds, which takes no supernet. *Two trainings* is the tau between two
of the table's own trainings of each network: no method can be expected to agree better with one of them.
"""


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the page of a record."""
    found = json.loads(source.read_text(encoding="utf-8"))
    some = next(iter(found["supernets"].values()))
    lines = [INTRODUCTION.format(**found["table"], images=some["images"], record=source.name)]
    lines += [*_summary_lines(found["supernets"]), ""]
    for name, one in found["supernets"].items():
        lines += _supernet_lines(name, one, found["seeds"])
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    typer.echo(f"wrote {target}")


def _summary_lines(supernets: dict[str, Any]) -> list[str]:
    """Return a table of all supernets."""
    first = next(iter(supernets.values()))
    whole, shares = first["whole"], first["choices"]
    rows = []
    for name, one in supernets.items():
        tenths = statistics.mean(band["one_shot"] for band in one["whole"]["bands"])
        regrets_of = [f"{choice['one_shot']:.2f}" for choice in one["choices"].values()]
        rows.append([f"`{name}`", f"{one['whole']['tau']:.2f}", f"{tenths:.2f}", *regrets_of])
    alone = statistics.mean(band["flops_alone"] for band in whole["bands"])
    most = [f"{choice['most_flops']:.2f}" for choice in shares.values()]
    rows.append(["FLOPs alone", f"{whole['tau_of_flops']:.2f}", f"{alone:.2f}", *most])
    heads = ["paths drawn by", "tau", "within a tenth", *(f"regret, {_bound(share)}" for share in shares)]
    return [
        "In short: tau of all networks and within a tenth of them by FLOPs, and how many points of trained "
        "accuracy one loses by choosing the highest one-shot accuracy within a bound on FLOPs. Each supernet "
        "was trained once, so that some of what differs between them is chance.\n",
        *markdown(heads, rows),
    ]


def _supernet_lines(name: str, one: dict[str, Any], seeds: int) -> list[str]:
    """Return what is said of one supernet."""
    training, whole = one["training"], one["whole"]
    least, median, most = (100 * value for value in whole["top1"])
    lines = [
        f"## Paths drawn by `{name}`\n",
        f"{training['epochs']} epochs in {training['precision']} took {training['seconds'] / 60:.0f} CPU "
        f"minutes; measuring {whole['networks']:,} networks took {one['seconds'] / 60:.0f} "
        f"({whole['networks'] / one['seconds']:.1f} a second). With inherited "
        f"weights they have {least:.1f} to {most:.1f} % top-1, the median {median:.1f} %.\n",
        *markdown(
            ["ranking of these networks", "tau"],
            [
                ["one-shot accuracy", f"{whole['tau']:.2f}"],
                ["FLOPs alone", f"{whole['tau_of_flops']:.2f}"],
                ["two trainings", f"{whole['tau_between_runs']:.2f}"],
                ["one half of the images against the other", f"{whole['tau_of_halves']:.2f}"],
            ],
        ),
        "",
        "Networks of about as many FLOPs, a tenth of all in each row:\n",
        *markdown(
            ["M multiply-adds", "networks", "one-shot", "FLOPs alone", "two trainings"],
            [
                [
                    " to ".join(f"{value / 1e6:.0f}" for value in band["flops"]),
                    band["networks"],
                    *(f"{band[key]:.2f}" for key in ("one_shot", "flops_alone", "runs")),
                ]
                for band in whole["bands"]
            ],
        ),
        "",
    ]
    images = ", ".join(
        f"{mean:.2f} ± {deviation:.2f} with {int(count):,}"
        for count, (mean, deviation) in whole["by_images"].items()
    )
    sample = one["sample"]
    after = ", ".join(
        f"{value:.2f} after {epochs} epochs" for epochs, value in sample["after_epochs"].items()
    )
    lines += [
        f"On samples of the images, tau is {images} (means of {DRAWS} samples ± their standard deviation). "
        f"For {sample['networks']} random networks, it is {after}. On the first {sample['few_images']:,} "
        f"images, it is {sample['recalibrated']:.2f} for these with recalibration, and "
        f"{sample['not_recalibrated']:.2f} with the statistics that training left.\n",
        "Regret, in points of trained accuracy, of choosing the network within a bound on FLOPs that has the "
        "highest one-shot accuracy of all that were measured, the most FLOPs, or any:\n",
        *markdown(
            [
                "bound",
                "networks",
                "best",
                "one-shot",
                "most FLOPs",
                "at random",
                "best of the one-shot top 10",
            ],
            [
                [
                    _bound(share),
                    f"{choice['networks']:,}",
                    f"{choice['best']:.2f} %",
                    *(
                        f"{choice[key]:.2f}"
                        for key in ("one_shot", "most_flops", "at_random", "among_the_best_10")
                    ),
                ]
                for share, choice in one["choices"].items()
            ],
        ),
        "",
    ]
    better = sum(band["one_shot"] > band["flops_alone"] for band in whole["bands"])
    pays = [share for share, choice in one["choices"].items() if choice["one_shot"] < choice["most_flops"]]
    where = " and ".join(map(_bound, pays)) if pays else "none of the bounds"
    lines += [
        f"In words: one-shot accuracies rank networks of about as many FLOPs better than FLOPs do in {better}"
        f" of {len(whole['bands'])} ranges. Choosing by them beats taking the most FLOPs within {where}. "
        f"{training['epochs']} epochs are few; longer training is not in this record.\n",
    ]
    if one["searches"]:
        lines += [*_search_lines(one["searches"], seeds), ""]
    return lines


def _search_lines(searches: dict[str, Any], seeds: int) -> list[str]:
    """Return what is said of searches."""
    return [
        f"Regret of searches that see the one-shot accuracies, after so many evaluations, means of {seeds} "
        "seeds ± one standard error (the predictor ends after 200):\n",
        *markdown(
            ["bound", "searcher", *(f"after {budget}" for budget in BUDGETS)],
            [
                [_bound(share), searcher, *(cell(value) for value in values)]
                for share, found in searches.items()
                for searcher, values in found.items()
            ],
        ),
    ]


def _bound(share: str) -> str:
    return "100 % (no bound)" if float(share) == 1 else f"{100 * float(share):.0f} %"


if __name__ == "__main__":
    app()
