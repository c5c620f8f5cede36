"""From images as bytes to the floats that networks see: one expression, wherever it is evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


def channel_scale(mean: Sequence[float], std: Sequence[float], images: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, shift), each [1, C, 1, 1] float32, such that ``raw * scale + shift`` is normalized.

    uint8 images stand for values of 0 to 1 (raw / 255), and ``mean`` and ``std`` are of those values.
    """
    unit = 255.0 if images.dtype == torch.uint8 else 1.0
    scale = torch.tensor([1 / (unit * s) for s in std], dtype=torch.float32, device=images.device)
    shift = torch.tensor(
        [-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32, device=images.device
    )
    return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)


def scale_and_shift(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``images * scale + shift`` as a new float32 tensor of the shape of ``images`` [N, C, H, W]."""
    # Two passes rather than addcmul: no fused multiply-add whose use depends on the position in memory.
    return images.to(torch.float32, copy=True).mul_(scale).add_(shift)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalize [N, C, H, W] uint8 (as raw / 255) or float images per channel; float32, the same shape."""
    return scale_and_shift(images, *channel_scale(mean, std, images))


@dataclass(frozen=True)
class Normalization:
    """What uint8 images stand for: ``normalize`` with the mean and std of each channel, of values 0 to 1.

    Raises:
        TypeError, ValueError: these are no finite numbers, a std is not positive, or their counts differ.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        try:
            mean, std = (tuple(float(value) for value in part) for part in (self.mean, self.std))
        except (TypeError, ValueError):
            raise TypeError(
                f"normalize must be (mean, std), numbers for each channel, got ({self.mean!r}, {self.std!r})"
            ) from None
        if not mean or len(mean) != len(std):
            raise ValueError(f"normalize must have as many means as stds, got {mean} and {std}")
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise ValueError(f"normalize must have finite means and positive stds, got {mean} and {std}")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    @classmethod
    def of(cls, pair: object, channels: int) -> Normalization:
        """Check (mean, std) of images with so many channels."""
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"normalize must be a pair (mean, std), numbers for each channel, got {pair!r}")
        made = cls(*pair)
        if len(made.mean) != channels:
            raise ValueError(
                f"normalize must have a mean and a std for {channels} channel(s), got {len(made.mean)}"
            )
        return made

    def __call__(self, images: Tensor) -> Tensor:
        """float32 [N, C, H, W] of uint8 images."""
        return scale_and_shift(images, *_scales(self, images.device))

    def table(self, device: torch.device) -> Tensor:
        """What each byte stands for in each channel: float32 [C, 256]."""
        channels = len(self.mean)
        every = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, channels, 1, 1)
        return self(every)[:, :, 0, 0].T.contiguous().to(device)


@lru_cache(maxsize=16)
def _scales(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift, already on the device: no batch waits for them to get there."""
    images = torch.empty(0, dtype=torch.uint8, device=device)
    return channel_scale(normalization.mean, normalization.std, images)
