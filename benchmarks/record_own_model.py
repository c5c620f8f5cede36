r"""A trained network at half of its multiply-adds: lasfast beside ModelOpt, Torch-Pruning, uniform scaling.

    python -m benchmarks.record_own_model outcomes runs/own-model benchmarks/results/own-model-resnet.json
    python -m benchmarks.record_own_model outcomes runs/own-model \
        benchmarks/results/own-model-mobilenet.json \
        --network mobilenet --limit 5000 --calibration 250 --adapt-epochs 1 --candidates 100 \
        --without fastnas --without autonas
    python -m benchmarks.record_own_model rates benchmarks/results/own-model-rates.json
    python -m benchmarks.record_own_model page docs/own-network.md benchmarks/results/own-model-rates.json \
        benchmarks/results/own-model-resnet.json benchmarks/results/own-model-mobilenet.json

`outcomes` trains a network on CIFAR-10 for each seed, halves it in each way, and trains what came out on, all
with the same images, epochs and settings. The directory keeps the trained networks. What is in the record
already is not done again. FastNAS and AutoNAS may be left out (`--without`): of FastNAS, the number of
candidates and the time of some is then measured. `rates` measures how long a candidate takes in a ResNet-18.
`page` writes all into the page.

The peers are not among lasfast's extras: `pip install nvidia-modelopt==0.47 torchprofile==0.0.4 requests
huggingface_hub torch-pruning`.
"""

from __future__ import annotations

import copy
import json
import random
import statistics
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
import torch.nn.functional as F
import torchvision
import typer
from safetensors.torch import load_model, save_model
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import lasfast
from benchmarks import _harness
from lasfast import costs
from lasfast.data import Dataset
from lasfast.evaluation.scoring import evaluate_network
from lasfast.supernets import from_model
from lasfast.train.samplers import SandwichSampler

app = typer.Typer(help=__doc__, rich_markup_mode="markdown", no_args_is_help=True)
SHARE = 0.5
"""The share of the multiply-adds that is left."""
WIDTHS = tuple(eighths / 8 for eighths in range(2, 9))
"""The widths that lasfast and ModelOpt's AutoNAS choose from; FastNAS has 20 of its own. Multiples of 8."""
TUNING = {"learning_rate": 0.01, "standalone_schedule": "cosine", "precision": "bf16"}


def resnet(classes: int) -> nn.Module:
    """Return timm's ResNet-10, 16 to 128 channels wide and with a stem for images of 32 pixels."""
    network = ResNet(
        BasicBlock,
        (1, 1, 1, 1),
        num_classes=classes,
        channels=(16, 32, 64, 128),
        stem_type="deep",
        stem_width=8,
    )
    network.conv1[0].stride, network.maxpool = (1, 1), nn.Identity()
    return network


def mobilenet(classes: int) -> nn.Module:
    """Return torchvision's MobileNetV2 of half the width, with a stem of stride 1 for images of 32 pixels."""
    network = torchvision.models.mobilenet_v2(num_classes=classes, width_mult=0.5, dropout=0.0)
    network.features[0][0].stride = (1, 1)
    return network


NETWORKS: dict[str, Callable[[int], nn.Module]] = {"resnet": resnet, "mobilenet": mobilenet}


@dataclass
class Task:
    """A trained network, the images, and how much work is done."""

    model: nn.Module
    data: Dataset
    seed: int
    candidates: int
    adapt_epochs: int

    @property
    def example(self) -> Tensor:
        """One image of noise."""
        return torch.randn(1, self.data.channels, *self.data.image_size)

    @property
    def allowed(self) -> float:
        """The multiply-adds that may be left."""
        return SHARE * multiply_adds(self.model, self.example)

    def calibration_batches(self) -> list[Tensor]:
        """Return the images that batch norm is recalibrated on."""
        return list(self.data.calibration.split(250))

    def score(self, network: nn.Module) -> float:
        """Return the top-1 on the validation images."""
        return evaluate_network(network, self.data.validation).top1


@dataclass
class Found:
    """A smaller network, and the CPU seconds that it took to find it, by part of the work."""

    network: nn.Module
    candidates: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Add the CPU time of what runs within to a part's. Other processes change it little."""
        begun = time.process_time()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.process_time() - begun


