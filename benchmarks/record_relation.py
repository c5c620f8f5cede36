"""Do the best layer assignments inherit from those of the depth before, and does NIR find them?

    python -m benchmarks.record_relation images data/cifar10/ data/cifar10-16
    python -m benchmarks.record_relation train runs/relation --seed 0
    python -m benchmarks.record_relation search runs/relation --seed 0
    python -m benchmarks.record_relation record runs/relation TABLE.npz benchmarks/results/relation.json
    python -m benchmarks.record_relation page benchmarks/results/relation.json docs/relation.md

`images` writes CIFAR-10 in half its height and width. `train` trains every assignment of depths 4 to 8 from
scratch, and measures them on the test images; each seed is a training of its own. `search` trains supernets
on the same images: NIR's, NIR's with two parents, and one whose paths are drawn uniformly, with as many
updates as NIR makes. It notes the accuracies with inherited weights. If one of the two is interrupted, the
same command continues. `record` tests the inheritance relation on NAS-Bench-Macro's table, whose networks are
layer assignments where the layers of a stage are of one kind, and on the trained networks, if there are any;
and judges what the searches chose by them.
"""

from __future__ import annotations

import itertools
import json
import random
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import typer
from PIL import Image

import lasfast
from benchmarks import _harness
from benchmarks.record_ranking import load_table as load_macro
from benchmarks.record_tabular import cell, markdown, mean_and_error
from lasfast.data import Dataset
from lasfast.measurements import inheritance, ranking
from lasfast.report import plot_inheritance
from lasfast.searchers import NIR
from lasfast.spaces import Architecture
from lasfast.study.architecture_table import load_table
from lasfast.study.table_builder import TableBuilder
from lasfast.supernets import MacroNet, PlainNet, ResidualNet
from lasfast.supernets.base import LayerAssignmentSupernet
from lasfast.train import OneShotTrainer, SupernetTrainer, TrainSettings, preset
from lasfast.train.samplers import PathSampler

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
FAMILIES: dict[str, type[LayerAssignmentSupernet]] = {"residual": ResidualNet, "plain": PlainNet}
DEPTHS = range(4, 9)
WAYS = {"NIR": 1, "NIR, two parents": 2, "uniform": 0}
"""So many parents are kept. Of 0, all assignments are trained; the best of each depth is taken."""
KINDS = {"MB3 3x3": 1, "MB6 5x5": 2}
"""The kinds of layers of NAS-Bench-Macro, by the options that stand for them."""
DATA = "imagefolder:data/cifar10-16"
LIKELY = 0.05
"""A relation that is as likely as this by chance, or likelier, is not told from it."""


@app.command()
def images(source: Path, target: Path) -> None:
    """Write every image of a folder in half its height and width, each pixel the mean of four."""
    for path in sorted(source.rglob("*.jpg")):
        place = (target / path.relative_to(source)).with_suffix(".png")  # loses nothing
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            with Image.open(path) as image:
                image.reduce(2).save(place)


def load(data: str, limit: int) -> Dataset:
    """Return the images; the same ones for each seed, so that seeds differ in the training alone."""
    return lasfast.data.load(data, limit=limit, validation=5000, calibration=1000)


def make(family: str, classes: int) -> LayerAssignmentSupernet:
    """Return a supernet that has every assignment of the depths."""
    return FAMILIES[family]((DEPTHS[-1] - 2,) * 3, classes)


def settings_of(seed: int, precision: str, **epochs: int) -> TrainSettings:
    """Return how networks and supernets are trained."""
    return preset("small", batch_size=128, learning_rate=0.1, seed=seed, precision=precision, **epochs)


@app.command()
def train(
    directory: Path,
    seed: int = 0,
    family: str = "residual",
    epochs: int = 10,
    limit: int = 20_000,
    data: str = DATA,
    precision: str = "bf16",
    threads: int = 1,
) -> None:
    """Train every assignment of the depths from scratch."""
    torch.set_num_threads(threads)
    loaded = load(data, limit)
    supernet = make(family, len(loaded.classes))
    builder = TableBuilder(
        supernet,
        loaded.train,
        loaded.test,
        supernet.space.enumerate(depth=DEPTHS),
        directory / f"{family}-seed{seed}",
        settings_of(seed, precision, standalone_epochs=epochs),
    )
    began = time.process_time()
    builder.run(
        resume=True,
        on_row=lambda row: typer.echo(
            f"{row.architecture}: {row.top1:.4f}, {time.process_time() - began:.0f} CPU s"
        ),
    )
    about = {"epochs": epochs, "precision": precision, "images": loaded.describe()}
    (builder.directory / "about.json").write_text(json.dumps(about), encoding="utf-8")


