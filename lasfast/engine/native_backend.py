"""The native backend: a whole tree in one pass of the compiled module for each batch of images.

Calibration runs a schedule whose operations sum their output's statistics as they store it. Prediction runs
another, with the statistics applied as each value is stored. Opaque operations are torch's, on the values
where they lie: the compiled module is called for what is before, between and after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn

from lasfast.data.normalization import Normalization
from lasfast.engine.backend import USUAL_BATCH, Backend, NodeStatistics, too_few_values
from lasfast.engine.buffer import Buffer
from lasfast.engine.calibration import CONVENTIONS, RunningStatistics
from lasfast.engine.chunks import PartSizes
from lasfast.engine.conv_ways import with_ways
from lasfast.engine.cpu_executor import CpuExecutor
from lasfast.engine.cuda_executor import CudaExecutor
from lasfast.engine.executor import Executor
from lasfast.engine.layout import Layout
from lasfast.engine.lower import lower
from lasfast.engine.schedule import BatchNorm, fits
from lasfast.engine.scores import Tally
from lasfast.ir.layers import Shape
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime import compiled
from lasfast.runtime.autotune import Share
from lasfast.runtime.placement import device_of

EXECUTORS: dict[str, type[Executor]] = {"cpu": CpuExecutor, "cuda": CudaExecutor}
"""The executor for each type of device that parameters may be on."""


FULL_GPU = 2000, 32 * 32
"""A GPU has enough to do at once with so many images of so many positions."""


def why_missing(device: torch.device) -> str | None:
    """Return why there is no native code for this device, or None where there is."""
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
    """Runs trees through the compiled module; "bf16" stores values and weights in bfloat16.

    It runs where the module's parameters are, on the CPU or a GPU. Blocks of images to predict are cut to
    `memory_budget` bytes, to which torch adds what the modules that it runs need. Raises NotLowerableError
    where a tree cannot be lowered, ValueError where no kernels are for the device.
    """

    name = "native"
    way: str | None = None
    """The way in which the last batch was predicted: "blocks" on the CPU, else one of `CudaExecutor.way`."""

    def __init__(
        self,
        module: nn.Module,
        precision: str = "fp32",
        memory_budget: int | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__(module, precision, normalization)
        self.target = replace(self.target, memory_budget=memory_budget, native=compiled.load())
        device = self.target.device
        if device.type not in EXECUTORS:
            raise ValueError(f"supernet is on {device}, and {why_missing(device)}")
        self._kind = EXECUTORS[device.type]
        self.buffer = Buffer(device)

    def calibrate(self, tree: PrefixTree, batches: Iterable[Tensor], convention: str) -> list[NodeStatistics]:
        """Return the statistics of every node (see `Backend.calibrate`)."""
        executors: dict[Shape, Executor] = {}
        running: RunningStatistics | None = None
        batch_norms: tuple[BatchNorm, ...] = ()
        for images in batches:
            images = self._prepared(tree, images)
            shape = tuple(images.shape[1:])
            if shape not in executors:
                executors[shape] = self._executor(tree, shape, len(images), calibration=True)
            executor = executors[shape]
            batch_norms = executor.schedule.batch_norms
            for norm in batch_norms:
                if len(images) * norm.positions < 2:
                    raise too_few_values(norm.module, len(images))
            if running is None:
                running = CONVENTIONS[convention](executor.layout.channels, images.device)
            if batch_norms:
                executor.calibrate(images)
                count = executor.positions * len(images)
                unbiased = executor.variance * (count / (count - 1))
                running.update(executor.mean, unbiased, len(images), count)
        statistics: list[NodeStatistics] = [{} for _ in tree.nodes]
        if running is not None:
            sizes = [norm.channels for norm in batch_norms]
            split = (part.split(sizes) for part in running.result())
            for norm, mean, variance in zip(batch_norms, *split, strict=True):
                statistics[norm.node][norm.module] = (mean, variance)
        return statistics

    def predict_batches(
        self, tree: PrefixTree, statistics: list[NodeStatistics], batches: Iterable[Tensor]
    ) -> Iterator[dict[int, Tensor]]:
        """Give the logits of every leaf for each batch (see `Backend.predict_batches`)."""
        executors: dict[Shape, Executor] = {}
        for images in batches:
            images, executor = self._predictor(tree, statistics, images, executors)
            logits = executor.predict(images)
            self.way = executor.way
            yield dict(zip(executor.schedule.leaves, logits, strict=True))

    def predictor(self, tree: PrefixTree, images: Tensor) -> Executor:
        """Return what predicts images like these, with the weights of now and no statistics yet."""
        images = self._prepared(tree, images)
        return self._executor(tree, tuple(images.shape[1:]), len(images), calibration=False)

    def score_batches(
        self, tree: PrefixTree, statistics: list[NodeStatistics], batches: Iterable[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Return class ranks and losses of batches (see `Backend.score_batches`).

        On a GPU, logits are scored where they are predicted, in the same CUDA graph.
        """
        if not self._kind.cuda:
            return super().score_batches(tree, statistics, batches)
        leaves = sorted(set(tree.leaves))  # in the order of a schedule's
        tally = Tally(self.target.native, len(leaves), self.target.device)
        executors: dict[Shape, Executor] = {}
        for images, labels in batches:
            images, executor = self._predictor(tree, statistics, images, executors)
            assert isinstance(executor, CudaExecutor)
            tally.expect(labels)
            executor.predict(images, tally)
            self.way = executor.way
        rows = [leaves.index(leaf) for leaf in tree.leaves]
        class_ranks, losses = tally.result()
        return class_ranks[rows], losses[rows]

    def peak_bytes(self, tree: PrefixTree, image_shape: Shape, images: int) -> int:
        """Return the bytes of a calibration batch, or of predicting where that needs more."""
        return max(self._needs(tree, image_shape, images))

    def prediction_batch(self, tree: PrefixTree, image_shape: Shape, budget: int) -> int:
        """Return how many images' logits fit beside the smallest arena and workspace."""
        layout = self._layout(tree, image_shape, calibration=False)
        rest = budget - layout.least_bytes(0)
        return max(1, rest // max(1, layout.logits_bytes(1)))

    def agree(self, tree: PrefixTree, image_shape: Shape, share: Share) -> None:
        """Let processes take the same ways (see `Backend.agree`); on CUDA, all ways give the same bits."""
        if not self._kind.cuda:
            schedule = lower(tree, image_shape, calibration=True, width=1, cuda=False)
            with_ways(schedule, self.target.storage, share)

    def usual_batch(self, image_shape: Shape) -> int:
        """Return how many images are predicted at a time: on a GPU more, where they are small."""
        if not self._kind.cuda:
            return USUAL_BATCH
        most, positions = FULL_GPU
        return max(USUAL_BATCH, min(most, most * positions // prod(image_shape[1:])))

    def chunks(
        self, tree: PrefixTree, image_shape: Shape, images: int, budget: int | None
    ) -> Iterator[PrefixTree]:
        """Cut a tree into trees within a budget (see `Backend.chunks`).

        Where to cut is told from the schedule of the whole tree. A chunk is lowered when its turn comes, and
        cut again in the rare case that its own schedule needs more.
        """
        if (
            budget is None
            or len(tree.paths) == 1
            or all(need <= budget for need in self._needs(tree, image_shape, images))
        ):
            yield tree
            return
        sizes = PartSizes(tree, self._layout(tree, image_shape, calibration=True), images)
        parts = tree.chunks(budget, sizes.bytes)
        for part in parts if len(parts) > 1 else tree.parts(2):
            yield from self.chunks(part, image_shape, images, budget)

    def _needs(self, tree: PrefixTree, image_shape: Shape, images: int) -> Iterator[int]:
        """Give the bytes of a calibration batch, and then the least bytes of predicting an image.

        The tree is lowered for prediction only where that number is asked for.
        """
        yield self._layout(tree, image_shape, calibration=True).batch_bytes(images)
        yield self._layout(tree, image_shape, calibration=False).least_bytes(1)

    def _prepared(self, tree: PrefixTree, images: Tensor) -> Tensor:
        """Return images as the native code reads them: float32 or uint8, [N, C, H, W] in this order."""
        self.check_images(tree, images)
        target = self.target
        device = device_of(target.module)
        if device != target.device:
            raise ValueError(
                f"supernet was on {target.device} when this was made and is on {device} now; make a new one"
            )
        if images.device != device:
            raise ValueError(f"images are on {images.device}, but the supernet is on {device}")
        dtype = torch.float32 if target.normalization is None else torch.uint8
        return images.detach().to(dtype).contiguous()

    def _predictor(
        self,
        tree: PrefixTree,
        statistics: list[NodeStatistics],
        images: Tensor,
        executors: dict[Shape, Executor],
    ) -> tuple[Tensor, Executor]:
        """Return prepared images, and what predicts those of their shape, which `executors` keeps."""
        images = self._prepared(tree, images)
        shape = tuple(images.shape[1:])
        if shape not in executors:
            executors[shape] = self.predictor(tree, images)
            executors[shape].load_statistics(statistics)
        return images, executors[shape]

    def _executor(self, tree: PrefixTree, image_shape: Shape, images: int, *, calibration: bool) -> Executor:
        """Return the fastest executor for batches of so many images that the memory allows."""
        budget = self.target.memory_budget
        for width in self._kind.layout_type.widths(calibration):
            layout = self._layout(tree, image_shape, width, calibration=calibration)
            if budget is None or layout.batch_bytes(images) <= budget:
                break
        else:
            layout = self._layout(tree, image_shape, calibration=calibration)
        executor = self._kind(self.target, self.buffer, layout)
        executor.load_parameters()
        return executor

    def _layout(self, tree: PrefixTree, image_shape: Shape, width: int = 1, *, calibration: bool) -> Layout:
        """Return the layout of at most `width` operations together; 1 needs the least memory."""
        schedule = lower(tree, image_shape, calibration=calibration, width=width, cuda=self._kind.cuda)
        return self._kind.layout_type(self.target, schedule, calibration=calibration)

    @property
    def held_bytes(self) -> int:
        """The bytes of arena and workspace that are kept from call to call."""
        return self.buffer.size
