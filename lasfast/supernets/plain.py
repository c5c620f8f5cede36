"""The plain network of the NIR paper (Meng et al. 2020, Experiments on CIFAR-100)."""

from __future__ import annotations

from collections.abc import Sequence

from lasfast.core.checks import check_positive
from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import Layer, Path
from lasfast.supernets.base import LayerAssignmentSupernet


class PlainNet(LayerAssignmentSupernet):
    """A VGG-like network: 3 groups of 3x3 conv-BN-ReLU layers with 64, 128 and 256 channels.

    Each group ends with a 2x2 max-pooling; the classifier has layers of 512, 512 and `num_classes` units.
    The first layer of the first group reads the images, which must be `image_size` x `image_size`.
    """

    found_assignments = ((8, 4, 3),)
    channels = (64, 128, 256)
    hidden = 512

    def __init__(
        self,
        max_layers: int | Sequence[int] = (4, 4, 4),
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        image_size: int = 32,
        dropout: float = 0.0,
    ) -> None:
        check_positive(image_size=image_size)
        if image_size < 8:
            raise ValueError(f"image_size must be at least 8 (three poolings), got {image_size}")
        self.image_size, self.dropout = image_size, dropout
        super().__init__(3, max_layers, num_classes=num_classes, in_channels=in_channels)

    def stem_layers(self) -> Path:
        """Return no layers: the first group reads the images."""
        return ()

    def layer(self, group: int, index: int) -> Layer:
        """Return a 3x3 convolution with its normalisation and activation."""
        before = self.channels[group - 1] if group else self.in_channels
        block = LayerBuilder(f"groups.{group}.{index}", before if index == 0 else self.channels[group])
        block.conv_bn_act("", block.input, self.channels[group], 3)
        return block.build()

    def group_end(self, group: int) -> Path:
        """Return the max-pooling that halves height and width."""
        block = LayerBuilder(f"pools.{group}", self.channels[group])
        block.pool(block.input, "max", 2, 2)
        return (block.build(),)

    def head_layers(self) -> Path:
        """Return the three fully connected layers."""
        block = LayerBuilder("classifier", self.channels[-1])
        y = block.flatten(block.input, self.channels[-1] * (self.image_size // 8) ** 2)
        for name in ("fc1", "fc2"):
            y = block.activation(block.linear(name, y, self.hidden))
            y = block.dropout(y, self.dropout)
        block.linear("fc3", y, self.num_classes)
        return (block.build(),)
