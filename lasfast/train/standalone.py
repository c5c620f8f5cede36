"""Training one network from scratch: SGD with the learning rate falling at milestones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lasfast.execution import accelerate
from lasfast.runtime.seeds import derive, torch_seed
from lasfast.spaces import Architecture
from lasfast.supernets import Supernet
from lasfast.train.progress import Progress
from lasfast.train.settings import TrainSettings, resolve
from lasfast.train.trainer import Trainer
from lasfast.train.update import Used


class StandaloneTrainer(Trainer):
    """Trains one network for `standalone_epochs`, the learning rate falling at each of `milestones`.

    `data` and `settings` as for SupernetTrainer. `seed` (the settings' own where None) decides order,
    augmentation and dropout, not the initial weights: those the network brings (`supernet.extract(a,
    fresh=True)`).
    """

    def __init__(
        self,
        network: nn.Module,
        data: Any,
        settings: TrainSettings | str = "small",
        seed: int | None = None,
        **overrides: Any,
    ) -> None:
        resolved = resolve(settings, **overrides)
        super().__init__(network, data, resolved, resolved.seed if seed is None else seed)
        self._accelerated = self._accelerate()

    def _accelerate(self) -> nn.Module:
        """The network with fused operators; itself where those are not wanted or it cannot be traced."""
        if self.operators == "torch":
            return self.module
        try:
            return accelerate(self.module)
        except ValueError:
            if self.settings.operators == "native":
                raise
            self.operators = "torch"
            return self.module

    @classmethod
    def of(
        cls, supernet: Supernet, architecture: Architecture, data: Any, settings: TrainSettings
    ) -> StandaloneTrainer:
        """A trainer of the network of an architecture with new weights, its seed `seed_of` them.

        The network is `trainer.module`.
        """
        seed = seed_of(settings, architecture)
        with torch_seed(seed, next(supernet.parameters()).device):
            network = supernet.extract(architecture, fresh=True)
        return cls(network, data, settings, seed)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.position[1] >= self.settings.standalone_epochs * self.batches

    def train(self, start: int | None = None) -> Iterator[Progress]:
        """Train from batch `start` (None: where the trainer stands) to the end; a Progress every batch."""
        if start is None:
            start = self.position[1]
        return self._run(0, self.settings.standalone_epochs, start, (), slice(None))

    def _logits(self, images: torch.Tensor, paths: object) -> list[torch.Tensor]:
        network = self._accelerated if self.operators == "native" else self.module
        return [network(images)]

    def _used(self, paths: object) -> Used:
        return [(parameter, [()]) for parameter in self._parameters]

    def _paths(self, step: int, batch: int, candidates: object) -> tuple[None]:
        return (None,)

    def _learning_rate(self, step: int, batch: int) -> float:
        passed = sum(batch >= milestone * self.batches for milestone in self.settings.milestones)
        return self.settings.learning_rate * self.settings.milestone_factor**passed


def seed_of(settings: TrainSettings, architecture: Architecture) -> int:
    """The seed of one of many networks, derived from the settings' seed and the architecture."""
    return derive(settings.seed, *architecture, bits=31)


def train_standalone(
    network: nn.Module,
    data: Any,
    settings: TrainSettings | str = "small",
    seed: int | None = None,
    **overrides: Any,
) -> Iterator[Progress]:
    """Train `network` in place from its present weights; a Progress after every batch."""
    return StandaloneTrainer(network, data, settings, seed, **overrides).train()
