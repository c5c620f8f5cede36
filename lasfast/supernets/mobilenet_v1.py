"""MobileNetV1 (Howard et al. 2017), its four lower-resolution groups searched as in the NIR paper."""

from __future__ import annotations

from collections.abc import Sequence

from lasfast.core.checks import check_choice
from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import Layer, Path
from lasfast.supernets.base import LayerAssignmentSupernet
from lasfast.supernets.parts import Stem, classifier


class MobileNetV1(LayerAssignmentSupernet):
    """4 groups of depthwise-separable layers with 128, 256, 512 and 1024 channels; handcrafted: 2-2-6-2.

    The first layer of each group halves height and width. The stem is a 3x3 convolution to 32 channels, of
    stride 2 (`stem="imagenet"`) or 1 (`"cifar"`), and one fixed depthwise-separable layer to 64 channels.
    """

    channels = (128, 256, 512, 1024)
    handcrafted_assignments = ((2, 2, 6, 2),)
    found_assignments = ((2, 5, 2, 3), (2, 3, 4, 3))

    def __init__(
        self,
        max_layers: int | Sequence[int] = (6, 6, 6, 6),
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        stem: Stem = "imagenet",
        dropout: float = 0.0,
    ) -> None:
        check_choice("stem", stem, ("cifar", "imagenet"))
        self.stem_kind, self.dropout = stem, dropout
        super().__init__(4, max_layers, num_classes=num_classes, in_channels=in_channels)

    def stem_layers(self) -> Path:
        """Return the first convolution and the fixed layer."""
        block = LayerBuilder("stem", self.in_channels)
        block.conv_bn_act("", block.input, 32, 3, 2 if self.stem_kind == "imagenet" else 1)
        return (block.build(), _separable("first", 32, 64, 1))

    def layer(self, group: int, index: int) -> Layer:
        """Return a depthwise-separable layer."""
        channels = self.channels[group]
        name = f"groups.{group}.{index}"
        if index:
            return _separable(name, channels, channels, 1)
        return _separable(name, self.channels[group - 1] if group else 64, channels, 2)

    def head_layers(self) -> Path:
        """Return the mean over all positions and the classifier."""
        return classifier(self.channels[-1], self.num_classes, self.dropout)


def _separable(name: str, in_channels: int, out_channels: int, stride: int) -> Layer:
    """Return a 3x3 depthwise and a 1x1 convolution, each with normalisation and ReLU (Figure 3)."""
    block = LayerBuilder(name, in_channels)
    y = block.conv_bn_act("_depthwise", block.input, in_channels, 3, stride, groups=in_channels)
    block.conv_bn_act("_pointwise", y, out_channels, 1)
    return block.build()
