"""One fused native operation on its own, ready to be timed."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import _harness
from lasfast.engine.conv_tiles import ConvTiles
from lasfast.engine.native_backend import EXECUTORS, why_missing
from lasfast.engine.schedule import Kind, norm_fields, operation_fields, records, value_fields
from lasfast.ir.activations import ACTIVATIONS
from lasfast.runtime import compiled
from lasfast.runtime.placement import stream_of
from lasfast.runtime.precision import fp32_products

STORAGES = {"fp32": torch.float32, "bf16": torch.bfloat16}
THREADS = 1
REPEATS = 20
UNCACHED = 1 << 26
"""The number of elements that no cache holds: 128 MiB in bf16."""


class Fused:
    """A schedule of two operations: one makes the images a value, and the one that is timed reads it.

    The timed operation normalises and rectifies its input as it reads it. In calibration it computes the
    statistics of its output; in prediction it normalises and rectifies its output. With a weight
    [C, C or 1, K, K], it is a dense or depthwise convolution that keeps the size; without one, it adds the
    value to itself. C is a multiple of eight.
    """

    def __init__(
        self, weight: Tensor | None, images: Tensor, storage: str, calibration: bool, tile: int = 0
    ) -> None:
        self.module = compiled.load()
        self.images, self.calibration = images, calibration
        self.number = list(STORAGES).index(storage)
        self.tf32 = storage == "fp32" and fp32_products() == "tf32"
        count, channels, height, width = images.shape
        elements = channels * height * width
        offsets = 0, elements
        self.values = records("Value", [value_fields(channels, height, width, offset=at) for at in offsets])
        self.norms = records("Norm", [norm_fields(channels, offset=at, eps=1e-5) for at in (0, channels)])
        self.tables = torch.ones(6, 2 * channels, device=images.device)
        self.tables[3] = 0
        relu = ACTIVATIONS["relu"].code
        first = operation_fields(Kind.INPUT, output=0, out_channels=channels)
        second = {"level": 1, "input": 0, "output": 1, "out_channels": channels, "input_norm": 0}
        if weight is None:
            second = operation_fields(Kind.COMBINE, **second, other=0, activation=relu)
        else:
            kernel, groups = weight.shape[2], channels if weight.shape[1] == 1 else 1
            second |= {"kernel": kernel, "padding": kernel // 2, "groups": groups, "weight": 0, "tile": tile}
            second |= {"statistics": 1} if calibration else {"output_norm": 1, "activation": relu}
            second = operation_fields(Kind.CONV2D, **second, input_activation=relu)
        self.operations = records("Operation", [first, second])
        self.packed = torch.zeros(0, dtype=torch.uint8, device=images.device)
        if weight is not None:
            self.packed = self.pack(self.operations[1:].ctypes.data, self.values.ctypes.data, weight)
        self.arena = torch.zeros(2 * elements * count, dtype=STORAGES[storage], device=images.device)
        self.logits = torch.zeros(1, device=images.device)

    def native(self) -> object:
        names = ("gamma", "beta", "scale", "shift", "mean", "variance")
        rows = {name: row.data_ptr() for name, row in zip(names, self.tables, strict=True)}
        return self.module.ScheduleTables(
            values=self.values.ctypes.data,
            value_count=len(self.values),
            norms=self.norms.ctypes.data,
            norm_count=len(self.norms),
            operations=self.operations.ctypes.data,
            operation_count=len(self.operations),
            weights=self.packed.data_ptr(),
            weight_bytes=self.packed.numel(),
            channel_count=self.tables.shape[1],
            **rows,
        )

    def pack(self, operation: int, value: int, weight: Tensor) -> Tensor:
        """Return the weight in the layout that the operation reads."""
        raise NotImplementedError

    def prepare(self) -> Callable[[], None]:
        """Run the first operation, and return a function that runs the timed one."""
        raise NotImplementedError


class CpuFused(Fused):
    def __init__(
        self, weight: Tensor | None, images: Tensor, storage: str, calibration: bool, tile: int = 0
    ) -> None:
        self.isa = compiled.isa_number()
        super().__init__(weight, images, storage, calibration, tile)
        size = self.module.schedule_scratch_bytes(
            self.native(), self.number, self.isa, len(images), THREADS, calibration
        )
        self.scratch = torch.zeros(size, dtype=torch.uint8)

    def pack(self, operation: int, value: int, weight: Tensor) -> Tensor:
        arguments = (operation, value, self.number, self.isa)
        packed = torch.zeros(self.module.schedule_packed_bytes(*arguments), dtype=torch.uint8)
        self.module.schedule_pack(*arguments, weight.data_ptr(), weight.stride(), packed.data_ptr())
        return packed

    def run(self, tables: object, operation: int) -> None:
        span = (operation, operation + 1)
        before = (tables, self.number, self.isa, THREADS, span, self.images.data_ptr(), len(self.images))
        if self.calibration:
            arena = self.arena.data_ptr(), self.arena.nbytes
            self.module.schedule_calibrate(*before, *arena, self.scratch.data_ptr())
        else:
            arena = len(self.images), 0, 0, self.arena.data_ptr(), self.arena.nbytes
            self.module.schedule_predict(*before, *arena, self.scratch.data_ptr(), self.logits.data_ptr())

    def prepare(self) -> Callable[[], None]:
        tables = self.native()
        self.run(tables, 0)
        return lambda: self.run(tables, 1)


class CudaFused(Fused):
    def pack(self, operation: int, value: int, weight: Tensor) -> Tensor:
        size = self.module.schedule_packed_bytes_cuda(operation, value, self.number)
        packed = torch.zeros(size, dtype=torch.uint8, device=weight.device)
        weights = [(operation, value, weight.data_ptr(), weight.stride(), packed.data_ptr())]
        self.module.schedule_pack_cuda(weights, self.number, self.tf32, 0, stream_of(weight.device))
        return packed

    def prepare(self) -> Callable[[], None]:
        tables, count, device = self.native(), len(self.images), self.images.device
        precision = list(STORAGES)[self.number]
        ConvTiles(device, precision, tf32=self.tf32).take(self.values, self.operations)
        size = self.module.schedule_plan_bytes_cuda(tables, self.number, count, self.calibration)
        plan = torch.zeros(size, dtype=torch.uint8)
        self.module.schedule_plan_cuda(
            tables, self.number, self.tf32, count, self.calibration, plan.data_ptr()
        )
        on_device = plan.to(device)
        _, scratch_bytes, *_ = self.module.schedule_needs_cuda(plan.data_ptr())
        scratch = torch.zeros(scratch_bytes, dtype=torch.uint8, device=device)

        def run(level: int) -> None:
            self.module.schedule_run_cuda(
                tables, plan.data_ptr(), on_device.data_ptr(), self.images.data_ptr(), count, level, level,
                self.arena.data_ptr(), scratch.data_ptr(), self.logits.data_ptr(), count, 0,
                stream_of(device),
            )  # fmt: skip

        run(0)
        return lambda: run(1)


def native_run(
    weight: Tensor | None, images: Tensor, storage: str, calibration: bool, tile: int = 0
) -> Callable[[], None]:
    """Return a function that runs the native operation; skip the benchmark if there is no native code.

    A `tile` is for convolutions on the CPU; on CUDA, the fastest one is taken.
    """
    why = why_missing(images.device)
    if why is not None:
        pytest.skip(why)
    kind = CudaFused if EXECUTORS[images.device.type].cuda else CpuFused
    return kind(weight, images, storage, calibration, tile).prepare()


def torch_run(
    weight: Tensor, images: Tensor, storage: str, calibration: bool, *, alone: bool = False
) -> Callable[[], None]:
    """Return a function that runs PyTorch's sequence in channels_last, or its convolution `alone`."""
    layout = {"dtype": STORAGES[storage], "memory_format": torch.channels_last}
    x, weight = images.to(**layout), weight.to(**layout)
    channels = images.shape[1]
    padding, groups = weight.shape[2] // 2, channels // weight.shape[1]
    mean, beta = torch.zeros(2, channels, device=images.device)
    variance, gamma = torch.ones(2, channels, device=images.device)

    def run() -> None:
        y = F.conv2d(x, weight, None, 1, padding, groups=groups)
        if not alone:
            F.relu_(F.batch_norm(y, mean, variance, gamma, beta, calibration, 0.1))

    return run


