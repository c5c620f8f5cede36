"""Training a supernet once, before the search: random paths (Single Path One-Shot), or a sandwich of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from lasfast.runtime.seeds import derive
from lasfast.spaces import Architecture
from lasfast.supernets import Supernet
from lasfast.train.beforehand_trainer import BeforehandTrainer
from lasfast.train.samplers import PathSampler, UniformSampler
from lasfast.train.settings import TrainSettings
from lasfast.train.trainer import CHOICE


class OneShotTrainer(BeforehandTrainer):
    """Trains the sub-networks that a sampler draws for each batch, all of it before the first candidates.

    The default sampler draws one sub-network uniformly, as Guo et al. (2019, section 3.2) do. What a sampler
    draws for a batch makes one update together, with the sum of the gradients (Yu and Huang 2019, Algorithm
    1). What no sub-network of a batch uses of the weights, slices of a weight included, gets no gradient, no
    weight decay, and keeps its momentum.

    All of it is step 0, `supernet_epochs` of the settings, the learning rate falling linearly to zero; a
    study's steps train nothing. Arguments are as `SupernetTrainer` has them.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: Any,
        settings: TrainSettings | str = "small",
        *,
        sampler: PathSampler | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__(supernet, data, settings, update="joint", **overrides)
        self.sampler = UniformSampler(supernet.space) if sampler is None else sampler

    def _paths(self, step: int, batch: int, candidates: Sequence[Architecture]) -> Sequence[Architecture]:
        return self.sampler.draw(random.Random(derive(self.seed, step, batch, CHOICE)))

    def _learning_rate(self, step: int, batch: int) -> float:
        return self.settings.learning_rate * (1 - batch / (self.epochs(step) * self.batches))

    def describe(self) -> dict[str, Any]:
        """What the weights depend on besides the supernet, as JSON values; a study's header holds it."""
        return super().describe() | {"sampler": self.sampler.describe()}
