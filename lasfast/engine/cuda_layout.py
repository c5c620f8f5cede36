"""The memory that schedules take on CUDA, as the compiled module's plans of their launches say."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lasfast.engine.layout import Layout
from lasfast.engine.schedule import CUDA_CHANNELS, dense_convolutions

PREDICTION, CALIBRATION, RESIDENT, MAPPED = range(4)
"""The purposes of launches (`Purpose` in csrc/include/lasfast/schedule.h)."""
MAP_ALIGNMENT = 64  # bytes


class Needs(NamedTuple):
    """Bytes that launches take: of arena and workspace, of a block's shared memory, and of tensor maps."""

    arena: int
    workspace: int
    shared: int
    maps: int


def plan_launches(
    native: Any, tables: Any, storage: int, images: int, purpose: int, *, tf32: bool = False
) -> tuple[Tensor, Needs]:
    """Return the launches that run some tables, as bytes on the host (uint8), and what they take.

    This runs on the host alone. Raises ValueError or RuntimeError, saying why, where nothing can run them.
    """
    size = native.schedule_plan_bytes_cuda(tables, storage, images, purpose)
    launches = torch.empty(max(8, size), dtype=torch.uint8)
    native.schedule_plan_cuda(tables, storage, tf32, images, purpose, launches.data_ptr())
    arena, workspace, _, shared, maps = native.schedule_needs_cuda(launches.data_ptr())
    return launches, Needs(arena, workspace, shared, maps)


def tensor_maps(native: Any, tables: Any, launches: Tensor, needs: Needs, arena: Tensor) -> Tensor:
    """Return the tensor maps of `launches` for an arena, as bytes (uint8) beside it.

    They hold for as long as the arena and the tables' weights stay where they are. Raises RuntimeError,
    saying why, where the driver makes none.
    """
    maps = torch.empty(needs.maps + MAP_ALIGNMENT, dtype=torch.uint8)
    aligned = maps[-maps.data_ptr() % MAP_ALIGNMENT :][: needs.maps]
    where = launches.data_ptr(), arena.data_ptr(), arena.device.index or 0
    native.schedule_maps_cuda(tables, *where, aligned.data_ptr())
    beside = torch.empty(needs.maps + MAP_ALIGNMENT, dtype=torch.uint8, device=arena.device)
    return beside[-beside.data_ptr() % MAP_ALIGNMENT :][: needs.maps].copy_(aligned)


class CudaLayout(Layout):
    """For a GPU. Sizes are the same whichever tiles convolutions are computed in, so none need be timed."""

    @staticmethod
    def widths(calibration: bool) -> tuple[int, ...]:
        """Return enough to fill a chip with small operations, but not much more than its cache holds."""
        return (32, 8)

    def batch_bytes(self, images: int) -> int:
        """Return the bytes of arena and workspace for a batch; those of the workspace are a bound."""
        needs = self._needs(images)
        return needs.arena + needs.workspace

    def least_bytes(self, images: int) -> int:
        """Return the bytes of arena for one image, and of the logits of so many."""
        return self.arena_bytes(1) + self.logits_bytes(images)

    def workspace_bytes(self, operations: np.ndarray, images: int) -> int:
        """Return a bound of what sums of statistics take (see `Layout.workspace_bytes`)."""
        return self._needs_of(operations, images, CALIBRATION).workspace

    def arena_bytes(self, images: int) -> int:
        """Return the bytes of an arena for so many images."""
        return self._needs(images).arena

    def pitch(self, channels: int) -> int:
        """Return the channels, rounded up to what kernels copy at a time."""
        return -(-channels // CUDA_CHANNELS) * CUDA_CHANNELS

    def _needs(self, images: int) -> Needs:
        return self._needs_of(self.operations, images, CALIBRATION if self.calibration else PREDICTION)

    def _needs_of(self, operations: np.ndarray, images: int, purpose: int) -> Needs:
        """Return what operations take, with convolutions in the tile of the fewest positions.

        A tile's statistics take some workspace, and so there is none that takes more.
        """
        native = self.target.native
        rows = [tile[0] for tile in native.schedule_conv_tiles_cuda()]
        operations = operations.copy()
        operations["tile"] = np.where(dense_convolutions(operations), 1 + rows.index(min(rows)), 0)
        tables = self.tables(self.schedule.values, operations)
        return plan_launches(native, tables, self.target.storage, images, purpose)[1]

    def _packed_bytes(self, index: int) -> int:
        where = *self.addresses(index), self.target.storage
        return int(self.target.native.schedule_packed_bytes_cuda(*where))
