"""The MobileNet spaces of LayerNAS as data (LayerNAS 2023, appendix H, Tables 7 to 14).

Every number is the paper's, in rising order. Where the tables contradict themselves, we follow the reading
that the printed |S|, L and numbers of architectures support:

- Table 7 has one decision more than its L = 16; the printed 5.0e20 counts both rows of the head. The 516 of
  its last two rows is read as 512, which Table 8 uses.
- Table 9 ends with the bottleneck of Table 11. It is left out, since the network of Table 10 does not have it
  and the printed cost has no room for it. The 400 of the second bottleneck of the block of 160 to 60 filters
  is moved to the first, where Table 10 uses it; the second then has the 36 options that are printed. The
  printed 4.8e26 is the product of the printed |S|, which includes the bottleneck of Table 11 but not the
  bottleneck of 36 to 16 filters; the space here has 4.5e26 architectures.
- Table 11 names three kernel sizes for its last bottleneck but counts 7 options, as does the printed 5.3e30.
  The kernel here is 3x3, which Table 12 uses.
- Table 13 has six bottlenecks in its last block; Table 14, L = 31 and the printed 1.6e39 have five, as here.
- Where a bottleneck has both filters and expanded filters, they are chosen together: there are equally many
  of them, and |S| counts them once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from lasfast.core.checks import check_positive
from lasfast.spaces import ChoiceSpace, VirtualLayer
from lasfast.spaces.choice import Option

Shape: TypeAlias = tuple[int, int, int]
"""A bottleneck's kernel size, expanded filters (0 for no expansion) and filters (0 for the block's)."""


@dataclass(frozen=True)
class Bottleneck:
    """Consecutive inverted residuals, each with any of `kernels` and any of the widths.

    Args:
        kernels: the sizes of the depthwise convolution.
        expanded: the numbers of channels between the 1x1 convolutions; if empty, there is no expansion.
        filters: the numbers of output channels, one for each of `expanded` if that is not empty; if empty,
            the block's number is taken.
        repeats: the number of inverted residuals, each of which is a decision of its own.
        stride: the stride of the first one's depthwise convolution; the others have stride 1.
    """

    kernels: tuple[int, ...]
    expanded: tuple[int, ...] = ()
    filters: tuple[int, ...] = ()
    repeats: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        check_positive(repeats=self.repeats, stride=self.stride)
        if not self.kernels or not (self.expanded or self.filters):
            raise ValueError(f"a bottleneck must have kernels, and expanded or filters; got {self}")
        if self.expanded and self.filters and len(self.expanded) != len(self.filters):
            raise ValueError(f"filters must be as many as expanded, {len(self.expanded)}, got {self.filters}")
        _check_widths(kernels=self.kernels, expanded=self.expanded, filters=self.filters)

    def options(self) -> dict[str, Shape]:
        """Return the options by name: `k5e96`, `k3f24` (no expansion), `k3e1216f280` (own filters)."""
        none = (0,) * max(len(self.expanded), len(self.filters))
        widths = list(zip(self.expanded or none, self.filters or none, strict=True))
        return {_name(kernel, *width): (kernel, *width) for kernel in self.kernels for width in widths}


@dataclass(frozen=True, init=False)
class Block:
    """Bottlenecks that share their filters, which are decided before the bottlenecks."""

    filters: tuple[int, ...]
    bottlenecks: tuple[Bottleneck, ...]

    def __init__(self, filters: tuple[int, ...], *bottlenecks: Bottleneck) -> None:
        if not filters or not bottlenecks:
            raise ValueError(f"a block must have bottlenecks and filters, got {bottlenecks} and {filters}")
        _check_widths(filters=filters)
        object.__setattr__(self, "filters", filters)
        object.__setattr__(self, "bottlenecks", bottlenecks)


@dataclass(frozen=True)
class MobileNetDesign:
    """A stem, bottlenecks and a head, with what may vary in each.

    Args:
        stem: the filters of the first convolution, 3x3 of stride 2.
        body: bottlenecks with filters of their own, and blocks.
        features: the possible filters of a 1x1 convolution before the mean; if empty, there is none.
        hidden: the possible filters of the 1x1 convolution between mean and classifier.
        published: architectures that the paper found in this space, in the text form, by name.
    """

    stem: int
    body: tuple[Bottleneck | Block, ...]
    features: tuple[int, ...]
    hidden: tuple[int, ...]
    published: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_positive(stem=self.stem)
        if not self.hidden:
            raise ValueError("hidden must have at least one width, got none")
        _check_widths(features=self.features, hidden=self.hidden)

    def bottlenecks(self) -> list[tuple[Bottleneck, int]]:
        """Return each inverted residual with its stride, in order."""
        rows: list[Bottleneck] = []
        for part in self.body:
            rows += part.bottlenecks if isinstance(part, Block) else (part,)
        return [(row, 1 if index else row.stride) for row in rows for index in range(row.repeats)]

    def space(self) -> ChoiceSpace:
        """Return the space: the decisions in the tables' order, a block's filters before its bottlenecks."""
        layers: list[VirtualLayer | tuple[Option, ...]] = []
        for part in self.body:
            rows = part.bottlenecks if isinstance(part, Block) else (part,)
            if isinstance(part, Block):
                layers.append(VirtualLayer(part.filters, sum(row.repeats for row in rows)))
            layers += [tuple(row.options()) for row in rows for _ in range(row.repeats)]
        layers += [widths for widths in (self.features, self.hidden) if widths]
        return ChoiceSpace(layers)


def _check_widths(**widths: tuple[int, ...]) -> None:
    """Raise ValueError unless widths rise: options read slices of the last one's weights."""
    for name, values in widths.items():
        if list(values) != sorted({value for value in values if value > 0}):
            raise ValueError(f"{name} must be positive and rise, got {values}")


