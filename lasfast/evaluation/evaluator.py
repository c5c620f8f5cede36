"""The evaluator: says how good sub-networks are with the weights they inherit."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, fx, nn

from lasfast import costs
from lasfast.core.checks import check_choice, check_positive
from lasfast.data.normalization import Normalization
from lasfast.engine import CONVENTIONS, Backend, NativeBackend, NotLowerableError, TorchBackend
from lasfast.engine.backend import BACKENDS, NodeStatistics
from lasfast.engine.lower import lower
from lasfast.engine.native_backend import why_missing
from lasfast.evaluation.images import (
    Calibration,
    Images,
    Validation,
    batches,
    fingerprint,
    is_pair,
    random_order,
)
from lasfast.evaluation.scoring import Scores, measurement
from lasfast.execution.interpret import evaluation_mode
from lasfast.execution.to_fx import Statistics
from lasfast.ir.layers import Path
from lasfast.ir.precision import PRECISIONS
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.measurements.measurement import Measurement
from lasfast.measurements.racing import Race, RaceResult
from lasfast.runtime import distributed, kernels
from lasfast.runtime.precision import autocast
from lasfast.spaces import Architecture, SearchSpace
from lasfast.supernets import Supernet

Seen = tuple[np.ndarray, np.ndarray]
"""Of each image [N] that a network has seen: the rank of its class (0 is right), and the cross-entropy."""

T = TypeVar("T")
logger = logging.getLogger("lasfast")


class Evaluator:
    """Recomputes BatchNorm statistics and predicts, for many architectures in one pass.

    Tensors of images may be on any device. Where that is not the supernet's, they are copied to it once, at
    their first use, or, where its memory is too little for them, batch by batch.

    Args:
        supernet: owns the weights; its parameters' device is where everything runs.
        calibration: images [N, C, H, W], floating point and normalized (or uint8: see `normalize`), or a
            loader that can be iterated repeatedly. A tensor is cut into batches of nearly equal size, at most
            `calibration_batch`; a loader's batches are taken as they are. All architectures see the same
            batches in the same order.
        validation: (images [N, C, H, W], labels [N] int64), or a loader of such pairs. Tensors are predicted
            in a random order, always the same, so that a race (see `race`) may stop anywhere.
        backend: "native" (the compiled module, CPU or CUDA), "torch" (the reference, runs anything), or
            "auto": native where it can run this supernet, and on a GPU whose check it passed (see
            `lasfast.runtime.gpu_check`), else torch.
        precision: "fp32", or "bf16": torch's bfloat16 autocast, or values and weights stored in bfloat16.
        statistics: which statistics are kept for prediction: "cumulative", "ema" or "batch_mean"
            (see `lasfast.engine.calibration`).
        memory_budget: bytes of activations to stay within, or None. Architectures are evaluated in
            chunks that fit; one that does not fit alone is predicted in smaller batches. A calibration
            batch is never cut, since that would change its statistics: choose `calibration_batch`.
        calibration_batch, validation_batch: images per batch, of tensors.
        normalize: (mean, std) of each channel, of values from 0 to 1. All images are then uint8, stay so on
            the device, and are normalized where the first operation reads them, to the same bits as by
            `lasfast.data`: results are those of images that were normalized beforehand.

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
        validation_batch: int = 250,
        normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        if not isinstance(supernet, Supernet):
            raise TypeError(f"supernet must be a lasfast Supernet, got {type(supernet).__name__}")
        check_choice("backend", backend, BACKENDS)
        check_choice("precision", precision, tuple(PRECISIONS))
        check_choice("statistics", statistics, tuple(CONVENTIONS))
        check_positive(calibration_batch=calibration_batch, validation_batch=validation_batch)
        if memory_budget is not None:
            check_positive(memory_budget=memory_budget)
        self.supernet = supernet
        self.statistics_convention = statistics
        self.memory_budget = memory_budget
        self.calibration_batch, self.validation_batch = calibration_batch, validation_batch
        self.calibration, self.validation = calibration, validation
        self._normalization = None if normalize is None else Normalization.of(normalize, supernet.in_channels)
        self._images = Images(
            calibration, validation, supernet.in_channels, supernet.num_classes, self._normalization
        )
        first = calibration if isinstance(calibration, Tensor) else next(self._calibration_batches(), None)
        if first is None:
            raise ValueError("calibration gave no batch of images")
        self.image_shape = tuple(first.shape[1:])
        # What plans are cut for: a loader's batches are as large as its first.
        self._largest = min(calibration_batch, len(first)) if isinstance(calibration, Tensor) else len(first)
        self._wanted = backend
        self.backend = self._choose_backend(precision)

    def __call__(self, architectures: Sequence[Architecture]) -> list[Measurement]:
        """Return a measurement for each architecture, in order.

        The result for one architecture is the same whatever others it is asked with. Within
        `lasfast.distributed.start`, all ranks ask for the same, each measures a part, and all get the whole.
        """
        paths = {
            architecture: self.supernet.path(architecture)
            for architecture in map(self.supernet.space.validate, architectures)
        }
        if not paths:
            return []
        plan = PrefixTree(list(dict.fromkeys(paths.values())))
        of_paths = self._guarded(lambda: self._measure_on_ranks(plan))
        measured = {
            architecture: replace(of_paths[path], architecture=architecture)
            for architecture, path in paths.items()
        }
        return [measured[tuple(architecture)] for architecture in architectures]

    def race(self, architectures: Sequence[Architecture], *, keep: int, error: float = 0.05) -> RaceResult:
        """Find the best `keep` without predicting every image for those that fall behind.

        All are calibrated; then validation images are predicted in random order, in growing parts, and a
        candidate is dropped once `keep` others beat it (`lasfast.measurements.racing.Race` says when).

        Args:
            architectures: the candidates; one that is asked for twice runs once.
            keep: how many.
            error: the greatest probability that one of the true best is dropped, over the order of the
                images; below 0.5. With 0, only candidates that the images left cannot bring back are dropped.

        Returns:
            The best and the others. The measurements of the best are what calling the evaluator gives, bit
            for bit unless a memory budget cuts batches.

        Raises:
            TypeError: validation images that come from a loader, which has an order of its own.
            ValueError: `keep` or `error` out of range, or an invalid architecture.
        """
        if not is_pair(self.validation):
            raise TypeError(
                "race needs validation images as tensors (images, labels), which it takes in random order; "
                f"got a {type(self.validation).__name__}, so call the evaluator instead"
            )
        asked = list(dict.fromkeys(map(self.space.validate, architectures)))
        images = len(self.validation[1])
        begin = partial(Race, len(asked), images, keep=keep, error=error, step=self.validation_batch)
        begin()  # says what is wrong with the arguments
        paths = [self.supernet.path(architecture) for architecture in asked]
        return self._guarded(lambda: self._race(begin(), asked, paths))

    @property
    def space(self) -> SearchSpace:
        """The architectures that can be measured: those of the supernet."""
        return self.supernet.space

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Return FLOPs (multiply-adds for one image of the size measured on) and params, by name.

        Where layers are quantized, their bit operations, too (`costs.bitops`).
        """
        _, height, width = self.image_shape
        found: dict[str, float] = {
            "flops": costs.flops(self.supernet, architecture, (height, width)),
            "params": costs.params(self.supernet, architecture),
            "params_without_batch_norm": costs.params(self.supernet, architecture, batch_norm=False),
        }
        if costs.is_quantized(self.supernet.path(architecture)):
            found["bitops"] = costs.bitops(self.supernet, architecture, (height, width))
        return found

    def statistics(self, architecture: Architecture) -> Statistics:
        """Return the calibrated BatchNorm statistics of one architecture: module -> (mean, variance)."""
        plan = PrefixTree([self.supernet.path(architecture)])
        nodes = self._guarded(lambda: self._calibrate(plan))
        return {name: one for node in nodes for name, one in node.items()}

    def extract(self, architecture: Architecture) -> fx.GraphModule:
        """Return the stand-alone network with its inherited weights, calibrated and ready to predict."""
        network = self.supernet.extract(architecture, self.statistics(architecture))
        return network.eval()

    def describe(self) -> dict[str, Any]:
        """Return what identifies the measurements this makes, as JSON-able values."""
        return {
            "backend": self.backend.name,
            "precision": self.backend.precision,
            "statistics": self.statistics_convention,
            "calibration": fingerprint(self.calibration, self._normalization),
            "calibration_batch": self.calibration_batch,
            "validation": fingerprint(self.validation, self._normalization),
            "validation_batch": self.validation_batch,
        }

    def _choose_backend(self, precision: str) -> Backend:
        """Return the backend that was asked for, or the fastest that can run this supernet."""
        reference = TorchBackend(self.supernet, precision, self._normalization)
        if self._wanted == "torch":
            return reference
        why = why_missing(self._device)
        if why is None and self._wanted == "auto" and not kernels.usable(self._device):
            return reference  # as was said
        if why is None:
            try:
                lower(PrefixTree(self._samples()), self.image_shape, calibration=False)
            except NotLowerableError as error:
                why = str(error)
            except ValueError:
                pass  # images too small for some architectures: whoever asks for one of them is told
        if why is None:
            return NativeBackend(self.supernet, precision, self.memory_budget, self._normalization)
        if self._wanted == "native":
            raise ValueError(f"backend 'native' cannot run this supernet: {why}; take 'torch' or 'auto'")
        logger.warning("lasfast evaluates with PyTorch's operators: %s", why)
        return reference

    def _samples(self) -> list[Path]:
        """Return paths that between them should reach every kind of layer."""
        space, rng = self.supernet.space, random.Random(0)
        deepest = getattr(space, "deepest", None)
        chosen = [deepest] if deepest is not None else [space.sample(rng) for _ in range(8)]
        return [self.supernet.path(architecture) for architecture in chosen]

    def _guarded(self, work: Callable[[], T]) -> T:
        """Do the work; where "auto" meets a layer that only torch can run, change to torch for good."""
        try:
            return work()
        except NotLowerableError as error:
            if self._wanted == "native":
                raise ValueError(
                    f"backend 'native' cannot run this supernet: {error}; take 'torch'"
                ) from error
            logger.warning("lasfast goes on with PyTorch's operators: %s", error)
            self.backend = TorchBackend(self.supernet, self.backend.precision, self._normalization)
            return work()

    def _measure_on_ranks(self, plan: PrefixTree) -> dict[Path, Measurement]:
        world = distributed.world()
        parts = plan.parts(world.parts)

        def measure(part: PrefixTree) -> list[Measurement]:
            measured = self._measure(part)
            return [measured[path] for path in part.paths]

        results = world.spread(parts, measure)
        return {
            path: one
            for part, measured in zip(parts, results, strict=True)
            for path, one in zip(part.paths, measured, strict=True)
        }

    def _measure(self, plan: PrefixTree) -> dict[Path, Measurement]:
        """Calibrate and predict in chunks that fit in the budget."""
        measured: dict[Path, Measurement] = {}
        for results in self._in_chunks(plan, lambda chunk: self._predict(chunk, self._calibrate(chunk))):
            measured |= {path: self._measurement(*seen) for path, seen in results.items()}
        return measured

    def _race(self, race: Race, asked: Sequence[Architecture], paths: Sequence[Path]) -> RaceResult:
        statistics: dict[Path, list[NodeStatistics]] = {}
        for calibrated in self._in_chunks(PrefixTree(list(dict.fromkeys(paths))), self._calibrate_paths):
            statistics |= calibrated
        parts: list[list[Seen]] = [[] for _ in paths]
        for start, stop in race.parts():
            predict = partial(self._predict_part, statistics, start, stop)
            plan = PrefixTree(list(dict.fromkeys(paths[number] for number in race.alive)))
            seen = {path: one for results in self._in_chunks(plan, predict) for path, one in results.items()}
            for number in race.alive:
                parts[number].append(seen[paths[number]])
            race.see(np.stack([seen[paths[number]][0] == 0 for number in race.alive]))
        measured = []
        for architecture, of_one in zip(asked, parts, strict=True):
            ranks, losses = map(np.concatenate, zip(*of_one, strict=True))
            measured.append(replace(self._measurement(ranks, losses), architecture=architecture))
        kept = set(race.alive)
        return RaceResult(
            kept=sorted((measured[number] for number in race.alive), key=lambda one: -one.top1),
            dropped=[one for number, one in enumerate(measured) if number not in kept],
            predicted=sum(one.images for one in measured),
            full=race.images * len(asked),
        )

    def _in_chunks(self, plan: PrefixTree, work: Callable[[PrefixTree], T]) -> Iterator[T]:
        """Do the work for chunks of the plan that fit in the budget, halved where memory is too little."""

        def cost(part: PrefixTree) -> int:
            return self.backend.peak_bytes(part, self.image_shape, self._largest)

        waiting = plan.chunks(self.memory_budget, cost)
        while waiting:
            chunk = waiting.pop(0)
            try:
                result = work(chunk)
            except torch.OutOfMemoryError as error:
                if len(chunk.paths) == 1:
                    raise torch.OutOfMemoryError(
                        f"{self._device} has too little memory for a single candidate with calibration "
                        f"batches of {self._largest} images; make them smaller ({error})"
                    ) from error
                logger.warning("not enough memory for %d candidates at once: taking half", len(chunk.paths))
                half = len(chunk.paths) // 2
                waiting[:0] = [PrefixTree(chunk.paths[:half]), PrefixTree(chunk.paths[half:])]
            else:
                yield result

    def _calibrate(self, plan: PrefixTree) -> list[NodeStatistics]:
        return self.backend.calibrate(plan, self._calibration_batches(), self.statistics_convention)

    def _calibrate_paths(self, plan: PrefixTree) -> dict[Path, list[NodeStatistics]]:
        """Return the statistics of each layer of each path."""
        nodes = self._calibrate(plan)
        return {
            path: [nodes[node] for node in plan.node_path(leaf)]
            for path, leaf in zip(plan.paths, plan.leaves, strict=True)
        }

    def _predict_part(
        self, statistics: dict[Path, list[NodeStatistics]], start: int, stop: int, plan: PrefixTree
    ) -> dict[Path, Seen]:
        """Predict images `start` to `stop`, with the statistics of each path's layers."""
        nodes: list[NodeStatistics] = [{} for _ in plan.nodes]
        for path, leaf in zip(plan.paths, plan.leaves, strict=True):
            for node, one in zip(plan.node_path(leaf), statistics[path], strict=True):
                nodes[node] = one
        return self._predict(plan, nodes, start, stop)

    def _predict(
        self, plan: PrefixTree, statistics: list[NodeStatistics], start: int = 0, stop: int | None = None
    ) -> dict[Path, Seen]:
        batch = self.validation_batch
        if self.memory_budget is not None:
            batch = min(batch, self.backend.prediction_batch(plan, self.image_shape, self.memory_budget))
        tally = Scores()
        waiting: list[Tensor] = []

        def images_of_batches() -> Iterator[Tensor]:
            for images, labels in self._images.validation_batches(batch, self._device, start, stop):
                waiting.append(labels)
                yield images

        for outputs in self.backend.predict_batches(plan, statistics, images_of_batches()):
            tally.add(torch.stack([outputs[leaf] for leaf in plan.leaves]), waiting.pop(0))
        return dict(zip(plan.paths, zip(*tally.result(), strict=True), strict=True))

    def _measurement(self, ranks: np.ndarray, losses: np.ndarray) -> Measurement:
        """The measurement of a network that has seen images in the order of `Images.validation_batches`."""
        if not is_pair(self.validation):
            return measurement((), ranks, losses)
        order = random_order(len(self.validation[1])).numpy()
        if len(ranks) < len(order):
            return replace(measurement((), ranks, losses), correct=b"")
        of_images = np.empty_like(ranks), np.empty_like(losses)
        for put_back, predicted in zip(of_images, (ranks, losses), strict=True):
            put_back[order] = predicted
        return measurement((), *of_images)

    def _calibration_batches(self) -> Iterator[Tensor]:
        return self._images.calibration_batches(self.calibration_batch, self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.supernet.parameters()).device


def evaluate_network(
    network: nn.Module,
    validation: Validation,
    architecture: Architecture = (),
    *,
    precision: str = "fp32",
    batch: int = 250,
) -> Measurement:
    """Return the measurement of a stand-alone network, with its own BatchNorm statistics."""
    check_choice("precision", precision, tuple(PRECISIONS))
    device = next(network.parameters()).device
    tally = Scores()
    with evaluation_mode(network), torch.inference_mode(), autocast(device, precision):
        for images, labels in batches(validation, batch, device):
            tally.add(network(images).float()[None], labels)
    return tally.measurements([architecture])[0]
