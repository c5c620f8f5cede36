"""Training one network from scratch: SGD with the learning rate falling at milestones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from lasfast.ir.layers import Path
from lasfast.runtime import distributed
from lasfast.runtime.distributed import World
from lasfast.runtime.placement import device_of
from lasfast.runtime.seeds import derive, torch_seed
from lasfast.spaces import Architecture
from lasfast.supernets import Supernet
from lasfast.train.curriculum import MilestoneSchedule, Whole
from lasfast.train.forward import NetworkForward
from lasfast.train.progress import Progress
from lasfast.train.settings import TrainSettings, resolve
from lasfast.train.trainer import Trainer


class StandaloneTrainer(Trainer):
    """Trains one network for `standalone_epochs`, the learning rate falling at each of `milestones`.

    `data` and `settings` are as for SupernetTrainer. `seed` (the settings' own where None) decides order,
    augmentation and dropout, not the initial weights: those the network brings (`supernet.extract(a,
    fresh=True)`).

    Within `lasfast.distributed.start`, all processes train the network together, from the weights that the
    first one's has, by the statistics of whole batches. Of a network whose layers are known (`path`) the
    fused operators can do so; others train by PyTorch's.

    Args:
        network: what is trained, in place.
        data: training images.
        settings: TrainSettings or a preset's name.
        seed: of the training.
        world: the processes that train it together; `World()` is this one alone. Those of
            `lasfast.distributed.start` by default.
        path: the layers that the network computes by its modules, where they are known.
        overrides: single fields of the settings.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or range; or, at the first batch of
            several processes, a batch norm does not run through PyTorch's function.
    """

    def __init__(
        self,
        network: nn.Module,
        data: Any,
        settings: TrainSettings | str = "small",
        seed: int | None = None,
        *,
        world: World | None = None,
        path: Path | None = None,
        **overrides: Any,
    ) -> None:
        settings = resolve(settings, **overrides)
        world = distributed.world() if world is None else world
        super().__init__(
            NetworkForward(network, settings, world, path),
            data,
            settings,
            Whole(),
            MilestoneSchedule(settings),
            seed=seed,
        )
        if world.size > 1:
            self.load_state(*world.share(self.state))

    @classmethod
    def of(
        cls,
        supernet: Supernet,
        architecture: Architecture,
        data: Any,
        settings: TrainSettings,
        *,
        world: World | None = None,
    ) -> StandaloneTrainer:
        """Return a trainer of the network of an architecture, whose new weights are drawn from `seed_of`.

        The network is `trainer.module`.
        """
        seed = seed_of(settings, architecture)
        with torch_seed(seed, device_of(supernet)):
            network = supernet.extract(architecture, fresh=True)
        return cls(network, data, settings, seed, world=world, path=supernet.extracted_path(architecture))

    @property
    def finished(self) -> bool:
        """True once all epochs are done."""
        return self.position[1] >= self.epochs(0) * self.batches

    def train(self, start: int | None = None) -> Iterator[Progress]:
        """Train from batch `start` (None: where the trainer stands) to the end; a Progress every batch."""
        return self.run(0, (), self.position[1] if start is None else start)


def seed_of(settings: TrainSettings, architecture: Architecture) -> int:
    """Return the seed of one of many networks, derived from the settings' seed and the architecture."""
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
