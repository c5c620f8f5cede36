"""Statistics of a set of images: channel means and deviations, and a digest of its contents."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 images [N, C, H, W], as values from 0 to 1.

    Pixels are counted by value rather than summed in floating point, so that the number of threads cannot
    change a bit. A channel that is the same everywhere gets a standard deviation of 1: there is nothing to
    scale.
    """
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].flatten().numpy(), minlength=256)
        part = counts / counts.sum()
        mean = float(part @ levels)
        std = float(np.sqrt(part @ (levels - mean) ** 2))
        means.append(mean)
        stds.append(std if counts.max() < counts.sum() else 1.0)
    return tuple(means), tuple(stds)


def digest_of(*arrays: NDArray[Any]) -> str:
    """Return a hexadecimal digest of the contents, dtypes and shapes of ``arrays``."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
