"""Batch norm of a batch whose images are spread over processes, through PyTorch's operators.

It computes what torch's SyncBatchNorm does, which does not run on a CPU. (lasfast's fused operators take
the processes as an argument, and need nothing of this.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from lasfast.ir import layers
from lasfast.ir.layers import Layer
from lasfast.ops.bn_act_schema import statistics_dtype
from lasfast.ops.process_ranks import merge_statistics
from lasfast.runtime.distributed import World


def batch_norm(
    world: World,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of x [N, C, ...]; in training by the statistics of all ranks' images.

    Running statistics follow alike on all ranks. The gradients of weight and bias are those of this rank's
    images, to be summed like all others; that of x is whole. All ranks have to call it, and to run backward.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, eps=eps)
    if weight is None:
        weight = torch.ones(x.shape[1], dtype=statistics_dtype(x.dtype), device=x.device)
    if bias is None:
        bias = torch.zeros_like(weight)
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
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        mean, variance, values = _statistics(world, x, weight)
        if running_mean is not None and running_var is not None:
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
        by_channel = (1, -1) + (1,) * (x.dim() - 2)
        through_statistics = slope.view(by_channel) * x + offset.view(by_channel)
        return None, (dx + through_statistics).to(dx.dtype), None, None, d_weight, d_bias, None, None


def _statistics(world: World, x: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance [C] of all ranks' images, and their number of values, a tensor []."""
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


class SynchronizedNetwork(TorchFunctionMode):
    """Runs any network with `batch_norm` above in the place of torch's, wherever that is called.

    The first call looks whether it caught all of them: a batch norm that computes in another way (a fused
    operator, a scripted module) would have the statistics of a part of the batch. Raises ValueError, which
    names it.
    """

    def __init__(self, world: World, network: nn.Module) -> None:
        super().__init__()
        self.world, self.network = world, network
        self._checked = False
        self._caught: set[int] = set()  # where the running means are that `batch_norm` updated

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the network computes."""
        if self._checked:
            with self:
                return self.network(x)
        before = {name: mean.clone() for name, mean in self._running_means()}
        with self:
            y = self.network(x)
        for name, mean in self._running_means():
            if mean.data_ptr() not in self._caught and not torch.equal(mean, before[name]):
                raise ValueError(
                    f"BatchNorm {name.rpartition('.')[0]!r} does not run torch.nn.functional.batch_norm, so "
                    "its statistics would be those of a part of the batch: train in one process"
                )
        self._checked = True
        return y

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch, or what stands in for it."""
        kwargs = kwargs or {}
        if func is not F.batch_norm:
            return func(*args, **kwargs)
        running_mean = args[1] if len(args) > 1 else kwargs["running_mean"]
        if running_mean is not None:
            self._caught.add(running_mean.data_ptr())
        return batch_norm(self.world, *args, **kwargs)

    def _running_means(self) -> list[tuple[str, Tensor]]:
        return [one for one in self.network.named_buffers() if one[0].rpartition(".")[2] == "running_mean"]


def opaque_batch_norm(network: nn.Module, path: Iterable[Layer]) -> str | None:
    """Return the name of an opaque module of a path that has a BatchNorm, which only torch can run."""
    opaque = (op.module for layer in path for op in layer.ops if isinstance(op, layers.Opaque))
    for name in opaque:
        if any(isinstance(part, _BatchNorm) for part in network.get_submodule(name).modules()):
            return name
    return None