def multiply_adds(network: nn.Module, example: Tensor) -> float:
    """Return a network's multiply-adds for an image, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        copy.deepcopy(network).eval()(example)
    return counter.get_total_flops() / 2


# ---- the ways to halve a network


def uniform(task: Task) -> Found:
    """Scale all widths by the largest of some shares that is cheap enough."""
    found = Found(task.model)
    shape = (task.data.channels, *task.data.image_size)
    with found.timing("search"):
        for share in (percent / 100 for percent in range(95, 20, -5)):
            supernet = from_model(task.model, shape, vary="widths", widths=(share, 1.0))
            cost = costs.functions(supernet, shape[1:])["flops"]
            found.network = supernet.extract(SandwichSampler(supernet.space, cost).smallest)
            if multiply_adds(found.network, task.example) <= task.allowed:
                return found
    raise RuntimeError("no share of the width is cheap enough")


def torch_pruning(task: Task) -> Found:
    """Prune groups of channels by magnitude over the whole network, little by little (Torch-Pruning)."""
    import torch_pruning as tp

    network = copy.deepcopy(task.model)
    found = Found(network)
    classifier = [one for one in network.modules() if isinstance(one, nn.Linear)]
    with found.timing("search"):
        pruner = tp.pruner.BasePruner(
            network,
            task.example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=0.9,
            iterative_steps=100,
            ignored_layers=classifier,
        )
        while multiply_adds(network, task.example) > task.allowed:
            pruner.step()
    return found


def _modelopt_config(widths: tuple[float, ...] | None) -> dict[str, Any]:
    """Return ModelOpt's settings, with widths in multiples of 8; None leaves its own shares."""
    shares: dict[str, Any] = {} if widths is None else {"channels_ratio": widths}
    features: dict[str, Any] = {} if widths is None else {"features_ratio": widths}
    return {
        "nn.Conv2d": {"*": {"channel_divisor": 8, **shares}},
        "nn.BatchNorm2d": {"*": {"feature_divisor": 8, **features}},
        "nn.Linear": {"*": {"feature_divisor": 8, **features}},
    }


def _modelopt_search(task: Task, found: Found, **more: Any) -> dict[str, Any]:
    """Return what ModelOpt's searches are given; `found` counts and times the candidates."""

    def score(network: nn.Module) -> float:
        found.candidates += 1
        return task.score(network)

    return {
        "data_loader": task.calibration_batches(),
        "collect_func": lambda batch: batch,
        "score_func": score,
        "verbose": False,
        **more,
    }


def fastnas(task: Task) -> Found:
    """Measure each layer's sensitivity, and search by halving (ModelOpt's FastNAS)."""
    import modelopt.torch.prune as mtp

    network = copy.deepcopy(task.model)
    found = Found(network)
    with found.timing("search"):
        found.network, _ = mtp.prune(
            network,
            mode=[("fastnas", _modelopt_config(None))],
            constraints={"flops": f"{100 * SHARE:g}%"},
            dummy_input=task.example,
            config=_modelopt_search(task, found),
        )
    return found


