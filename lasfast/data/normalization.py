"""Normalization of images to the floats that networks see, by one expression wherever it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


def channel_scale(mean: Sequence[float], std: Sequence[float], images: Tensor) -> tuple[Tensor, Tensor]:
    """Return (scale, shift), each float32 [1, C, 1, 1], such that ``raw * scale + shift`` is normalized.

    uint8 images stand for values of 0 to 1 (raw / 255), and ``mean`` and ``std`` are of those values.
    """
    unit = 255.0 if images.dtype == torch.uint8 else 1.0
    scale = torch.tensor([1 / (unit * s) for s in std], dtype=torch.float32, device=images.device)
    shift = torch.tensor(
        [-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32, device=images.device
    )
    return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)


def check_positive_stds(std: Sequence[float]) -> None:
    """Raise ValueError unless all standard deviations are positive."""
    if not all(value > 0 for value in std):
        raise ValueError(f"std must be positive, got {std!r}")


def scale_and_shift(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return ``images * scale + shift``, a new float32 tensor of the shape of ``images`` [N, C, H, W]."""
    # Two passes rather than addcmul: no fused multiply-add whose use depends on the position in memory.
    return images.to(torch.float32, copy=True).mul_(scale).add_(shift)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalize uint8 (as raw / 255) or float images [N, C, H, W] per channel, to float32."""
    return scale_and_shift(images, *channel_scale(mean, std, images))


@dataclass(frozen=True)
class Normalization:
    """Normalizes uint8 images by the mean and std of each channel, of values from 0 to 1.

    Raises:
        TypeError, ValueError: the numbers are not finite, a std is not positive, or their counts differ.
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
        """Return the normalization of a pair (mean, std) for images of so many channels, checked."""
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"normalize must be a pair (mean, std), numbers for each channel, got {pair!r}")
        made = cls(*pair)
        if len(made.mean) != channels:
            raise ValueError(
                f"normalize must have a mean and a std for {channels} channel(s), got {len(made.mean)}"
            )
        return made

    def __call__(self, images: Tensor) -> Tensor:
        """Return uint8 images [N, C, H, W] normalized, float32."""
        return scale_and_shift(images, *_scales(self, images.device))

    def table(self, device: torch.device) -> Tensor:
        """Return the normalized value of each byte in each channel, float32 [C, 256]."""
        channels = len(self.mean)
        every = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, channels, 1, 1)
        return self(every)[:, :, 0, 0].T.contiguous().to(device)


@lru_cache(maxsize=16)
def _scales(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scale and shift on the device, kept there so that no batch waits for the copy."""
    images = torch.empty(0, dtype=torch.uint8, device=device)
    return channel_scale(normalization.mean, normalization.std, images)
