"""The functions that lasfast's own nodes in graphs call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lasfast.nn.conv_bn_act import fused
from lasfast.nn.depthwise import depthwise
from lasfast.ops.activations import FUNCTIONS
from lasfast.ops.sliced_conv2d_schema import output_size


def run(
    x: torch.Tensor,
    conv: nn.Conv2d | None,
    norm: nn.BatchNorm2d,
    residual: Any,
    activation: str,
) -> torch.Tensor:
    """Return `act(norm(conv(x)) + residual)` in new memory; fused where that is what the modules would give.

    The residual may be broadcast, or a number, or of another dtype. An x of other channels than the modules
    have is theirs to refuse.
    """
    channels = norm.num_features if conv is None else conv.in_channels
    if x.dim() != 4 or x.shape[1] != channels:
        y = norm(x if conv is None else conv(x))
    elif residual is None or (
        isinstance(residual, torch.Tensor)
        and residual.shape == _output_shape(x, conv)
        and residual.dtype == x.dtype
    ):
        return fused(x, conv, norm, residual, activation)
    else:
        y = fused(x, conv, norm)
    return FUNCTIONS[activation](y if residual is None else y + residual)


def run_depthwise(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """Return conv(x) in new memory; an x of other channels or dimensions is the module's to refuse."""
    return depthwise(x, conv) if x.dim() == 4 and x.shape[1] == conv.in_channels else conv(x)


def _output_shape(x: torch.Tensor, conv: nn.Conv2d | None) -> tuple[int, ...]:
    if conv is None:
        return tuple(x.shape)
    return output_size(x.shape, conv.out_channels, conv.kernel_size, conv.stride[0], int(conv.padding[0]))


def normalize(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    """Return what a norm of a subclass computes before it goes on to its activation."""
    return nn.BatchNorm2d.forward(norm, x)


def as_contiguous(value: Any) -> Any:
    """Return a tensor with its elements in the usual order, and anything else as it is."""
    return value.contiguous() if isinstance(value, torch.Tensor) else value
