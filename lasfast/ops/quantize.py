"""Quantization to few bits, in floating point: weights as DoReFa-Net does it, values as PACT does.

Rounding has no gradient; these functions pass it straight through (Bengio et al. 2013). Forward passes give
levels exactly, `k * step`, so that all who compute them from the same numbers have the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from lasfast.core.checks import check_bits
from lasfast.ops.derivatives import first_order

LEAST_ALPHA = 1e-3
"""The least value that PACT clips to, whatever becomes of alpha."""
_TINY = 1e-12  # in place of the largest magnitude of a weight that is zero throughout


def dorefa(weight: Tensor, bits: int) -> Tensor:
    """Return a weight of any shape, quantized (Zhou et al. 2016, "DoReFa-Net", section 2.3).

    One bit is the sign times the mean absolute value. More are 2^bits levels, evenly from -1 to 1, of
    `tanh(weight) / max |tanh(weight)|`. A rounding's gradient is that of what was rounded, the sign's is 1.

    Raises TypeError and ValueError unless `bits` is an int from 1 to 8.
    """
    check_bits("bits", bits)
    if bits == 1:
        scale = weight.abs().mean().detach()
        return _straight_through(torch.where(weight < 0, -scale, scale), weight)
    levels = 2**bits - 1
    squashed = torch.tanh(weight)
    unit = squashed / (2 * squashed.abs().max().clamp(min=_TINY)) + 0.5
    return 2 * _straight_through((unit * levels).round() / levels, unit) - 1


def pact(x: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """Return x clipped to [0, alpha] and rounded to 2^bits levels (Choi et al. 2018, "PACT", section 3).

    The gradient of x is that of the output where 0 < x < alpha, and 0 elsewhere; that of alpha is its sum
    where x >= alpha (Eq. 3). Alpha counts as at least 0.001, its gradient unchanged.

    Args:
        x: any shape, floating-point.
        alpha: a scalar [], fp32 (or float64 for a float64 x); learned.
        bits: from 1 to 8.

    Raises TypeError and ValueError unless `bits` is such an int.
    """
    check_bits("bits", bits)
    result: Tensor
    if has_torch_function_variadic(x, alpha):  # traced by torch.fx: one node, whose gradient is ours
        result = handle_torch_function(pact, (x, alpha), x, alpha, bits)
    else:
        result = _Pact.apply(x, alpha, bits)
    return result


def pact_reference(x: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """Return what `pact` does, bit for bit, by PyTorch's own operators and their gradients."""
    levels = 2**bits - 1
    clip = _straight_through(alpha.clamp(min=LEAST_ALPHA), alpha)
    steps = x * (levels / clip)
    clipped = torch.where(steps >= levels, clip, F.relu(x))
    return _straight_through(steps.clamp(0, levels).round() * (clip / levels), clipped)


def _straight_through(value: Tensor, source: Tensor) -> Tensor:
    """Return `value` exactly, with the gradient of `source`, which must be finite where `value` is."""
    return value.detach() + (source - source.detach())


class _Pact(torch.autograd.Function):
    """PACT in a few passes over memory, bit for bit as the reference."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, bits: int) -> Tensor:
        levels = 2**bits - 1
        clip = alpha.clamp(min=LEAST_ALPHA)
        steps = x * (levels / clip)
        ctx.save_for_backward(steps)
        ctx.bits, ctx.dtype = bits, alpha.dtype
        return F.hardtanh(steps, 0, levels).round_().mul_(clip / levels)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (steps,) = ctx.saved_tensors
        levels = 2**ctx.bits - 1
        of_x = of_alpha = None
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.hardtanh_backward(grad, steps, 0, levels)
        if ctx.needs_input_grad[1]:
            below = levels - torch.finfo(steps.dtype).eps * 2 ** (ctx.bits - 1)  # the next number
            of_alpha = torch.ops.aten.threshold_backward(grad, steps, below).sum(dtype=ctx.dtype)
        return of_x, of_alpha, None
