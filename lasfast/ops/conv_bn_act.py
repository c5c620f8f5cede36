"""Convolution, batch norm, sum and activation in one call: the convolution sums its output's statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lasfast.ir.activations import ACTIVATIONS
from lasfast.ops import native_bn_act
from lasfast.ops.bn_act import bn_act, bn_results, follow, is_direct, several
from lasfast.ops.convolution import Convolution, Size
from lasfast.ops.process_ranks import Ranks
from lasfast.ops.sliced_conv2d import as_arguments, find, sliced_conv2d, sliced_conv2d_statistics


def conv_bn_act(
    x: Tensor,
    weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    bn_weight: Tensor | None = None,
    bn_bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    c_out: int | None = None,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    ranks: Ranks | None = None,
) -> Tensor:
    """Return ``act(batch_norm(conv(x)) + residual)``, all of it in channels_last.

    The same as :func:`lasfast.ops.bn_act` of :func:`lasfast.ops.sliced_conv2d`, whose arguments these are.

    Args:
        x: [N, c_in, H, W].
        weight: [>= c_out, >= c_in // groups, kh, kw], of which the slice [:c_out, :c_in // groups] is read.
        running_mean: [c_out] fp32, updated in training and read otherwise; or None in training.
        running_var: [c_out], as `running_mean`, the unbiased variance.
        bn_weight: [c_out] fp32, or None for 1.
        bn_bias: [c_out] fp32, or None for 0.
        residual: [N, <= c_out, H', W'] or None; channels that it lacks count as zero.
        c_out: active output channels; all of the weight's by default.
        stride: of the convolution, at least 1.
        padding: zeros on all four sides.
        groups: of the convolution; c_in and c_out for a depthwise one.
        training: whether to normalise by the batch's own statistics.
        momentum: weight of the batch in the running statistics.
        eps: added to the variance.
        activation: "none", "relu", "relu6", "hardswish", "swish", "sigmoid" or "hardsigmoid".
        ranks: several processes whose x are parts of one batch, and whose statistics are those of all.

    Returns:
        [N, c_out, H', W'] of the input's dtype (autocast's under autocast), channels_last.

    Raises TypeError and ValueError as those two do.
    """
    if isinstance(x, Tensor) and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)  # what the kernels work on
    convolution = (
        x,
        weight,
        x.shape[1],
        weight.shape[0] if c_out is None else c_out,
        stride,
        padding,
        groups,
    )
    vectors = (running_mean, running_var, bn_weight, bn_bias, residual)
    if (training or not torch.is_grad_enabled()) and is_direct(x):
        input, kernel, *numbers = as_arguments(*convolution)
        found = find(input, kernel, *numbers)
        if native_bn_act.supports(input) and _fits(
            input, found.output_size, *vectors, activation, training, ranks
        ):
            run: Callable[..., Tensor] = _Direct.apply if training else _infer
            return run(found, input, kernel, *vectors, eps, activation, momentum, ranks)
    statistics = None
    if training:
        x, mean, var = sliced_conv2d_statistics(*convolution)
        statistics = mean, var
    else:
        x = sliced_conv2d(*convolution)
    return bn_act(
        x,
        *vectors,
        training=training,
        momentum=momentum,
        eps=eps,
        activation=activation,
        statistics=statistics,
        ranks=ranks,
    )


def _fits(
    input: Tensor,
    size: Size,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    training: bool,
    ranks: Ranks | None,
) -> bool:
    """Whether all is as it should be for an output of this size; `bn_act` says what is not."""
    batch, channels, height, width = size
    device = input.device
    for vector in (running_mean, running_var, weight, bias):
        if vector is not None and (
            vector.shape != (channels,) or vector.dtype != torch.float32 or vector.device != device
        ):
            return False
    if residual is not None:
        if residual.dim() != 4 or residual.device != device or residual.shape[1] > channels:
            return False
        if (residual.shape[0], *residual.shape[2:]) != (batch, height, width):
            return False
    if activation not in ACTIVATIONS:
        return False
    if training:
        return batch * height * width > 1 or several(ranks)
    return running_mean is not None and running_var is not None


def _infer(
    convolution: Convolution,
    x: Tensor,
    conv_weight: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str,
    *_: Any,
) -> Tensor:
    """What the operators compute where nothing is trained and no gradient is recorded."""
    y = convolution.forward(x, conv_weight)
    residual = _like(y, residual)
    return native_bn_act.bn_act(y, running_mean, running_var, weight, bias, residual, eps, activation)


def _like(y: Tensor, residual: Tensor | None) -> Tensor | None:
    """The residual in the dtype and layout of y."""
    if residual is None:
        return None
    return residual.to(y.dtype).contiguous(memory_format=torch.channels_last)


class _Direct(torch.autograd.Function):
    """One node of autograd's graph, whose passes call the kernels: dispatching takes longer than a layer."""

    @staticmethod
    def forward(
        ctx: Any,
        convolution: Convolution,
        x: Tensor,
        conv_weight: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        eps: float,
        activation: str,
        momentum: float,
        ranks: Ranks | None,
    ) -> Tensor:
        y, mean, var = convolution.forward_statistics(x, conv_weight)
        residual = _like(y, residual)
        rows = y.numel() // y.shape[1]
        running = running_mean, running_var
        mean, var = follow(*running, mean, var, momentum, rows, ranks, native_bn_act)
        ctx.save_for_backward(x, conv_weight, y, mean, var, weight, bias, residual)
        ctx.convolution, ctx.ranks = convolution, ranks if several(ranks) else None
        ctx.rest = (True, eps, activation)
        return native_bn_act.bn_act(y, mean, var, weight, bias, residual, eps, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, conv_weight, y, mean, var, weight, bias, residual = ctx.saved_tensors
        _, of_x, of_kernel, _, _, *of_rest = ctx.needs_input_grad
        results = bn_results(y, mean, residual, (of_x or of_kernel, *of_rest[:3]))
        arguments: list[Any] = [grad, y, mean, var, weight, bias, residual, *ctx.rest, ctx.ranks, results]
        native_bn_act.bn_act_backward(*arguments)
        grad_y, grad_weight, grad_bias, grad_residual = results
        grad_x, grad_kernel = ctx.convolution.gradients(grad_y, x, conv_weight, of_x, of_kernel)
        gradients = (grad_x, grad_kernel, None, None, grad_weight, grad_bias, grad_residual)
        return (None, *gradients, None, None, None, None)
