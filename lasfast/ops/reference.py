"""Convolution, batch norm and activation in plain PyTorch, on any device, for any dtype and strides.

They define what the kernels of the compiled module must compute, and run where these do not. Arguments were
checked by the caller; they are those of :mod:`lasfast.ops.sliced_conv2d` and :mod:`lasfast.ops.bn_act`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from lasfast.ops.activations import FUNCTIONS, GRADIENTS
from lasfast.ops.bn_act_schema import BnActInputs, Running, Statistics, statistics_dtype
from lasfast.ops.process_ranks import ProcessRanks

_AXES = (0, 2, 3)


def sliced_conv2d(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> Tensor:
    """Return the convolution with weight[:c_out, :c_in // groups]."""
    active = weight[:c_out, : c_in // groups].to(input.dtype)
    return F.conv2d(input, active, None, stride, padding, 1, groups)


def sliced_conv2d_grad_input(
    grad_output: Tensor,
    weight: Tensor,
    c_in: int,
    height: int,
    width: int,
    stride: int,
    padding: int,
    groups: int,
) -> Tensor:
    """Return the gradient [N, c_in, height, width] for grad_output [N, c_out, H', W']."""
    active = weight[: grad_output.shape[1], : c_in // groups].to(grad_output.dtype)
    size = (grad_output.shape[0], c_in, height, width)
    return conv2d_input(size, active, grad_output, stride, padding, 1, groups)


def sliced_conv2d_grad_weight(
    grad_output: Tensor, input: Tensor, weight_size: Sequence[int], stride: int, padding: int, groups: int
) -> Tensor:
    """Return the gradient of the slice of a weight of this size that the convolution read."""
    active = (grad_output.shape[1], input.shape[1] // groups, *weight_size[2:])
    return conv2d_weight(input, active, grad_output, stride, padding, 1, groups)


def sliced_conv2d_gradients(
    grad_output: Tensor, input: Tensor, weight: Tensor, stride: int, padding: int, groups: int
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the input and of the slice of the weight: one call for both."""
    active = weight[: grad_output.shape[1], : input.shape[1] // groups].to(input.dtype)
    steps = ([stride] * 2, [padding] * 2, [1, 1])
    of_input, of_weight, _ = torch.ops.aten.convolution_backward(
        grad_output, input, active, None, *steps, False, [0, 0], groups, (True, True, False)
    )
    return of_input, of_weight


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance [C] of x [N, C, H, W]; zeros where x is empty."""
    if x.numel() == 0:
        zeros = torch.zeros(2, x.shape[1], dtype=statistics_dtype(x.dtype), device=x.device)
        return zeros[0], zeros[1]
    var, mean = torch.var_mean(x.to(statistics_dtype(x.dtype)), _AXES, correction=0)
    return mean, var


def update_running(running: Running, batch: Statistics, momentum: float, rows: int | Tensor) -> None:
    """Let the running statistics, if any, follow those of a batch of at least two rows, in place."""
    (running_mean, running_var), (mean, var) = running, batch
    if running_mean is not None and running_var is not None:
        running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
        running_var.mul_(1 - momentum).add_(var * (momentum * rows / (rows - 1)))


def bn_act(inputs: BnActInputs) -> Tensor:
    """Return the output [N, C, H, W], in the statistics' dtype."""
    return FUNCTIONS[inputs.activation](_normalize(inputs)[1])


def bn_act_backward(grad: Tensor, inputs: BnActInputs, ranks: ProcessRanks | None = None) -> Sequence[Tensor]:
    """Return the gradients of x, weight, bias and residual (all channels of x), in the statistics' dtype.

    Where statistics are those of all `ranks`, so are the sums in the gradient of x.
    """
    x, mean, var, weight, *_ = inputs
    xhat, z = _normalize(inputs)
    dz = GRADIENTS[inputs.activation](grad.to(mean.dtype), z)
    grad_weight, grad_bias = (dz * xhat).sum(_AXES), dz.sum(_AXES)
    scale = (var + inputs.eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    through = dz
    if inputs.batch_statistics:
        rows = torch.full((1,), x.numel() // x.shape[1], dtype=torch.float64, device=x.device)
        sums = torch.cat((grad_bias.double(), grad_weight.double(), rows))
        if ranks is not None:
            ranks.sum_([sums])
        of_dz, of_product = (sums[:-1] / sums[-1].clamp_min(1)).to(dz.dtype).chunk(2)
        through = dz - _channels(of_dz) - xhat * _channels(of_product)
    return through * _channels(scale), grad_weight, grad_bias, dz


def _channels(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def _normalize(inputs: BnActInputs) -> tuple[Tensor, Tensor]:
    """Return x normalized, and what the activation is applied to."""
    x, mean, var, weight, bias, residual, *_ = inputs
    xhat = (x.to(mean.dtype) - _channels(mean)) * _channels((var + inputs.eps).rsqrt())
    z = xhat if weight is None else xhat * _channels(weight)
    if bias is not None:
        z = z + _channels(bias)
    if residual is not None:
        missing = x.shape[1] - residual.shape[1]
        z = z + F.pad(residual, (0, 0, 0, 0, 0, missing)).to(z.dtype)
    return xhat, z
