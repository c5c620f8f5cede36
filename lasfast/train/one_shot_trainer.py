"""Training a supernet once, before the search: random paths (Single Path One-Shot), or a sandwich of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from lasfast.spaces import Architecture
from lasfast.supernets import Supernet
from lasfast.train.path_trainer import PathTrainer
from lasfast.train.progress import Progress
from lasfast.train.samplers import PathSampler, UniformSampler
from lasfast.train.seeds import derive
from lasfast.train.settings import TrainSettings
from lasfast.train.trainer import CHOICE


class OneShotTrainer(PathTrainer):
    """Trains the sub-networks that a sampler draws for each batch, all of it before the first candidates.

    The default sampler draws one sub-network uniformly, as Guo et al. (2019, section 3.2) do. What a sampler
    draws for a batch makes one update together, with the sum of the gradients (Yu and Huang 2019, Algorithm
    1). What no sub-network of a batch uses of the weights, slices of a weight included, gets no gradient, no
    weight decay, and keeps its momentum.

    All of it is step 0, `supernet_epochs` of the settings, the learning rate falling linearly to zero; a
    study's steps train nothing. Arguments are as `SupernetTrainer` has them.
    """

    _repeats = False

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

    def epochs(self, step: int) -> int:
        """Epochs of a step."""
        return 0 if step else self.settings.supernet_epochs

    def train(
        self, step: int, candidates: Sequence[Sequence[int]] = (), start: int = 0
    ) -> Iterator[Progress]:
        """Train from batch `start`, a Progress after every batch; `step` is 0, and there are no candidates.

        The bits of the weights depend on their state before, sampler, settings and seed, not on where the
        work was cut into calls. Raises NonFiniteLossError when training diverges.
        """
        if step or candidates:
            raise ValueError(
                f"step is {step} with {len(candidates)} candidates; expected step 0 without: a one-shot "
                "supernet is trained before the search"
            )
        return self._run(step, self.epochs(step), start, (), slice(None))

    def finished(self, step: int) -> bool:
        """Whether there is nothing left to train for a step: always, once step 0 is done."""
        return super().finished(0)

    def _paths(self, step: int, batch: int, candidates: Sequence[Architecture]) -> Sequence[Architecture]:
        return self.sampler.draw(random.Random(derive(self.seed, step, batch, CHOICE)))

    def _learning_rate(self, step: int, batch: int) -> float:
        return self.settings.learning_rate * (1 - batch / (self.epochs(step) * self.batches))

    def describe(self) -> dict[str, Any]:
        """What the weights depend on besides the supernet, as JSON values; a study's header holds it."""
        return super().describe() | {"sampler": self.sampler.describe()}
