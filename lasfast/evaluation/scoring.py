"""Scores: which answers of networks to validation images are right, and the measurements that these make."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lasfast.core.checks import check_choice
from lasfast.engine.scores import Scores
from lasfast.evaluation.images import Validation, batches
from lasfast.execution.interpret import evaluation_mode
from lasfast.ir.precision import PRECISIONS
from lasfast.measurements.measurement import Measurement
from lasfast.runtime.distributed import World
from lasfast.runtime.placement import device_of
from lasfast.runtime.precision import autocast
from lasfast.spaces import Architecture


@dataclass(frozen=True)
class Answers:
    """The answers of a network to images, in the order in which it sees them.

    Attributes:
        class_ranks: how many classes are before the right one, int64 [N]; 0 is a right answer.
        losses: cross-entropy, float64 [N].
    """

    class_ranks: np.ndarray
    losses: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """A flag for each answer that says whether it is right: bool [N]."""
        right: np.ndarray = self.class_ranks == 0
        return right

    @classmethod
    def of_networks(cls, class_ranks: Tensor, losses: Tensor) -> list[Answers]:
        """Return the answers of each network, of class ranks and losses [networks, N]."""
        rows = class_ranks.cpu().numpy(), losses.cpu().numpy()
        return [cls(*of_one) for of_one in zip(*rows, strict=True)]

    @classmethod
    def concatenate(cls, parts: Sequence[Answers]) -> Answers:
        """Return the answers of all parts, one after the other."""
        return cls(
            np.concatenate([part.class_ranks for part in parts]),
            np.concatenate([part.losses for part in parts]),
        )

    def split(self, sizes: Sequence[int]) -> list[Answers]:
        """Return the answers in parts of these sizes."""
        ends = np.cumsum(sizes)[:-1]
        parts = zip(np.split(self.class_ranks, ends), np.split(self.losses, ends), strict=True)
        return [Answers(*part) for part in parts]

    def reordered(self, order: np.ndarray) -> Answers:
        """Return the answers with the i-th at place `order[i]`."""
        class_ranks, losses = np.empty_like(self.class_ranks), np.empty_like(self.losses)
        class_ranks[order], losses[order] = self.class_ranks, self.losses
        return Answers(class_ranks, losses)

    def measurement(self, architecture: Architecture = ()) -> Measurement:
        """Return the shares of right answers and the mean loss."""
        images = len(self.class_ranks)
        return Measurement(
            architecture=architecture,
            top1=int(self.right.sum()) / images,
            top5=int((self.class_ranks < 5).sum()) / images,
            loss=float(self.losses.sum()) / images,
            images=images,
            correct=np.packbits(self.right).tobytes(),
        )


def evaluate_network(
    network: nn.Module,
    validation: Validation,
    architecture: Architecture = (),
    *,
    precision: str = "fp32",
    batch: int = 250,
    world: World | None = None,
) -> Measurement:
    """Return the measurement of a stand-alone network, with its own BatchNorm statistics.

    Args:
        network: takes images [N, C, H, W] and gives logits [N, classes].
        validation: (images [N, C, H, W], labels [N] int64), or a loader of such pairs.
        architecture: what the measurement is to be of.
        precision: "fp32", or "bf16" (autocast).
        batch: how many images are predicted at a time, where `validation` is a pair of tensors.
        world: the processes that share the batches out, which all call this with an equal network, and get
            the result of one process; this one alone by default.
    """
    check_choice("precision", precision, tuple(PRECISIONS))
    device = device_of(network)
    scores, sizes = Scores(), []
    world = world or World()
    with evaluation_mode(network), torch.inference_mode(), autocast(device, precision):
        for images, labels in batches(validation, batch, device, world.rank, world.size):
            scores.add(network(images).float()[None], labels)
            sizes.append(len(labels))
    shares = world.gather(Answers.of_networks(*scores.result())[0].split(sizes) if sizes else [])
    every = [part for parts in itertools.zip_longest(*shares) for part in parts if part is not None]
    return Answers.concatenate(every).measurement(architecture)
