"""Convolution, batch norm, sum and activation in one call: the convolution sums its output's statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lasfast.ir.activations import ACTIVATIONS
from lasfast.ops import bn_act_kernels, packing
from lasfast.ops.bn_act import bn_act, follow, is_direct
from lasfast.ops.bn_act_schema import TENSORS, BnActInputs, empty_gradients
from lasfast.ops.derivatives import first_order, refuse_forward_mode
from lasfast.ops.process_ranks import ProcessRanks, is_distributed
from lasfast.ops.sliced_conv2d import Convolution, find, sliced_conv2d, sliced_conv2d_statistics
from lasfast.ops.sliced_conv2d_kernels import Norm
from lasfast.ops.sliced_conv2d_schema import Size, as_arguments


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
    ranks: ProcessRanks | None = None,
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
        training: whether to normalize by the batch's own statistics.
        momentum: weight of the batch in the running statistics.
        eps: added to the variance.
        activation: "none", "relu", "relu6", "hardswish", "swish", "sigmoid" or "hardsigmoid".
        ranks: several processes whose x are parts of one batch, and whose statistics are those of all.

    Returns:
        [N, c_out, H', W'] of the input's dtype (autocast's under autocast), channels_last.

    Raises TypeError and ValueError as those two do.
    """
    refuse_forward_mode("conv_bn_act", x, weight, bn_weight, bn_bias, residual)
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
        norm = (input, *vectors, training, eps, activation)
        supported = input is x or bn_act_kernels.supports(input)  # autocast may have made another one of it
        if supported and _fits(found.geometry.output, ranks, *norm):
            if not training:
                return _infer(found, kernel, *norm)
            result: Tensor = _Direct.apply(found, kernel, momentum, ranks, *norm)
            return result
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


def _fits(size: Size, ranks: ProcessRanks | None, input: Tensor, *norm: Any) -> bool:
    """Return whether all is as it should be for an output of this size; `bn_act` says what is not."""
    *vectors, residual, training, _, activation = norm
    batch, channels, height, width = size
    device = input.device
    for vector in vectors:
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
        return batch * height * width > 1 or is_distributed(ranks)
    return vectors[0] is not None and vectors[1] is not None


def _infer(convolution: Convolution, kernel: Tensor, input: Tensor, *norm: Any) -> Tensor:
    """Compute what the operators do where nothing is trained and no gradient is recorded."""
    mean, var, weight, bias, residual, training, eps, activation = norm
    parts = mean, var, weight, bias, _like(input, residual)

    def in_two(y: Tensor) -> Tensor:
        return bn_act_kernels.bn_act(BnActInputs(y, *parts, training, eps, activation))

    return convolution.predict(input, kernel, Norm(*parts, eps, activation), in_two)


def _like(values: Tensor, residual: Tensor | None) -> Tensor | None:
    """Return the residual in the dtype of the values, in channels_last."""
    if residual is None:
        return None
    return residual.to(values.dtype).contiguous(memory_format=torch.channels_last)


class _Direct(torch.autograd.Function):
    """One node of autograd's graph, whose passes call the kernels: dispatching takes longer than a layer.

    `norm` is what `BnActInputs` has behind x, with the running statistics for the batch's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        convolution: Convolution,
        kernel: Tensor,
        momentum: float,
        ranks: ProcessRanks | None,
        input: Tensor,
        *norm: Any,
    ) -> Tensor:
        running_mean, running_var, weight, bias, residual, *rest = norm
        running = running_mean, running_var
        packed = packing.packed(convolution, kernel) if ctx.needs_input_grad[4] else None
        y, mean, var = convolution.forward_statistics(input, kernel, packed)
        if is_distributed(ranks):
            rows = y.numel() // y.shape[1]
            mean, var = follow(running, (mean, var), momentum, rows, ranks, bn_act_kernels)
            running = None, None  # they have followed
        alike = _like(y, residual)
        early = packed is not None and running[0] is not None and alike is residual  # nothing is in between
        inputs = BnActInputs(y, mean, var, weight, bias, alike, *rest)
        ctx.save_for_backward(input, kernel, *inputs[:TENSORS])
        ctx.convolution, ctx.ranks = convolution, ranks if is_distributed(ranks) else None
        ctx.rest, ctx.packed = rest, packed
        result, ctx.counters = bn_act_kernels.bn_act_in_training(inputs, running, momentum, early)
        return result

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        input, kernel, *tensors = ctx.saved_tensors
        inputs = BnActInputs(*tensors, *ctx.rest)
        _, of_kernel, _, _, of_input, _, _, *of_parameters = ctx.needs_input_grad
        needed = (of_input or of_kernel, *of_parameters[:3])
        results = empty_gradients(inputs, needed)
        bn_act_kernels.bn_act_backward(grad, inputs, results, ctx.ranks, ctx.counters)
        grad_y, *of_others = results
        grad_input, grad_kernel = ctx.convolution.gradients(
            grad_y, input, kernel, of_input, of_kernel, ctx.packed
        )
        return None, grad_kernel, None, None, grad_input, None, None, *of_others, None, None, None
