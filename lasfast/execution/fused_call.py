"""What the nodes call that `accelerate` puts into graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lasfast.nn.conv_bn_act import fused
from lasfast.ops.activations import FUNCTIONS
from lasfast.ops.sliced_conv2d_schema import output_size


def run(
    x: torch.Tensor,
    conv: nn.Conv2d | None,
    norm: nn.BatchNorm2d,
    residual: torch.Tensor | None,
    activation: str,
) -> torch.Tensor:
    """Return `act(norm(conv(x)) + residual)`, where the residual may be broadcast, in new memory."""
    if residual is None or residual.shape == _output_shape(x, conv):
        return fused(x, conv, norm, residual, activation)
    return FUNCTIONS[activation](fused(x, conv, norm) + residual)  # it is broadcast


def _output_shape(x: torch.Tensor, conv: nn.Conv2d | None) -> tuple[int, ...]:
    if conv is None:
        return tuple(x.shape)
    return output_size(x.shape, conv.out_channels, conv.kernel_size, conv.stride[0], int(conv.padding[0]))


def as_contiguous(value: Any) -> Any:
    """Return a tensor with its elements in the usual order, and anything else as it is."""
    return value.contiguous() if isinstance(value, torch.Tensor) else value
