"""Drop-in modules whose forward pass uses as many channels as it is given; state dicts are torch's."""

from __future__ import annotations

from lasfast.nn.sliced import SlicedBatchNorm2d, SlicedConv2d

__all__ = ["SlicedBatchNorm2d", "SlicedConv2d"]
