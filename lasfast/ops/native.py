"""The operators through the compiled module: CPU in float32, CUDA in float32 and bfloat16.

Arguments were checked by the caller; tensors may have any strides. What is overwritten is returned.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from lasfast.runtime import compiled, gpu_check, placement
from lasfast.runtime.precision import DTYPES

logger = logging.getLogger("lasfast")


@functools.cache
def _say_once(text: str) -> None:
    logger.warning("%s", text)


@functools.cache
def _is_built_for(device: int) -> bool:
    if compiled.cuda_runs_on(device):
        return True
    _say_once("lasfast has no CUDA kernels that this GPU and its driver can run; using PyTorch's operators")
    return False


def has_warpgroups(device: torch.device) -> bool:
    """Whether the compiled module has code for Hopper's warpgroups that this GPU runs."""
    return available() and bool(compiled.load().schedule_has_warpgroups_cuda(device.index or 0))


def available() -> bool:
    """Whether the compiled module loads; says once if not."""
    if compiled.available():
        return True
    _say_once("lasfast's compiled module is missing; using PyTorch's operators (lasfast info says why)")
    return False


def usable(device: torch.device) -> bool:
    """Whether there are native kernels for this device that may run unasked; says once why not.

    On a GPU, which is checked before if it has not been (`lasfast.runtime.gpu_check`).
    """
    if device.type == "cuda":
        index = device.index or 0
        return available() and _is_built_for(index) and gpu_check.passed(index)
    return device.type == "cpu" and available()


def reaches(tensor: Tensor) -> bool:
    """Whether there are native kernels where this tensor is; says once why not if there should be."""
    return tensor.layout == torch.strided and usable(tensor.device)


def supports(tensor: Tensor) -> bool:
    """Whether the native kernels take tensors of this device and dtype; says once why not if they should."""
    kind = tensor.device.type
    return tensor.dtype in ((torch.float32,) if kind == "cpu" else DTYPES) and reaches(tensor)


def sliced_conv2d(
    input: Tensor, weight: Tensor, output: Tensor, stride: int, padding: int, groups: int
) -> Tensor:
    """Overwrite `output` [N, c_out, H', W']; `input` [N, c_in, H, W] and `weight` as in lasfast.ops."""
    params = _params(input, weight, output, stride, padding, groups)
    return _run("forward", params, input, weight, output)


def sliced_conv2d_grad_input(
    grad_output: Tensor, weight: Tensor, grad_input: Tensor, stride: int, padding: int, groups: int
) -> Tensor:
    """Overwrite `grad_input` [N, c_in, H, W]."""
    params = _params(grad_input, weight, grad_output, stride, padding, groups)
    return _run("grad_input", params, grad_output, weight, grad_input)


def sliced_conv2d_grad_weight(
    grad_output: Tensor, input: Tensor, grad_weight: Tensor, stride: int, padding: int, groups: int
) -> Tensor:
    """Overwrite the slice of `grad_weight` that the convolution read; the rest stays as it is."""
    params = _params(input, grad_weight, grad_output, stride, padding, groups)
    return _run("grad_weight", params, grad_output, input, grad_weight)


def _params(input: Tensor, weight: Tensor, output: Tensor, stride: int, padding: int, groups: int) -> object:
    size: Sequence[int] = input.shape
    return compiled.load().SlicedConv2dParams(
        (size[0], groups),
        size[1:],
        output.shape[1:],
        weight.shape[2:],
        stride,
        padding,
        input.stride(),
        weight.stride(),
        output.stride(),
    )


def _run(which: str, params: object, first: Tensor, second: Tensor, result: Tensor) -> Tensor:
    module = compiled.load()
    kind, arguments = placement.place_of(result)
    # Values on the CPU are fp32; there, how much memory is needed depends on the number of threads.
    dtype, threads = ((), arguments[:1]) if kind == "cpu" else ((DTYPES[result.dtype],), ())
    size = getattr(module, f"sliced_conv2d_workspace_{kind}")(params, getattr(module.Pass, which), *threads)
    workspace = torch.empty(size, dtype=torch.uint8, device=result.device)
    getattr(module, f"sliced_conv2d_{which}_{kind}")(
        params,
        *dtype,
        first.data_ptr(),
        second.data_ptr(),
        workspace.data_ptr(),
        *arguments,
        result.data_ptr(),
    )
    return result
