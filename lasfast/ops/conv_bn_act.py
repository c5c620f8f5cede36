"""Convolution, batch norm, sum and activation in one call: the convolution sums its output's statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from lasfast.ops.bn_act import bn_act
from lasfast.ops.sliced_conv2d import sliced_conv2d, sliced_conv2d_statistics


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
    statistics = None
    if training:
        x, mean, var = sliced_conv2d_statistics(*convolution)
        statistics = mean, var
    else:
        x = sliced_conv2d(*convolution)
    return bn_act(
        x,
        running_mean,
        running_var,
        bn_weight,
        bn_bias,
        residual,
        training=training,
        momentum=momentum,
        eps=eps,
        activation=activation,
        statistics=statistics,
    )
