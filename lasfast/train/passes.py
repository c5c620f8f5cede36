"""Forward and backward passes over batches, which a GPU replays as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor, nn

from lasfast.runtime.cuda_graphs import Record, Replays

T = TypeVar("T")


class Passes:
    """Brings batches to the device, and runs what is done with each, on a GPU by CUDA graphs.

    The second run of a kind of work records a graph, which the next ones replay. Graphs read and write the
    module's tensors where they are, and the batch where `place` copies each to. Their batches have one size;
    work on a batch of another size runs as it is, and so does everything where `enabled` is False.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        memory_format: torch.memory_format,
        *,
        enabled: bool,
        recorder: Callable[[], Record] | None = None,
    ) -> None:
        self._module, self._device, self._format = module, device, memory_format
        self._replays = Replays(device, enabled=enabled, recorder=recorder)
        self.clear()

    def clear(self) -> None:
        """Forget all graphs, before another step, or when the module has other tensors."""
        self._replays.clear()
        self._batch: tuple[Tensor, Tensor] | None = None
        self._held: Tensor | None = None
        self._read: list[Tensor] = []
        self._addresses: list[int] = []

    def place(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return images [N, C, H, W] and labels [N] on the device, the images in the memory format."""
        if not self._replays.enabled:
            return (
                images.to(self._device, memory_format=self._format, non_blocking=True),
                labels.to(self._device, non_blocking=True),
            )
        if self._moved() or (self._batch is not None and len(images) > len(self._batch[0])):
            self.clear()
        if self._batch is None:
            self._read = [*self._module.parameters(), *self._module.buffers()]
            self._addresses = [one.data_ptr() for one in self._read]
        if self._batch is None or any(
            one.shape != kept.shape or one.dtype != kept.dtype
            for one, kept in zip((images, labels), self._batch, strict=True)
        ):
            there = torch.empty_like(images, device=self._device, memory_format=self._format)
            placed = there, torch.empty_like(labels, device=self._device)
            self._batch = self._batch or placed
        else:
            placed = self._batch
        for one, to in zip((images, labels), placed, strict=True):
            to.copy_(one, non_blocking=True)
        return placed

    def hold(self, images: Tensor, tensor: Tensor) -> Tensor:
        """Return a tensor as work on these images, which `place` gave, can read it.

        Graphs find it where that of the batch before was.
        """
        if self._batch is None or images is not self._batch[0]:
            return tensor
        if self._held is None:
            self._held = torch.empty_like(tensor)
        return self._held.copy_(tensor)

    def run(self, kind: Hashable, images: Tensor, work: Callable[[], T]) -> T:
        """Run `work` on images that `place` gave; work of one `kind` must be the same every time.

        The tensors of a result hold their values until the next run.
        """
        if self._batch is None or images is not self._batch[0]:
            return work()
        return self._replays.run(kind, work)

    def _moved(self) -> bool:
        return self._addresses != [one.data_ptr() for one in self._read]
