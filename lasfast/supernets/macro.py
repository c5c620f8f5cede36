"""The space of NAS-Bench-Macro (Su et al. 2021), a table of networks that were all trained on CIFAR-10."""

from __future__ import annotations

from typing import Any

from lasfast.core.checks import check_choice
from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import Path
from lasfast.spaces import Architecture, MacroSpace
from lasfast.spaces.choice import Option
from lasfast.supernets.choice import ChoiceSupernet, Part
from lasfast.supernets.parts import (
    DeepStem,
    inverted_residual,
    resnet_stem,
    scaled,
    stage_blocks,
    wide_classifier,
)

KINDS = {"k3e3": (3, 3), "k5e6": (5, 6)}
"""Kernel size and expansion of each inverted residual."""
STEMS = {"cifar": (1, 1), "tiny-imagenet": (2, 1), "imagenet": (2, 2)}
"""The strides of the first convolution and of the pooling behind it."""


class MacroNet(ChoiceSupernet):
    """Eight choice blocks in three stages of 2, 3 and 3: the space of NAS-Bench-Macro.

    An option is `identity` or an inverted residual of MobileNetV2 with ReLU: `k3e3` (a 3x3 depthwise
    convolution, expansion 3) or `k5e6`. The first block of a stage halves height and width and doubles the
    channels; there, `identity` is a 1x1 convolution with batch norm. There are 3^8 = 6,561 architectures. The
    digits of NAS-Bench-Macro's table are the numbers of the options.

    Behind the first block of a stage, `identity` leaves a block out, so that architectures which differ in
    the places of identities alone are one network. The published table has one accuracy for them, and they
    have one path here: blocks that are not identities come first, and take the weights of the first places.
    (How a supernet of this space shares its weights is ours; the paper's own supernet is not published.)

    Args:
        num_classes: the number of classes.
        in_channels: the number of channels of the images.
        stem: the first layer: "cifar", the benchmark's, is a 3x3 convolution (32 -> 4 pixels in the end);
            ours are "tiny-imagenet", a 7x7 convolution of stride 2 (64 -> 4), and "imagenet", that and a
            max-pooling of stride 2 (224 -> 7).
        width: a factor of all channels of the network, which are rounded to multiples of 8.
        dropout: the probability of dropout before the classifier.
    """

    stem_channels = 32
    space: MacroSpace
    channels = (64, 128, 256)
    repeats = (2, 3, 3)
    head_channels = 1280

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        *,
        stem: DeepStem = "cifar",
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        check_choice("stem", stem, tuple(STEMS))
        self.stem_kind, self.dropout = stem, dropout
        self._stem_channels = scaled(self.stem_channels, width)
        self._head_channels = scaled(self.head_channels, width)
        widths = [scaled(channels, width) for channels in self.channels]
        self._blocks = stage_blocks(widths, (2, 2, 2), self.repeats)
        super().__init__(MacroSpace(self.repeats, KINDS), num_classes=num_classes, in_channels=in_channels)

    def path(self, architecture: Architecture) -> Path:
        """Return the stem, the blocks with those that are left out at the end of each stage, and the head."""
        return super().path(self.space.key(self.space.validate(architecture)))

    def stem(self) -> Part:
        """Return the first convolution, and the pooling behind it if there is one."""
        strides = STEMS[self.stem_kind]
        return resnet_stem("first", self.in_channels, self._stem_channels, *strides), self._stem_channels

    def choice(self, index: int, taken: tuple[Option, ...], channels: int) -> Part:
        """Return the block that an option stands for; no layer where it is left out."""
        (kind,) = map(str, taken)
        out, stride = self._blocks[index]
        name = f"blocks.{index}.{kind}"
        if kind == "identity":
            if stride is None:
                return (), channels
            block = LayerBuilder(name, channels)
            block.conv_bn("", block.input, out, 1, stride)
            return (block.build(),), out
        kernel_size, expansion = KINDS[kind]
        return (inverted_residual(name, channels, out, kernel_size, expansion, stride, "relu"),), out

    def head(self, channels: int) -> Path:
        """Return the last convolution, the mean over all positions and the classifier."""
        return wide_classifier(channels, self._head_channels, self.num_classes, self.dropout)

    def describe(self) -> dict[str, Any]:
        """Return what identifies this supernet's structure; the weights do not say the strides."""
        return {**super().describe(), "stem": self.stem_kind}
