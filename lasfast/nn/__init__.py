"""Drop-in modules whose forward pass uses as many channels as it is given; state dicts are torch's."""

from __future__ import annotations

from lasfast.nn.conv_bn_act import ConvBNAct
from lasfast.nn.quantize import PACT
from lasfast.nn.sliced import SlicedBatchNorm2d, SlicedConv2d, SlicedLinear

__all__ = ["PACT", "ConvBNAct", "SlicedBatchNorm2d", "SlicedConv2d", "SlicedLinear"]
