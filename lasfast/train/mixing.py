"""MixUp and CutMix: a batch is mixed with itself, its images and its labels, by torchvision's transforms."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lasfast.runtime.seeds import torch_seed
from lasfast.train.settings import TrainSettings


class Mixing:
    """Mixes batches by the alphas of the settings: `mixup` and `cutmix`, or one of the two for each batch.

    Each of several processes mixes its own images among themselves.
    """

    def __init__(self, settings: TrainSettings, classes: int) -> None:
        from torchvision.transforms import v2  # which takes a while to import

        kinds = {v2.MixUp: settings.mixup, v2.CutMix: settings.cutmix}
        mixes = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds.items() if alpha]
        self._mix: Any = mixes[0] if len(mixes) == 1 else v2.RandomChoice(mixes)

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Return images [N, C, H, W] mixed by `seed`, and the shares of classes in each, [N, classes]."""
        with torch_seed(seed):
            mixed, shares = self._mix(images, labels)
        return mixed, shares
