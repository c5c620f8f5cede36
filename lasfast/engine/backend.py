"""The interface of backends: what evaluators may ask of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from lasfast.data.normalization import Normalization
from lasfast.engine.scores import Scores
from lasfast.engine.target import Target
from lasfast.ir.layers import Shape
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime.autotune import Share
from lasfast.runtime.placement import device_of

BACKENDS = ("auto", "torch", "native")
"""The names that users may give; "auto" stands for the fastest of the others that can do what is asked."""

USUAL_BATCH = 250
"""The images that are predicted at a time, but for small ones on a GPU."""

NodeStatistics = dict[str, tuple[Tensor, Tensor]]
"""Batch norm module -> (mean [C], variance [C]), of the batch norms of one node."""


class Backend(ABC):
    """Calibrates and predicts prefix trees of one network, with the weights that it has at that moment.

    Args:
        module: the network; its modules are those that the trees' layers name.
        precision: "fp32" or "bf16".
        normalization: for uint8 images, which it turns into what the network sees; None for floating-point
            images.
    """

    name: ClassVar[str]

    def __init__(
        self, module: nn.Module, precision: str = "fp32", normalization: Normalization | None = None
    ) -> None:
        device = device_of(module)
        self.target = Target(module, precision, device, normalization)

    @property
    def precision(self) -> str:
        """The precision that it computes in."""
        return self.target.precision

    @abstractmethod
    def calibrate(self, tree: PrefixTree, batches: Iterable[Tensor], convention: str) -> list[NodeStatistics]:
        """Return the statistics of every node, from batches of images [N, C, H, W].

        Every batch is normalised by its own statistics. The module's own buffers stay as they are.
        """

    @abstractmethod
    def predict_batches(
        self, tree: PrefixTree, statistics: list[NodeStatistics], batches: Iterable[Tensor]
    ) -> Iterator[dict[int, Tensor]]:
        """Give, for each batch of images [N, C, H, W], the logits [N, classes] (float32) of every leaf.

        The weights are those at the first batch. A batch's logits are good until the next one is asked for.
        """

    def predict(
        self, tree: PrefixTree, statistics: list[NodeStatistics], images: Tensor
    ) -> dict[int, Tensor]:
        """Return the logits [N, classes] (float32) of every leaf for a batch of images [N, C, H, W]."""
        return next(self.predict_batches(tree, statistics, iter([images])))

    def score_batches(
        self, tree: PrefixTree, statistics: list[NodeStatistics], batches: Iterable[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return class ranks (int64) and losses (float64) [paths, images] of batches of (images, labels [N]).

        A class rank says how many classes are before the right one; with NaN, it is beyond all others.
        """
        scores = Scores()
        waiting: list[Tensor] = []

        def images_of_batches() -> Iterator[Tensor]:
            for images, labels in batches:
                waiting.append(labels)
                yield images

        for outputs in self.predict_batches(tree, statistics, images_of_batches()):
            scores.add(torch.stack([outputs[leaf] for leaf in tree.leaves]), waiting.pop(0))
        return scores.result()

    @abstractmethod
    def peak_bytes(self, tree: PrefixTree, image_shape: Shape, images: int) -> int:
        """Return the most bytes of activations held at once when calibrating on `images` images at a time."""

    @abstractmethod
    def prediction_batch(self, tree: PrefixTree, image_shape: Shape, budget: int) -> int:
        """Return how many images may be predicted at a time within `budget` bytes; at least 1."""

    def agree(self, tree: PrefixTree, image_shape: Shape, share: Share) -> None:
        """Let processes that share out the paths of a tree take the same ways to compute.

        All call this, with the `share` of `lasfast.runtime.autotune.fastest`. Torch has but one way.
        """
        del tree, image_shape, share

    def usual_batch(self, image_shape: Shape) -> int:
        """Return how many images are predicted at a time where nobody says otherwise."""
        return USUAL_BATCH

    def chunks(
        self, tree: PrefixTree, image_shape: Shape, images: int, budget: int | None
    ) -> Iterator[PrefixTree]:
        """Cut a tree into trees whose `peak_bytes` are within `budget`: as few as filling one after another.

        A single path that is over the budget is a chunk of its own.
        """
        yield from tree.chunks(budget, lambda part: self.peak_bytes(part, image_shape, images))

    def check_images(self, tree: PrefixTree, images: Tensor) -> None:
        """Raise TypeError unless these are bytes where bytes are normalized, and floats elsewhere.

        Raises ValueError where a layer of the tree does not fit them, before any layer runs.
        """
        normalizes = self.target.normalization is not None
        if (images.dtype == torch.uint8) != normalizes:
            expected = "uint8, which is normalized" if normalizes else "floating point"
            raise TypeError(f"images must be {expected}, got {images.dtype}")
        tree.shapes(tuple(images.shape[1:]))


def too_few_values(module: str, images: int) -> ValueError:
    """Return the error of a calibration batch in which a batch norm sees one value per channel."""
    return ValueError(
        f"calibration: batch norm {module!r} sees one value per channel in a batch of "
        f"{images} image(s), which has no variance; use larger calibration batches"
    )
