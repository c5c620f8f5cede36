"""The operators in plain PyTorch: any device, any dtype. They say what the native kernels must compute."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight


def sliced_conv2d(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> Tensor:
    """Convolution with weight[:c_out, :c_in // groups]. Shapes as in :func:`lasfast.ops.sliced_conv2d`."""
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
    """Gradient [N, c_in, height, width] for grad_output [N, c_out, H', W']."""
    active = weight[: grad_output.shape[1], : c_in // groups].to(grad_output.dtype)
    size = (grad_output.shape[0], c_in, height, width)
    return conv2d_input(size, active, grad_output, stride, padding, 1, groups)


def sliced_conv2d_grad_weight(
    grad_output: Tensor, input: Tensor, grad_weight: Tensor, stride: int, padding: int, groups: int
) -> None:
    """Overwrite the slice of `grad_weight` that the convolution read."""
    active = grad_weight[: grad_output.shape[1], : input.shape[1] // groups]
    active.copy_(conv2d_weight(input, active.shape, grad_output, stride, padding, 1, groups))


def sliced_conv2d_gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    stride: int,
    padding: int,
    groups: int,
) -> Tensor:
    """Return the gradient of the input, and overwrite the slice of `grad_weight`: one call for both."""
    c_out, c_in = grad_output.shape[1], input.shape[1] // groups
    active = weight[:c_out, :c_in].to(input.dtype)
    steps = ([stride] * 2, [padding] * 2, [1, 1])
    of_input, of_weight, _ = torch.ops.aten.convolution_backward(
        grad_output, input, active, None, *steps, False, [0, 0], groups, (True, True, False)
    )
    grad_weight[:c_out, :c_in].copy_(of_weight)
    result: Tensor = of_input
    return result
