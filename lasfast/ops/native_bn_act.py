"""Batch norm with activation and residual through the compiled module: CPU, float32 and bfloat16.

Arguments were checked by the caller; tensors may have any strides. The kernels take channels_last: what is
laid out in another way is copied, and so is the result.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from lasfast import _native
from lasfast.ops import native
from lasfast.ops import reference_bn_act as reference
from lasfast.ops.native import DTYPES

ACTIVATIONS = {
    "none": 0,
    "relu": 1,
    "relu6": 2,
    "hardswish": 3,
    "swish": 4,
    "sigmoid": 5,
    "hardsigmoid": 6,
}
"""Numbers of csrc/include/lasfast/schedule.h."""

_LAST = torch.channels_last


def supports(x: Tensor) -> bool:
    """Whether the native kernels take x; says once why not if they should."""
    return x.dtype in DTYPES and x.device.type == "cpu" and x.layout == torch.strided and native.available()


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of x [N, C, H, W]."""
    rows, channels = _rows(x)
    x = x.contiguous(memory_format=_LAST)
    mean, var = torch.empty(channels), torch.empty(channels)
    threads = torch.get_num_threads()
    workspace = _workspace(rows, channels, 0, threads)
    _native.load().batch_statistics_cpu(
        rows,
        channels,
        DTYPES[x.dtype],
        x.data_ptr(),
        workspace.data_ptr(),
        threads,
        _native.isa_number(),
        mean.data_ptr(),
        var.data_ptr(),
    )
    return mean, var


def update_running(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    rows: int,
) -> None:
    """Update the running statistics [C] in place, if there are any, from a batch of at least two rows.

    Those that are not contiguous float32 are left to PyTorch.
    """
    if running_mean is None or running_var is None:
        return
    tensors = (running_mean, running_var, mean, var)
    if not all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors):
        reference.update_running(*tensors, momentum, rows)
        return
    _native.load().update_running_cpu(
        rows,
        len(mean),
        mean.data_ptr(),
        var.data_ptr(),
        momentum,
        running_mean.data_ptr(),
        running_var.data_ptr(),
    )
    increment_version(running_mean)  # so that autograd sees what changed
    increment_version(running_var)


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
    """[N, C, H, W], in the dtype and layout of x."""
    rows, channels = _rows(x)
    result = torch.empty_like(x)
    y, x = _dense(result), x.contiguous(memory_format=_LAST)
    parameters = [None if p is None else p.contiguous() for p in (mean, var, weight, bias)]
    if residual is not None:
        residual = residual.contiguous(memory_format=_LAST)
    threads = torch.get_num_threads()
    residual_channels = 0 if residual is None else residual.shape[1]
    workspace = _workspace(rows, channels, residual_channels, threads)
    _native.load().bn_act_forward_cpu(
        rows,
        channels,
        residual_channels,
        DTYPES[x.dtype],
        ACTIVATIONS[activation],
        eps,
        x.data_ptr(),
        *map(_address, parameters),
        _address(residual),
        workspace.data_ptr(),
        threads,
        _native.isa_number(),
        y.data_ptr(),
    )
    return result if y is result else result.copy_(y)


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
    results: Sequence[Tensor | None],
) -> None:
    """Overwrite the gradients of x, weight, bias, residual; those that are None are not wanted."""
    rows, channels = _rows(x)
    grad_x, grad_weight, grad_bias, grad_residual = results
    dense_x = None if grad_x is None else _dense(grad_x)
    dense_residual = None if grad_residual is None else _dense(grad_residual)
    x, grad = x.contiguous(memory_format=_LAST), grad.contiguous(memory_format=_LAST)
    parameters = [None if p is None else p.contiguous() for p in (mean, var, weight, bias)]
    if residual is not None:
        residual = residual.contiguous(memory_format=_LAST)
    threads = torch.get_num_threads()
    residual_channels = 0 if residual is None else residual.shape[1]
    workspace = _workspace(rows, channels, residual_channels, threads)
    _native.load().bn_act_backward_cpu(
        rows,
        channels,
        residual_channels,
        DTYPES[x.dtype],
        ACTIVATIONS[activation],
        batch_statistics,
        eps,
        grad.data_ptr(),
        x.data_ptr(),
        *map(_address, parameters),
        _address(residual),
        workspace.data_ptr(),
        threads,
        _native.isa_number(),
        _address(dense_x),
        _address(grad_weight),
        _address(grad_bias),
        _address(dense_residual),
    )
    for result, dense in ((grad_x, dense_x), (grad_residual, dense_residual)):
        if result is not None and dense is not None and result is not dense:
            result.copy_(dense)


def _rows(x: Tensor) -> tuple[int, int]:
    batch, channels, height, width = x.shape
    return batch * height * width, channels


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _dense(result: Tensor) -> Tensor:
    """What the kernels write for this result: itself, where it is channels_last."""
    if result.is_contiguous(memory_format=_LAST):
        return result
    return torch.empty_like(result, memory_format=_LAST)


def _workspace(rows: int, channels: int, residual_channels: int, threads: int) -> Tensor:
    return torch.empty(_workspace_bytes(rows, channels, residual_channels, threads), dtype=torch.uint8)


@functools.cache
def _workspace_bytes(rows: int, channels: int, residual_channels: int, threads: int) -> int:
    size: int = _native.load().bn_act_workspace_cpu(rows, channels, residual_channels, threads)
    return size
