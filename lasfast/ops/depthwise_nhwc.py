"""Depthwise convolution on channels_last values through the compiled module: its three passes, on the CPU.

Arguments were checked by the caller: values (input, output and their gradients) are dense channels_last
tensors of one dtype, float32 or bfloat16; weights, of either dtype, may have any strides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lasfast import _native

_DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def forward(
    input: Tensor, weight: Tensor, output: Tensor, stride: int, padding: int, statistics: Tensor | None = None
) -> None:
    """Overwrite `output` [N, C, H', W']; `input` [N, C, H, W], `weight` [>= C, 1, K, K].

    `statistics` (float32 [2, C]), where given, gets mean and biased variance per channel of the output before
    it is rounded to its dtype.
    """
    params = _params(input, weight, output, stride, padding)
    mean, variance = (0, 0) if statistics is None else (row.data_ptr() for row in statistics)
    _run("forward", params, input, weight, output, mean, variance)


def grad_input(grad_output: Tensor, weight: Tensor, result: Tensor, stride: int, padding: int) -> None:
    """Overwrite `result` [N, C, H, W]; `grad_output` [N, C, H', W'], `weight` [>= C, 1, K, K]."""
    params = _params(result, weight, grad_output, stride, padding)
    _run("grad_input", params, grad_output, weight, result)


def grad_weight(grad_output: Tensor, input: Tensor, result: Tensor, stride: int, padding: int) -> None:
    """Overwrite `result[:C]`, float32 [>= C, 1, K, K]; the rest stays as it is."""
    params = _params(input, result, grad_output, stride, padding)
    _run("grad_weight", params, grad_output, input, result)


def backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    stride: int,
    padding: int,
) -> None:
    """:func:`grad_input` and :func:`grad_weight` in one call, which is faster; the same bits."""
    module = _native.load()
    params, isa = _params(input, weight, grad_output, stride, padding), _native.isa_number()
    size = sum(
        module.depthwise_nhwc_workspace_cpu(params, which, isa)
        for which in (module.Pass.grad_input, module.Pass.grad_weight)
    )
    workspace = torch.empty(size, dtype=torch.uint8)
    module.depthwise_nhwc_backward_cpu(
        params,
        grad_output.data_ptr(),
        input.data_ptr(),
        weight.data_ptr(),
        (grad_weight.stride(0), grad_weight.stride(2), grad_weight.stride(3)),
        workspace.data_ptr(),
        torch.get_num_threads(),
        isa,
        grad_input.data_ptr(),
        grad_weight.data_ptr(),
    )


def _params(input: Tensor, weight: Tensor, output: Tensor, stride: int, padding: int) -> object:
    return _native.load().DepthwiseNhwcParams(
        input.shape[:2],
        input.shape[2:],
        output.shape[2:],
        weight.shape[2],
        stride,
        padding,
        (weight.stride(0), weight.stride(2), weight.stride(3)),
        _DTYPES[weight.dtype],
        _DTYPES[input.dtype],
    )


def _run(which: str, params: object, first: Tensor, second: Tensor, result: Tensor, *more: int) -> None:
    module = _native.load()
    isa = _native.isa_number()
    size = module.depthwise_nhwc_workspace_cpu(params, getattr(module.Pass, which), isa)
    workspace = torch.empty(size, dtype=torch.uint8)
    getattr(module, f"depthwise_nhwc_{which}_cpu")(
        params,
        first.data_ptr(),
        second.data_ptr(),
        workspace.data_ptr(),
        torch.get_num_threads(),
        isa,
        result.data_ptr(),
        *more,
    )
