"""Batch norm over a batch whose images are spread over ranks, through PyTorch's operators.

What torch's SyncBatchNorm computes, which does not run on a CPU. (The fused operators do so by themselves.)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from lasfast.ir import layers
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.ops.process_ranks import merge_statistics
from lasfast.runtime.distributed import World
from lasfast.supernets import Supernet


def batch_norm(
    world: World,
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of x [N, C, H, W]; in training by the statistics of all ranks' images.

    Running statistics follow alike on all ranks. The gradients of weight and bias are those of this rank's
    images, to be summed like all others; that of x is whole. Of all ranks, forward and backward.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    return _SynchronizedBatchNorm.apply(world, x, running_mean, running_var, weight, bias, momentum, eps)


class _SynchronizedBatchNorm(torch.autograd.Function):
    """Batch norm by given statistics, those of all ranks, and their own share of the gradient.

    By given statistics torch has fast kernels for both passes. Their backward pass gives the two sums that
    the gradient through the statistics needs, s = sum(dy) and t = sum(dy * (x - mean) / std), of this rank;
    from those of all ranks over n values, dx = w / std * (dy - s / n - (x - mean) / std * t / n).
    """

    @staticmethod
    def forward(
        ctx: Any,
        world: World,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        mean, variance, values = _statistics(world, x, running_mean)
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (values / (values - 1)), momentum)
        ctx.save_for_backward(x, mean, variance, weight, values)
        ctx.world, ctx.eps = world, eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, variance, weight, values = ctx.saved_tensors
        dx, d_weight, d_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack((d_weight, d_bias))
        ctx.world.sum_([sums])
        t, s = sums / values
        inverse = torch.rsqrt(variance + ctx.eps)
        slope = -weight * inverse * inverse * t
        offset = -weight * inverse * s - slope * mean
        through_statistics = slope.view(1, -1, 1, 1) * x + offset.view(1, -1, 1, 1)
        return None, (dx + through_statistics).to(dx.dtype), None, None, d_weight, d_bias, None, None


def _statistics(world: World, x: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance [C] of all ranks' images, and how many values they are of, a tensor []."""
    channels = x.shape[1]
    own = x.numel() // channels
    mean, variance = torch.zeros(2, channels, dtype=like.dtype, device=x.device)
    if own > 1:
        # With momentum 1, torch leaves the batch's own mean and unbiased variance in the buffers.
        F.batch_norm(x, mean, variance, training=True, momentum=1.0)
        variance *= (own - 1) / own
    else:
        mean.copy_(x.flatten())
    return merge_statistics(world, mean, variance, own)


def check_batch_norms(supernet: Supernet, plan: PrefixTree) -> None:
    """Raise ValueError where an opaque module has a BatchNorm, which `batch_norm` cannot reach."""
    opaque = (op for node in plan.nodes for op in node.layer.ops if isinstance(op, layers.Opaque))
    for op in opaque:
        if any(isinstance(part, _BatchNorm) for part in supernet.get_submodule(op.module).modules()):
            raise ValueError(
                f"opaque module {op.module!r} has a BatchNorm of its own, whose statistics would be those of "
                "a part of the batch: describe it by a BatchNorm2d op, or train in one process"
            )
