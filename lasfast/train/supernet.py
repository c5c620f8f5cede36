"""Trainers of supernets: step by step with a search, or all of it before the search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lasfast.data.training import describe_images
from lasfast.runtime import distributed
from lasfast.spaces import Architecture
from lasfast.supernets import LayerAssignmentSupernet, Supernet
from lasfast.train.curriculum import (
    Curriculum,
    DeepestAndCandidates,
    Sampled,
    Schedule,
    StepSchedule,
    supernet_schedule,
)
from lasfast.train.forward import SupernetForward
from lasfast.train.objective import Distill
from lasfast.train.presets import resolve
from lasfast.train.progress import Progress
from lasfast.train.samplers import PathSampler, UniformSampler
from lasfast.train.settings import TrainSettings
from lasfast.train.trainer import Trainer


class PathTrainer(Trainer):
    """Trains sub-networks of a supernet; a study calls `train` before it measures each step.

    Within `lasfast.distributed.start`, all processes train together, each on its images of every batch, with
    the same operators, fused or PyTorch's (`TrainSettings.operators`), by the statistics of the whole batch.
    """

    def __init__(
        self,
        forward: SupernetForward,
        data: Any,
        settings: TrainSettings,
        curriculum: Curriculum,
        schedule: Schedule,
        *,
        update: str,
        distill: Distill = None,
    ) -> None:
        super().__init__(forward, data, settings, curriculum, schedule, update=update, distill=distill)
        self.supernet = forward.supernet
        labels = getattr(self.data, "labels", None)
        if isinstance(labels, torch.Tensor) and labels.max() >= self.supernet.num_classes:
            raise ValueError(
                f"data must have labels less than the supernet's {self.supernet.num_classes} classes, got "
                f"labels up to {labels.max().item()}"
            )

    def train(
        self, step: int, candidates: Sequence[Sequence[int]] = (), start: int = 0
    ) -> Iterator[Progress]:
        """Train one step from batch `start`; a Progress after every batch. Step 0 comes before the search.

        The bits of the weights depend on their state before, `step`, `candidates`, settings and seed, not on
        where the work was cut into calls.

        Raises:
            ValueError: the trainer has no such step, or not with such candidates; `start` is out of range.
            NonFiniteLossError: training diverged.
        """
        return self.run(step, candidates, start)

    def finished(self, step: int) -> bool:
        """Return whether the weights already went through all training up to a step's end."""
        while step and not self.epochs(step):
            step -= 1  # nothing is trained in it
        return self.position >= (step, self.epochs(step) * self.batches)

    def describe(self) -> dict[str, Any]:
        """Return what the weights depend on besides the supernet, as JSON values, for a study's header."""
        description: dict[str, Any] = {
            "settings": self.settings.describe(),
            "update": self.update,
            "data": {"batches": self.batches, **(describe_images(self.data) or {})},
        }
        if self.objective.description is not None:
            description["distill"] = self.objective.description
        if self.settings.batch_norm == "local":
            description["processes"] = self.world.size
        return description


class SupernetTrainer(PathTrainer):
    """Trains the deepest sub-network first, then in each step the deepest and the step's candidates.

    `paths="every"` is Algorithm 1 of Meng et al. (lines 5 to 12): every batch trains the deepest and then
    each candidate in order, an update of the weights each. `paths="uniform"` trains the deepest and then one
    candidate drawn uniformly, as single-path one-shot does (Guo et al. 2019, section 3.2).

    Warm-up (step 0) is at the base learning rate; a step is at half of it, falling linearly to zero. What an
    update does not use of the weights, slices of a weight included, gets no gradient, no weight decay, and
    keeps its momentum. Momentum is kept from step to step. `update="joint"` makes one update of all that a
    batch trains, with the sum of their gradients, and runs the layers that they share once; "sequential", an
    update each, is the paper's.

    With `distill`, sub-networks learn from a teacher's soft targets (`Distillation`). The teacher is a
    network, or "full", the deepest, whose logits for a batch teach the candidates. The paper has none.

    `data` is `dataset.train` of `lasfast.data`, a pair of tensors (images [N, C, H, W], labels [N] int64), or
    a DataLoader. `settings` is a preset's name or TrainSettings; further keywords override single fields:
    `SupernetTrainer(supernet, data.train, "cifar100", epochs_per_step=5)`.

    Training works in place on `supernet`, on the device its weights are on when the trainer is made.
    """

    curriculum: DeepestAndCandidates

    def __init__(
        self,
        supernet: LayerAssignmentSupernet,
        data: Any,
        settings: TrainSettings | str = "small",
        *,
        deepest: Sequence[int] | None = None,
        paths: str = "every",
        update: str = "sequential",
        distill: Distill = None,
        **overrides: Any,
    ) -> None:
        settings = resolve(settings, **overrides)
        self.paths = paths
        super().__init__(
            SupernetForward(supernet, settings, distributed.world()),
            data,
            settings,
            DeepestAndCandidates(supernet.space, settings.seed, deepest, paths),
            StepSchedule(settings),
            update=update,
            distill=distill,
        )

    @property
    def deepest(self) -> Architecture:
        """The sub-network that is trained with every batch."""
        return self.curriculum.deepest

    def describe(self) -> dict[str, Any]:
        """Return what the weights depend on besides the supernet, as JSON values, for a study's header."""
        return super().describe() | {"paths": self.paths, "deepest": list(self.deepest)}


class OneShotTrainer(PathTrainer):
    """Trains the sub-networks that a sampler draws for each batch, all of it before the first candidates.

    The default sampler draws one sub-network uniformly, as Guo et al. (2019, section 3.2) do. What a sampler
    draws for a batch makes one update together, with the sum of the gradients (Yu and Huang 2019, Algorithm
    1). What no sub-network of a batch uses of the weights, slices of a weight included, gets no gradient, no
    weight decay, and keeps its momentum.

    With `distill`, sub-networks learn from a teacher's soft targets (`Distillation`). The teacher is a
    network, or "full", the largest of a `SandwichSampler`, whose logits for a batch teach the others, as Yu
    and Huang (2019, Algorithm 1) and BigNAS (Yu et al. 2020) train.

    All of it is step 0, `supernet_epochs` of the settings at rates by `supernet_schedule`; a study's steps
    train nothing. Arguments are as `SupernetTrainer` has them.
    """

    curriculum: Sampled

    def __init__(
        self,
        supernet: Supernet,
        data: Any,
        settings: TrainSettings | str = "small",
        *,
        sampler: PathSampler | None = None,
        distill: Distill = None,
        **overrides: Any,
    ) -> None:
        settings = resolve(settings, **overrides)
        super().__init__(
            SupernetForward(supernet, settings, distributed.world()),
            data,
            settings,
            Sampled(UniformSampler(supernet.space) if sampler is None else sampler, settings.seed),
            supernet_schedule(settings),
            update="joint",
            distill=distill,
        )

    @property
    def sampler(self) -> PathSampler:
        """The sampler that draws the sub-networks of a batch."""
        return self.curriculum.sampler

    def describe(self) -> dict[str, Any]:
        """Return what the weights depend on besides the supernet, as JSON values, for a study's header."""
        return super().describe() | {"sampler": self.sampler.describe()}
