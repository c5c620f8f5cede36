"""The evaluator: says how good sub-networks are with the weights they inherit."""

from __future__ import annotations

import logging
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from lasfast import costs
from lasfast.checks import check_choice, check_positive
from lasfast.engine import CONVENTIONS, Backend, NativeBackend, NotLowerableError, Plan, TorchBackend
from lasfast.engine.backend import BACKENDS, PRECISIONS, NodeStatistics
from lasfast.engine.lowering import lower
from lasfast.engine.native_backend import why_missing
from lasfast.measurement import Measurement
from lasfast.spaces import Architecture, SearchSpace
from lasfast.supernets import Path, Supernet
from lasfast.supernets.extract import Statistics
from lasfast.supernets.run import evaluation_mode
from lasfast.tally import Tally

Calibration = Tensor | Iterable[Any]
"""Images [N, C, H, W], or a loader of such batches (or of pairs that begin with one)."""
Validation = tuple[Tensor, Tensor] | Iterable[Any]
"""(images [N, C, H, W], labels [N]), or a loader of such pairs."""


T = TypeVar("T")
logger = logging.getLogger("lasfast")


class Evaluator:
    """Recomputes BatchNorm statistics and predicts, for many architectures in one pass.

    Args:
        supernet: owns the weights; its parameters' device is where everything runs.
        calibration: images [N, C, H, W], floating point, or a loader that can be iterated repeatedly. A
            tensor is cut into batches of nearly equal size, at most `calibration_batch`; a loader's batches
            are taken as they are. All architectures see the same batches in the same order.
        validation: (images [N, C, H, W], labels [N] int64), or a loader of such pairs.
        backend: "native" (the compiled module, CPU or CUDA), "torch" (the reference, runs anything), or
            "auto": native where it can run this supernet, else torch.
        precision: "fp32", or "bf16": torch's bfloat16 autocast, or values and weights stored in bfloat16.
        statistics: which statistics are kept for prediction: "cumulative", "ema" or "batch_mean"
            (see `lasfast.engine.statistics`).
        memory_budget: bytes of activations to stay within, or None. Architectures are evaluated in
            chunks that fit; one that does not fit alone is predicted in smaller batches. A calibration
            batch is never cut, since that would change its statistics: choose `calibration_batch`.
        calibration_batch, validation_batch: images per batch, of tensors.

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
    ) -> None:
        if not isinstance(supernet, Supernet):
            raise TypeError(f"supernet must be a lasfast Supernet, got {type(supernet).__name__}")
        check_choice("backend", backend, BACKENDS)
        check_choice("precision", precision, PRECISIONS)
        check_choice("statistics", statistics, tuple(CONVENTIONS))
        check_positive(calibration_batch=calibration_batch, validation_batch=validation_batch)
        if memory_budget is not None:
            check_positive(memory_budget=memory_budget)
        self.supernet = supernet
        self.statistics_convention = statistics
        self.memory_budget = memory_budget
        self.calibration_batch, self.validation_batch = calibration_batch, validation_batch
        self.calibration, self.validation = calibration, validation
        if isinstance(calibration, Tensor):
            _check_images("calibration", calibration, supernet.in_channels)
        _check_validation(validation, supernet.in_channels, supernet.num_classes)
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

        The result for one architecture is the same whatever others it is asked with.
        """
        paths = {
            architecture: self.supernet.path(architecture)
            for architecture in map(self.supernet.space.validate, architectures)
        }
        if not paths:
            return []
        plan = Plan(list(dict.fromkeys(paths.values())))
        of_paths = self._guarded(lambda: self._measure(plan))
        measured = {
            architecture: replace(of_paths[path], architecture=architecture)
            for architecture, path in paths.items()
        }
        return [measured[tuple(architecture)] for architecture in architectures]

    @property
    def space(self) -> SearchSpace:
        """The architectures that can be measured: those of the supernet."""
        return self.supernet.space

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Return FLOPs (multiply-adds for one image of the size measured on) and params, by name."""
        _, height, width = self.image_shape
        return {
            "flops": costs.flops(self.supernet, architecture, (height, width)),
            "params": costs.params(self.supernet, architecture),
            "params_without_batch_norm": costs.params(self.supernet, architecture, batch_norm=False),
        }

    def statistics(self, architecture: Architecture) -> Statistics:
        """Return the calibrated BatchNorm statistics of one architecture: module -> (mean, variance)."""
        plan = Plan([self.supernet.path(architecture)])
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
            "calibration": _fingerprint(self.calibration),
            "calibration_batch": self.calibration_batch,
            "validation": _fingerprint(self.validation),
            "validation_batch": self.validation_batch,
        }

    def _choose_backend(self, precision: str) -> Backend:
        """Return the backend that was asked for, or the fastest that can run this supernet."""
        reference = TorchBackend(self.supernet, precision)
        if self._wanted == "torch":
            return reference
        why = why_missing(self._device)
        if why is None:
            try:
                lower(Plan(self._samples()), self.image_shape, calibration=False)
            except NotLowerableError as error:
                why = str(error)
            except ValueError:
                pass  # images too small for some architectures: whoever asks for one of them is told
        if why is None:
            return NativeBackend(self.supernet, precision, self.memory_budget)
        if self._wanted == "native":
            raise ValueError(f"backend 'native' cannot run this supernet: {why}; take 'torch' or 'auto'")
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
            self.backend = TorchBackend(self.supernet, self.backend.precision)
            return work()

    def _measure(self, plan: Plan) -> dict[Path, Measurement]:
        """Calibrate and predict in chunks that fit in the budget."""

        def cost(part: Plan) -> int:
            return self.backend.peak_bytes(part, self.image_shape, self._largest)

        measured: dict[Path, Measurement] = {}
        waiting = plan.chunks(self.memory_budget, cost)
        while waiting:
            chunk = waiting.pop(0)
            try:
                measured |= self._predict(chunk, self._calibrate(chunk))
            except torch.OutOfMemoryError:
                if len(chunk.paths) == 1:
                    raise
                logger.warning("not enough memory for %d candidates at once: taking half", len(chunk.paths))
                half = len(chunk.paths) // 2
                waiting[:0] = [Plan(chunk.paths[:half]), Plan(chunk.paths[half:])]
        return measured

    def _calibrate(self, plan: Plan) -> list[NodeStatistics]:
        return self.backend.calibrate(plan, self._calibration_batches(), self.statistics_convention)

    def _predict(self, plan: Plan, statistics: list[NodeStatistics]) -> dict[Path, Measurement]:
        batch = self.validation_batch
        if self.memory_budget is not None:
            batch = min(batch, self.backend.prediction_batch(plan, self.image_shape, self.memory_budget))
        tally = Tally()
        waiting: list[Tensor] = []

        def images_of_batches() -> Iterator[Tensor]:
            for images, labels in batches(self.validation, batch, self._device):
                waiting.append(labels)
                yield images

        for outputs in self.backend.predict_batches(plan, statistics, images_of_batches()):
            tally.add(torch.stack([outputs[leaf] for leaf in plan.leaves]), waiting.pop(0))
        measurements = tally.measurements([()] * len(plan.paths))
        return dict(zip(plan.paths, measurements, strict=True))

    def _calibration_batches(self) -> Iterator[Tensor]:
        if isinstance(self.calibration, Tensor):
            count = -(-len(self.calibration) // self.calibration_batch)
            parts: Iterable[Any] = self.calibration.tensor_split(count)
        else:
            parts = self.calibration
        for part in parts:
            images = part if isinstance(part, Tensor) else part[0]
            _check_images("calibration", images, self.supernet.in_channels)
            yield images.to(self._device, non_blocking=True)

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
    check_choice("precision", precision, PRECISIONS)
    device = next(network.parameters()).device
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    tally = Tally()
    with evaluation_mode(network), torch.inference_mode(), autocast:
        for images, labels in batches(validation, batch, device):
            tally.add(network(images).float()[None], labels)
    return tally.measurements([architecture])[0]


def batches(validation: Validation, batch: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Give batches of (images, labels) on the device, of a pair of tensors or a loader."""
    pairs: Iterable[Any] = validation
    if _is_pair(validation):
        images, labels = validation
        pairs = zip(images.split(batch), labels.split(batch), strict=True)
    for images, labels in pairs:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _is_pair(validation: Any) -> bool:
    return isinstance(validation, tuple | list) and any(isinstance(part, Tensor) for part in validation)


