"""The evaluator: it says how good sub-networks are with the weights that they inherit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from torch import fx

from lasfast import costs
from lasfast.core.checks import check_choice, check_positive
from lasfast.data.normalization import Normalization
from lasfast.engine import CONVENTIONS, Backend, NotLowerableError
from lasfast.engine.backend import BACKENDS, USUAL_BATCH
from lasfast.evaluation.backends import choose_backend, fall_back
from lasfast.evaluation.images import Calibration, Images, Validation, fingerprint, is_pair
from lasfast.evaluation.measurer import Measurer
from lasfast.execution.to_fx import Statistics
from lasfast.ir.precision import PRECISIONS
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.measurements.measurement import Measurement
from lasfast.measurements.racing import Race, RaceResult
from lasfast.runtime import distributed
from lasfast.spaces import Architecture, SearchSpace
from lasfast.supernets import Supernet

T = TypeVar("T")


class Evaluator:
    """Recomputes BatchNorm statistics and predicts validation images, for many architectures in one pass.

    Tensors of images may be on any device. Where that is not the supernet's, they are copied to it once, at
    their first use, or, where its memory is too little for them, batch by batch.

    Args:
        supernet: owns the weights; its parameters' device is where everything runs.
        calibration: images [N, C, H, W], floating point and normalized (or uint8: see `normalize`), or a
            loader of such batches, or an iterator. A tensor is cut into batches of nearly equal size, at most
            `calibration_batch`; a loader is read once, here, and its batches are kept in memory as they are
            (those of `lasfast.data` are read anew each time). All architectures see the same batches in the
            same order.
        validation: (images [N, C, H, W], labels [N] int64), or a loader of such pairs. Tensors are predicted
            in a random order, always the same, so that a race (see `race`) may stop anywhere. A loader is
            read each time, and must give the same batches, neither shuffled nor augmented: an error says
            where it does not. An iterator is read once, here, and kept in memory.
        backend: "native" (the compiled module, CPU or CUDA), "torch" (the reference, runs anything), or
            "auto": native where it can run this supernet, and on a GPU whose check it passed (see
            `lasfast.runtime.gpu_check`), else torch.
        precision: "fp32", or "bf16": torch's bfloat16 autocast, or values and weights stored in bfloat16.
        statistics: which statistics are kept for prediction: "cumulative", "ema" or "batch_mean"
            (see `lasfast.engine.calibration`).
        memory_budget: bytes of activations to stay within, or None. Architectures are evaluated in
            chunks that fit; one that does not fit alone is predicted in smaller batches. A calibration
            batch is never cut, since that would change its statistics: choose `calibration_batch`.
        calibration_batch: images per batch, of tensors.
        validation_batch: the same. By default 250, and up to 2,000 of small images by the native backend on a
            GPU, where the results are the same.
        normalize: (mean, std) of each channel, of values from 0 to 1. All images are then uint8, stay so on
            the device, and are normalized where the first operation reads them. Results are, to the bit,
            those of images that `lasfast.data` normalized beforehand.

    Raises:
        ValueError, TypeError: an argument has the wrong type, shape or range.
    """

    def __init__(
        self,
        supernet: Supernet,
        calibration: Calibration,
        validation: Validation,
        backend: str = "auto",
        precision: str = "fp32",
        statistics: str = "cumulative",
        memory_budget: int | None = None,
        *,
        calibration_batch: int = 125,
        validation_batch: int | None = None,
        normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        if not isinstance(supernet, Supernet):
            raise TypeError(f"supernet must be a lasfast Supernet, got {type(supernet).__name__}")
        supernet.checked_modules()
        check_choice("backend", backend, BACKENDS)
        check_choice("precision", precision, tuple(PRECISIONS))
        check_choice("statistics", statistics, tuple(CONVENTIONS))
        check_positive(calibration_batch=calibration_batch)
        if validation_batch is not None:
            check_positive(validation_batch=validation_batch)
        if memory_budget is not None:
            check_positive(memory_budget=memory_budget)
        self.supernet = supernet
        self.statistics_convention = statistics
        self.memory_budget = memory_budget
        self.calibration_batch = calibration_batch
        # What identifies measurements and ends the parts of a race is the same on every device.
        self.validation_batch = USUAL_BATCH if validation_batch is None else validation_batch
        self.calibration, self.validation = calibration, validation
        normalization = None if normalize is None else Normalization.of(normalize, supernet.in_channels)
        images = Images(calibration, validation, supernet.in_channels, supernet.num_classes, normalization)
        self.image_shape = images.shape
        self._normalization = normalization
        self._wanted = backend
        self._measurer = Measurer(
            supernet,
            choose_backend(backend, supernet, images.shape, precision, memory_budget, normalization),
            images,
            statistics,
            memory_budget,
            calibration_batch,
            validation_batch,
        )

    def __call__(self, architectures: Sequence[Architecture]) -> list[Measurement]:
        """Return a measurement for each architecture, in order.

        The result for one architecture does not depend on the others. Within `lasfast.distributed.start`, all
        processes ask for the same, each measures a part, and all get the whole.
        """
        asked = list(map(self.space.validate, architectures))
        if not asked:
            return []
        paths = [self.supernet.path(architecture) for architecture in asked]
        world = distributed.world()
        tree = PrefixTree(list(dict.fromkeys(paths)))
        parts = tree.parts(world.parts)

        def measure(measurer: Measurer) -> list[list[Measurement]]:
            if world.size > 1:
                measurer.backend.agree(tree, self.image_shape, world.share)
            return world.spread(parts, measurer.measure)

        results = self._run(measure)
        of_paths = {
            path: measurement
            for part, measurements in zip(parts, results, strict=True)
            for path, measurement in zip(part.paths, measurements, strict=True)
        }
        return [
            replace(of_paths[path], architecture=architecture)
            for architecture, path in zip(asked, paths, strict=True)
        ]

    def race(self, architectures: Sequence[Architecture], *, keep: int, error: float = 0.05) -> RaceResult:
        """Find the best `keep` architectures without predicting every image for those that fall behind.

        All are calibrated. Then validation images are predicted in random order, in growing parts, and a
        candidate is dropped once `keep` others beat it (`lasfast.measurements.racing.Race` says when).

        Args:
            architectures: the candidates; one that is asked for twice runs once.
            keep: how many of the best are wanted.
            error: the greatest probability, over the order of the images, that one of the true best is
                dropped; below 0.5. With 0, a candidate is dropped only when the images left cannot bring it
                back.

        Returns:
            The best and the others. The measurements of the best are those that calling the evaluator gives,
            bit for bit unless a memory budget cuts batches.

        Raises:
            TypeError: the validation images come from a loader, which has an order of its own.
            ValueError: `keep` or `error` is out of range, or an architecture is invalid.
        """
        if not is_pair(self.validation):
            raise TypeError(
                "race needs validation images as tensors (images, labels), which it takes in random order; "
                f"got a {type(self.validation).__name__}, so call the evaluator instead"
            )
        asked = list(dict.fromkeys(map(self.space.validate, architectures)))
        images = len(self.validation[1])
        begin = partial(Race, len(asked), images, keep=keep, error=error, step=self.validation_batch)
        begin()  # raises an error where an argument is wrong
        paths = [self.supernet.path(architecture) for architecture in asked]
        return self._run(lambda measurer: measurer.race(begin(), asked, paths))

    @property
    def backend(self) -> Backend:
        """The backend that computes. "auto" changes it when it meets what only torch can run."""
        return self._measurer.backend

    @property
    def space(self) -> SearchSpace:
        """The architectures that can be measured: those of the supernet."""
        return self.supernet.space

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Return the costs of an architecture by name (`lasfast.costs.summary`)."""
        _, height, width = self.image_shape
        return costs.summary(self.supernet, architecture, (height, width))

    def statistics(self, architecture: Architecture) -> Statistics:
        """Return the calibrated BatchNorm statistics of one architecture: module -> (mean, variance)."""
        tree = PrefixTree([self.supernet.path(architecture)])
        nodes = self._run(lambda measurer: measurer.calibrate(tree))
        return {name: one for node in nodes for name, one in node.items()}

    def extract(self, architecture: Architecture) -> fx.GraphModule:
        """Return the stand-alone network with its inherited weights, calibrated and ready to predict."""
        network = self.supernet.extract(architecture, self.statistics(architecture))
        return network.eval()

    def describe(self) -> dict[str, Any]:
        """Return what identifies the measurements, as JSON values."""
        return {
            "backend": self.backend.name,
            "precision": self.backend.precision,
            "statistics": self.statistics_convention,
            "calibration": fingerprint(self.calibration, self._normalization),
            "calibration_batch": self.calibration_batch,
            "validation": fingerprint(self.validation, self._normalization),
            "validation_batch": self.validation_batch,
        }

    def _run(self, work: Callable[[Measurer], T]) -> T:
        """Do work; where "auto" meets a layer that only torch can run, change to torch for good."""
        try:
            return work(self._measurer)
        except NotLowerableError as error:
            backend = fall_back(self._wanted, self.supernet, self.backend, error)
            self._measurer = replace(self._measurer, backend=backend)
            return work(self._measurer)
