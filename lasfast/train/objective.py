"""The objective of training: the loss by labels, by the soft targets of a teacher, or by both."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lasfast.core.checks import as_number
from lasfast.runtime.precision import autocast
from lasfast.supernets import Supernet
from lasfast.train.checkpoint import digest
from lasfast.train.settings import TrainSettings

FULL = "full"


@dataclasses.dataclass(frozen=True, eq=False)
class Distillation:
    """A teacher, and how a network learns from its soft targets.

    The loss of an image is the sum of ``(1 - weight) * cross_entropy`` by its label and of ``weight *
    temperature**2 * KL(teacher || student)``. The divergence is that of the softmaxes of logits divided by
    `temperature`, whose square keeps the size of gradients (Hinton, Vinyals and Dean 2015, section 2). By
    default a network learns from its teacher alone, as sub-networks do in Yu and Huang (2019) and BigNAS (Yu
    et al. 2020), and networks in Beyer et al. (2022).

    Args:
        teacher: a network that gives logits [N, classes] for the images that its student is trained on; or
            "full", the largest sub-network of the supernet that is trained. That one learns from labels, and
            all others of a batch from the logits that it computed for the same images (in-place distillation:
            Yu and Huang 2019, Algorithm 1; BigNAS, "Inplace Distillation").
        temperature: what logits are divided by.
        weight: the share of the soft targets in the loss, from 0 to 1; labels have the rest.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of range.
    """

    teacher: nn.Module | str
    temperature: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.teacher, Supernet):
            raise TypeError(
                "teacher must be a network that gives logits for images alone, such as "
                f"supernet.extract(architecture), or {FULL!r}, got a {type(self.teacher).__name__}"
            )
        if self.teacher != FULL and not isinstance(self.teacher, nn.Module):
            raise TypeError(f"teacher must be a network or {FULL!r}, got {self.teacher!r}")
        temperature = as_number("temperature", self.temperature, above=0)
        weight = as_number("weight", self.weight, minimum=0)
        if weight > 1:
            raise ValueError(f"weight must be from 0 to 1, got {weight}")
        object.__setattr__(self, "temperature", temperature)
        object.__setattr__(self, "weight", weight)

    @classmethod
    def of(cls, distill: Distill, full: Any = None) -> Distillation | None:
        """Return what trainers are given as `distill`; ValueError for "full" where no path is `full`."""
        if distill is None:
            return None
        made = distill if isinstance(distill, Distillation) else cls(distill)
        if made.network is None and full is None:
            raise ValueError(
                f"distill must be a network, or {FULL!r} where each batch trains the largest sub-network (as "
                f"SupernetTrainer does, and OneShotTrainer with a SandwichSampler), got {FULL!r}"
            )
        return made

    @property
    def network(self) -> nn.Module | None:
        """The teacher if it is a network of its own."""
        return self.teacher if isinstance(self.teacher, nn.Module) else None

    def describe(self) -> dict[str, Any]:
        """Return what training depends on, as JSON values: of a network, a digest of its `state_dict`."""
        teacher = FULL
        if self.network is not None:
            state = self.network.state_dict().items()
            tensors = {name: value for name, value in state if isinstance(value, Tensor)}
            teacher = digest(tensors, type(self.network).__name__)[:32]
        return {"teacher": teacher, "temperature": self.temperature, "weight": self.weight}


Distill = Distillation | nn.Module | str | None
"""The type of the trainers' `distill`: a teacher, a `Distillation` of it, or None."""


