"""The conventions by which calibration keeps BatchNorm statistics.

Whatever the convention, each calibration batch is normalised by its own statistics. Conventions differ in
what they keep of these statistics for prediction.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class RunningStatistics(ABC):
    """Mean and variance of one batch norm, gathered batch by batch, in float64."""

    convention: ClassVar[str]
    weighs_by_images: ClassVar[bool] = False
    """This is True where a batch's weight is its number of images; else the weight does not depend on it."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self.mean = torch.zeros(channels, dtype=torch.float64, device=device)
        self.variance = torch.zeros(channels, dtype=torch.float64, device=device)

    @abstractmethod
    def update(self, mean: Tensor, variance: Tensor, images: int, count: int | Tensor) -> None:
        """Take in one batch.

        `mean` and `variance` [C] are its own, the variance unbiased; `images` is the batch size and
        `count` the values per channel, images * height * width (float64 [C] where channels differ).
        """

    def result(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance, float32 [C], as prediction uses them."""
        return self.mean.float(), self.variance.float()


class Cumulative(RunningStatistics):
    """Keeps the mean of the batches' means and unbiased variances, as `BatchNorm2d(momentum=None)` does."""

    convention = "cumulative"

    def __init__(self, channels: int, device: torch.device) -> None:
        super().__init__(channels, device)
        self.batches = 0

    def update(self, mean: Tensor, variance: Tensor, images: int, count: int | Tensor) -> None:
        """Average every batch alike, a smaller last one too (as torch does)."""
        self.batches += 1
        self.mean += (mean - self.mean) / self.batches
        self.variance += (variance - self.variance) / self.batches


class ExponentialMovingAverage(RunningStatistics):
    """Begins with mean 0 and variance 1; each batch has weight 0.1, as in `BatchNorm2d(momentum=0.1)`."""

    convention = "ema"
    momentum = 0.1

    def __init__(self, channels: int, device: torch.device) -> None:
        super().__init__(channels, device)
        self.variance += 1

    def update(self, mean: Tensor, variance: Tensor, images: int, count: int | Tensor) -> None:
        """Move a tenth of the way to the batch's mean and unbiased variance."""
        self.mean += self.momentum * (mean - self.mean)
        self.variance += self.momentum * (variance - self.variance)


class BatchMean(RunningStatistics):
    """Keeps the mean of the batches' means and *biased* variances, weighted by their numbers of images.

    Whatever the height and width of a batch, an image counts once: so does once-for-all
    (`ofa.nas.dynamic_layers.dynamic_op.set_running_statistics`, which weights by `x.size(0)`).
    """

    convention = "batch_mean"
    weighs_by_images = True

    def __init__(self, channels: int, device: torch.device) -> None:
        super().__init__(channels, device)
        self.images = 0

    def update(self, mean: Tensor, variance: Tensor, images: int, count: int | Tensor) -> None:
        """Weight the batch by its number of images."""
        self.images += images
        self.mean += (mean - self.mean) * (images / self.images)
        biased = variance * ((count - 1) / count)
        self.variance += (biased - self.variance) * (images / self.images)


CONVENTIONS: dict[str, type[RunningStatistics]] = {
    kind.convention: kind for kind in (Cumulative, ExponentialMovingAverage, BatchMean)
}
"""The conventions that users can name."""
