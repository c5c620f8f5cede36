"""ResNet-50 (He et al. 2016), its four groups searched as in the NIR paper."""

from __future__ import annotations

from collections.abc import Sequence

from lasfast.core.checks import check_choice
from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import Layer, Path
from lasfast.supernets.base import LayerAssignmentSupernet
from lasfast.supernets.parts import Stem, classifier, deep_strides, resnet_stem


class ResNet50(LayerAssignmentSupernet):
    """4 groups of bottleneck blocks with 256, 512, 1024 and 2048 channels; handcrafted: 3-4-6-3.

    The first block of a group projects its shortcut; in groups 2 to 4, its 3x3 convolution halves height and
    width, as in torchvision. `stem="imagenet"` is a 7x7 convolution of stride 2 and a max-pooling of stride
    2; `"cifar"` is a 3x3 convolution of stride 1.
    """

    widths = (64, 128, 256, 512)
    expansion = 4
    handcrafted_assignments = ((3, 4, 6, 3),)
    found_assignments = ((5, 6, 4, 1),)

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
        """Return the first convolution."""
        return resnet_stem("stem", self.in_channels, 64, *deep_strides(self.stem_kind, (2, 2)))

    def layer(self, group: int, index: int) -> Layer:
        """Return a bottleneck block: 1x1, 3x3, 1x1 convolutions."""
        width = self.widths[group]
        channels = width * self.expansion
        before = self.widths[group - 1] * self.expansion if group else 64
        block = LayerBuilder(f"groups.{group}.{index}", channels if index else before)
        stride = 2 if group and index == 0 else 1
        y = block.conv_bn_act("1", block.input, width, 1)
        y = block.conv_bn_act("2", y, width, 3, stride)
        y = block.conv_bn("3", y, channels, 1)
        shortcut = block.input
        if index == 0:
            shortcut = block.conv_bn("_shortcut", shortcut, channels, 1, stride)
        block.activation(block.add(y, shortcut))
        return block.build()

    def head_layers(self) -> Path:
        """Return the mean over all positions and the classifier."""
        return classifier(self.widths[-1] * self.expansion, self.num_classes, self.dropout)
