"""Stems and heads that several families share."""

from __future__ import annotations

from typing import Literal

from lasfast.supernets.builder import LayerBuilder
from lasfast.supernets.layers import Path

Stem = Literal["cifar", "imagenet"]


def resnet_stem(stem: Stem, in_channels: int, channels: int) -> Path:
    """Return a 3x3 convolution of stride 1 (cifar), or 7x7 of stride 2 and a max-pooling (imagenet)."""
    block = LayerBuilder("stem", in_channels)
    if stem == "cifar":
        block.conv_bn_act("", block.input, channels, 3)
    else:
        y = block.conv_bn_act("", block.input, channels, 7, 2)
        block.pool(y, "max", 3, 2, padding=1)
    return (block.build(),)


def classifier(channels: int, num_classes: int, dropout: float) -> Path:
    """Return global average pooling, dropout where it is not 0, and one fully connected layer."""
    block = LayerBuilder("classifier", channels)
    y = block.dropout(block.global_avg_pool(block.input), dropout)
    block.linear("fc", y, num_classes)
    return (block.build(),)
