"""Depthwise convolutions of any network, by lasfast's operator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lasfast.nn.plain import is_plain
from lasfast.ops.depthwise import depthwise_conv2d
from lasfast.ops.derivatives import is_transformed


def has_equal_axes(conv: nn.Conv2d) -> bool:
    """Return whether a convolution pads with as many zeros, and steps as far, in both axes."""
    return (
        conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and all(pair[0] == pair[1] for pair in (conv.padding, conv.stride, conv.dilation))
    )


def takes(conv: nn.Conv2d) -> bool:
    """Return whether `depthwise` can stand for a convolution."""
    return conv.groups == conv.in_channels == conv.out_channels > 1 and has_equal_axes(conv)


def depthwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return conv(x) [N, C, H', W'] in channels_last, for x [N, C, H, W] and a convolution that it `takes`.

    A module with hooks is called, so that these are, too, and so is all within transforms (`torch.func`).
    """
    if is_transformed():
        return conv(x)
    if not is_plain(conv):
        return conv(x.contiguous(memory_format=torch.channels_last))
    y = depthwise_conv2d(x, conv.weight, conv.stride[0], int(conv.padding[0]), conv.dilation[0])
    return y if conv.bias is None else y.add_(conv.bias.to(y.dtype).view(1, -1, 1, 1))  # nobody else has y
