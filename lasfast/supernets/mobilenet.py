"""MobileNets with kernels, expansions and filters to choose (LayerNAS 2023, section 5.1, appendix H)."""

from __future__ import annotations

from typing import Any

from lasfast.core.checks import check_choice
from lasfast.ir.builder import LayerBuilder
from lasfast.ir.layers import ActivationKind, Path
from lasfast.spaces.choice import Option
from lasfast.supernets.choice import ChoiceSupernet, Part
from lasfast.supernets.mobilenet_designs import DESIGNS, MobileNetDesign
from lasfast.supernets.parts import DeepStem, check_width, deep_strides

ACTIVATIONS = ("relu", "relu6", "hardswish", "swish")


class MobileNet(ChoiceSupernet):
    """Inverted residuals; the filters of a block are chosen before the kernels and expansions in it.

    Each bottleneck chooses a kernel size of 3, 5 or 7 and an expanded width; `k5e96` is the name of such an
    option. The filters that a block's bottlenecks share are a virtual layer before them, and the widths of
    the head are layers at the end: `k3f18-24-k3e64-k3e48-56-...-960-1280`. A bottleneck has a shortcut if
    its input has the shape of its output.

    Each kernel size has a bottleneck of its own, 1x1 convolutions included, as the choice blocks of one-shot
    supernets do (Guo et al. 2020), so that kernel sizes do not disturb each other's training. Widths are
    slices of its weights.

    The networks that the paper found (`published`, Tables 8, 10, 12 and 14) have these millions of
    multiply-adds at 224x224 and of weights with 1,001 classes, without and with squeeze-and-excitation (SE):

        design  printed without  printed with  here without  here with
        60M                       61, 3.7      62.3, 3.3     62.6, 3.6
        220M                     229, 5.1     228.9, 3.8    229.9, 4.8
        300M    319, 3.5         322, 5.2     305.6, 4.3    307.3, 6.0
        600M    598, 7.6         627, 9.7     579.2, 7.1    582.9, 10.8

    The paper leaves some things open. Here:

    - The first bottleneck, for which the tables print no expanded filters, has no expansion. A 1x1
      convolution there would add 12.8 M of the multiply-adds that the 300M and 600M networks lack.
    - SE is in every bottleneck, with a quarter of the expanded width, as in MobileNetV3, and with ReLU and
      sigmoid (Hu et al. 2018).
    - Besides batch norm, the two layers after the mean and the convolutions of SE have biases.
    - It is unknown whether the figures with and without SE are of one architecture: the weights printed for
      300M are those of a head of 1,280 filters, while Table 12 has 1,920.

    Args:
        design: the space: "60M", "220M", "300M", "600M", or a design of one's own.
        num_classes: the number of classes.
        in_channels: the number of channels of the images.
        stem: how often height and width are halved: "imagenet" has all strides of the tables (224 -> 7),
            "tiny-imagenet" all but the first (64 -> 4), "cifar" all but the first two (32 -> 4).
        squeeze_excite: whether bottlenecks have squeeze-and-excitation after the depthwise convolution.
        activation: "relu", "relu6", "hardswish" or "swish"; the paper has swish, and ReLU for its figures
            without squeeze-and-excitation.
        width: a factor of all channels but `in_channels`; options keep the names of the design.
        dropout: the probability of dropout before the classifier.

    Attributes:
        published: architectures that the paper found in this space, in the text form, by name.
    """

    def __init__(
        self,
        design: str | MobileNetDesign = "220M",
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        stem: DeepStem = "imagenet",
        squeeze_excite: bool = False,
        activation: ActivationKind = "relu",
        width: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        if not isinstance(design, MobileNetDesign):
            check_choice("design", design, tuple(DESIGNS))
            design = DESIGNS[design]
        check_choice("activation", activation, ACTIVATIONS)
        check_width(width)
        self.design, self.published = design, dict(design.published)
        self.squeeze_excite, self.activation = squeeze_excite, activation
        self.stem_kind, self.width, self.dropout = stem, width, dropout
        self._bottlenecks = [row.options() for row, _ in design.bottlenecks()]
        strides = deep_strides(stem, (2, *(stride for _, stride in design.bottlenecks())))
        self._stem_stride, *self._strides = strides
        super().__init__(design.space(), num_classes=num_classes, in_channels=in_channels)

    def stem(self) -> Part:
        """Return the first convolution."""
        block = LayerBuilder("first", self.in_channels)
        channels = self._scaled(self.design.stem)
        block.conv_bn_act("", block.input, channels, 3, self._stem_stride, kind=self.activation)
        return (block.build(),), channels

    def choice(self, index: int, taken: tuple[Option, ...], channels: int) -> Part:
        """Return a bottleneck, or the convolution of the head before or after the mean."""
        if index < len(self._bottlenecks):
            return self._bottleneck(index, taken, channels)
        (filters,) = taken
        after = index - len(self._bottlenecks) == bool(self.design.features)
        return (self._hidden if after else self._features)(channels, self._scaled(filters))

    def head(self, channels: int) -> Path:
        """Return the classifier."""
        block = LayerBuilder("classifier", channels)
        block.linear("fc", block.dropout(block.input, self.dropout), self.num_classes)
        return (block.build(),)

    def describe(self) -> dict[str, Any]:
        """Return what identifies this supernet, with strides and activation, which weights do not show."""
        own = {"stem": self.stem_kind, "strides": self._strides, "activation": self.activation}
        return {**super().describe(), **own}

    def _bottleneck(self, index: int, taken: tuple[Option, ...], channels: int) -> Part:
        name, *shared = taken
        kernel, expanded, filters = self._bottlenecks[index][str(name)]
        stride, out_channels = self._strides[index], self._scaled(filters or shared[0])
        block = LayerBuilder(f"bottlenecks.{index}.k{kernel}", channels)
        y = block.input
        if expanded:
            y = block.conv_bn_act("_expand", y, self._scaled(expanded), 1, kind=self.activation)
        y = block.conv_bn_act(
            "_depthwise", y, y.channels, kernel, stride, groups=y.channels, kind=self.activation
        )
        if self.squeeze_excite:
            y = block.squeeze_excite("se", y, max(1, y.channels // 4))
        y = block.conv_bn("_project", y, out_channels, 1)
        if stride == 1 and channels == out_channels:
            block.add(y, block.input)
        return (block.build(),), out_channels

    def _features(self, channels: int, filters: int) -> Part:
        block = LayerBuilder("features", channels)
        block.conv_bn_act("", block.input, filters, 1, kind=self.activation)
        return (block.build(),), filters

    def _hidden(self, channels: int, filters: int) -> Part:
        block = LayerBuilder("hidden", channels)
        y = block.linear("fc", block.global_avg_pool(block.input), filters)
        block.activation(y, self.activation)
        return (block.build(),), filters

    def _scaled(self, filters: Option) -> int:
        assert isinstance(filters, int)
        return max(1, round(filters * self.width))