class OfDepths(PathSampler):
    """Draws each assignment of the depths with the same probability."""

    def __init__(self, assignments: list[Architecture]) -> None:
        self.assignments = assignments

    def draw(self, rng: random.Random) -> tuple[Architecture, ...]:
        """Return one assignment."""
        return (rng.choice(self.assignments),)

    def describe(self) -> dict[str, Any]:
        """Return the name and the depths."""
        return {"name": "uniform", "depths": [DEPTHS[0], DEPTHS[-1]]}


@app.command()
def search(
    directory: Path,
    seed: int = 0,
    family: str = "residual",
    warm_up: int = 3,
    epochs: int = 1,
    limit: int = 20_000,
    data: str = DATA,
    precision: str = "bf16",
    threads: int = 1,
) -> None:
    """Search in each way with a seed; `epochs` are those of a step, and `warm_up` those before."""
    torch.set_num_threads(threads)
    loaded = load(data, limit)
    steps = DEPTHS[-1] - 3
    for way, beam in WAYS.items():
        place = directory / f"{family}-search{seed}-{way.replace(', ', '-').replace(' ', '-')}.json"
        if place.exists():
            continue
        torch.manual_seed(seed)
        supernet = make(family, len(loaded.classes))
        evaluator = lasfast.Evaluator(supernet, loaded.calibration, loaded.validation, "native", precision)
        began = time.process_time()
        if beam:
            found = _grow(
                supernet,
                evaluator,
                loaded,
                beam,
                settings_of(seed, precision, warm_up_epochs=warm_up, epochs_per_step=epochs),
            )
        else:
            updates = warm_up + steps * epochs * 4  # the deepest and three heirs, an update each
            found = _draw(supernet, evaluator, loaded, settings_of(seed, precision, supernet_epochs=updates))
        about = {"way": way, "seed": seed, "warm_up": warm_up, "epochs": epochs, "images": len(loaded.train)}
        about["seconds"] = round(time.process_time() - began, 1)
        rows = [[list(one), top1] for one, top1 in found.items()]
        place.write_text(json.dumps(about | {"one_shot": rows}), encoding="utf-8")
        typer.echo(f"{way}, seed {seed}: {about['seconds']:.0f} CPU s")


def _grow(
    supernet: LayerAssignmentSupernet,
    evaluator: lasfast.Evaluator,
    loaded: Dataset,
    beam: int,
    settings: TrainSettings,
) -> dict[Architecture, float]:
    """Return the accuracies of the candidates of a search by inheritance."""
    searcher = NIR(supernet.space, depth=DEPTHS[-1], beam=beam)
    trainer = SupernetTrainer(supernet, loaded.train, settings)
    for _ in trainer.train(0):
        pass
    found: dict[Architecture, float] = {}
    step = 0
    while candidates := searcher.ask():
        step += 1
        for _ in trainer.train(step, candidates):
            pass
        for one in evaluator(candidates):
            searcher.tell(one.architecture, one)
            found[one.architecture] = one.top1
    return found


def _draw(
    supernet: LayerAssignmentSupernet, evaluator: lasfast.Evaluator, loaded: Dataset, settings: TrainSettings
) -> dict[Architecture, float]:
    """Return the accuracies of all assignments in a supernet whose paths are drawn uniformly."""
    assignments = list(supernet.space.enumerate(depth=DEPTHS))
    trainer = OneShotTrainer(supernet, loaded.train, settings, sampler=OfDepths(assignments))
    for _ in trainer.train(0):
        pass
    return {one.architecture: one.top1 for one in evaluator(assignments)}


@app.command()
def record(directory: Path, table: Path, output: Path) -> None:
    """Test the relation on a table and on what was trained, and judge what was searched."""
    result = {
        "benchmark": "relation",
        "machine": _harness.machine(),
        "table": table.name,
        "macro": {
            ", ".join(kinds): _relation_of_macro(table, [KINDS[kind] for kind in kinds])
            for kinds in itertools.product(KINDS, repeat=len(MacroNet.repeats))
        },
        "trained": {
            family: _judge_family(directory, family)
            for family in FAMILIES
            if any(directory.glob(f"{family}-seed*/about.json"))
        },
    }
    _harness.write(result, output)


