"""Stems, heads, strides and widths that several families of supernets share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from lasfast.core.checks import as_finite, check_choice
from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import ActivationKind, Layer, Path

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


def check_width(width: float) -> None:
    """Raise ValueError unless `width` can be a factor of numbers of channels."""
    if as_finite("width", width) <= 0:
        raise ValueError(f"width must be greater than 0, got {width}")


def scaled(channels: int, width: float) -> int:
    """Return `width * channels`, rounded to a multiple of 8 and at least 8; ValueError for a bad width."""
    check_width(width)
    return max(8, 8 * round(width * channels / 8))


def stage_blocks(
    channels: Iterable[int], strides: Iterable[int], repeats: Iterable[int]
) -> list[tuple[int, int | None]]:
    """Return the channels of each block of all stages, and its stride if it is the first of its stage."""
    return [
        (width, None if index else stride)
        for width, stride, count in zip(channels, strides, repeats, strict=True)
        for index in range(count)
    ]


def resnet_stem(name: str, in_channels: int, channels: int, stride: int, pooling: int) -> Path:
    """Return ResNet's first layer, with strides of 1 or 2.

    It is a 7x7 convolution if `stride` is 2, a 3x3 convolution otherwise, and a 3x3 max-pooling of stride 2
    if `pooling` is 2.
    """
    block = LayerBuilder(name, in_channels)
    y = block.conv_bn_act("", block.input, channels, 7 if stride == 2 else 3, stride)
    if pooling == 2:
        block.pool(y, "max", 3, 2, padding=1)
    return (block.build(),)


def inverted_residual(
    name: str,
    channels: int,
    out: int,
    kernel_size: int,
    expansion: int,
    stride: int | None,
    kind: ActivationKind,
) -> Layer:
    """Return MobileNetV2's block: 1x1, depthwise and 1x1 convolution; a shortcut if `stride` is None."""
    block = LayerBuilder(name, channels)
    middle = expansion * channels
    y = block.conv_bn_act("1", block.input, middle, 1, kind=kind)
    y = block.conv_bn_act("2", y, middle, kernel_size, stride or 1, groups=middle, kind=kind)
    y = block.conv_bn("3", y, out, 1)
    if stride is None:
        block.add(y, block.input)
    return block.build()


def wide_classifier(
    channels: int, filters: int, num_classes: int, dropout: float, kind: ActivationKind = "relu"
) -> Path:
    """Return a 1x1 convolution to `filters` channels with batch norm and activation, and a classifier."""
    block = LayerBuilder("last", channels)
    block.conv_bn_act("", block.input, filters, 1, kind=kind)
    return (block.build(), *classifier(filters, num_classes, dropout))


def classifier(channels: int, num_classes: int, dropout: float) -> Path:
    """Return global average pooling, dropout where it is not 0, and one fully connected layer."""
    block = LayerBuilder("classifier", channels)
    y = block.dropout(block.global_avg_pool(block.input), dropout)
    block.linear("fc", y, num_classes)
    return (block.build(),)
