"""The native backend: the whole plan in one pass of the compiled module for each batch of images.

Calibration runs a schedule whose operations sum their output's statistics as they store it. Prediction runs
another, with the statistics applied as each value is stored. Opaque operations are torch's, on the values
where they lie: the compiled module is called for what is before, between and after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lasfast.data.normalization import Normalization
from lasfast.engine.backend import Backend, NodeStatistics, too_few_values
from lasfast.engine.calibration import CONVENTIONS, RunningStatistics
from lasfast.engine.cpu_executor import CpuExecutor
from lasfast.engine.cuda_executor import CudaExecutor
from lasfast.engine.executor import Executor
from lasfast.engine.lower import lower
from lasfast.engine.schedule import BatchNorm, fits
from lasfast.ir.layers import Shape
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime import compiled
from lasfast.supernets import Supernet

EXECUTORS: dict[str, type[Executor]] = {"cpu": CpuExecutor, "cuda": CudaExecutor}
"""What runs a schedule, by the type of the device where the supernet's parameters are."""


def why_missing(device: torch.device) -> str | None:
    """Why there is no native code for this device, or None where there is."""
    if device.type not in EXECUTORS:
        return f"there are no native kernels for {device.type}"
    if not compiled.available():
        return "lasfast's compiled module is missing (lasfast info says why)"
    if not fits(compiled.load()):
        return "lasfast's compiled module is older than this code; build it again with `pip install .`"
    if device.type == "cuda":
        return compiled.why_no_cuda(device.index or 0)
    return None


class NativeBackend(Backend):
    """Runs plans through the compiled module; "bf16" stores values and weights in bfloat16.

    It runs where the supernet's parameters are, on the CPU or a GPU. Blocks of images to predict are cut to
    `memory_budget` bytes of workspace, to which torch adds what the modules that it runs need. Raises
    NotLowerableError where a plan cannot be lowered, ValueError where no kernels are for the device.
    """

    name = "native"
    way: str | None = None
    """How the last batch was predicted: by "blocks" of images on the CPU, else as `CudaExecutor.way` says."""

    def __init__(
        self,
        supernet: Supernet,
        precision: str = "fp32",
        memory_budget: int | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__(supernet, precision, normalization)
        self.memory_budget = memory_budget
        self.module = compiled.load()
        self.device = next(supernet.parameters()).device
        if self.device.type not in EXECUTORS:
            raise ValueError(f"supernet is on {self.device}, and {why_missing(self.device)}")
        self.pixels = None if normalization is None else normalization.table(self.device)
        self._workspace = torch.empty(0, dtype=torch.uint8, device=self.device)

    def calibrate(self, plan: PrefixTree, batches: Iterable[Tensor], convention: str) -> list[NodeStatistics]:
        """Return the statistics of every node (see `Backend.calibrate`)."""
        programs: dict[Shape, Executor] = {}
        running: RunningStatistics | None = None
        batch_norms: tuple[BatchNorm, ...] = ()
        for images in batches:
            images = self._prepared(images)
            shape = tuple(images.shape[1:])
            if shape not in programs:
                programs[shape] = self._program(plan, shape, len(images), calibration=True)
                programs[shape].load_parameters()
            program = programs[shape]
            batch_norms = program.schedule.batch_norms
            for norm in batch_norms:
                if len(images) * norm.positions < 2:
                    raise too_few_values(norm.module, len(images))
            if running is None:
                running = CONVENTIONS[convention](program.channels, images.device)
            if batch_norms:
                program.calibrate(images)
                count = program.positions * len(images)
                unbiased = program.variance * (count / (count - 1))
                running.update(program.mean, unbiased, len(images), count)
        statistics: list[NodeStatistics] = [{} for _ in plan.nodes]
        if running is not None:
            sizes = [norm.channels for norm in batch_norms]
            split = (part.split(sizes) for part in running.result())
            for norm, mean, variance in zip(batch_norms, *split, strict=True):
                statistics[norm.node][norm.module] = (mean, variance)
        return statistics

    def predict_batches(
        self, plan: PrefixTree, statistics: list[NodeStatistics], batches: Iterable[Tensor]
    ) -> Iterator[dict[int, Tensor]]:
        """Give the logits of every leaf for each batch (see `Backend.predict_batches`)."""
        programs: dict[Shape, Executor] = {}
        for images in batches:
            images = self._prepared(images)
            shape = tuple(images.shape[1:])
            if shape not in programs:
                programs[shape] = self._program(plan, shape, len(images), calibration=False)
                programs[shape].load_parameters()
                programs[shape].load_statistics(statistics)
            program = programs[shape]
            logits = program.predict(images)
            self.way = program.way
            yield dict(zip(program.schedule.leaves, logits, strict=True))

    def peak_bytes(self, plan: PrefixTree, image_shape: Shape, images: int) -> int:
        """Return the bytes of workspace of a calibration batch, or of predicting where that needs more."""
        calibration = self._make(plan, image_shape, calibration=True)
        prediction = self._make(plan, image_shape, calibration=False)
        return max(calibration.batch_bytes(images), prediction.least_bytes(1))

    def prediction_batch(self, plan: PrefixTree, image_shape: Shape, budget: int) -> int:
        """Return how many images' logits fit beside the smallest workspace."""
        program = self._make(plan, image_shape, calibration=False)
        rest = budget - program.least_bytes(0)
        return max(1, rest // max(1, program.logits_bytes(1)))

    def _prepared(self, images: Tensor) -> Tensor:
        """Images as the native code reads them: float32 or uint8, [N, C, H, W] in this order."""
        self.check_images(images)
        device = next(self.supernet.parameters()).device
        if device != self.device:
            raise ValueError(
                f"supernet was on {self.device} when this was made and is on {device} now; make a new one"
            )
        if images.device != device:
            raise ValueError(f"images are on {images.device}, but the supernet is on {device}")
        dtype = torch.float32 if self.normalization is None else torch.uint8
        return images.detach().to(dtype).contiguous()

    def _program(self, plan: PrefixTree, image_shape: Shape, images: int, *, calibration: bool) -> Executor:
        """Return the fastest program for batches of so many images that the memory allows."""
        for width in EXECUTORS[self.device.type].widths(calibration):
            program = self._make(plan, image_shape, width, calibration=calibration)
            if self.memory_budget is None or program.batch_bytes(images) <= self.memory_budget:
                return program
        return self._make(plan, image_shape, calibration=calibration)

    def _make(self, plan: PrefixTree, image_shape: Shape, width: int = 1, *, calibration: bool) -> Executor:
        """Return a program that runs at most `width` operations together; 1 needs the least memory."""
        kind = EXECUTORS[self.device.type]
        schedule = lower(plan, image_shape, calibration=calibration, width=width, cuda=kind.cuda)
        return kind(self, schedule, calibration=calibration)

    @property
    def held_bytes(self) -> int:
        """Bytes of the workspace, which is kept from call to call."""
        return self._workspace.numel()

    def workspace(self, size: int) -> Tensor:
        """Return at least `size` bytes, 64-byte aligned, the same memory as long as it is large enough."""
        if self._workspace.numel() < size:
            # Give back the old before taking the new.
            self._workspace = torch.empty(0, dtype=torch.uint8, device=self.device)
            self._workspace = torch.empty(size, dtype=torch.uint8, device=self.device)
        return self._workspace
