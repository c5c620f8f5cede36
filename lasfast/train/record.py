"""What training reports of an epoch: losses and right answers, gathered on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lasfast.runtime.distributed import World


class NonFiniteLossError(ArithmeticError):
    """Training diverged: a loss is infinite or not a number."""


class EpochRecord:
    """Loss and right answers of each path of an epoch's batches, on the device until read."""

    def __init__(
        self,
        step: int,
        epoch: int,
        first: int,
        batches: int,
        paths: Sequence[Any],
        rate: float,
        device: torch.device,
        world: World,
    ) -> None:
        self.world = world
        self.step, self.epoch, self.first, self.next = step, epoch, first, first
        # [2, batches, paths]: mean loss of the batch, number right; of the images that this rank has
        self.values = torch.zeros(2, batches, len(paths), device=device)
        self.sizes: list[int] = []
        self.paths: list[Sequence[Any]] = []
        self.rates: list[float] = []

    def begin(self, paths: Sequence[Any], rate: float, size: int) -> None:
        """Note what a batch of `size` images trains, and at which rate; before its values are written."""
        self.paths.append(paths)
        self.rates.append(rate)
        self.sizes.append(size)

    def write(self, number: int, values: torch.Tensor) -> None:
        """Note loss and right answers [2, paths] of the next batch's paths from `number` on."""
        self.values[:, self.next, number : number + values.shape[1]] = values

    def read(self, counted: slice) -> tuple[float, float]:
        """Mean loss and accuracy of the epoch's batches so far; waits for the device. Of all ranks."""
        values = self.values[:, self.first : self.next].cpu().double()
        self.world.sum_([values])
        losses, right = values
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            batch, number = bad[0].tolist()
            path = self.paths[batch][number]
            raise NonFiniteLossError(
                f"the loss is {losses[batch, number].item()} in step {self.step}, epoch {self.epoch + 1}, "
                f"batch {self.first + batch + 1}{'' if path is None else f', sub-network {path}'}, "
                f"at learning rate {self.rates[batch]:g}. Try a smaller learning_rate, precision='fp32' or "
                "more warm_up_epochs; and check the images for values that are not finite."
            )
        if not len(losses):
            return math.nan, math.nan
        sizes = torch.tensor(self.sizes, dtype=torch.float64)[:, None]
        seen = sizes.sum() * losses[:, counted].shape[1]
        return (
            ((losses * sizes)[:, counted].sum() / seen).item(),
            (right[:, counted].sum() / seen).item(),
        )
