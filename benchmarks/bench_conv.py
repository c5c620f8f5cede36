"""Convolution, batch norm and ReLU: one fused operation against PyTorch's sequence, in channels_last.

pytest benchmarks/bench_conv.py --benchmark-group-by=group

The native operation normalises and rectifies its input while reading it. In calibration it takes the
statistics of its output, in prediction it applies norm and ReLU to it; PyTorch runs `conv2d`,
`batch_norm` (by the batch's own statistics, or given ones) and `relu_`. Each test says how many
TFLOP/s it reached (`extra_info`), and those of one group did the same work.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast import _native
from lasfast.engine.schedule import NORM, OPERATION, VALUE, Kind

SHAPES = {  # channels in and out, height and width, images
    "16 at 32x32": (16, 32, 64),
    "32 at 32x32": (32, 32, 32),
    "32 at 16x16": (32, 16, 64),
    "64 at 16x16": (64, 16, 64),
    "64 at 8x8": (64, 8, 128),
    "128 at 16x16": (128, 16, 32),
    "128 at 8x8": (128, 8, 64),
    "256 at 8x8": (256, 8, 32),
    "256 at 4x4": (256, 4, 64),
}
STORAGES = {"fp32": torch.float32, "bf16": torch.bfloat16}
THREADS = 1


def aligned(count: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(count, dtype=dtype)  # torch aligns to 64 bytes


class Fused:
    """Two schedules of one operation each: the images become a value, and the convolution reads it."""

    def __init__(self, weight: Tensor, images: Tensor, storage: str, calibration: bool) -> None:
        self.module, self.isa = _native.load(), _native.isa_number()
        self.images, self.calibration = images, calibration
        self.number = list(STORAGES).index(storage)
        count, channels, height, width = images.shape
        elements = channels * height * width
        self.values = np.array([(channels, height, width, 0, i * elements) for i in range(2)], VALUE)
        self.norms = np.array([(channels, i * channels, 1e-5, 0) for i in range(2)], NORM)
        self.tables = torch.ones(6, 2 * channels)
        self.tables[3] = 0
        plain = dict.fromkeys(("input", "other", "leaf", "input_norm", "other_norm", "output_norm"), -1)
        plain |= dict.fromkeys(("statistics", "weight", "bias"), -1)
        plain |= dict.fromkeys(("padding", "input_activation", "other_activation", "activation"), 0)
        plain |= {"kernel": 1, "stride": 1, "groups": 1, "out_channels": channels}
        first = plain | {"kind": Kind.INPUT, "level": 0, "output": 0}
        conv = plain | {"kind": Kind.CONV2D, "level": 0, "input": 0, "output": 1, "kernel": 3, "padding": 1}
        conv |= {"input_norm": 0, "input_activation": 1, "weight": 0}
        conv |= {"statistics": 1} if calibration else {"output_norm": 1, "activation": 1}
        rows = [tuple(int(op[name]) for name in OPERATION.names) for op in (first, conv)]
        self.operations = np.array(rows, OPERATION)
        arguments = (self.operations[1:].ctypes.data, self.values.ctypes.data, self.number, self.isa)
        self.packed = aligned(self.module.schedule_packed_bytes(*arguments), torch.uint8)
        self.module.schedule_pack(*arguments, weight.data_ptr(), weight.stride(), self.packed.data_ptr())
        self.arena = aligned(2 * elements * count, STORAGES[storage])
        size = self.module.schedule_scratch_bytes(
            self.native(1), self.number, self.isa, count, THREADS, calibration
        )
        self.scratch, self.logits = aligned(size, torch.uint8), torch.zeros(1)

    def native(self, operation: int) -> object:
        rows = [row.data_ptr() for row in self.tables]
        return self.module.ScheduleTables(
            self.values.ctypes.data, 2, self.norms.ctypes.data, 2, self.operations[operation:].ctypes.data, 1,
            self.packed.data_ptr(), self.packed.numel(), 0, 0, *rows, self.tables.shape[1],
        )  # fmt: skip

    def run(self, tables: object) -> None:
        before = (tables, self.number, self.isa, THREADS, self.images.data_ptr(), len(self.images))
        if self.calibration:
            arena = self.arena.data_ptr(), self.arena.nbytes
            self.module.schedule_calibrate(*before, *arena, self.scratch.data_ptr())
        else:
            arena = len(self.images), self.arena.data_ptr(), self.arena.nbytes
            self.module.schedule_predict(*before, *arena, self.scratch.data_ptr(), self.logits.data_ptr())

    def prepare(self) -> Callable[[], None]:
        """Put the input where it belongs, and return what runs the convolution on it."""
        self.run(self.native(0))
        tables = self.native(1)
        return lambda: self.run(tables)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("mode", ["calibration", "prediction"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("who", ["native", "torch", "torch: convolution alone"])
def test_conv(benchmark: Callable, who: str, shape: str, mode: str, storage: str) -> None:
    channels, size, count = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, channels, size, size, generator=generator)
    weight = torch.randn(channels, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
    calibration = mode == "calibration"
    benchmark.group = f"{shape}, {storage}, {mode}"
    torch.set_num_threads(THREADS)
    if who == "native":
        if not _native.available():
            pytest.skip("lasfast's compiled module is not built")
        run = Fused(weight, x, storage, calibration).prepare()
    else:
        layout = {"dtype": STORAGES[storage], "memory_format": torch.channels_last}
        x, weight = x.to(**layout), weight.to(**layout)
        mean, variance = torch.zeros(channels), torch.ones(channels)
        gamma, beta = torch.ones(channels), torch.zeros(channels)

        def run() -> None:
            y = F.conv2d(x, weight, None, 1, 1)
            if who == "torch":
                F.relu_(F.batch_norm(y, mean, variance, gamma, beta, calibration, 0.1))

    with torch.inference_mode():
        benchmark.pedantic(run, rounds=30, warmup_rounds=3)
    flops = 2 * 9 * channels**2 * size**2 * count
    benchmark.extra_info["TFLOP/s"] = round(flops / benchmark.stats.stats.median / 1e12, 3)
    benchmark.extra_info["isa"] = _native.isa() if who == "native" else "oneDNN"
