"""The CIFAR residual network of He et al. 2016 (section 4.2), as the NIR paper searches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lasfast.core.checks import check_choice
from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import Layer, Path
from lasfast.supernets.base import LayerAssignmentSupernet
from lasfast.supernets.parts import Stem, classifier, deep_strides, resnet_stem


class ResidualNet(LayerAssignmentSupernet):
    """3 groups of residual blocks with two 3x3 convolutions each, of 16, 32 and 64 channels.

    The first block of groups 2 and 3 halves height and width. Its shortcut is either `"pad"`, every second
    pixel with zeros in the new channels (option A, as in the CIFAR networks of He et al.), or
    `"projection"`, a 1x1 convolution with batch norm (option B). `stem="imagenet"` is ResNet's 7x7
    convolution of stride 2 and 3x3 max-pooling of stride 2; `"cifar"` is a 3x3 convolution of stride 1.
    """

    found_assignments = ((2, 5, 8),)
    channels = (16, 32, 64)

    def __init__(
        self,
        max_layers: int | Sequence[int] = (5, 5, 5),
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        stem: Stem = "cifar",
        shortcut: Literal["pad", "projection"] = "pad",
        dropout: float = 0.0,
    ) -> None:
        check_choice("stem", stem, ("cifar", "imagenet"))
        check_choice("shortcut", shortcut, ("pad", "projection"))
        self.stem_kind, self.shortcut, self.dropout = stem, shortcut, dropout
        super().__init__(3, max_layers, num_classes=num_classes, in_channels=in_channels)

    def stem_layers(self) -> Path:
        """Return the first convolution."""
        return resnet_stem("stem", self.in_channels, self.channels[0], *deep_strides(self.stem_kind, (2, 2)))

    def layer(self, group: int, index: int) -> Layer:
        """Return a residual block."""
        channels = self.channels[group]
        changes = group > 0 and index == 0
        block = LayerBuilder(f"groups.{group}.{index}", self.channels[group - 1] if changes else channels)
        stride = 2 if changes else 1
        y = block.conv_bn_act("1", block.input, channels, 3, stride)
        y = block.conv_bn("2", y, channels, 3)
        shortcut = block.input
        if changes and self.shortcut == "projection":
            shortcut = block.conv_bn("_shortcut", shortcut, channels, 1, stride)
        elif changes:
            shortcut = block.pool(shortcut, "max", 1, stride)
        block.activation(block.add(y, shortcut))
        return block.build()

    def head_layers(self) -> Path:
        """Return the mean over all positions and the classifier."""
        return classifier(self.channels[-1], self.num_classes, self.dropout)
