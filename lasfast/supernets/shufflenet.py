"""The ShuffleNetV2 supernet of Single Path One-Shot (Guo et al. 2020, Table 2 and section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from lasfast.core.checks import check_choice
from lasfast.ir.builder import LayerBuilder, Value
from lasfast.ir.layers import Path
from lasfast.spaces import ChoiceSpace, VirtualLayer
from lasfast.spaces.choice import Option
from lasfast.supernets.choice import ChoiceSupernet, Part
from lasfast.supernets.parts import DeepStem, deep_strides, scaled, stage_blocks, wide_classifier

Search = Literal["blocks", "channels", "both"]

KERNELS = {"3x3": 3, "5x5": 5, "7x7": 7, "xception": 3}
RATIOS = {str(tenths / 10): tenths for tenths in range(2, 18, 2)}


PUBLISHED = {
    "blocks": "7x7-5x5-3x3-5x5-7x7-3x3-7x7-3x3-7x7-3x3-7x7-xception-3x3-3x3-3x3-3x3-xception-7x7-"
    "xception-xception",
    "both": "1.4-3x3-1.2-3x3-0.8-xception-1.2-5x5-0.6-5x5-1.4-5x5-0.8-3x3-1.0-3x3-0.6-7x7-1.2-3x3-"
    "1.6-7x7-1.2-5x5-1.0-5x5-1.4-3x3-1.6-7x7-1.0-3x3-1.0-7x7-1.2-5x5-1.0-xception-0.8-7x7",
}
"""The architectures that the authors found, by what was searched."""


class ShuffleNetV2(ChoiceSupernet):
    """20 choice blocks, ShuffleNetV2 units, in 4 stages of 64, 160, 320 and 640 channels.

    The kinds `3x3`, `5x5` and `7x7` are the unit of Ma et al. 2018 (figure 3c, d) with a depthwise
    convolution of that size; `xception` has three 3x3 depthwise convolutions, each followed by a 1x1
    convolution. The first block of a stage reads its whole input in both branches, and its shortcut keeps the
    number of channels; the others split their input. Each kind of each block has weights of its own.

    Between its convolutions, a block has half as many channels as its output, times a ratio of 0.2 to 1.6
    where channels are searched; ratios are slices of one weight (the paper's Figure 4). In the text form, the
    ratio comes before the block's kind, as in `1.4-3x3-0.8-xception-...`.

    Two things that the paper leaves open are as in the networks that its authors published: the shortcuts of
    first blocks have as many channels as the block reads, and ratios are rounded down. `published` has the
    one of these networks that was found in this space, in the text form.

    Args:
        num_classes: the number of classes.
        in_channels: the number of channels of the images.
        search: what is searched: "blocks" (4^20 architectures), "channels" (8^20) or "both" (32^20).
        blocks: if only channels are searched, the kind of all blocks or of each one; by default 3x3, as in
            the paper's Table 4.
        stem: where height and width are halved: "imagenet" in the stem and each stage (224 -> 7),
            "tiny-imagenet" in each stage (64 -> 4), "cifar" in each stage but the first (32 -> 4).
        width: a factor of all channels of the network, which are rounded to multiples of 8.
        dropout: the probability of dropout before the classifier.

    Raises:
        ValueError: an argument is none of its choices, or `width` is so small that channels do not grow from
            stage to stage.
    """

    stem_channels = 16
    channels = (64, 160, 320, 640)
    repeats = (4, 4, 8, 4)
    head_channels = 1024

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        search: Search = "blocks",
        blocks: str | Sequence[str] | None = None,
        stem: DeepStem = "imagenet",
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        check_choice("search", search, ("blocks", "channels", "both"))
        self.search, self.stem_kind, self.dropout = search, stem, dropout
        self.published = {"spos": PUBLISHED[search]} if search in PUBLISHED else {}
        if blocks is not None and search != "channels":
            raise ValueError(f"blocks must be given only where channels alone are searched, got {blocks!r}")
        self.kinds = _kinds("3x3" if blocks is None else blocks, sum(self.repeats))
        stem_stride, *strides = deep_strides(stem, (2, 2, 2, 2, 2))
        before, *widths = (scaled(channels, width) for channels in (self.stem_channels, *self.channels))
        self._stem = (before, stem_stride)
        self._head_channels = scaled(self.head_channels, width)
        for channels in widths:
            if channels <= before:
                raise ValueError(f"width must let channels grow from stage to stage, {width} is too small")
            before = channels
        self._blocks = stage_blocks(widths, strides, self.repeats)
        super().__init__(_space(search, len(self._blocks)), num_classes=num_classes, in_channels=in_channels)

    def stem(self) -> Part:
        """Return the first convolution."""
        channels, stride = self._stem
        block = LayerBuilder("first", self.in_channels)
        block.conv_bn_act("", block.input, channels, 3, stride)
        return (block.build(),), channels

    def choice(self, index: int, taken: tuple[Option, ...], channels: int) -> Part:
        """Return the block with the kind and the ratio that were taken, or that are fixed."""
        kind = self.kinds[index] if self.search == "channels" else str(taken[0])
        tenths = 10 if self.search == "blocks" else RATIOS[str(taken[-1])]
        out, stride = self._blocks[index]
        block = LayerBuilder(f"blocks.{index}.{kind}", channels)
        if stride is None:
            left, right = block.channel_split(block.input, channels // 2)
        else:
            right = block.input
            left = _depthwise(block, "_shortcut1", right, KERNELS[kind], stride)
            left = block.conv_bn_act("_shortcut2", left, channels, 1)
        middle = max(1, out // 2 * tenths // 10)
        right = _branch(block, kind, right, middle, out - left.channels, stride or 1)
        block.channel_shuffle(block.concat(left, right), 2)
        return (block.build(),), out

    def head(self, channels: int) -> Path:
        """Return the last convolution, the mean over all positions and the classifier."""
        return wide_classifier(channels, self._head_channels, self.num_classes, self.dropout)

    def describe(self) -> dict[str, Any]:
        """Return what identifies this supernet's structure; the weights do not say the strides."""
        return {**super().describe(), "stem": self.stem_kind}


def _branch(block: LayerBuilder, kind: str, x: Value, middle: int, out: int, stride: int) -> Value:
    """Append the convolutions of a block, from x to `out` channels."""
    if kind != "xception":
        y = block.conv_bn_act("1", x, middle, 1)
        y = _depthwise(block, "2", y, KERNELS[kind], stride)
        return block.conv_bn_act("3", y, out, 1)
    for number, channels in enumerate((middle, middle, out)):
        x = _depthwise(block, f"{2 * number + 1}", x, KERNELS[kind], 1 if number else stride)
        x = block.conv_bn_act(f"{2 * number + 2}", x, channels, 1)
    return x


def _depthwise(block: LayerBuilder, suffix: str, x: Value, kernel_size: int, stride: int) -> Value:
    return block.conv_bn(suffix, x, x.channels, kernel_size, stride, groups=x.channels)


def _space(search: Search, count: int) -> ChoiceSpace:
    """Return the space of `count` blocks; if both are searched, the ratio is decided before the kind."""
    ratio, kind = tuple(RATIOS), tuple(KERNELS)
    decisions: dict[str, list[VirtualLayer | tuple[str, ...]]] = {
        "blocks": [kind],
        "channels": [ratio],
        "both": [VirtualLayer(ratio, 1), kind],
    }
    return ChoiceSpace(decisions[search] * count)


def _kinds(blocks: str | Iterable[str], count: int) -> tuple[str, ...]:
    """Return the kind of each block, checked."""
    kinds = (blocks,) * count if isinstance(blocks, str) else tuple(blocks)
    for kind in kinds:
        check_choice("blocks", kind, tuple(KERNELS))
    if len(kinds) != count:
        raise ValueError(f"blocks must be one kind, or those of all {count} blocks, got {len(kinds)}")
    return kinds
