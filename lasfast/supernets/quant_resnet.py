"""ResNets whose blocks choose bit widths and channels, as in Single Path One-Shot (Table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lasfast.core.checks import check_bits
from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import Path
from lasfast.spaces import ChoiceSpace, VirtualLayer
from lasfast.spaces.choice import Option
from lasfast.supernets.choice import ChoiceSupernet, Part
from lasfast.supernets.parts import DeepStem, classifier, deep_strides, resnet_stem, scaled, stage_blocks

REPEATS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
BITS = ((1, 2), (2, 2), (1, 4), (2, 4), (3, 4), (4, 4))
"""The choices (bits of weights, bits of values), in the paper's order."""
RATIOS = {"0.5": 5, "1.0": 10, "1.5": 15}


class QuantResNet(ChoiceSupernet):
    """ResNet-18 or -34 (He et al. 2016) with a choice of bit widths and middle channels for each block.

    As in Guo et al. 2020, section 4, a block takes a pair of `bits` (weight bits, value bits) for all of its
    convolutions, and 0.5, 1 or 1.5 times as many channels between them: there are 18^8 architectures, or
    18^16. The text form has the ratio of channels before the bits, as in `1.0-w2a4-0.5-w1a2-...`. The first
    convolution and the classifier are not quantized. All options of a block share its weights; narrower ones
    read a slice of them.

    Values are quantized by PACT (Choi et al. 2018; `lasfast.ops.pact`), weights as in DoReFa-Net (Zhou et
    al. 2016; `lasfast.ops.dorefa`). In a block, the input of the first convolution and of the projection is
    quantized, and so is that of the second convolution, where PACT replaces the ReLU; a shortcut without a
    projection is not. Each number of bits learns a clipping value of its own. The paper leaves all of this
    open. `published` has baselines with the same bits everywhere.

    Args:
        num_classes: the number of classes.
        in_channels: the number of channels of the images.
        depth: 18 or 34.
        bits: the choices (weight bits, value bits), each from 1 to 8.
        stem: where height and width are halved: "imagenet" in the first convolution, which is 7x7, in a
            max-pooling and in stages 2 to 4 (224 -> 7); "tiny-imagenet" in the pooling and these stages
            (64 -> 4); "cifar" in these stages (32 -> 4). The last two begin with a 3x3 convolution.
        width: a factor of all channels of the network, which are rounded to multiples of 8.
        dropout: the probability of dropout before the classifier.

    Raises:
        ValueError: an argument is none of its choices.
    """

    channels = (64, 128, 256, 512)

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        depth: int = 18,
        bits: Sequence[tuple[int, int]] = BITS,
        stem: DeepStem = "imagenet",
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        if depth not in REPEATS:
            raise ValueError(f"depth must be one of {', '.join(map(str, REPEATS))}, got {depth!r}")
        self.depth, self.stem_kind, self.dropout = depth, stem, dropout
        self._bits = {f"w{weights}a{values}": (weights, values) for weights, values in map(_checked, bits)}
        self._strides = deep_strides(stem, (2, 2, 2, 2, 2))
        widths = [scaled(channels, width) for channels in self.channels]
        self._first_channels = widths[0]
        self._blocks = stage_blocks(widths, (1, *self._strides[2:]), REPEATS[depth])
        decisions: list[VirtualLayer | tuple[str, ...]] = [VirtualLayer(tuple(RATIOS), 1), tuple(self._bits)]
        space = ChoiceSpace(decisions * len(self._blocks))
        uniform = {f"{one}W{one}A": f"w{one}a{one}" for one in (2, 3, 4)}
        self.published = {
            name: "-".join(["1.0", option] * len(self._blocks))
            for name, option in uniform.items()
            if option in self._bits
        }
        super().__init__(space, num_classes=num_classes, in_channels=in_channels)

    def stem(self) -> Part:
        """Return the first convolution, and a max-pooling if the stem has one."""
        channels = self._first_channels
        return resnet_stem("first", self.in_channels, channels, *self._strides[:2]), channels

    def choice(self, index: int, taken: tuple[Option, ...], channels: int) -> Part:
        """Return the residual block with the bits and the ratio that were taken."""
        bits, ratio = map(str, taken)
        weight_bits, value_bits = self._bits[bits]
        out, stride = self._blocks[index]
        block = LayerBuilder(f"blocks.{index}", channels)
        x = block.quantize(f"clip1.a{value_bits}", block.input, value_bits)
        y = block.conv_bn("1", x, out * RATIOS[ratio] // 10, 3, stride or 1, weight_bits=weight_bits)
        y = block.quantize(f"clip2.a{value_bits}", y, value_bits)
        y = block.conv_bn("2", y, out, 3, weight_bits=weight_bits)
        shortcut = block.input
        if stride == 2 or channels != out:
            shortcut = block.conv_bn("_shortcut", x, out, 1, stride or 1, weight_bits=weight_bits)
        block.activation(block.add(y, shortcut))
        return (block.build(),), out

    def head(self, channels: int) -> Path:
        """Return the mean over all positions and the classifier."""
        return classifier(channels, self.num_classes, self.dropout)

    def describe(self) -> dict[str, Any]:
        """Return what identifies this supernet's structure; the weights do not say the strides."""
        return {**super().describe(), "stem": self.stem_kind}


def _checked(bits: tuple[int, int]) -> tuple[int, int]:
    """Return a pair (weight bits, value bits); TypeError or ValueError if it is none."""
    if not isinstance(bits, tuple | list) or len(bits) != 2:
        raise ValueError(f"bits must be pairs (weight bits, value bits) such as (2, 4), got {bits!r}")
    for one in bits:
        check_bits("bits", one)
    return bits[0], bits[1]