def _judge_family(directory: Path, family: str) -> dict[str, Any]:
    """Return what the networks of a family say, which were trained from scratch and searched."""
    places = sorted(directory.glob(f"{family}-seed*/about.json"))
    seeds = [{row.architecture: row.top1 for row in load_table(place.parent)} for place in places]
    mean = {one: statistics.fmean(table[one] for table in seeds) for one in seeds[0]}
    searches = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(directory.glob(f"{family}-search*.json"))
    ]
    return {
        **json.loads(places[0].read_text(encoding="utf-8")),
        "networks": [
            {"assignment": list(one), "top1": [round(seed[one], 4) for seed in seeds]} for one in mean
        ],
        "relation": asdict(inheritance(mean)),
        "relation_of_seeds": [asdict(inheritance(seed)) for seed in seeds],
        "depths": [_describe_depth(depth, mean, seeds) for depth in DEPTHS],
        "searches": [_judge(one, mean) for one in searches],
    }


def _of_depth(accuracies: dict[Architecture, float], depth: int) -> dict[Architecture, float]:
    return {one: top1 for one, top1 in accuracies.items() if sum(one) == depth}


def _describe_depth(
    depth: int, mean: dict[Architecture, float], seeds: list[dict[Architecture, float]]
) -> dict[str, Any]:
    """Return how the assignments of a depth spread, and how well one training ranks them as another does."""
    level = _of_depth(mean, depth)
    best, least_spread = max(level.values()), min(max(one) - min(one) for one in level)
    even = [top1 for one, top1 in level.items() if max(one) - min(one) == least_spread]
    pairs = [(a, b) for number, a in enumerate(seeds) for b in seeds[:number]]
    taus = [ranking.kendall_tau(_of_depth(a, depth), _of_depth(b, depth)) for a, b in pairs]
    return {
        "depth": depth,
        "networks": len(level),
        "best": list(max(level, key=level.__getitem__)),
        "top1": best,
        "regret_of_worst": best - min(level.values()),
        "regret_of_any": best - statistics.fmean(level.values()),
        "regret_of_even": best - statistics.fmean(even),
        "tau_between_seeds": statistics.fmean(taus) if taus else None,
    }


def _judge(found: dict[str, Any], mean: dict[Architecture, float]) -> dict[str, Any]:
    """Return how good a search's choices are, and how its accuracies agree with those of trained networks."""
    one_shot = {tuple(one): top1 for one, top1 in found.pop("one_shot")}
    depths = []
    for depth in DEPTHS:
        seen, level = _of_depth(one_shot, depth), _of_depth(mean, depth)
        chosen = max(seen, key=seen.__getitem__)
        truth = {one: level[one] for one in seen}
        depths.append(
            {
                "depth": depth,
                "measured": len(seen),
                "chosen": list(chosen),
                "regret": max(level.values()) - level[chosen],
                "gap": ranking.accuracy_gap(truth, seen),
                "tau": ranking.kendall_tau(truth, seen),
            }
        )
    return found | {"depths": depths}


def _relation_of_macro(path: Path, options: list[int]) -> dict[str, Any]:
    """Return the relation in NAS-Bench-Macro's networks whose stages have layers of one kind, or fewer."""
    known, space = load_macro(path), MacroNet().space
    accuracies = {}
    for assignment in itertools.product(*(range(most + 1) for most in MacroNet.repeats)):
        stages = zip(assignment, MacroNet.repeats, options, strict=True)
        architecture = tuple(
            option if at < count else 0 for count, most, option in stages for at in range(most)
        )
        assert space.key(architecture) == architecture, "what is left out stands at the end of its stage"
        accuracies[assignment] = float(known.accuracies[known.row(architecture)].mean())
    return asdict(inheritance(accuracies))


INTRODUCTION = """# Do the best assignments inherit from those of the depth before?

NIR rests on it: "the optimal layer assignments for deeper networks always inherit from those for shallow
networks" (Meng et al., Assumption 1). It looks at the heirs of the last winner alone. So two questions
matter: does the best assignment inherit more often than by chance, and how much is lost by looking at heirs
alone? `lasfast dataset --relation` answers both for your images. Made from
[the record](../benchmarks/results/{record}) by `python -m benchmarks.record_relation page`.

An *heir* of an assignment has one layer more in one group. *By chance* is what tables say whose accuracies
are shuffled within each depth; *p* is how often they are as good for the relation. *Regret* is how many
points of accuracy the best heir is behind the best assignment of its depth, where a search knows the
accuracies of trained networks and always goes on with the best heir: the mean over depths.
"""


