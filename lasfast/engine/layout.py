"""Layouts: how many bytes a schedule takes to run, told from the schedule alone.

A layout allocates nothing and reads no weight. Who asks only for sizes needs no executor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from lasfast.engine.schedule import Schedule
from lasfast.engine.target import Target

SLACK = 4096
"""Bytes behind weights and arenas that kernels may read beyond the end."""
PARAMETERS = ("weights", "biases", "gamma", "beta", "scale", "shift", "mean", "variance")
"""The arrays whose addresses native code needs, beside those of the schedule itself."""
NOWHERE = MappingProxyType(dict.fromkeys(PARAMETERS, 64))
"""Aligned addresses that stand for parameters where native code is asked for sizes and reads none."""


class Layout(ABC):
    """The places of a schedule's packed weights, and the bytes that a pass takes.

    A pass takes an arena, where values lie, and a workspace, which kernels have for themselves.

    Attributes:
        operations: the schedule's operations; their weights are byte offsets.
        offsets: where each packed weight begins, in bytes, and where the last one ends.
        channels: the channels of all batch norms together.
    """

    def __init__(self, target: Target, schedule: Schedule, *, calibration: bool) -> None:
        self.target = target
        self.schedule = schedule
        self.calibration = calibration
        self.itemsize = target.dtype.itemsize
        self.channels = sum(norm.channels for norm in schedule.batch_norms)
        self.biases = sum(count for _, count in schedule.biases)
        self.operations = schedule.operations.copy()
        self._inputs = schedule.operations["input"].tolist()
        self._addresses = self.operations.ctypes.data, schedule.values.ctypes.data
        sizes = [self._packed_bytes(index) for _, _, index in schedule.weights]
        self.offsets = np.cumsum([0, *(-(-size // 64) * 64 for size in sizes)])
        self.set_weights(self.operations)

    @staticmethod
    @abstractmethod
    def widths(calibration: bool) -> tuple[int, ...]:
        """Return how many operations to run together: the fastest number, then such as need less memory.

        One at a time, which needs least, goes without saying.
        """

    @abstractmethod
    def batch_bytes(self, images: int) -> int:
        """Return the bytes of arena and workspace for a batch that is not cut.

        Batches are not cut in calibration. On CUDA, neither are they in prediction, if there is room.
        """

    @abstractmethod
    def least_bytes(self, images: int) -> int:
        """Return the bytes of the least arena and workspace that predict, and of so many images' logits."""

    @abstractmethod
    def workspace_bytes(self, operations: np.ndarray, images: int) -> int:
        """Return the bytes of workspace that some of the operations take for a batch of calibration.

        Each is of a level of its own, counted from 0.
        """

    @abstractmethod
    def pitch(self, channels: int) -> int:
        """Return the elements from one position of a value to the next."""

    @abstractmethod
    def _packed_bytes(self, index: int) -> int:
        """Return the bytes of the packed weight that an operation reads."""

    @property
    def weight_bytes(self) -> int:
        """The bytes of all packed weights, and of what kernels may read behind them."""
        return int(self.offsets[-1]) + SLACK

    def logits_bytes(self, images: int) -> int:
        """Return the bytes of so many images' logits."""
        return 4 * len(self.schedule.leaves) * images * self.schedule.classes

    def addresses(self, index: int) -> tuple[int, int]:
        """Return the addresses of an operation and of its input value."""
        operations, values = self._addresses
        operation = operations + index * self.operations.itemsize
        return operation, values + self._inputs[index] * self.schedule.values.itemsize

    def set_weights(self, operations: np.ndarray) -> None:
        """Replace the weights' numbers in these operations by their offsets."""
        column = operations["weight"]
        operations["weight"] = np.where(column < 0, column, self.offsets[column])

    def tables(
        self,
        values: np.ndarray,
        operations: np.ndarray,
        parameters: Mapping[str, int] = NOWHERE,
        pixels: int = 0,
    ) -> Any:
        """Return the compiled module's view of these arrays, which must outlive it.

        `parameters` has the addresses of the `PARAMETERS`, and `pixels` is that of the table of bytes.
        """
        norms = self.schedule.norms
        return self.target.native.ScheduleTables(
            values=values.ctypes.data,
            value_count=len(values),
            norms=norms.ctypes.data,
            norm_count=len(norms),
            operations=operations.ctypes.data,
            operation_count=len(operations),
            weight_bytes=self.weight_bytes,
            bias_count=max(1, self.biases),
            channel_count=max(1, self.channels),
            pixels=pixels,
            **parameters,
        )
