"""The reports of training: a `Progress` after every batch, and the readings of an epoch behind it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from lasfast.runtime.distributed import World


class NonFiniteLossError(ArithmeticError):
    """Training diverged: a loss is infinite or not a number."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """The position of a training, and how it goes. `loss` and `accuracy` are as of the last reading.

    A step is the training before one round of candidates; step 0 is the warm-up, and the whole of a
    stand-alone training. Loss and accuracy are means over the epoch so far, over the newest candidates (in
    the warm-up: the deepest), in training mode on augmented images; NaN before the first reading.
    """

    step: int
    epoch: int  # from 0
    epochs: int  # in this step
    batch: int  # from 0, in this epoch; this batch is done
    batches: int  # in an epoch
    learning_rate: float
    loss: float
    accuracy: float  # 0 to 1
    images_per_second: float  # training images; each counts once however many sub-networks it trains
    seconds: float  # since this call of train() began

    @property
    def done(self) -> int:
        """Batches done in this step, this one included."""
        return self.epoch * self.batches + self.batch + 1

    @property
    def total(self) -> int:
        """Batches in this step."""
        return self.epochs * self.batches

    @property
    def last_of_epoch(self) -> bool:
        """True where the epoch ends with this batch."""
        return self.batch + 1 == self.batches


class EpochRecord:
    """Losses and right answers of the paths that the batches of an epoch train, on the device until read.

    Each process records those of its own images; `read` adds them up over all.
    """

    def __init__(
        self,
        step: int,
        epoch: int,
        first: int,
        batches: int,
        paths: int,
        device: torch.device,
        world: World,
    ) -> None:
        self.world = world
        self.step, self.epoch, self.first, self.next = step, epoch, first, first
        # [2, batches, paths]: mean loss over the batch's images, number of right answers
        self.values = torch.zeros(2, batches, paths, dtype=torch.float32, device=device)
        self.sizes: list[int] = []
        self.paths: list[Sequence[Any]] = []
        self.rates: list[float] = []

    def begin(self, paths: Sequence[Any], rate: float, size: int) -> None:
        """Note what a batch of `size` images trains, and at which rate, before its values are written."""
        self.paths.append(paths)
        self.rates.append(rate)
        self.sizes.append(size)

    def write(self, number: int, values: torch.Tensor) -> None:
        """Write losses and right answers [2, paths] of this batch's paths from `number` on."""
        self.values[:, self.next, number : number + values.shape[1]] = values

    def read(self, counted: slice) -> tuple[float, float]:
        """Return mean loss and accuracy of the epoch's batches so far, over the `counted` paths.

        It waits for the device, and all processes have to call it. Raises NonFiniteLossError.
        """
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
