"""The module that is exported: a network behind the normalization of its images."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lasfast.data.normalization import channel_scale


class Deployable(nn.Module):
    """A copy of a network on the CPU, in evaluation mode, that takes images as bytes.

    Args:
        network: takes normalized images float32 [N, C, H, W] and gives logits [N, classes].
        mean: the mean of each channel, of values from 0 to 1.
        std: the standard deviation of each channel.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # torch.export.save warns of weights in channels_last.
        self.network = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)
        scale, shift = channel_scale(mean, std, torch.empty(0, dtype=torch.uint8))
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.eval()
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits float32 [N, classes] of images uint8 [N, C, H, W]."""
        logits: Tensor = self.network(images.to(torch.float32) * self.scale + self.shift)
        return logits
