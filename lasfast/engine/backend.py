"""What the evaluator asks of a backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor

from lasfast.data.normalization import Normalization
from lasfast.execution.interpret import evaluation_mode
from lasfast.ir.layers import Shape
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime.precision import autocast
from lasfast.supernets import Supernet

BACKENDS = ("auto", "torch", "native")
"""What can be asked for; "auto" is the fastest of the others that can run what it is asked to."""

NodeStatistics = dict[str, tuple[Tensor, Tensor]]
"""Batch norm module -> (mean [C], variance [C]), of the batch norms of one node."""


class Backend(ABC):
    """Calibrates and predicts the plans of one supernet, with the weights it has at that moment.

    Images are floating point, or, with a `normalization`, uint8 of which it makes what networks see.
    """

    name: ClassVar[str]

    def __init__(
        self, supernet: Supernet, precision: str = "fp32", normalization: Normalization | None = None
    ) -> None:
        self.supernet = supernet
        self.precision = precision
        self.normalization = normalization

    @abstractmethod
    def calibrate(self, plan: PrefixTree, batches: Iterable[Tensor], convention: str) -> list[NodeStatistics]:
        """Return the statistics of every node, from batches of images [N, C, H, W].

        Every batch is normalised by its own statistics. The supernet's own buffers stay as they are.
        """

    @abstractmethod
    def predict_batches(
        self, plan: PrefixTree, statistics: list[NodeStatistics], batches: Iterable[Tensor]
    ) -> Iterator[dict[int, Tensor]]:
        """Give, for each batch of images [N, C, H, W], the logits [N, classes] (float32) of every leaf.

        The weights are those at the first batch. A batch's logits are good until the next one is asked for.
        """

    def predict(
        self, plan: PrefixTree, statistics: list[NodeStatistics], images: Tensor
    ) -> dict[int, Tensor]:
        """Return the logits [N, classes] (float32) of every leaf for a batch of images [N, C, H, W]."""
        return next(self.predict_batches(plan, statistics, iter([images])))

    @abstractmethod
    def peak_bytes(self, plan: PrefixTree, image_shape: Shape, images: int) -> int:
        """Return the most bytes of activations held at once when calibrating on `images` images at a time."""

    @abstractmethod
    def prediction_batch(self, plan: PrefixTree, image_shape: Shape, budget: int) -> int:
        """Return how many images may be predicted at a time within `budget` bytes; at least 1."""

    def check_images(self, images: Tensor) -> None:
        """Raise TypeError unless these are bytes where bytes are normalized, and floats elsewhere."""
        if (images.dtype == torch.uint8) != (self.normalization is not None):
            expected = "floating point" if self.normalization is None else "uint8, which is normalized"
            raise TypeError(f"images must be {expected}, got {images.dtype}")

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Let torch run in evaluation mode, without gradients, in the wanted precision.

        The supernet's modes are put back afterwards.
        """
        device = next(self.supernet.parameters()).device
        with (
            evaluation_mode(self.supernet),
            torch.inference_mode(),
            autocast(device, self.precision),
        ):
            yield


def too_few_values(module: str, images: int) -> ValueError:
    """The error of a calibration batch in which a batch norm sees one value per channel."""
    return ValueError(
        f"calibration: batch norm {module!r} sees one value per channel in a batch of "
        f"{images} image(s), which has no variance; use larger calibration batches"
    )