def _name(kernel: int, expanded: int, filters: int) -> str:
    return f"k{kernel}" + (f"e{expanded}" if expanded else "") + (f"f{filters}" if filters else "")


K3, K35, K357 = (3,), (3, 5), (3, 5, 7)

TABLE_7 = MobileNetDesign(
    stem=16,
    body=(
        Bottleneck(K3, filters=(12, 14, 16, 18, 20, 24), stride=2),
        Block(
            (16, 18, 20, 24, 28, 32, 36),
            Bottleneck(
                K35, (56, 60, 64, 68, 72, 80, 88, 96, 104, 112, 120, 128, 136, 144), repeats=2, stride=2
            ),
        ),
        Block(
            (28, 32, 36, 40, 44, 48, 52, 56, 60),
            Bottleneck(K357, (64, 72, 80, 88, 96, 104, 112, 128, 144, 160, 176, 192), stride=2),
            Bottleneck(K357, (160, 180, 200, 220, 240, 260, 280, 300, 320, 360, 400, 440, 480), repeats=2),
        ),
        Block(
            (32, 36, 40, 44, 48, 52, 56, 60, 64, 72, 80, 88, 96),
            Bottleneck(K357, (80, 90, 100, 120, 140, 160, 180, 200, 240)),
            Bottleneck(K357, (120, 128, 136, 144, 152, 160, 176, 192, 208, 224, 256, 288)),
        ),
        Block(
            (64, 72, 80, 88, 96, 104, 112, 120, 128, 144, 160, 176, 192),
            Bottleneck(K357, (224, 256, 288, 320, 352, 384, 416, 448, 480, 512, 544, 576), stride=2),
            Bottleneck(K357, (448, 512, 576, 640, 704, 768, 832, 896, 960, 1024, 1088, 1152), repeats=2),
        ),
    ),
    features=(576, 864),
    hidden=(1024, 1536),
    published={
        "layernas": "k3f16-28-k3e144-k3e128-44-k5e96-k3e220-k3e200-40-k7e160-k3e152-"
        "96-k5e224-k3e448-k3e512-864-1536"
    },
)
"""60M multiply-adds, after MobileNetV3-Small (Table 7; found: Table 8)."""


TABLE_9 = MobileNetDesign(
    stem=16,
    body=(
        Bottleneck(K3, filters=(12, 14, 16, 18, 20, 24)),
        Block(
            (16, 20, 24, 28, 32, 36),
            Bottleneck(K35, (48, 56, 60, 64, 68, 72, 80, 88, 96), stride=2),
            Bottleneck(K357, (48, 56, 64, 68, 72, 84, 92, 100, 108, 116, 124)),
        ),
        Block(
            (24, 32, 36, 40, 44, 48, 52, 56, 64),
            Bottleneck(K357, (56, 64, 72, 76, 80, 88, 96, 104, 112, 120, 128), stride=2),
            Bottleneck(K357, (80, 100, 110, 120, 140, 160, 180, 200, 240), repeats=2),
        ),
        Block(
            (60, 70, 80, 100, 110, 120, 130, 140, 160),
            Bottleneck(K357, (160, 180, 200, 220, 240, 260, 280, 300, 320, 360, 400), stride=2),
            Bottleneck(K357, (120, 160, 180, 200, 220, 240, 260, 280, 300, 320, 340, 360)),
            Bottleneck(K357, (152, 168, 184, 208, 224, 240, 256, 272, 288, 304, 336, 368), repeats=2),
        ),
        Block(
            (80, 96, 112, 128, 144, 160, 176, 192, 208, 224),
            Bottleneck(K357, (360, 400, 440, 480, 520, 560, 640, 720, 800, 880, 960)),
            Bottleneck(K357, (480, 576, 624, 720, 768, 816, 888, 960, 1056, 1200, 1344)),
        ),
        Block(
            (100, 120, 160, 180, 200, 220, 240, 280, 320),
            Bottleneck(K357, (480, 576, 624, 720, 768, 816, 888, 960, 1056, 1200, 1344), stride=2),
            Bottleneck(K357, (640, 720, 800, 880, 960, 1120, 1280, 1440, 1600, 1760, 1920), repeats=2),
        ),
    ),
    features=(960,),
    hidden=(1280, 1440),
    published={
        "layernas": "k3f18-24-k3e64-k3e48-56-k5e80-k5e200-k5e100-80-k5e400-k3e200-k3e272-k3e168-"
        "112-k5e440-k5e576-160-k7e624-k5e640-k3e640-960-1280"
    },
)
"""220M multiply-adds, after MobileNetV3-Large (Table 9; found: Table 10)."""


