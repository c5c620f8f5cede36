"""The evaluator that trains each architecture from scratch, as searches without a supernet do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from lasfast import costs
from lasfast.data.training import as_training_images, describe_images
from lasfast.evaluation.images import Validation, checked_validation, fingerprint, image_size
from lasfast.evaluation.scoring import evaluate_network
from lasfast.measurements.measurement import Measurement
from lasfast.runtime import distributed
from lasfast.runtime.distributed import World
from lasfast.spaces import Architecture, SearchSpace
from lasfast.supernets import Supernet
from lasfast.train import Distillation, Progress, StandaloneTrainer, TrainSettings
from lasfast.train.objective import Distill
from lasfast.train.presets import resolve


class StandaloneEvaluator:
    """Trains every architecture that it is asked for from scratch and measures it, as LayerNAS does.

    Weights start from a seed of the architecture's own, so a measurement does not depend on the others. A
    study writes measurements down when its step is complete; killed and resumed, it trains that step again.
    Within `lasfast.distributed.start`, each process trains some of the architectures, to the same bits as one
    process; or all train each one together (`data_parallel`).

    Args:
        supernet: gives the networks (`extract(architecture, fresh=True)`); its own weights are not used.
        train: training images, as for `SupernetTrainer`.
        validation: (images [N, C, H, W], labels [N]) or a loader of such pairs; held out of `train`.
        settings: TrainSettings or a preset's name; further keywords override single fields, such as
            `standalone_epochs=5`.
        on_progress: is called after every batch, by the process that trains it, with the architecture and
            the progress of its training.
        distill: a teacher network whose soft targets all of them learn from, or a `Distillation` of one.
        data_parallel: whether several processes train each network together, which suits large ones.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape or range.
    """

    def __init__(
        self,
        supernet: Supernet,
        train: Any,
        validation: Validation,
        settings: TrainSettings | str = "small",
        *,
        on_progress: Callable[[Architecture, Progress], None] = lambda architecture, progress: None,
        distill: Distill = None,
        data_parallel: bool = False,
        **overrides: Any,
    ) -> None:
        if not isinstance(supernet, Supernet):
            raise TypeError(f"supernet must be a lasfast Supernet, got {type(supernet).__name__}")
        images = checked_validation(validation, supernet.in_channels, supernet.num_classes)
        self.supernet = supernet
        self.train = as_training_images(train)
        self.validation = validation
        self._images: Validation = images
        self.settings = resolve(settings, **overrides)
        self.on_progress = on_progress
        self.distill = Distillation.of(distill)
        self.image_size = image_size(images)
        self.data_parallel = data_parallel

    def __call__(self, architectures: Sequence[Architecture]) -> list[Measurement]:
        """Train each architecture; return a measurement for each, in order."""
        wanted, world = list(dict.fromkeys(map(self.space.validate, architectures))), distributed.world()
        if self.data_parallel:
            measurements = [self._measure(architecture, world) for architecture in wanted]
        else:
            measurements = world.spread(wanted, lambda architecture: self._measure(architecture, World()))
        measured = dict(zip(wanted, measurements, strict=True))
        return [measured[tuple(architecture)] for architecture in architectures]

    @property
    def space(self) -> SearchSpace:
        """The architectures that can be measured: those of the supernet."""
        return self.supernet.space

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Return the costs of an architecture by name (`lasfast.costs.summary`)."""
        return costs.summary(self.supernet, architecture, self.image_size)

    def describe(self) -> dict[str, Any]:
        """Return what identifies the measurements, as JSON values."""
        description = {
            "standalone": self.settings.describe(),
            "train": describe_images(self.train),
            "validation": fingerprint(self.validation),
        }
        if self.distill is not None:
            description["distill"] = self.distill.describe()
        if self.settings.batch_norm == "local":
            description["processes"] = distributed.world().size if self.data_parallel else 1
        return description

    def _measure(self, architecture: Architecture, world: World) -> Measurement:
        """Train one architecture in the processes of a world, and measure it."""
        measuring = world if self.settings.batch_norm == "global" else World()

        def evaluate(network: nn.Module) -> Measurement:
            precision = self.settings.precision
            return evaluate_network(network, self._images, architecture, precision=precision, world=measuring)

        trainer = StandaloneTrainer.of(
            self.supernet,
            architecture,
            self.train,
            self.settings,
            world=world,
            distill=self.distill,
            validate=lambda network: evaluate(network).top1,
        )
        for progress in trainer.train():
            self.on_progress(architecture, progress)
        return trainer.judged(evaluate, trainer.trained)