def timed(benchmark: Callable, run: Callable[[], object], device: str) -> float:
    """Time a function, and return the median seconds of one run.

    On a GPU, many runs are one CUDA graph, so that neither launching nor waiting counts.
    """
    run, repeats = repeated(run, device)
    rounds = 10 if device == "cuda" else 30
    with torch.inference_mode():
        benchmark.pedantic(run, rounds=rounds, warmup_rounds=3)
    benchmark.extra_info["repeats"] = repeats
    return benchmark.stats.stats.median / repeats


def repeated(run: Callable[[], object], device: str) -> tuple[Callable[[], object], int]:
    """Return a function to time and how many runs it makes: on a GPU, a CUDA graph of many, and a wait."""
    if device == "cpu":
        return run, 1
    with torch.inference_mode():
        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(REPEATS):
                run()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay, REPEATS


@functools.cache
def peak(storage: str, device: str = "cpu") -> float:
    """Return the FLOP/s of a large matrix product or convolution in PyTorch, whichever is faster."""
    return 2 * _harness.peak_flops(storage, device)


def images_on(device: str, count: int, channels: int, size: int) -> int:
    """Return `count`, or on a GPU at least as many images as no cache holds."""
    return max(count, UNCACHED // (channels * size**2)) if device == "cuda" else count


def random_images(count: int, channels: int, size: int, device: str) -> Tensor:
    """Return random images [count, channels, size, size], on a GPU more of them (`images_on`)."""
    count = images_on(device, count, channels, size)
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(count, channels, size, size, generator=generator, device=device)
