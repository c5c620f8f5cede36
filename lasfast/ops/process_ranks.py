"""Several processes whose batches are parts of one: what operators exchange with the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeGuard

import torch
from torch import Tensor


class ProcessRanks(Protocol):
    """The processes, called ranks, as `lasfast.runtime.distributed.World` describes them.

    All ranks call in the same order, with tensors of the same sizes; results are equal bit for bit.
    """

    size: int

    def stack(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all ranks, [size, *shape]."""

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks."""


def is_distributed(ranks: ProcessRanks | None) -> TypeGuard[ProcessRanks]:
    """Return whether there are several ranks."""
    return ranks is not None and ranks.size > 1


def merge_statistics(
    ranks: ProcessRanks, mean: Tensor, var: Tensor, rows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance [C] of all ranks' values, from those of this rank's.

    Each channel has `rows` values here. The third result, float64 [], is how many it has on all ranks
    together; it stays on the device.
    """
    count = torch.full((1,), rows, dtype=torch.float64, device=mean.device)
    every = ranks.stack(torch.cat((mean.double(), var.double(), count)))
    counts = every[:, -1:]
    means, variances = every[:, :-1].chunk(2, 1)
    values = counts.sum()
    shares = counts / values
    merged = (shares * means).sum(0)
    # Squares of differences, not a difference of squares: nothing cancels where means are large.
    spread = (shares * (variances + (means - merged).square())).sum(0)
    return merged.to(mean.dtype), spread.to(var.dtype), values
