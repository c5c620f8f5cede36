"""Batch norm with activation and residual in plain PyTorch: any device, any dtype, any strides.

It says what the native kernels must compute. Arguments are those of :mod:`lasfast.ops.bn_act`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.ops.activations import FUNCTIONS, GRADIENTS
from lasfast.ops.process_ranks import Ranks

_AXES = (0, 2, 3)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of statistics, parameters and arithmetic for values of this dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of x [N, C, H, W]; zeros where x is empty."""
    if x.numel() == 0:
        zeros = torch.zeros(2, x.shape[1], dtype=statistics_dtype(x.dtype), device=x.device)
        return zeros[0], zeros[1]
    var, mean = torch.var_mean(x.to(statistics_dtype(x.dtype)), _AXES, correction=0)
    return mean, var


def update_running(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    rows: int | Tensor,
) -> None:
    """Update the running statistics [C] in place, if there are any, from a batch of at least two rows."""
    if running_mean is not None and running_var is not None:
        running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
        running_var.mul_(1 - momentum).add_(var * (momentum * rows / (rows - 1)))


def bn_act(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str,
) -> Tensor:
    """[N, C, H, W], in the statistics' dtype."""
    return FUNCTIONS[activation](_normalize(x, mean, var, weight, bias, residual, eps)[1])


def bn_act_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    batch_statistics: bool,
    eps: float,
    activation: str,
    ranks: Ranks | None = None,
) -> Sequence[Tensor]:
    """Gradients of x, weight, bias and residual (with all channels of x), in the statistics' dtype.

    Where statistics are those of all `ranks`, so are the sums in the gradient of x.
    """
    xhat, z = _normalize(x, mean, var, weight, bias, residual, eps)
    dz = GRADIENTS[activation](grad.to(mean.dtype), z)
    grad_weight, grad_bias = (dz * xhat).sum(_AXES), dz.sum(_AXES)
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    through = dz
    if batch_statistics:
        rows = torch.full((1,), x.numel() // x.shape[1], dtype=torch.float64, device=x.device)
        sums = torch.cat((grad_bias.double(), grad_weight.double(), rows))
        if ranks is not None:
            ranks.sum_([sums])
        of_dz, of_product = (sums[:-1] / sums[-1].clamp_min(1)).to(dz.dtype).chunk(2)
        through = dz - _channels(of_dz) - xhat * _channels(of_product)
    return through * _channels(scale), grad_weight, grad_bias, dz


def _channels(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _normalize(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """X normalized, and what the activation is taken of."""
    xhat = (x.to(mean.dtype) - _channels(mean)) * _channels((var + eps).rsqrt())
    z = xhat if weight is None else xhat * _channels(weight)
    if bias is not None:
        z = z + _channels(bias)
    if residual is not None:
        missing = x.shape[1] - residual.shape[1]
        z = z + F.pad(residual, (0, 0, 0, 0, 0, missing)).to(z.dtype)
    return xhat, z