@app.command()
def page(source: Path, target: Path) -> None:
    """Write the page of a record, and a picture for each family beside it."""
    found = json.loads(source.read_text(encoding="utf-8"))
    lines = [INTRODUCTION.format(record=source.name), *_macro_lines(found["macro"])]
    for family, one in found["trained"].items():
        networks = {tuple(row["assignment"]): statistics.fmean(row["top1"]) for row in one["networks"]}
        picture = plot_inheritance(networks, target.with_name(f"{target.stem}-{family}.png"))
        lines += [*_relation_lines(family, one, picture.name), *_search_lines(one)]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    typer.echo(f"wrote {target}")


def _points(share: float) -> str:
    return f"{100 * share:.2f}"


def _beside_chance(relation: dict[str, Any]) -> list[str]:
    """Return the cells of a relation's figures: found, by chance and p."""
    depths = len(relation["steps"])
    cells = []
    for name in ("from_best", "from_top"):
        one = relation[name]
        cells.append(f"{one['found']:.0f} of {depths} (chance {one['by_chance']:.1f}, p = {one['p']:.2g})")
    one = relation["regret"]
    return [*cells, f"{_points(one['found'])} (chance {_points(one['by_chance'])}, p = {one['p']:.2g})"]


RELATION = ["accuracies", "best is an heir of the best", "of one of the best four", "regret"]


def _relation_lines(family: str, found: dict[str, Any], picture: str) -> list[str]:
    """Return what is said of networks that were trained for this record."""
    times = len(found["networks"][0]["top1"])
    rows = [["mean of all seeds" if times > 1 else "the only seed", *_beside_chance(found["relation"])]]
    if times > 1:
        rows += [
            [f"seed {seed}", *_beside_chance(one)] for seed, one in enumerate(found["relation_of_seeds"])
        ]
    depths = [
        [
            one["depth"],
            one["networks"],
            "-".join(map(str, one["best"])),
            f"{100 * one['top1']:.1f} %",
            *(_points(one[key]) for key in ("regret_of_any", "regret_of_even", "regret_of_worst")),
            "" if one["tau_between_seeds"] is None else f"{one['tau_between_seeds']:.2f}",
        ]
        for one in found["depths"]
    ]
    steps = [
        [one["depth"], *(_points(one[key]) for key in ("regret", "regret_of_two", "regret_of_random"))]
        for one in found["relation"]["steps"]
    ]
    return [
        f"## `{family}`\n",
        f"All {len(found['networks'])} assignments of {DEPTHS[0]} to {DEPTHS[-1]} layers were trained from "
        f"scratch, {'once each' if times == 1 else f'with {times} seeds each'}, for {found['epochs']} epochs "
        f"on {found['images']['train']:,} CIFAR-10 images of 16x16 pixels, and measured on the 10,000 test "
        "images.\n",
        "![All assignments by depth, the best four of each joined with those they inherit "
        f"from]({picture})\n",
        *markdown(RELATION, rows),
        "\nHow assignments of a depth differ, in points behind the best; *tau* is that between two seeds, "
        "which no search can be expected to exceed:\n",
        *markdown(["depth", "networks", "best", "top-1", "any", "the most even", "the worst", "tau"], depths),
        "\nPoints behind the best of each depth of a search that knows these accuracies, and goes on with "
        "the best heir alone, with the best two, or with any heir:\n",
        *markdown(["depth", "best heir", "best two", "any heir"], steps),
        _verdict(found),
    ]


def _verdict(found: dict[str, Any]) -> str:
    """Return in words what trained networks show of the relation."""
    relation = found["relation"]
    best, regret = relation["from_best"], relation["regret"]
    likely, less = ("" if one["p"] < LIKELY else "not " for one in (best, regret))
    taus = [one["tau_between_seeds"] for one in found["depths"] if one["tau_between_seeds"] is not None]
    noise = ""
    if taus:
        noise = (
            " Two trainings of the same networks agree on the order within a depth by a tau of "
            f"{min(taus):.2f} to {max(taus):.2f}: much of what tells these networks apart is the noise of "
            "their training."
        )
    return (
        f"\nIn words: that the best inherits from the best is {likely}told from chance here, and keeping to "
        f"the best heir does {less}lose less than by chance ({_points(regret['found'])} points beside "
        f"{_points(regret['by_chance'])}).{noise}\n"
    )


