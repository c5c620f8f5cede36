"""The ProxylessNAS space (Cai et al. 2019), as Single Path One-Shot searches it (section 4, Table 5)."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import Path
from lasfast.spaces import ChoiceSpace
from lasfast.spaces.choice import Option
from lasfast.supernets.choice import ChoiceSupernet, Part
from lasfast.supernets.parts import (
    DeepStem,
    deep_strides,
    inverted_residual,
    scaled,
    stage_blocks,
    wide_classifier,
)

BLOCKS = tuple(f"k{kernel_size}e{expansion}" for expansion in (3, 6) for kernel_size in (3, 5, 7))
"""The blocks by kernel size and expansion, the cheapest first."""


class ProxylessNAS(ChoiceSupernet):
    """21 choice blocks, inverted residuals of MobileNetV2 (Sandler et al. 2018), in 6 stages.

    The options `k3e3` to `k7e6` have a depthwise convolution of size 3, 5 or 7, on 3 or 6 times as many
    channels as the block reads, and ReLU6. All blocks but the first of each stage have a shortcut, and the
    option `skip`, which leaves them out: there are 6^6 * 7^15 architectures (the paper counts 7^21). A fixed
    block without expansion comes before them.

    Each option of each block has weights of its own, as published: the options of a choice block compete,
    and one-shot training should couple them as little as possible (Guo et al. 2020, section 3.2). Expansions
    that are slices of one weight would save a third of the memory, but no time.

    Single Path One-Shot prints neither widths nor networks. The widths here are those of the mobile network
    that the authors of ProxylessNAS published, which `published` has in the text form: its 320 M
    multiply-adds are the figure of Table 5. (Their code searches a first stage of 24 channels.)

    Args:
        num_classes: the number of classes.
        in_channels: the number of channels of the images.
        stem: where height and width are halved: "imagenet" in the stem and stages 1, 2, 3 and 5 (224 -> 7),
            "tiny-imagenet" in these stages (64 -> 4), "cifar" in stages 2, 3 and 5 (32 -> 4).
        width: a factor of all channels of the network, which are rounded to multiples of 8.
        dropout: the probability of dropout before the classifier.
    """

    stem_channels = 32
    first_channels = 16
    channels = (32, 40, 80, 96, 192, 320)
    repeats = (4, 4, 4, 4, 4, 1)
    head_channels = 1280
    published = MappingProxyType(
        {
            "proxyless-r-mobile": "k5e3-k3e3-skip-skip-k7e3-k3e3-k5e3-k5e3-k7e6-k5e3-k5e3-k5e3-"
            "k5e6-k5e3-k5e3-k5e3-k7e6-k7e6-k7e3-k7e3-k7e6",
        }
    )

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        stem: DeepStem = "imagenet",
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        self.stem_kind, self.dropout = stem, dropout
        stem_stride, *strides = deep_strides(stem, (2, 2, 2, 2, 1, 2, 1))
        self._stem = (scaled(self.stem_channels, width), stem_stride)
        self._first_channels = scaled(self.first_channels, width)
        self._head_channels = scaled(self.head_channels, width)
        widths = [scaled(channels, width) for channels in self.channels]
        self._blocks = stage_blocks(widths, strides, self.repeats)
        space = ChoiceSpace([BLOCKS if stride else ("skip", *BLOCKS) for _, stride in self._blocks])
        super().__init__(space, num_classes=num_classes, in_channels=in_channels)

    def stem(self) -> Part:
        """Return the first convolution and the fixed block."""
        channels, stride = self._stem
        block = LayerBuilder("first", self.in_channels)
        block.conv_bn_act("", block.input, channels, 3, stride, kind="relu6")
        fixed = LayerBuilder("fixed", channels)
        y = fixed.conv_bn_act("2", fixed.input, channels, 3, groups=channels, kind="relu6")
        fixed.conv_bn("3", y, self._first_channels, 1)
        return (block.build(), fixed.build()), self._first_channels

    def choice(self, index: int, taken: tuple[Option, ...], channels: int) -> Part:
        """Return the block that an option stands for; no layer for a skip."""
        (kind,) = map(str, taken)
        if kind == "skip":
            return (), channels
        out, stride = self._blocks[index]
        kernel_size, expansion = map(int, re.findall(r"\d+", kind))
        name = f"blocks.{index}.{kind}"
        return (inverted_residual(name, channels, out, kernel_size, expansion, stride, "relu6"),), out

    def head(self, channels: int) -> Path:
        """Return the last convolution, the mean over all positions and the classifier."""
        return wide_classifier(channels, self._head_channels, self.num_classes, self.dropout, "relu6")

    def describe(self) -> dict[str, Any]:
        """Return what identifies this supernet's structure; the weights do not say the strides."""
        return {**super().describe(), "stem": self.stem_kind}
