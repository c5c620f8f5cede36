"""Derivatives that operators do not have: those in forward mode, and second ones of the fused operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def in_forward_mode() -> bool:
    """Return whether PyTorch follows derivatives in forward mode (`torch.func.jvp`, dual numbers)."""
    return forward_ad._current_level >= 0


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` or forward mode is around, which operators do not know."""
    return in_forward_mode() or torch._C._are_functorch_transforms_active()


def is_watched() -> bool:
    """Return whether somebody follows PyTorch's operators: a compiler, a tracer, a mode or a transform."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
    )


def refuse_forward_mode(name: str, *tensors: Tensor | None) -> None:
    """Raise NotImplementedError where a tensor has a derivative in forward mode: it would be lost."""
    if not in_forward_mode():
        return
    for tensor in tensors:
        if tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(f"{name} has no derivatives in forward mode; use backward()")


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a backward refuse to be differentiated itself, where the graph of gradients is asked for.

    PyTorch's `once_differentiable` raises an error only if autograd comes to it. On the way to chosen inputs
    (`torch.autograd.grad`) autograd leaves it out, and second derivatives are zero. It takes longer, too.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "lasfast's fused operators have no second derivatives (create_graph=True); use PyTorch's "
                "modules, for an accelerated network the model that it was made of"
            )
        return backward(ctx, *gradients)

    return checked
