"""Adaptation: the weights of a model learn to work in its narrower and shallower versions, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lasfast import costs
from lasfast.supernets import ModelSupernet
from lasfast.train.objective import FULL, Distill
from lasfast.train.presets import resolve
from lasfast.train.progress import Progress
from lasfast.train.samplers import SandwichSampler
from lasfast.train.settings import TrainSettings
from lasfast.train.supernet import OneShotTrainer

SLOWER = 0.1
"""The share of a preset's learning rate, which is for new weights, that trained ones are adapted with."""


def adaptation(
    supernet: ModelSupernet,
    data: Any,
    settings: TrainSettings | str = "small",
    *,
    epochs: int,
    drawn: int = 2,
    distill: Distill = FULL,
    **overrides: Any,
) -> OneShotTrainer:
    """Return the trainer that adapts a model's weights, for `adapt` or for a study.

    Each batch trains the model itself, its smallest version and some random ones (the sandwich rule, Yu and
    Huang 2019), so that they can be compared with the weights that they share. The model learns from labels,
    and teaches the others.

    Args:
        supernet: the supernet of the model, whose weights are trained in place.
        data: what `OneShotTrainer` takes.
        settings: a preset's name, of whose learning rate a tenth is taken, or settings to take as they are.
        epochs: how many times the images are seen.
        drawn: how many random versions a batch trains.
        distill: who teaches (see `Distillation`): "full", the model as it is adapted; another network; or
            None, so that all learn from labels.
        overrides: single settings, such as `learning_rate`, in place of those.
    """
    if isinstance(settings, str):
        settings = resolve(settings)
        settings = settings.replace(learning_rate=SLOWER * settings.learning_rate)
    _, height, width = supernet.image_shape
    cost = costs.functions(supernet, (height, width))["flops"]
    sampler = SandwichSampler(supernet.space, cost, drawn=drawn)
    settings = settings.replace(**(overrides | {"supernet_epochs": epochs}))
    return OneShotTrainer(supernet, data, settings, sampler=sampler, distill=distill)


def adapt(
    supernet: ModelSupernet,
    data: Any,
    settings: TrainSettings | str = "small",
    *,
    epochs: int,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **more: Any,
) -> None:
    """Adapt a model's weights to its narrower and shallower versions; the arguments are `adaptation`'s.

    `on_progress` is called after every batch.

    Raises:
        ValueError, TypeError: an argument is out of range.
        NonFiniteLossError: training diverged.
    """
    for progress in adaptation(supernet, data, settings, epochs=epochs, **more).train(0):
        on_progress(progress)