def autonas(task: Task) -> Found:
    """Train a supernet of the network, and search it by evolution (ModelOpt's AutoNAS)."""
    import modelopt.torch.nas as mtn

    found = Found(task.model)
    network = mtn.convert(copy.deepcopy(task.model), mode=[("autonas", _modelopt_config(WIDTHS))])
    # Each batch trains one sub-network here, and four in lasfast's adaptation.
    epochs = 4 * task.adapt_epochs
    with found.timing("adapt"):
        optimizer = torch.optim.SGD(
            network.parameters(), lr=0.003, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        network.train()
        for epoch in range(epochs):
            for images, labels in task.data.train.batches(64, seed=1000 * task.seed + epoch):
                for group in optimizer.param_groups:
                    group["lr"] = 0.003 * (1 - epoch / epochs)
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    logits = network(images)
                F.cross_entropy(logits.float(), labels).backward()
                optimizer.step()
    with found.timing("search"):
        config = _modelopt_search(task, found, num_iters=task.candidates)
        searched, _ = mtn.search(
            network, constraints={"flops": f"{100 * SHARE:g}%"}, dummy_input=task.example, config=config
        )
        found.network = searched  # search has exported it
    return found


def ours(task: Task, adapted: bool, precision: str = "bf16") -> Found:
    """Search by evolution, after adaptation or with the weights as they are."""
    found = Found(task.model, candidates=task.candidates)
    data = task.data
    with found.timing("search"):
        supernet = from_model(task.model, (data.channels, *data.image_size), widths=WIDTHS)
    if adapted:
        with found.timing("adapt"):
            settings: dict[str, Any] = {"precision": precision, "seed": task.seed}
            lasfast.train.adapt(supernet, data.train, epochs=task.adapt_epochs, **settings)
    with found.timing("search"):
        population = 50
        searcher = lasfast.searchers.Evolution(
            supernet.space,
            constraint=supernet.constraint(f"flops<={100 * SHARE:g}%"),
            population=population,
            generations=task.candidates // population - 1,
            seed=task.seed,
        )
        evaluator = lasfast.Evaluator(supernet, data.calibration, data.validation, precision=precision)
        result = lasfast.Study(searcher, evaluator).run()
        found.network = supernet.extract(result.highest.architecture)
    return found


METHODS: dict[str, Callable[[Task], Found]] = {
    "uniform": uniform,
    "torch-pruning": torch_pruning,
    "fastnas": fastnas,
    "lasfast": partial(ours, adapted=False),
    "lasfast, adapted": partial(ours, adapted=True),
    "autonas": autonas,
}
"""AutoNAS comes last, for all seeds: it takes longer than all others together."""


# ---- the record


def trained(make: Callable[[int], nn.Module], data: Dataset, epochs: int, seed: int, path: Path) -> nn.Module:
    """Return the trained network, from the file if it is there."""
    torch.manual_seed(seed)
    network = make(data.num_classes)
    if path.exists():
        load_model(network, path)
        return network.eval()
    settings: dict[str, Any] = {"standalone_schedule": "cosine", "precision": "bf16", "seed": seed}
    training = lasfast.train.train_standalone(
        network, data.train, "small", standalone_epochs=epochs, **settings
    )
    for progress in training:
        if progress.last_of_epoch:
            typer.echo(f"epoch {progress.epoch + 1}/{epochs}: accuracy {100 * progress.accuracy:.1f} %")
    path.parent.mkdir(parents=True, exist_ok=True)
    network.to(memory_format=torch.contiguous_format)  # ModelOpt refuses the other
    save_model(network, str(path))
    return network.eval()


def judged(task: Task, method: str, test: Any, tune_epochs: int) -> dict[str, Any]:
    """Return what one way of halving a network gives, and what it takes."""
    found = METHODS[method](task)
    network = found.network.eval()
    share = multiply_adds(network, task.example) / (task.allowed / SHARE)
    lasfast.calibrate(network, task.calibration_batches())
    before = evaluate_network(network, test).top1
    with found.timing("tune"):
        tuning: dict[str, Any] = {"standalone_epochs": tune_epochs, "seed": task.seed, **TUNING}
        for _ in lasfast.train.train_standalone(network, task.data.train, "small", **tuning):
            pass
    after = evaluate_network(network.eval(), test).top1
    return {
        "share": share,
        "candidates": found.candidates,
        "cpu_seconds": found.seconds,
        "before": before,
        "after": after,
    }


@app.command()
def outcomes(
    directory: Path,
    output: Path,
    network: str = "resnet",
    data: str = "imagefolder:data/cifar10",
    limit: int = 10000,
    calibration: int = 500,
    validation: int = 1000,
    epochs: int = 15,
    adapt_epochs: int = 2,
    tune_epochs: int = 3,
    candidates: int = 150,
    seeds: int = 3,
    threads: int = 1,
    without: list[str] = typer.Option([], help="fastnas or autonas"),  # noqa: B008
) -> None:
    """Halve a trained network in each way, for some seeds."""
    torch.set_num_threads(threads)
    directory.mkdir(parents=True, exist_ok=True)
    images = lasfast.data.load(data, calibration=calibration, validation=validation, limit=limit)
    test = images.test
    settings = {
        "network": network,
        "images": {
            "train": limit,
            "calibration": calibration,
            "validation": validation,
            "test": len(test[1]),
        },
        "epochs": {"trained": epochs, "adapted": adapt_epochs, "tuned": tune_epochs},
        "candidates": candidates,
        "share": SHARE,
    }
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else settings | {"seeds": {}}
    if {key: known[key] for key in settings} != settings:
        raise typer.BadParameter(f"{output} was made with other settings: {known}")
    tasks = []
    for seed in range(seeds):
        model = trained(NETWORKS[network], images, epochs, seed, directory / f"{network}-{seed}.safetensors")
        tasks.append(Task(model, images, seed, candidates, adapt_epochs))
        known["seeds"].setdefault(str(seed), {"whole": evaluate_network(model, test).top1})
    if "fastnas" in without and "without_fastnas" not in known:
        known["without_fastnas"] = fastnas_cost(tasks[0], candidates=3)
    *others, last = METHODS
    for task, method in [(task, method) for task in tasks for method in others] + [
        (task, last) for task in tasks
    ]:
        entry = known["seeds"][str(task.seed)]
        if method in entry or method in without:
            continue
        entry[method] = judged(task, method, test, tune_epochs)
        typer.echo(f"seed {task.seed}, {method}: {json.dumps(entry[method])}")
        machine = _harness.machine() | {"threads": threads}
        kept = {key: value for key, value in known.items() if key not in ("time", "machine")}
        _harness.write(kept | {"machine": machine}, output)


# ---- how long a candidate takes


class _EnoughError(Exception):
    """As many candidates were timed as were wanted."""


def fastnas_cost(task: Task, candidates: int) -> dict[str, float]:
    """Return how many candidates FastNAS measures at most, and its CPU seconds for each of the first.

    A candidate is recalibrated and predicts. A layer that loses nothing at some width is not tried wider.
    """
    import modelopt.torch.prune as mtp
    from modelopt.torch.prune import fastnas as searcher

    times: list[float] = []

    def score(network: nn.Module) -> float:
        top1 = task.score(network)
        times.append(time.process_time())
        if len(times) > candidates:
            raise _EnoughError
        return top1

    found = Found(task.model)
    with (
        mock.patch.object(searcher.tqdm, "tqdm", wraps=searcher.tqdm.tqdm) as progress,
        suppress(_EnoughError),
    ):
        mtp.prune(
            copy.deepcopy(task.model),
            mode=[("fastnas", _modelopt_config(None))],
            constraints={"flops": f"{100 * SHARE:g}%"},
            dummy_input=task.example,
            config=_modelopt_search(task, found) | {"score_func": score},
        )
    seconds = (times[candidates] - times[0]) / candidates
    return {"candidates": progress.call_args.kwargs["total"], "cpu_seconds": seconds}


def _fastnas_seconds(task: Task, candidates: int) -> float:
    """Return FastNAS' CPU seconds a candidate."""
    return fastnas_cost(task, candidates)["cpu_seconds"]


def _our_seconds(task: Task, precision: str, candidates: int) -> float:
    """Return our CPU seconds a candidate of the same kind: the whole network with one decision changed."""
    data = task.data
    supernet = from_model(task.model, (data.channels, *data.image_size), vary="widths", widths=WIDTHS)
    whole = supernet.full
    changed = [
        (*whole[:place], option, *whole[place + 1 :])
        for place, options in enumerate(supernet.space.layers)
        for option in range(len(options))
        if option != whole[place]
    ]
    architectures = random.Random(0).sample(changed, candidates)
    evaluator = lasfast.Evaluator(supernet, data.calibration, data.validation, precision=precision)
    evaluator(architectures[:1])
    begun = time.process_time()
    evaluator(architectures)
    return (time.process_time() - begun) / len(architectures)


def resnet18(classes: int) -> nn.Module:
    """Return timm's ResNet-18 with a stem for images of 32 pixels."""
    network: nn.Module = timm.create_model("resnet18", num_classes=classes)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return network


@app.command()
def rates(
    output: Path,
    data: str = "imagefolder:data/cifar10",
    calibration: int = 500,
    validation: int = 1000,
    theirs: int = 2,
    ours: int = 16,
    rounds: int = 1,
) -> None:
    """Time candidates of a ResNet-18 on one thread, in turns."""
    torch.set_num_threads(1)
    images = lasfast.data.load(data, calibration=calibration, validation=validation, limit=1000)
    torch.manual_seed(0)
    task = Task(resnet18(images.num_classes).eval(), images, 0, ours, 0)
    runs: dict[str, Callable[[], float]] = {
        "fastnas": partial(_fastnas_seconds, task, theirs),
        "lasfast fp32": partial(_our_seconds, task, "fp32", ours),
        "lasfast bf16": partial(_our_seconds, task, "bf16", ours),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            seconds[name].append(runs[name]())
            typer.echo(f"{name}: {seconds[name][-1]:.2f} CPU seconds a candidate")
    _harness.write(
        {
            "machine": _harness.machine() | {"threads": 1},
            "images": {"calibration": calibration, "validation": validation},
            "candidates": {"theirs": theirs, "ours": ours},
            "cpu_seconds": seconds,
        },
        output,
    )


# ---- the page

HEADING = "## Beside other tools\n"
PEAK = Path(__file__).parent / "results" / "without-amx-evaluate.json"
"""The record with the multiply-adds a second of large products in bf16, on a processor of the same kind."""
NAMES = {
    "uniform": "uniform widths",
    "torch-pruning": "Torch-Pruning",
    "fastnas": "ModelOpt FastNAS",
    "autonas": "ModelOpt AutoNAS",
    "lasfast": "lasfast",
    "lasfast, adapted": "lasfast, adapted",
}
JUDGED = tuple(method for method in NAMES if method not in ("fastnas", "autonas"))
"""The methods that every seed must have; the others may take too long."""
TITLES = {
    "resnet": "timm's ResNet-10 of 16 to 128 channels, with a stem for small images",
    "mobilenet": "torchvision's MobileNetV2 of half the width, with a stem of stride 1",
}


def points(values: list[float]) -> str:
    """Return mean and standard error of shares of 1, in points."""
    if len(values) < 2:
        return f"{100 * values[0]:.1f}"
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{100 * statistics.fmean(values):.1f} ± {100 * error:.1f}"


def _rows(seeds: list[dict[str, Any]]) -> list[str]:
    rows = []
    for method, name in NAMES.items():
        entries = [seed[method] for seed in seeds if method in seed]
        if not entries:
            continue
        seconds = {
            part: statistics.fmean(one["cpu_seconds"].get(part, 0.0) for one in entries)
            for part in ("adapt", "search", "tune")
        }
        if len(entries) < len(seeds):
            name += f" ({len(entries)} seed{'s' if len(entries) > 1 else ''})"
        rows.append(
            f"| {name} | {100 * statistics.fmean(one['share'] for one in entries):.0f} % "
            f"| {statistics.fmean(one['candidates'] for one in entries):.0f} "
            f"| {seconds['adapt']:.0f} + {seconds['search']:.0f} + {seconds['tune']:.0f} "
            f"| {points([one['before'] for one in entries])} "
            f"| {points([one['after'] for one in entries])} |"
        )
    return rows


def _verdict(seeds: list[dict[str, Any]]) -> str:
    """Return a sentence for our two ways: the paired differences to the best of those that all seeds have."""
    others = [one for one in NAMES if not one.startswith("lasfast") and all(one in seed for seed in seeds)]
    best = max(others, key=lambda method: statistics.fmean(seed[method]["after"] for seed in seeds))
    parts = []
    for method in ("lasfast", "lasfast, adapted"):
        differences = [seed[method]["after"] - seed[best]["after"] for seed in seeds]
        side = "above" if statistics.fmean(differences) >= 0 else "below"
        if side == "below":
            differences = [-one for one in differences]
        parts.append(f"{NAMES[method]} ends {points(differences)} points {side} {NAMES[best]}")
    return f"Paired by seed, {' and '.join(parts)}."


def _section(found: dict[str, Any]) -> str:
    """Return the text of one network's outcomes."""
    seeds = [seed for seed in found["seeds"].values() if all(method in seed for method in JUDGED)]
    images, epochs = found["images"], found["epochs"]
    missing = ""
    if (cost := found.get("without_fastnas")) is not None:
        minutes = cost["candidates"] * cost["cpu_seconds"] / 60
        missing = f" FastNAS was not run: it measures up to {cost['candidates']:.0f} candidates, each in "
        missing += f"{cost['cpu_seconds']:.1f} CPU seconds: up to {minutes:.0f} minutes for each seed."
    return f"""\
The network is {TITLES[found["network"]]}: {len(seeds)} seeds of it. It was trained for {epochs["trained"]}
epochs on {images["train"]:,} images of CIFAR-10, and has a top-1 of
{points([seed["whole"] for seed in seeds])} % on the {images["test"]:,} test images. Searches recalibrate on
{images["calibration"]:,} images and measure on {images["validation"]:,}. `adapt` takes {epochs["adapted"]}
epochs and tuning {epochs["tuned"]}.

| | multiply-adds left | candidates | seconds: adapt + search + tune | top-1 before | top-1 tuned |
|---|---|---|---|---|---|
{chr(10).join(_rows(seeds))}

{_verdict(seeds)}{missing}"""


@app.command()
def page(target: Path, rates: Path, outcomes: list[Path]) -> None:
    """Write the text of the records into the page, in the place of that section."""
    speed = json.loads(rates.read_text(encoding="utf-8"))
    before, heading, rest = target.read_text(encoding="utf-8").partition(HEADING)
    if not heading:
        raise typer.BadParameter(f"{target} has no heading {HEADING.strip()!r}")
    after = rest[rest.index("\n## ") :] if "\n## " in rest else ""
    found = [json.loads(one.read_text(encoding="utf-8")) for one in outcomes]
    has_autonas = any("autonas" in seed for one in found for seed in one["seeds"].values())
    autonas = (
        "ModelOpt's AutoNAS trains one sub-network a batch, for four times as many epochs as `adapt`, which "
        "trains four; where it is not in a table, it was not run: it takes longer than all others together."
        if has_autonas
        else "ModelOpt's AutoNAS is not in the tables: its first search was stopped after eight CPU minutes."
    )
    seconds = {name: statistics.median(values) for name, values in speed["cpu_seconds"].items()}
    ratios = {name: seconds["fastnas"] / seconds[f"lasfast {name}"] for name in ("fp32", "bf16")}
    peak = json.loads(PEAK.read_text(encoding="utf-8"))["peak_flops"]
    work = multiply_adds(resnet18(10), torch.zeros(1, 3, 32, 32)) * sum(speed["images"].values())
    per_candidate = f"{speed['images']['calibration']:,} images of calibration and "
    per_candidate += f"{speed['images']['validation']:,} of validation"
    files = ", ".join(f"[{one.stem}](../benchmarks/results/{one.name})" for one in (*outcomes, rates))
    written = f"""\
Each way halves the multiply-adds of a trained network, and what came out is trained on with the same
settings. Torch-Pruning goes by the magnitude of groups over the whole network, lasfast by `from_model` and
evolution in bf16 to the most accurate within the bound (`result.highest`). {autonas} The tables have means
and standard errors over seeds, and CPU seconds on one thread of a busy machine. The networks are small and
were trained for a short time, so they show no more than what happens there.

{(chr(10) * 2).join(map(_section, found))}

In a ResNet-18 with a stem for small images, a candidate ({per_candidate}) takes FastNAS
{seconds["fastnas"]:.1f} CPU seconds, and lasfast {seconds["lasfast fp32"]:.1f} in fp32 and
{seconds["lasfast bf16"]:.1f} in bf16: {ratios["fp32"]:.1f} and {ratios["bf16"]:.1f} times less. Candidates
are the whole network with one width changed, as FastNAS measures them: its first
{speed["candidates"]["theirs"]}, and {speed["candidates"]["ours"]} random ones of ours, which share the layers
before that width. Multiplication is the limit: a candidate takes {work / 1e9:.0f} G multiply-adds, less
what is shared, and large products in bf16 take {peak / 1e9:.0f} G a second on such a processor without AMX
([record](../benchmarks/results/{PEAK.name})). At that rate it would take {work / peak:.1f} seconds. Smaller
networks gain more, as the tables show.

Made from {files} by `python -m benchmarks.record_own_model page`.
"""
    parts = (
        one if one.startswith("|") else textwrap.fill(one, 120, break_on_hyphens=False)
        for one in written.split("\n\n")
    )
    text = "\n" + "\n\n".join(parts) + "\n"
    target.write_text(before + heading + text + after, encoding="utf-8")
    typer.echo(f"wrote {target}")


if __name__ == "__main__":
    app()
