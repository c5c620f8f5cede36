"""Training images vary beyond the crop and the flip that their set has: in colours, by policies, by erasing.

Colours and policies are torchvision's (`torchvision.transforms.v2`), image by image on bytes. What is random
about an image is a function of the epoch's seed and of the image's number in its set, whatever batch,
process or worker it is in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lasfast.core.checks import as_bool, as_int, as_number, check_choice
from lasfast.data.splits import derive_seed

CROPS = ("data", "pad", "resized", "none")
POLICIES = ("none", "randaugment", "trivialaugment")
JITTERED = ("brightness", "contrast", "saturation", "hue")
BOX = 4  # numbers of a box: top, left, height, width


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The settings vary training images; by default as their set has it, and in no other way.

    In this order: crop, flip, colour jitter, policy; and after normalization, random erasing and cutout.

    Args:
        crop: "data" is the set's own; "pad" is a crop of the zero-padded image (by the set's padding, or an
            eighth of the longer side); "resized" is a random part that is enlarged to the whole size, as
            torchvision's `RandomResizedCrop` by default (Szegedy et al. 2015, section 6); "none" is none.
        flip: whether half of the images are mirrored, left to right; None is as the set has it.
        color_jitter: up to four factors of torchvision's `ColorJitter`: brightness, contrast, saturation and
            hue (at most 0.5). Those that are left out are 0.
        auto_augment: "randaugment" (Cubuk et al. 2020) or "trivialaugment" (Müller and Hutter 2021, the wide
            space), or "none".
        randaugment_layers: how many operations RandAugment does to an image, N.
        randaugment_magnitude: their magnitude, M, from 0 to 30.
        random_erasing: the probability that a random box becomes zeros (Zhong et al. 2020), whose size is
            distributed as torchvision's `RandomErasing` has it by default.
        cutout: the side, in pixels, of a square at a random place that becomes zeros (DeVries and Taylor
            2017); it may reach beyond the image. 0 is none.

    Raises:
        TypeError, ValueError: a value has the wrong type or is out of range.
    """

    crop: str = "data"
    flip: bool | None = None
    color_jitter: tuple[float, ...] = ()
    auto_augment: str = "none"
    randaugment_layers: int = 2
    randaugment_magnitude: int = 9
    random_erasing: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        """Check every field."""
        check_choice("crop", self.crop, CROPS)
        check_choice("auto_augment", self.auto_augment, POLICIES)
        if self.flip is not None:
            as_bool("flip", self.flip)
        as_int("randaugment_layers", self.randaugment_layers, minimum=1)
        if as_int("randaugment_magnitude", self.randaugment_magnitude, minimum=0) > 30:
            raise ValueError(f"randaugment_magnitude must be from 0 to 30, got {self.randaugment_magnitude}")
        as_int("cutout", self.cutout, minimum=0)
        if as_number("random_erasing", self.random_erasing, minimum=0) > 1:
            raise ValueError(f"random_erasing must be from 0 to 1, got {self.random_erasing}")
        object.__setattr__(self, "color_jitter", self._jitter())

    def _jitter(self) -> tuple[float, ...]:
        if not isinstance(self.color_jitter, tuple | list) or len(self.color_jitter) > len(JITTERED):
            raise ValueError(
                f"color_jitter must be up to four numbers, {', '.join(JITTERED)}, got {self.color_jitter!r}"
            )
        factors = tuple(as_number("color_jitter", one, minimum=0) for one in self.color_jitter)
        if len(factors) == len(JITTERED) and factors[-1] > 0.5:
            raise ValueError(f"color_jitter must have a hue of at most 0.5, got {factors[-1]}")
        return factors

    def describe(self) -> dict[str, Any]:
        """Return what is not at its default, as JSON values."""
        values = dataclasses.asdict(self) | {"color_jitter": list(self.color_jitter)}
        defaults = dataclasses.asdict(AS_LOADED) | {"color_jitter": []}
        return {name: value for name, value in values.items() if value != defaults[name]}

    @property
    def colors(self) -> bool:
        """True where images are varied before they are normalized, as bytes."""
        return any(self.color_jitter) or self.auto_augment != "none"

    def recolored(self, images: Tensor, seed: int, numbers: Sequence[int]) -> Tensor:
        """Return images with other colours, or as a policy has them.

        Args:
            images: uint8 [N, C, H, W], of 1 or 3 channels; on a GPU, they go to the CPU and back.
            seed: the epoch's.
            numbers: those of the images in their set.
        """
        if not self.colors:
            return images
        varied = []
        with torch.random.fork_rng(devices=[]):
            for image, number in zip(images.cpu(), numbers, strict=True):
                torch.random.default_generator.manual_seed(derive_seed("colors", seed, number))
                varied.append(_transform(self)(image))
        return torch.stack(varied).to(images.device)

    def erased(self, images: Tensor, seed: int, numbers: Sequence[int]) -> Tensor:
        """Return normalized images [N, C, H, W] with zeros in random boxes; arguments as `recolored` has."""
        if not self.random_erasing and not self.cutout:
            return images
        height, width = images.shape[-2:]
        boxes = self._boxes(height, width, seed, numbers).to(images.device)
        rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
        top, left, tall, wide = boxes.unsqueeze(-1).unbind(2)  # each [N, boxes, 1]
        down = (rows >= top) & (rows < top + tall)
        across = (columns >= left) & (columns < left + wide)
        hidden = (down.unsqueeze(-1) & across.unsqueeze(-2)).any(1)  # [N, H, W]
        return images.masked_fill(hidden.unsqueeze(1), 0)

    def _boxes(self, height: int, width: int, seed: int, numbers: Sequence[int]) -> Tensor:
        """Draw boxes for each image, int64 [N, 2, 4]: an erased one and cutout's, or of size 0."""
        boxes = torch.zeros(len(numbers), 2, BOX, dtype=torch.int64)
        with torch.random.fork_rng(devices=[]):
            for row, number in enumerate(numbers):
                torch.random.default_generator.manual_seed(derive_seed("boxes", seed, number))
                if torch.rand((), dtype=torch.float32).item() < self.random_erasing:
                    boxes[row, 0] = torch.tensor(_erased_box(height, width))
                if self.cutout:
                    place = [int(torch.randint(size, ()).item()) for size in (height, width)]
                    corner = [one - self.cutout // 2 for one in place]
                    boxes[row, 1] = torch.tensor([*corner, self.cutout, self.cutout])
        return boxes


AS_LOADED = Augmentation()
"""The augmentation that images have when they are loaded."""


@lru_cache(maxsize=16)
def _transform(augmentation: Augmentation) -> Any:
    """Return what varies the colours of one image."""
    from torchvision.transforms import v2  # which takes a while to import

    steps: list[Any] = []
    if any(augmentation.color_jitter):
        steps.append(v2.ColorJitter(*augmentation.color_jitter))
    if augmentation.auto_augment == "randaugment":
        steps.append(v2.RandAugment(augmentation.randaugment_layers, augmentation.randaugment_magnitude))
    elif augmentation.auto_augment == "trivialaugment":
        steps.append(v2.TrivialAugmentWide())
    return v2.Compose(steps)


def _erased_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Draw the box of `RandomErasing`; all zeros where ten attempts do not fit."""
    from torchvision.transforms import RandomErasing

    like = torch.empty(1, height, width, dtype=torch.float32, device="meta")
    top, left, tall, wide, _ = RandomErasing.get_params(like, (0.02, 0.33), (0.3, 3.3), [0.0])
    return (0, 0, 0, 0) if tall == height else (top, left, tall, wide)