def _search_lines(found: dict[str, Any]) -> list[str]:
    """Return what is said of searches in supernets."""
    if not found["searches"]:
        return []
    rows = []
    for way in WAYS:
        of_way = [one for one in found["searches"] if one["way"] == way]
        if not of_way:
            continue
        by_depth = list(zip(*(one["depths"] for one in of_way), strict=True))
        regrets = [cell(mean_and_error([100 * one["regret"] for one in level])) for level in by_depth]
        gap, tau = (
            statistics.fmean(one[key] for level in by_depth for one in level) for key in ("gap", "tau")
        )
        seconds = statistics.fmean(one["seconds"] for one in of_way)
        rows.append([way, *regrets, f"{100 * gap:.1f}", f"{tau:.2f}", f"{seconds / 60:.0f}"])
    some = found["searches"][0]
    seeds = len({one["seed"] for one in found["searches"]})
    return [
        "### Searches\n",
        f"Points by which what a supernet chose at each depth is behind the best, means of {seeds} seeds ± "
        f"one standard error. Supernets were trained on the same {some['images']:,} images "
        f"({some['warm_up']} epochs before the first step, {some['epochs']} in each step); `uniform` drew "
        "paths of all depths, as many updates as NIR makes. *Gap* is the mean difference to accuracies from "
        "scratch (Eq. 7), *tau* the mean over depths.\n",
        *markdown(["search", *(f"depth {depth}" for depth in DEPTHS), "gap", "tau", "CPU minutes"], rows),
        _search_verdict(found),
    ]


def _search_verdict(found: dict[str, Any]) -> str:
    """Return in words what searches are worth at the last depth, beside an assignment drawn at random."""
    last = found["depths"][-1]
    regrets = {
        way: {
            one["seed"]: 100 * one["depths"][-1]["regret"] for one in found["searches"] if one["way"] == way
        }
        for way in WAYS
    }
    parts = []
    for way, of_seeds in regrets.items():
        mean, error = mean_and_error(list(of_seeds.values()))
        better = "" if mean + 2 * error < 100 * last["regret_of_any"] else "not "
        parts.append(f"{way} is {better}better than that by more than two standard errors")
    text = (
        f"\nIn words: at depth {last['depth']}, an assignment drawn at random is "
        f"{_points(last['regret_of_any'])} points behind the best; {'; '.join(parts)}."
    )
    for way in [way for way in WAYS if way != "uniform"]:
        differences = [regret - regrets["uniform"][seed] for seed, regret in regrets[way].items()]
        mean, error = mean_and_error(differences)
        text += f" What {way} chose is {cell([mean, error])} points further behind than what `uniform` did."
    return text + "\n"


def _macro_lines(macro: dict[str, Any]) -> list[str]:
    """Return what is said of the table's networks."""
    relations = macro.values()
    likely = sum(one["from_best"]["p"] < LIKELY for one in relations)
    greedy = sum(one["regret"]["p"] < LIKELY for one in relations)
    worst = max(step["regret"] for one in relations for step in one["steps"])
    of_two = max(step["regret_of_two"] for one in relations for step in one["steps"])
    any_heir = statistics.fmean(step["regret_of_random"] for one in relations for step in one["steps"])
    return [
        "## Fully trained networks: NAS-Bench-Macro\n",
        "The table has networks that were fully trained on CIFAR-10, three times each. Where the layers of a "
        "stage are all of one kind, or left out, a network is a layer assignment of three stages, of depth 0 "
        "to 8. The kinds can be chosen in eight ways, each with 48 assignments:\n",
        *markdown(
            ["kinds of the three stages", *RELATION[1:]],
            [[kinds, *_beside_chance(one)] for kinds, one in macro.items()],
        ),
        f"\nIn words: that the best inherits from the best is told from chance in {likely} of {len(macro)} "
        "spaces, since with so few assignments a depth, much inherits by chance. But what NIR needs holds: "
        f"keeping to the best heir loses less than by chance in {greedy} of {len(macro)}, at most "
        f"{_points(worst)} points at any depth, and at most {_points(of_two)} with two parents. Going on "
        f"with any heir loses {_points(any_heir)} on average. These searches know the accuracies of trained "
        "networks; a supernet adds its own errors.\n",
    ]


if __name__ == "__main__":
    app()
