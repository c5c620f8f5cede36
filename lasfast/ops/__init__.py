"""Operators on tensors, registered with torch as `torch.ops.lasfast`, with fakes and gradients."""

from __future__ import annotations

from lasfast.ops.bn_act import bn_act
from lasfast.ops.conv_bn_act import conv_bn_act
from lasfast.ops.quantize import dorefa, pact
from lasfast.ops.sliced_conv2d import sliced_conv2d, sliced_conv2d_statistics
from lasfast.runtime.compiled import build_info

__all__ = [
    "bn_act",
    "build_info",
    "conv_bn_act",
    "dorefa",
    "pact",
    "sliced_conv2d",
    "sliced_conv2d_statistics",
]