class Objective:
    """Computes the loss of each path of a batch.

    A teacher network is copied, so that nobody's mode, buffers or weights change: neither those of the given
    one by training, nor those of the copy by what becomes of the given one.

    Args:
        settings: say in which precision and memory format a teacher network runs.
        device: where it runs.
        distill: the teacher, if there is one.
        full: the path that is the teacher where `distill` says "full"; None where there is none that each
            batch trains.
        weights: float32 [classes], factors of the labels' losses; None where all count the same.

    Raises:
        TypeError, ValueError: `distill` is no teacher, or "full" where there is no such path.
    """

    def __init__(
        self,
        settings: TrainSettings,
        device: torch.device,
        distill: Distill,
        full: Any,
        weights: Tensor | None = None,
    ) -> None:
        self.settings, self.device = settings, device
        self.weights = None if weights is None else weights.to(device)
        self.distill = Distillation.of(distill, full)
        self.full: Any = None
        self.description: dict[str, Any] | None = None
        self._teacher: nn.Module | None = None
        if self.distill is None:
            return
        self.description = self.distill.describe()
        if self.distill.network is None:
            self.full = full
            return
        self._teacher = copy.deepcopy(self.distill.network).requires_grad_(False).eval().to(device)
        if settings.channels_last:
            self._teacher.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def teach(self, images: Tensor) -> Tensor | None:
        """Return the logits [N, classes] of a teacher network for a batch; None without one."""
        if self._teacher is None:
            return None
        with autocast(self.device, self.settings.precision):
            logits = self._teacher(images)
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"distill must be a teacher that gives a tensor of logits, got a {type(logits).__name__}"
            )
        return logits

    def by_labels(self, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the loss [paths] of each path's logits by labels alone."""
        return losses(logits, labels, self.settings.label_smoothing, self.weights)

    def full_logits(self, logits: Sequence[Tensor], paths: Sequence[Any]) -> Tensor | None:
        """Return those of the path that teaches the others, where it is one of these."""
        if self.full is None or self.full not in paths:
            return None
        return logits[list(paths).index(self.full)].detach()

    def __call__(
        self, logits: Sequence[Tensor], labels: Tensor, paths: Sequence[Any], targets: Tensor | None
    ) -> Tensor:
        """Return the loss [paths] of each path's logits [N, classes], the mean over its images.

        Labels are int64 [N], or shares of each class [N, classes].

        Raises ValueError where the teacher's logits have another shape.
        """
        hard = self.by_labels(logits, labels)
        if self.distill is None:
            return hard
        if targets is None:
            raise ValueError(f"paths must have the full sub-network, {self.full}, first, got {paths}")
        weight, temperature = self.distill.weight, self.distill.temperature
        mixed = [
            own
            if self.full is not None and path == self.full
            else (1 - weight) * own + weight * soft_loss(one, targets, temperature)
            for own, one, path in zip(hard, logits, paths, strict=True)
        ]
        return torch.stack(mixed)


def losses(
    logits: Sequence[Tensor], labels: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Return the loss [paths] of each path's logits [N, classes]: the mean cross entropy of its images.

    Labels are int64 [N], or shares of each class [N, classes]. `weights` [classes] are factors of what labels
    add to the sum over images, which is divided by the number of images: each image counts by itself, in
    whatever batch or process it is.
    """

    def loss(one: Tensor) -> Tensor:
        if weights is None:
            return F.cross_entropy(one.float(), labels, label_smoothing=label_smoothing)
        total = F.cross_entropy(
            one.float(), labels, weights, reduction="sum", label_smoothing=label_smoothing
        )
        return total / len(labels)

    return torch.stack([loss(one) for one in logits])


def class_weights(settings: TrainSettings, labels: Tensor | None, classes: int) -> Tensor | None:
    """Return the settings' factors of the loss for each class, float32 [classes]; None without any.

    Args:
        settings: their `class_weights`.
        labels: those of the training images, int64 [N]; None where they are not known.
        classes: how many classes there are.

    Raises:
        ValueError: the number of weights is another; or they are to be balanced, and labels are not known, or
            a class has no image.
    """
    wanted = settings.class_weights
    if wanted is None:
        return None
    if not isinstance(wanted, str):
        if len(wanted) != classes:
            raise ValueError(f"class_weights must be {classes}, one for each class, got {len(wanted)}")
        return torch.tensor(wanted, dtype=torch.float32)
    if labels is None:
        raise ValueError(
            f"class_weights must be numbers for images whose labels are not known beforehand, got {wanted!r}"
        )
    counts = labels.cpu().bincount(minlength=classes)
    if not counts.all():
        lacking = int((counts == 0).nonzero()[0])
        raise ValueError(
            f"class_weights must be numbers where a class, here {lacking}, has no training image, got "
            f"{wanted!r}"
        )
    return len(labels) / (classes * counts.float())


def soft_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return ``temperature**2 * KL(targets || logits)`` of logits [N, classes] each, the mean over images."""
    if targets.shape != logits.shape:
        raise ValueError(
            f"distill must be a teacher that gives logits {tuple(logits.shape)}, as the network in training "
            f"does, got {tuple(targets.shape)}"
        )
    student, teacher = (F.log_softmax(one.float() / temperature, 1) for one in (logits, targets))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)
