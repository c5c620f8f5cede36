"""A schedule that is ready to run, as far as CPU and CUDA have it in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lasfast.engine.backend import NodeStatistics
from lasfast.engine.schedule import Call, Schedule
from lasfast.execution.interpret import conv_weight, leading, run_op
from lasfast.ir.layers import Conv2d
from lasfast.ir.precision import PRECISIONS
from lasfast.runtime.precision import torch_dtype

if TYPE_CHECKING:
    from lasfast.engine.native_backend import NativeBackend

SLACK = 4096
"""Bytes behind weights and arenas that kernels may read beyond the end."""


class Executor(ABC):
    """A schedule with its parameters and tables, ready to run.

    After `calibrate`, `mean` and `variance` (biased) [channels] are those of the last batch, of all batch
    norms one after the other; `positions` says how many values of each channel an image has.
    """

    cuda: ClassVar[bool]
    way = "blocks"  # how it predicts; CUDA's has others

    def __init__(self, backend: NativeBackend, schedule: Schedule, *, calibration: bool) -> None:
        self.backend = backend
        self.schedule = schedule
        self.calibration = calibration
        self.module = backend.module
        self.storage = PRECISIONS[backend.precision].code
        self.dtype = torch_dtype(backend.precision)
        self.operations = schedule.operations.copy()
        self.channels = sum(norm.channels for norm in schedule.batch_norms)
        self.positions = self._by_channel([norm.positions for norm in schedule.batch_norms])
        self.offsets = self._place_weights()
        self.tables = torch.zeros(6, max(1, self.channels), device=backend.device)
        self.gamma, self.beta, self.scale, self.shift, self.mean, self.variance = self.tables
        self.biases = torch.zeros(max(1, sum(count for _, count in schedule.biases)), device=backend.device)
        self.weights = torch.empty(int(self.offsets[-1]) + SLACK, dtype=torch.uint8, device=backend.device)
        self.native_tables = self._tables(schedule.values, self.operations)

    def _tables(self, values: np.ndarray, operations: np.ndarray) -> Any:
        """The compiled module's view of these arrays, which are to live as long, and of all else."""
        norms = self.schedule.norms
        return self.module.ScheduleTables(
            values=values.ctypes.data,
            value_count=len(values),
            norms=norms.ctypes.data,
            norm_count=len(norms),
            operations=operations.ctypes.data,
            operation_count=len(operations),
            weights=self.weights.data_ptr(),
            weight_bytes=self.weights.numel(),
            biases=self.biases.data_ptr(),
            bias_count=self.biases.numel(),
            gamma=self.gamma.data_ptr(),
            beta=self.beta.data_ptr(),
            scale=self.scale.data_ptr(),
            shift=self.shift.data_ptr(),
            mean=self.mean.data_ptr(),
            variance=self.variance.data_ptr(),
            channel_count=self.tables.shape[1],
            pixels=0 if self.backend.pixels is None else self.backend.pixels.data_ptr(),
        )

    @staticmethod
    @abstractmethod
    def widths(calibration: bool) -> tuple[int, ...]:
        """How many operations to run together: the fastest number, then such as need less memory.

        One at a time, which needs least, goes without saying.
        """

    @abstractmethod
    def calibrate(self, images: Tensor) -> None:
        """Run one batch [N, C, H, W], contiguous; fp32, or uint8 where the backend normalizes."""

    @abstractmethod
    def predict(self, images: Tensor) -> Tensor:
        """Return logits [leaves, N, classes], good until the next call."""

    @abstractmethod
    def batch_bytes(self, images: int) -> int:
        """Bytes of workspace for a whole batch: of calibration, or, on CUDA, of prediction."""

    @abstractmethod
    def least_bytes(self, images: int) -> int:
        """Bytes of the smallest workspace that predicts, and of the logits of so many images."""

    @abstractmethod
    def _packed_bytes(self, operation: int) -> int:
        """Bytes of an operation's packed weight."""

    @abstractmethod
    def _pack(self, operation: int, weight: Tensor, strides: tuple[int, ...], packed: int) -> None:
        """Pack a weight (fp32) to an address."""

    @abstractmethod
    def _pitch(self, channels: int) -> int:
        """Elements from one position of a value to the next."""

    def load_parameters(self) -> None:
        """Pack the weights, and copy biases, scales and shifts, as the supernet has them now."""
        modules = self.modules = dict(self.backend.supernet.named_modules())
        schedule = self.schedule
        with torch.no_grad():
            for (op, _, index), offset in zip(schedule.weights, self.offsets, strict=False):
                weight: Any = modules[op.module].weight
                if isinstance(op, Conv2d) and op.weight_bits is not None:
                    weight = conv_weight(op, modules)
                weight = weight.detach().float()
                strides = (*weight.stride(), 1, 1)[:4]
                self._pack(index, weight, strides, self.weights.data_ptr() + int(offset))
            if schedule.biases:
                biases = [leading(modules[name].bias, count) for name, count in schedule.biases]
                torch.cat(biases, out=self.biases)
            if schedule.batch_norms:
                norms = [(modules[norm.module], norm.channels) for norm in schedule.batch_norms]
                torch.cat([leading(module.weight, channels) for module, channels in norms], out=self.gamma)
                torch.cat([leading(module.bias, channels) for module, channels in norms], out=self.beta)

    def load_statistics(self, statistics: list[NodeStatistics]) -> None:
        """Make the scale and shift of every norm from its statistics."""
        norms = self.schedule.batch_norms
        if not norms:
            return
        kept = [statistics[norm.node][norm.module] for norm in norms]
        mean, variance = (torch.cat(parts).double() for parts in zip(*kept, strict=True))
        eps = self._by_channel([norm.eps for norm in norms])
        scale = self.gamma.double() / (variance + eps).sqrt()
        self.scale.copy_(scale)
        self.shift.copy_(self.beta - mean * scale)

    def logits_bytes(self, images: int) -> int:
        """Bytes of the logits of so many images."""
        return 4 * len(self.schedule.leaves) * images * self.schedule.classes

    def _call(self, call: Call, space: Tensor, capacity: int, count: int) -> None:
        """Let torch run an opaque operation on `count` images.

        `space` begins with the arena of its values, which has room for `capacity` images.
        """
        operation = self.operations[call.operation]
        sources = [operation[name] for name in ("input", "other")[: len(call.flat)]]
        inputs = [self._value(source, space, capacity, count)[0] for source in sources]
        inputs = [x.flatten(1) if flat else x for x, flat in zip(inputs, call.flat, strict=True)]
        output, padding = self._value(operation["output"], space, capacity, count)
        result = run_op(call.op, self.modules, *inputs)
        if result.shape != (count, *call.shape):
            raise ValueError(
                f"layer {call.layer.name!r}: {call.op} gave {tuple(result.shape)} for {count} image(s), "
                f"expected {(count, *call.shape)}"
            )
        output.copy_(result.reshape(output.shape))
        padding.zero_()

    def _value(self, number: int, space: Tensor, capacity: int, count: int) -> tuple[Tensor, Tensor]:
        """A value [N, C, H, W] where it lies, in channels_last, and what pads its channels."""
        value = self.schedule.values[number]
        channels = int(value["channels"])
        shape = (count, int(value["height"]), int(value["width"]), self._pitch(channels))
        start = int(value["offset"]) * capacity * self.dtype.itemsize
        size = prod(shape) * self.dtype.itemsize
        whole = space[start : start + size].view(self.dtype).view(shape).permute(0, 3, 1, 2)
        return whole[:, :channels], whole[:, channels:]

    def _by_channel(self, numbers: list[float]) -> Tensor:
        """A number for each batch norm as one for each of its channels, float64."""
        sizes = torch.tensor([norm.channels for norm in self.schedule.batch_norms], dtype=torch.int64)
        spread = torch.tensor(numbers, dtype=torch.float64).repeat_interleave(sizes)
        return spread.to(self.backend.device)

    def _place_weights(self) -> np.ndarray:
        """Lay the packed weights out; return where each begins, and the end."""
        sizes = [self._packed_bytes(index) for _, _, index in self.schedule.weights]
        offsets = np.cumsum([0, *(-(-size // 64) * 64 for size in sizes)])
        self._set_weights(self.operations, offsets)
        return offsets

    @staticmethod
    def _set_weights(operations: np.ndarray, offsets: np.ndarray) -> None:
        """Turn numbers of weights into offsets."""
        column = operations["weight"]
        operations["weight"] = np.where(column < 0, column, offsets[column])

    def _operation(self, index: int) -> tuple[int, int]:
        """Return the addresses of an operation and of its input value."""
        values = self.schedule.values
        input = int(self.operations["input"][index])
        return (
            self.operations.ctypes.data + index * self.operations.itemsize,
            values.ctypes.data + input * values.itemsize,
        )
