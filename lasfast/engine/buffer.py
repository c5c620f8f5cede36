"""The memory in which passes run: one stretch of a device's, kept from call to call."""

from __future__ import annotations

import torch
from torch import Tensor


class Buffer:
    """Bytes on a device, 64-byte aligned, which grow where more are asked for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._bytes = torch.empty(0, dtype=torch.uint8, device=device)

    @property
    def size(self) -> int:
        """The bytes that are held."""
        return self._bytes.numel()

    def reserve(self, size: int) -> Tensor:
        """Return at least `size` bytes (uint8), the same memory as long as it is large enough."""
        if self.size < size:
            # Give back the old before taking the new.
            self._bytes = torch.empty(0, dtype=torch.uint8, device=self._device)
            self._bytes = torch.empty(size, dtype=torch.uint8, device=self._device)
        return self._bytes
