"""One fused native operation on its own, ready to be timed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast import _native
from lasfast.engine.schedule import NORM, OPERATION, VALUE, Kind

STORAGES = {"fp32": torch.float32, "bf16": torch.bfloat16}
THREADS = 1


def aligned(count: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros(count, dtype=dtype)  # torch aligns to 64 bytes


class Fused:
    """Two schedules of one operation each: the images become a value, and the operation reads it.

    The operation normalises and rectifies its input as it reads it, and takes statistics of its output
    (calibration), or normalises and rectifies that too (prediction). With a weight [C, C or 1, K, K] it is a
    convolution, dense or depthwise, that keeps the size; without, it adds the value to itself.
    """

    def __init__(self, weight: Tensor | None, images: Tensor, storage: str, calibration: bool) -> None:
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
        plain |= dict.fromkeys(
            ("padding", "input_activation", "other_activation", "activation", "first", "reserved"), 0
        )
        plain |= {"kernel": 1, "stride": 1, "groups": 1, "out_channels": channels}
        first = plain | {"kind": Kind.INPUT, "level": 0, "output": 0}
        second = plain | {"level": 0, "input": 0, "output": 1, "input_norm": 0, "input_activation": 1}
        if weight is None:
            second |= {"kind": Kind.COMBINE, "other": 0}
        else:
            kernel, groups = weight.shape[2], channels if weight.shape[1] == 1 else 1
            second |= {"kind": Kind.CONV2D, "kernel": kernel, "padding": kernel // 2}
            second |= {"groups": groups, "weight": 0}
        if weight is None:
            second |= {"input_activation": 0, "activation": 1}
        elif calibration:
            second |= {"statistics": 1}
        else:
            second |= {"output_norm": 1, "activation": 1}
        rows = [tuple(int(op[name]) for name in OPERATION.names) for op in (first, second)]
        self.operations = np.array(rows, OPERATION)
        arguments = (self.operations[1:].ctypes.data, self.values.ctypes.data, self.number, self.isa)
        self.packed = aligned(self.module.schedule_packed_bytes(*arguments), torch.uint8)
        if weight is not None:
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
        before = (tables, self.number, self.isa, THREADS, (0, 1), self.images.data_ptr(), len(self.images))
        if self.calibration:
            arena = self.arena.data_ptr(), self.arena.nbytes
            self.module.schedule_calibrate(*before, *arena, self.scratch.data_ptr())
        else:
            arena = len(self.images), 0, 0, self.arena.data_ptr(), self.arena.nbytes
            self.module.schedule_predict(*before, *arena, self.scratch.data_ptr(), self.logits.data_ptr())

    def prepare(self) -> Callable[[], None]:
        """Put the input where it belongs, and return what runs the operation on it."""
        self.run(self.native(0))
        tables = self.native(1)
        return lambda: self.run(tables)


def native_run(weight: Tensor | None, images: Tensor, storage: str, calibration: bool) -> Callable[[], None]:
    """Return what runs the native operation once; skip the benchmark where the module is not built."""
    if not _native.available():
        pytest.skip("lasfast's compiled module is not built")
    return Fused(weight, images, storage, calibration).prepare()


def torch_run(
    weight: Tensor, images: Tensor, storage: str, calibration: bool, *, alone: bool = False
) -> Callable[[], None]:
    """Return what runs PyTorch's sequence in channels_last, or its convolution `alone`."""
    layout = {"dtype": STORAGES[storage], "memory_format": torch.channels_last}
    x, weight = images.to(**layout), weight.to(**layout)
    channels = images.shape[1]
    padding, groups = weight.shape[2] // 2, channels // weight.shape[1]
    mean, variance = torch.zeros(channels), torch.ones(channels)
    gamma, beta = torch.ones(channels), torch.zeros(channels)

    def run() -> None:
        y = F.conv2d(x, weight, None, 1, padding, groups=groups)
        if not alone:
            F.relu_(F.batch_norm(y, mean, variance, gamma, beta, calibration, 0.1))

    return run