TABLE_11 = MobileNetDesign(
    stem=32,
    body=(
        Bottleneck(K3, filters=(14, 16, 20, 24)),
        Block(
            (24, 28, 32, 36, 40, 44, 48),
            Bottleneck(K35, (40, 44, 48, 52, 56, 64, 72), stride=2),
            Bottleneck(K35, (76, 80, 88, 92, 96, 104, 112, 120, 128, 144), repeats=2),
        ),
        Block(
            (32, 36, 40, 44, 48, 52, 56, 60),
            Bottleneck(K35, (76, 80, 88, 92, 96, 104, 112, 120, 128, 144), stride=2),
            Bottleneck(K357, (80, 100, 110, 120, 130, 140, 160, 180), repeats=3),
        ),
        Block(
            (60, 70, 80, 90, 100, 110, 120),
            Bottleneck(K357, (180, 200, 220, 240, 260, 280, 320, 360), repeats=3, stride=2),
        ),
        Block(
            (72, 80, 88, 96, 104, 120, 128, 144),
            Bottleneck(K357, (180, 200, 220, 240, 260, 280, 320, 360)),
            Bottleneck(K357, (240, 256, 272, 288, 304, 336, 368, 400, 432), repeats=3),
        ),
        Block(
            (144, 160, 192, 224, 256, 288),
            Bottleneck(K357, (448, 512, 576, 608, 672, 736, 800, 864), repeats=4, stride=2),
        ),
        Bottleneck(K3, (1216, 1280, 1440, 1536, 1600, 1664, 1728), (280, 300, 320, 360, 400, 440, 480)),
    ),
    features=(),
    hidden=(1280, 1600, 1920),
    published={
        "layernas": "k3f24-28-k3e40-k3e144-k3e88-40-k3e104-k5e110-k3e180-k5e130-90-k7e260-k3e220-k3e200-"
        "120-k7e320-k5e288-k7e256-k3e368-160-k7e608-k7e576-k5e608-k3e448-k3e1216f280-1920"
    },
)
"""300M multiply-adds, after MobileNetV2 (Table 11; found: Table 12)."""


TABLE_13 = MobileNetDesign(
    stem=32,
    body=(
        Bottleneck(K3, filters=(16, 20, 24, 28, 32, 36)),
        Block(
            (28, 32, 36, 40, 44, 48, 52, 56),
            Bottleneck(K35, (48, 52, 56, 64, 72, 80, 88), repeats=4, stride=2),
        ),
        Block(
            (40, 44, 48, 52, 56, 60, 64, 72),
            Bottleneck(K35, (80, 88, 92, 96, 104, 112, 120, 128, 144, 160, 180), stride=2),
            Bottleneck(K357, (100, 120, 130, 140, 160, 180, 200, 220, 240), repeats=4),
        ),
        Block(
            (80, 90, 100, 120, 140, 160, 180, 200),
            Bottleneck(K357, (200, 240, 260, 280, 320, 360, 400, 440), stride=2),
            Bottleneck(K357, (240, 280, 320, 360, 400, 440, 480, 520, 560), repeats=3),
        ),
        Block(
            (80, 88, 96, 104, 120, 128, 144, 160, 180),
            Bottleneck(K357, (240, 280, 320, 360, 400, 440, 480, 520, 560)),
            Bottleneck(K357, (256, 272, 288, 304, 336, 368, 400, 432, 464, 496, 528, 560), repeats=4),
        ),
        Block(
            (160, 192, 224, 256, 288, 320),
            Bottleneck(K357, (512, 576, 608, 672, 736, 800, 864, 928, 992), repeats=5, stride=2),
        ),
        Bottleneck(
            K357, (1440, 1536, 1600, 1664, 1728, 1792, 1856, 1920), (320, 360, 400, 440, 480, 520, 560, 600)
        ),
    ),
    features=(),
    hidden=(1920, 2240, 2560),
    published={
        "layernas": "k3f36-36-k5e80-k5e72-k3e80-k5e72-48-k3e144-k3e140-k3e160-k3e130-k5e140-"
        "140-k7e360-k5e360-k3e560-k5e440-144-k7e360-k5e560-k3e288-k5e400-k5e256-"
        "192-k3e864-k5e928-k7e736-k7e800-k3e928-k3e1440f320-2560"
    },
)
"""600M multiply-adds, after MobileNetV2 1.4x (Table 13; found: Table 14)."""

DESIGNS = {"60M": TABLE_7, "220M": TABLE_9, "300M": TABLE_11, "600M": TABLE_13}
"""The designs by the multiply-adds that the paper aims at."""
