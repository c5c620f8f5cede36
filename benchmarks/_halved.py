"""The ways to halve the multiply-adds of a network: uniform widths, Torch-Pruning, ModelOpt and lasfast.

Peers are imported where they are used: `benchmarks.record_own_model` says how to install them.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import lasfast
from lasfast import costs
from lasfast.data import Dataset
from lasfast.evaluation.scoring import evaluate_network
from lasfast.supernets import from_model
from lasfast.train.samplers import SandwichSampler

SHARE = 0.5
"""The share of the multiply-adds that is left."""
WIDTHS = tuple(eighths / 8 for eighths in range(2, 9))
"""The widths that all searches choose from, in multiples of 8."""
POPULATION, PARENTS = 50, 10
"""How many networks a generation of an evolution has, and how many of the best are parents."""


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
    """A smaller network, and the CPU seconds that it took to find it, by part of the work.

    `candidates` are those that were measured, `drawn` all that were drawn for them.
    """

    network: nn.Module
    candidates: int = 0
    drawn: int = 0
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


def _modelopt_config() -> dict[str, Any]:
    """Return ModelOpt's settings: the same widths as lasfast's, in multiples of 8."""
    features = {"feature_divisor": 8, "features_ratio": WIDTHS}
    return {
        "nn.Conv2d": {"*": {"channel_divisor": 8, "channels_ratio": WIDTHS}},
        "nn.BatchNorm2d": {"*": features},
        "nn.Linear": {"*": features},
    }


def _modelopt_search(task: Task, found: Found, **more: Any) -> dict[str, Any]:
    """Return what ModelOpt's searches are given; `found` counts the candidates."""

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


def _modelopt_queue(task: Task) -> Any:
    """Return a context in which ModelOpt recalibrates each candidate on the calibration images.

    It keeps its last 50 batches for that, and leaves batch norms as they are, with a warning, where it has
    seen fewer. In the context, it keeps as many as there are.
    """
    from modelopt.torch.nas import autonas

    return mock.patch.object(autonas, "MODELOPT_QUEUE_MAXLEN", len(task.calibration_batches()))


def fastnas(task: Task) -> Found:
    """Measure each layer's sensitivity, and search by halving (ModelOpt's FastNAS)."""
    import modelopt.torch.prune as mtp

    network = copy.deepcopy(task.model)
    found = Found(network)
    with found.timing("search"), _modelopt_queue(task):
        found.network, _ = mtp.prune(
            network,
            mode=[("fastnas", _modelopt_config())],
            constraints={"flops": f"{100 * SHARE:g}%"},
            dummy_input=task.example,
            config=_modelopt_search(task, found),
        )
    return found


def autonas(task: Task) -> Found:
    """Train a supernet of the network, and search it by evolution (ModelOpt's AutoNAS).

    It draws networks until as many were measured as by lasfast. Those outside of 85 to 100 % of the allowed
    multiply-adds are recalibrated, but not measured. Populations and parents are as many as lasfast's.
    """
    import modelopt.torch.nas as mtn
    from modelopt.torch.nas.autonas import EvolveSearcher
    from modelopt.torch.utils.random import _set_deterministic_seed

    _set_deterministic_seed(1 + task.seed)  # it takes 0 for none
    found = Found(task.model)
    with _modelopt_queue(task):
        network = mtn.convert(copy.deepcopy(task.model), mode=[("autonas", _modelopt_config())])
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

    def enough(searcher: EvolveSearcher) -> bool:
        found.drawn += 1
        return found.candidates >= task.candidates

    with found.timing("search"), mock.patch.object(EvolveSearcher, "early_stop", enough):
        config = _modelopt_search(
            task, found, num_iters=100 * task.candidates, population_size=POPULATION, candidate_size=PARENTS
        )
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
        searcher = lasfast.searchers.Evolution(
            supernet.space,
            constraint=supernet.constraint(f"flops<={100 * SHARE:g}%"),
            population=POPULATION,
            generations=task.candidates // POPULATION - 1,
            top=PARENTS,
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


class _EnoughError(Exception):
    """As many candidates were timed as were wanted."""


def fastnas_seconds(task: Task, candidates: int) -> float:
    """Return FastNAS' CPU seconds for each of its first candidates. It recalibrates one, and it predicts."""
    import modelopt.torch.prune as mtp

    times: list[float] = []

    def score(network: nn.Module) -> float:
        top1 = task.score(network)
        times.append(time.process_time())
        if len(times) > candidates:
            raise _EnoughError
        return top1

    with _modelopt_queue(task), suppress(_EnoughError):
        mtp.prune(
            copy.deepcopy(task.model),
            mode=[("fastnas", _modelopt_config())],
            constraints={"flops": f"{100 * SHARE:g}%"},
            dummy_input=task.example,
            config=_modelopt_search(task, Found(task.model)) | {"score_func": score},
        )
    return (times[candidates] - times[0]) / candidates


def our_seconds(task: Task, precision: str, candidates: int) -> float:
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
