"""Derivatives in forward mode, which lasfast's operators do not have."""

from __future__ import annotations

from torch import Tensor
from torch.autograd import forward_ad


def in_forward_mode() -> bool:
    """Return whether PyTorch follows derivatives in forward mode (`torch.func.jvp`, dual numbers)."""
    return forward_ad._current_level >= 0


def refuse_forward_mode(name: str, *tensors: Tensor | None) -> None:
    """Raise NotImplementedError where a tensor has a derivative in forward mode: it would be lost."""
    if not in_forward_mode():
        return
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(f"{name} has no derivatives in forward mode; use backward()")