def _check_images(name: str, images: object, channels: int) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a tensor of images or a loader of them, got {type(images).__name__}")
    if images.dim() != 4 or images.shape[1] != channels or not len(images):
        raise ValueError(
            f"{name} must be images [N, {channels}, H, W], N > 0, got shape {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise TypeError(f"{name} must be normalized floating-point images, got {images.dtype}")


def _check_validation(validation: Any, channels: int, num_classes: int) -> None:
    """Check a pair of tensors; a loader is checked by what it gives."""
    if not _is_pair(validation):
        if not isinstance(validation, Iterable):
            raise TypeError(
                "validation must be (images, labels) or a loader of such pairs, "
                f"got {type(validation).__name__}"
            )
        return
    if len(validation) != 2:
        raise ValueError(f"validation must be a pair (images, labels), got {len(validation)} parts")
    images, labels = validation
    _check_images("validation images", images, channels)
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(
            f"validation labels must be an int64 tensor, got {getattr(labels, 'dtype', type(labels))}"
        )
    if labels.shape != (len(images),):
        raise ValueError(
            f"validation labels must have one entry per image, shape ({len(images)},), "
            f"got {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise ValueError(f"validation labels must lie in 0 to {num_classes - 1}, got {low} to {high}")


def _fingerprint(images: Any) -> str:
    """Return a short text that tells one set of images from another."""
    if _is_pair(images):
        return " ".join(_fingerprint(part) for part in images)
    if not isinstance(images, Tensor):
        return type(images).__name__
    data = images.detach().cpu().contiguous()
    checksum = zlib.crc32(data.view(torch.uint8).numpy().data)
    return f"{tuple(data.shape)}:{checksum:08x}"
