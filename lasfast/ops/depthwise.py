"""`depthwise_conv2d`: a depthwise convolution by itself, dilated or not, with a quick backward pass.

PyTorch's gradients of a dilated depthwise convolution take many times as long on CPUs as those of one that is
not dilated. So they are taken from a convolution that is not dilated, of the values at every d-th row
and column: Chen et al. 2018 (DeepLab, section 3.1) compute the convolution so ("deinterlacing", after Shensa
1992).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.ops.bn_act import is_direct
from lasfast.ops.derivatives import first_order, refuse_forward_mode
from lasfast.ops.sliced_conv2d import Convolution, find, sliced_conv2d
from lasfast.ops.sliced_conv2d_schema import Size, as_arguments


def depthwise_conv2d(
    x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """Return ``F.conv2d(x, weight[:C], None, stride, padding, dilation, C)`` in channels_last.

    Args:
        x: [N, C, H, W].
        weight: [>= C, 1, kh, kw], of which the first C filters are read, as by `sliced_conv2d`.
        stride: of both axes, at least 1.
        padding: zeros on all four sides, at least 0.
        dilation: of both axes, at least 1. Above 1, gradients are lasfast's on CPUs where the kernel is
            square and odd, the padding keeps the size, and the stride is 1 or the dilation; else PyTorch's.

    Returns:
        [N, C, H', W'] of the input's dtype (autocast's under autocast). It can be differentiated once.

    Raises TypeError and ValueError as `sliced_conv2d` does.
    """
    refuse_forward_mode("depthwise_conv2d", x, weight)
    if isinstance(x, Tensor) and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)  # what the kernels work on
    channels = x.shape[1]
    arguments = as_arguments(x, weight, channels, channels, stride, padding, channels)
    input, kernel, *_ = arguments
    if dilation == 1 and not is_direct(input):
        return sliced_conv2d(x, weight, channels, channels, stride, padding, channels)
    if dilation == 1 and not torch.is_grad_enabled():
        return find(*arguments).forward(input, kernel)
    if dilation == 1:
        result: Tensor = _Depthwise.apply(find(*arguments), kernel, input)
    elif is_direct(input) and not input.is_cuda and _has_phases(kernel, stride, padding, dilation):
        result = _Dilated.apply(stride, padding, dilation, kernel, input)
    else:
        result = _in_torch(input, kernel, stride, padding, dilation)
    return result


def _in_torch(input: Tensor, kernel: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
    channels = input.shape[1]
    return F.conv2d(input, kernel[:channels].to(input.dtype), None, stride, padding, dilation, channels)


def _has_phases(kernel: Tensor, stride: int, padding: int, dilation: int) -> bool:
    """Return whether a dilated convolution is one that is not dilated on each phase of its input."""
    rows, columns = kernel.shape[2:]
    is_same = rows == columns and rows % 2 == 1 and padding == dilation * (rows // 2)
    return is_same and stride in (1, dilation)


class _Depthwise(torch.autograd.Function):
    """One node of autograd's graph, whose backward pass reads the output's gradient once."""

    @staticmethod
    def forward(ctx: Any, convolution: Convolution, kernel: Tensor, input: Tensor) -> Tensor:
        ctx.save_for_backward(input, kernel)
        ctx.convolution = convolution
        return convolution.forward(input, kernel)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        input, kernel = ctx.saved_tensors
        _, of_kernel, of_input = ctx.needs_input_grad
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_input, grad_kernel = ctx.convolution.gradients(grad, input, kernel, of_input, of_kernel)
        return None, grad_kernel, grad_input


class _Dilated(torch.autograd.Function):
    """A dilated convolution, whose gradients are those of one that is not dilated on the input's phases.

    Forward, PyTorch's takes no longer than to part the phases.
    """

    @staticmethod
    def forward(ctx: Any, stride: int, padding: int, dilation: int, kernel: Tensor, input: Tensor) -> Tensor:
        ctx.save_for_backward(input, kernel)
        ctx.stride, ctx.dilation = stride, dilation
        output = _in_torch(input, kernel, stride, padding, dilation)
        return output.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        input, kernel = ctx.saved_tensors
        *_, of_kernel, of_input = ctx.needs_input_grad
        step, channels = ctx.dilation, input.shape[1]
        is_strided = ctx.stride == step  # then only one of the phases is read
        apart = _first_phase if is_strided else _phases
        values = apart(input, step)
        grad = grad.contiguous(memory_format=torch.channels_last) if is_strided else _phases(grad, step)
        convolution = find(values, kernel, channels, channels, 1, kernel.shape[2] // 2, channels)
        of_values, grad_kernel = convolution.gradients(grad, values, kernel, of_input, of_kernel)
        if of_values is None:
            return None, None, None, grad_kernel, None
        if not is_strided:
            return None, None, None, grad_kernel, _from_phases(of_values, step, input.shape)
        grad_input = torch.zeros_like(input)
        grad_input[:, :, ::step, ::step] = of_values
        return None, None, None, grad_kernel, grad_input


def _first_phase(x: Tensor, step: int) -> Tensor:
    return x[:, :, ::step, ::step].contiguous(memory_format=torch.channels_last)


def _phases(x: Tensor, step: int) -> Tensor:
    """Return the values of every step-th row and column as images of their own, [step² N, C, H', W'].

    Where the size is no multiple of the step, zeros follow.
    """
    x = F.pad(x, (0, -x.shape[3] % step, 0, -x.shape[2] % step))
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch, height // step, step, width // step, step, channels)
    parted = rows.permute(2, 4, 0, 1, 3, 5).reshape(-1, height // step, width // step, channels)
    return parted.permute(0, 3, 1, 2)


def _from_phases(phases: Tensor, step: int, size: Size) -> Tensor:
    """Return the values [N, C, H, W] of this size whose `_phases` these are."""
    batch, channels, height, width = size
    _, _, rows, columns = phases.shape
    parted = phases.permute(0, 2, 3, 1).reshape(step, step, batch, rows, columns, channels)
    whole = parted.permute(2, 3, 0, 4, 1, 5).reshape(batch, rows * step, columns * step, channels)
    return whole[:, :height, :width].contiguous().permute(0, 3, 1, 2)
