"""Training one network from scratch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lasfast.ir.layers import Path
from lasfast.runtime import distributed
from lasfast.runtime.distributed import World
from lasfast.runtime.placement import device_of
from lasfast.runtime.seeds import derive, torch_seed
from lasfast.spaces import Architecture
from lasfast.supernets import Supernet
from lasfast.train.curriculum import Whole, standalone_schedule
from lasfast.train.forward import NetworkForward
from lasfast.train.objective import Distill
from lasfast.train.presets import resolve
from lasfast.train.progress import Progress
from lasfast.train.settings import TrainSettings
from lasfast.train.trainer import Trainer, with_prefix

AVERAGE = "average."  # of the names of averages in a state


class StandaloneTrainer(Trainer):
    """Trains one network for `standalone_epochs`, at learning rates by `standalone_schedule`.

    `module` is the network; `trained` is what training is for, an average of it with `standalone_ema`.

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
        distill: a teacher network whose soft targets it learns from, or a `Distillation` of one.
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
        distill: Distill = None,
        **overrides: Any,
    ) -> None:
        settings = resolve(settings, **overrides)
        world = distributed.world() if world is None else world
        super().__init__(
            NetworkForward(network, settings, world, path),
            data,
            settings,
            Whole(),
            standalone_schedule(settings),
            seed=seed,
            distill=distill,
        )
        self._average: AveragedModel | None = None
        if settings.standalone_ema:
            rule = get_ema_multi_avg_fn(settings.standalone_ema)
            self._average = AveragedModel(network, multi_avg_fn=rule, use_buffers=True)
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
        distill: Distill = None,
    ) -> StandaloneTrainer:
        """Return a trainer of the network of an architecture, whose new weights are drawn from `seed_of`.

        The network is `trainer.module`, and `trainer.trained` in the end.
        """
        seed = seed_of(settings, architecture)
        with torch_seed(seed, device_of(supernet)):
            network = supernet.extract(architecture, fresh=True)
        path = supernet.extracted_path(architecture)
        return cls(network, data, settings, seed, world=world, path=path, distill=distill)

    @property
    def finished(self) -> bool:
        """True once all epochs are done."""
        return self.position[1] >= self.epochs(0) * self.batches

    @property
    def trained(self) -> nn.Module:
        """The average of the network where the settings have it averaged; else the network."""
        return self.module if self._average is None else self._average.module

    def after_updates(self) -> None:
        """Take the weights of this batch into their average."""
        if self._average is not None:
            self._average.update_parameters(self.module)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what `Trainer.state` does, and the tensors `average.*`."""
        tensors, values = super().state()
        if self._average is not None:
            for name, tensor in self._average.state_dict().items():
                tensors[f"{AVERAGE}{name}"] = tensor.detach().to("cpu", copy=True)
        return tensors, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises ValueError, having changed nothing, where it belongs to another network, teacher or average.
        """
        averages = with_prefix(tensors, AVERAGE)
        if bool(averages) != (self._average is not None):
            raise ValueError(
                "standalone_ema must be above 0 exactly where the saved weights have averages, got "
                f"{self.settings.standalone_ema} and {len(averages)} averages"
            )
        super().load_state(tensors, values)
        if self._average is not None:
            self._average.load_state_dict(averages)

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
    """Train `network` in place from its present weights; a Progress after every batch.

    Raises ValueError for settings with `standalone_ema`, since the average is another network.
    """
    trainer = StandaloneTrainer(network, data, settings, seed, **overrides)
    if trainer.trained is not network:
        raise ValueError(
            "standalone_ema must be 0 for train_standalone, got "
            f"{trainer.settings.standalone_ema}; StandaloneTrainer has the average as `trained`"
        )
    return trainer.train()
