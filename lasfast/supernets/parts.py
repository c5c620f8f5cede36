"""Stems, heads, strides and widths that several families of supernets share."""

from __future__ import annotations

from typing import Literal

from lasfast.core.checks import as_finite, check_choice
from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import Path

Stem = Literal["cifar", "imagenet"]
DeepStem = Literal["cifar", "tiny-imagenet", "imagenet"]
"""The stems of networks that halve height and width five times."""
HALVINGS_LEFT_OUT = {"imagenet": 0, "tiny-imagenet": 1, "cifar": 2}


def deep_strides(stem: DeepStem, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Return `strides` with the first ones of 2 replaced by 1, as many as the images are too small for.

    Five halvings leave 7x7 positions of a 224x224 image ("imagenet"), four leave 4x4 of 64x64
    ("tiny-imagenet"), three leave 4x4 of 32x32 ("cifar").
    """
    check_choice("stem", stem, tuple(HALVINGS_LEFT_OUT))
    wanted = list(strides)
    for _ in range(HALVINGS_LEFT_OUT[stem]):
        wanted[wanted.index(2)] = 1
    return tuple(wanted)


def scaled(channels: int, width: float) -> int:
    """Return `width * channels`, rounded to a multiple of 8 and at least 8; ValueError for a bad width."""
    if as_finite("width", width) <= 0:
        raise ValueError(f"width must be greater than 0, got {width}")
    return max(8, 8 * round(width * channels / 8))


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
