"""Counts the right answers of several networks at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.measurements.measurement import Measurement
from lasfast.spaces import Architecture

NEVER = 1 << 30
"""A rank that is beyond all others."""


class Scores:
    """Counts right answers batch by batch, on the device; nothing is read back before the end.

    What is counted for one network does not depend on the others, to the last bit.
    """

    def __init__(self) -> None:
        self._ranks: list[Tensor] = []
        self._losses: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take in logits [networks, N, classes] and labels [N]. A row with NaN counts as wrong."""
        own = labels.expand(logits.shape[:2])
        losses = F.cross_entropy(logits.double().flatten(0, 1), own.flatten(), reduction="none")
        self._losses.append(losses.view(own.shape))
        self._ranks.append(torch.where(logits.isnan().any(2), NEVER, _rank(logits, own)))

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return how many classes were before the right one (int64) and the cross-entropy (float64).

        Both [networks, N].
        """
        return torch.cat(self._ranks, 1).cpu().numpy(), torch.cat(self._losses, 1).cpu().numpy()

    def measurements(self, architectures: Sequence[Architecture]) -> list[Measurement]:
        """Return the shares and means over all batches, for each network that of its architecture."""
        return [measurement(*parts) for parts in zip(architectures, *self.result(), strict=True)]


def _rank(logits: Tensor, own: Tensor) -> Tensor:
    """How many classes are before the right one; of equal logits, the first class is before the others."""
    right = logits.gather(2, own[..., None])
    first = torch.arange(logits.shape[2], device=logits.device) < own[..., None]
    return ((logits > right) | ((logits == right) & first)).sum(2)


def measurement(architecture: Architecture, ranks: np.ndarray, losses: np.ndarray) -> Measurement:
    """Return the shares and means of one network, from the `result` of its images [N]."""
    right = ranks == 0
    return Measurement(
        architecture=architecture,
        top1=int(right.sum()) / len(ranks),
        top5=int((ranks < 5).sum()) / len(ranks),
        loss=float(losses.sum()) / len(ranks),
        images=len(ranks),
        correct=np.packbits(right).tobytes(),
    )
