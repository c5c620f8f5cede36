"""A schedule that is ready to run, as far as CPU and CUDA have it in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lasfast.engine.backend import NodeStatistics
from lasfast.engine.buffer import Buffer
from lasfast.engine.layout import PARAMETERS, Layout
from lasfast.engine.schedule import Call
from lasfast.engine.target import Target
from lasfast.execution.interpret import conv_weight, leading, run_op
from lasfast.ir.layers import Conv2d


class Packing(NamedTuple):
    """A weight (float32) to be packed: an operation that reads it, its strides, and where it goes."""

    operation: int
    weight: Tensor
    strides: tuple[int, ...]
    address: int


class Executor(ABC):
    """A schedule with its parameters and tables, ready to run.

    After `calibrate`, `mean` and `variance` (biased) [channels] are those of the last batch, of all batch
    norms one after the other; `positions` says how many values of each channel an image has.
    """

    cuda: ClassVar[bool]
    layout_type: ClassVar[type[Layout]]
    way = "blocks"
    """The way in which it predicts; CUDA has several."""

    def __init__(self, target: Target, buffer: Buffer, layout: Layout) -> None:
        self.target, self.buffer, self.layout = target, buffer, layout
        self.native = target.native
        self.schedule = layout.schedule
        self.dtype = target.dtype
        self.operations = layout.operations.copy()
        self.positions = self._by_channel([norm.positions for norm in self.schedule.batch_norms])
        device, channels = target.device, max(1, layout.channels)
        self.gamma, self.beta, self.scale, self.shift, self.mean, self.variance = torch.zeros(
            6, channels, dtype=torch.float32, device=device
        )
        self.biases = torch.zeros(max(1, layout.biases), dtype=torch.float32, device=device)
        self.weights = torch.empty(layout.weight_bytes, dtype=torch.uint8, device=device)
        normalization = target.normalization
        self.pixels = None if normalization is None else normalization.table(device)
        self.native_tables = self._tables(self.schedule.values, self.operations)

    @abstractmethod
    def calibrate(self, images: Tensor) -> None:
        """Run one batch [N, C, H, W], contiguous: float32, or uint8 where the target normalizes."""

    @abstractmethod
    def predict(self, images: Tensor) -> Tensor:
        """Return logits [leaves, N, classes], good until the next call."""

    @abstractmethod
    def _pack(self, weights: Sequence[Packing]) -> None:
        """Pack these weights."""

    def load_parameters(self) -> None:
        """Pack the weights, and copy biases, scales and shifts, as the module has them now."""
        modules = self.modules = dict(self.target.module.named_modules())
        schedule = self.schedule
        with torch.no_grad():
            start = self.weights.data_ptr()
            packings = []
            for (op, _, index), offset in zip(schedule.weights, self.layout.offsets.tolist(), strict=False):
                weight: Any = modules[op.module].weight
                if isinstance(op, Conv2d) and op.weight_bits is not None:
                    weight = conv_weight(op, modules)
                weight = weight.detach().float()
                strides = (*weight.stride(), 1, 1)[:4]
                packings.append(Packing(index, weight, strides, start + offset))
            self._pack(packings)
            if schedule.biases:
                biases = [leading(modules[name].bias, count) for name, count in schedule.biases]
                torch.cat(biases, out=self.biases)
            if schedule.batch_norms:
                norms = [(norm.module, norm.channels) for norm in schedule.batch_norms]
                distinct = dict.fromkeys(norms)  # nodes of the tree share modules
                for table, name, missing in ((self.gamma, "weight", 1.0), (self.beta, "bias", 0.0)):
                    values = {
                        norm: _leading_or(missing, getattr(modules[norm[0]], name), norm[1], table)
                        for norm in distinct
                    }
                    torch.cat([values[norm] for norm in norms], out=table)

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

    def _tables(self, values: np.ndarray, operations: np.ndarray) -> Any:
        """Return the compiled module's view of these arrays, which must outlive it, and of the parameters."""
        parameters = {name: getattr(self, name).data_ptr() for name in PARAMETERS}
        pixels = 0 if self.pixels is None else self.pixels.data_ptr()
        return self.layout.tables(values, operations, parameters, pixels)

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
        """Return a value [N, C, H, W] where it lies, in channels_last, and what pads its channels."""
        value = self.schedule.values[number]
        channels = int(value["channels"])
        shape = (count, int(value["height"]), int(value["width"]), self.layout.pitch(channels))
        start = int(value["offset"]) * capacity * self.dtype.itemsize
        size = prod(shape) * self.dtype.itemsize
        whole = space[start : start + size].view(self.dtype).view(shape).permute(0, 3, 1, 2)
        return whole[:, :channels], whole[:, channels:]

    def _by_channel(self, numbers: list[float]) -> Tensor:
        """Return a number for each batch norm as one for each of its channels (float64)."""
        sizes = torch.tensor([norm.channels for norm in self.schedule.batch_norms], dtype=torch.int64)
        spread = torch.tensor(numbers, dtype=torch.float64).repeat_interleave(sizes)
        return spread.to(self.target.device)


def _leading_or(missing: float, values: Tensor | None, channels: int, like: Tensor) -> Tensor:
    """Return the leading values; a norm without scale and shift has none, so `missing` takes their place."""
    if values is None:
        return torch.full((channels,), missing, dtype=torch.float32, device=like.device)
    return leading(values, channels)
