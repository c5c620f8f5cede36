"""Training one network from scratch."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lasfast.data.training import as_training_images, first_image
from lasfast.ir.layers import Path
from lasfast.runtime import distributed
from lasfast.runtime.distributed import World
from lasfast.runtime.placement import device_of
from lasfast.runtime.seeds import derive, torch_seed
from lasfast.spaces import Architecture
from lasfast.supernets import Supernet
from lasfast.train.curriculum import HEAD, Whole, standalone_schedule
from lasfast.train.forward import NetworkForward
from lasfast.train.objective import Distill
from lasfast.train.presets import resolve
from lasfast.train.progress import Progress
from lasfast.train.settings import TrainSettings
from lasfast.train.trainer import Trainer, with_prefix

T = TypeVar("T")

AVERAGE = "average."  # of the names of averages in a state
BEST = "best."  # of the names of the best network's tensors
Validate = Callable[[nn.Module], float]
"""Judges a network; it leaves the network, and torch's generators, as they are."""


@dataclasses.dataclass(frozen=True)
class Best:
    """The best epoch yet: its value, its number from 0, how many came since, and the weights after it."""

    value: float
    epoch: int
    since: int
    weights: dict[str, Tensor]


class StandaloneTrainer(Trainer):
    """Trains one network for `standalone_epochs`, at learning rates by `standalone_schedule`.

    `network` is what is trained, and `module` that or, with `standalone_auxiliary`, both the network and its
    auxiliary head. `trained` is what training is for: the network; with `standalone_ema`, an average of it;
    with `standalone_keep_best`, a copy as it was after the best epoch.

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
        validate: returns what early stopping and the best network are judged by, such as the accuracy on
            validation images, of the network that training would end with. It is called after each epoch
            where the settings ask for that: by all processes, which may share the images out (see `judged`).
        overrides: single fields of the settings.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or range; or, at the first batch of
            several processes, a batch norm does not run through PyTorch's function. Settings change the
            layers of a network whose layers are not known, or ask for a validation without `validate`.
    """

    forward: NetworkForward

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
        validate: Validate | None = None,
        **overrides: Any,
    ) -> None:
        settings = resolve(settings, **overrides)
        world = distributed.world() if world is None else world
        if settings.validates and validate is None:
            raise ValueError(
                "validate must be given for standalone_early_stopping and standalone_keep_best, got None"
            )
        seed = settings.seed if seed is None else seed
        images = as_training_images(data)
        shape: tuple[int, ...] = ()
        if settings.standalone_auxiliary:
            shape = tuple(first_image(images, settings.batch_size).shape[1:])
        with torch_seed(derive(seed, HEAD), device_of(network)):
            forward = NetworkForward(network, settings, world, path, shape)
        super().__init__(
            forward,
            images,
            settings,
            Whole(),
            standalone_schedule(settings),
            seed=seed,
            distill=distill,
        )
        self.network = network
        self._validate = validate
        self._best: Best | None = None
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
        validate: Validate | None = None,
    ) -> StandaloneTrainer:
        """Return a trainer of the network of an architecture, whose new weights are drawn from `seed_of`.

        The network is `trainer.network`, and `trainer.trained` in the end.
        """
        seed = seed_of(settings, architecture)
        with torch_seed(seed, device_of(supernet)):
            network = supernet.extract(architecture, fresh=True)
        path = supernet.extracted_path(architecture)
        options: dict[str, Any] = {"world": world, "path": path, "distill": distill, "validate": validate}
        return cls(network, data, settings, seed, **options)

    @property
    def finished(self) -> bool:
        """True once all epochs are done, or training has stopped early."""
        return self.stopped or self.position[1] >= self.epochs(0) * self.batches

    @property
    def stopped(self) -> bool:
        """True where as many epochs as `standalone_early_stopping` were no better than one before."""
        patience = self.settings.standalone_early_stopping
        return patience > 0 and self._best is not None and self._best.since >= patience

    @property
    def trained(self) -> nn.Module:
        """The network; or its average, or a copy as it was after the best epoch, as the settings have it."""
        if self._best is None or not self.settings.standalone_keep_best:
            return self._last
        network = copy.deepcopy(self._last)
        network.load_state_dict(self._best.weights)
        return network

    @property
    def _last(self) -> nn.Module:
        """The network as training has it now: its average, where there is one."""
        return self.network if self._average is None else self._average.module

    def loss(
        self, logits: Sequence[Tensor], labels: Tensor, paths: Sequence[Any], targets: Tensor | None
    ) -> Tensor:
        """Return the loss [1] of the network, with that of its auxiliary head by labels."""
        loss = super().loss(logits, labels, paths, targets)
        if self.forward.auxiliary is None:
            return loss
        weight = self.settings.standalone_auxiliary
        return loss + weight * self.objective.by_labels([self.forward.auxiliary], labels)

    def begin_epoch(self, epoch: int) -> None:
        """Set the probability of drop path, which graphs were recorded with."""
        probability = self.settings.standalone_drop_path
        if self.settings.standalone_drop_path_rule == "epochs":
            probability *= epoch / self.epochs(0)
        if probability != self.forward.rate.probability:
            self.forward.rate.probability = probability
            self.passes.clear()

    def after_updates(self) -> None:
        """Take the weights of this batch into their average."""
        if self._average is not None:
            self._average.update_parameters(self.network)

    def end_epoch(self, epoch: int) -> None:
        """Look whether this epoch was the best, where the settings ask for that."""
        if not self.settings.validates or self._validate is None:
            return
        validate, last = self._validate, self._last
        value = float(self.judged(validate, last))
        if self._best is not None and value <= self._best.value:
            self._best = dataclasses.replace(self._best, since=self._best.since + 1)
            return
        weights = {}
        if self.settings.standalone_keep_best:
            weights = {name: one.detach().clone() for name, one in last.state_dict().items()}
        self._best = Best(value, epoch, 0, weights)

    def judged(self, judge: Callable[[nn.Module], T], network: nn.Module) -> T:
        """Return what the first process finds of a network, which is asked for by all of them.

        The others' networks are equal to its own, and so they judge, too, and may take a part of the work.
        Of a batch norm of each process's own images, only the first one's statistics count: it judges alone.
        """
        if self.settings.batch_norm == "local":
            return self.world.share(lambda: judge(network))
        found = judge(network)
        return self.world.share(lambda: found)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what `Trainer.state` does, and the tensors `average.*` and `best.*`."""
        tensors, values = super().state()
        more: dict[str, Tensor] = {}
        if self._average is not None:
            more |= {f"{AVERAGE}{name}": one for name, one in self._average.state_dict().items()}
        if self._best is not None:
            more |= {f"{BEST}{name}": one for name, one in self._best.weights.items()}
            values["best"] = [self._best.value, self._best.epoch, self._best.since]
        for name, tensor in more.items():
            tensors[name] = tensor.detach().to("cpu", copy=True)
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
        self._best = None
        if "best" in values:
            value, epoch, since = values["best"]
            saved = with_prefix(tensors, BEST)
            weights = {name: one.to(self.device, copy=True) for name, one in saved.items()}
            self._best = Best(value, epoch, since, weights)

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

    Raises ValueError for settings with `standalone_ema` or `standalone_keep_best`, whose result is another
    network.
    """
    trainer = StandaloneTrainer(network, data, settings, seed, **overrides)
    for name, none in (("standalone_ema", 0), ("standalone_keep_best", False)):
        given = getattr(trainer.settings, name)
        if given:
            raise ValueError(
                f"{name} must be {none} for train_standalone, got {given}; StandaloneTrainer has the "
                "result as `trained`"
            )
    return trainer.train()
