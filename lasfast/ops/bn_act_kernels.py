"""Batch norm, sum and activation by the compiled module's kernels: CPU and CUDA, float32 and bfloat16.

Arguments were checked by the caller; tensors may have any strides. The kernels take channels_last: what is
laid out in another way is copied, and so is the result.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from lasfast.ir.activations import ACTIVATIONS
from lasfast.ops import reference
from lasfast.ops.bn_act_schema import BnActInputs, Running, Statistics
from lasfast.ops.process_ranks import ProcessRanks
from lasfast.runtime import compiled, kernels, placement
from lasfast.runtime.precision import DTYPES

_LAST = torch.channels_last


def supports(x: Tensor) -> bool:
    """Return whether there are kernels for x that may run; a warning says once why not if there should be."""
    return x.dtype in DTYPES and kernels.usable_for(x)


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance [C] of x [N, C, H, W]."""
    rows, channels = _rows(x)
    x = x.contiguous(memory_format=_LAST)
    device = x.device
    mean, var = (torch.empty(channels, dtype=torch.float32, device=device) for _ in range(2))
    kind, arguments = placement.of(x)
    workspace = _workspace(device, kind, rows, channels, 0, arguments[0])
    getattr(compiled.load(), f"batch_statistics_{kind}")(
        rows,
        channels,
        DTYPES[x.dtype],
        x.data_ptr(),
        workspace.data_ptr(),
        *arguments,
        mean.data_ptr(),
        var.data_ptr(),
    )
    return mean, var


def update_running(running: Running, batch: Statistics, momentum: float, rows: int) -> None:
    """Let the running statistics, if any, follow those of a batch of at least two rows, in place.

    Those that are not contiguous float32 are left to PyTorch.
    """
    (running_mean, running_var), (mean, var) = running, batch
    if running_mean is None or running_var is None:
        return
    if not _are_plain(running_mean, running_var, mean, var):
        reference.update_running(running, batch, momentum, rows)
        return
    kind, arguments = placement.of(mean)
    getattr(compiled.load(), f"update_running_{kind}")(
        rows,
        len(mean),
        mean.data_ptr(),
        var.data_ptr(),
        momentum,
        *(() if kind == "cpu" else arguments),  # on the CPU it is too little work for threads
        running_mean.data_ptr(),
        running_var.data_ptr(),
    )
    increment_version((running_mean, running_var))  # so that autograd sees what changed


class _Passes:
    """The passes over one x: the arguments that they share, and the tensors whose addresses these are."""

    def __init__(self, inputs: BnActInputs) -> None:
        x, mean, var, weight, bias, residual, *_ = inputs
        rows, channels = _rows(x)
        if residual is not None:
            residual = residual.contiguous(memory_format=_LAST)
        narrow = 0 if residual is None else residual.shape[1]
        self.sizes = (rows, channels, narrow, DTYPES[x.dtype], ACTIVATIONS[inputs.activation].code)
        self._eps = inputs.eps
        dense = [None if p is None else p.contiguous() for p in (mean, var, weight, bias)]
        self._tensors = [x.contiguous(memory_format=_LAST), *dense, residual]
        self._addresses = [0 if one is None else one.data_ptr() for one in self._tensors]
        self._kind, self._arguments = placement.of(x)
        self._workspace = _workspace(x.device, self._kind, rows, channels, narrow, self._arguments[0])

    def run(
        self,
        which: str,
        before: tuple[int, ...],
        *more: int,
        to: Sequence[float],
        flags: tuple[bool, ...] = (),
    ) -> None:
        """Run a pass that writes `to`; addresses `before` stand before those of the inputs, `more` behind."""
        getattr(compiled.load(), f"bn_act_{which}_{self._kind}")(
            *self.sizes,
            *flags,
            self._eps,
            *before,
            *self._addresses,
            *more,
            self._workspace.data_ptr(),
            *self._arguments,
            *to,
        )


def bn_act(inputs: BnActInputs) -> Tensor:
    """Return the output [N, C, H, W], in the dtype and layout of x."""
    result = torch.empty_like(inputs.x)
    y = _dense(result)
    _Passes(inputs).run("forward", (), to=(y.data_ptr(),))
    return result if y is result else result.copy_(y)


def bn_act_in_training(
    inputs: BnActInputs, running: Running, momentum: float, early: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return the same, and let running statistics, if any, follow the mean and var that inputs have.

    These are of at least two rows. CUDA does both in one launch, which makes the counters for
    `bn_act_backward`, too: these are returned, or None. `early` says that a kernel of lasfast's is queued
    right before, so that the launch may begin before that has ended.
    """
    mean, var = running
    followed = mean is not None and var is not None and placement.of(inputs.x).kind == "cuda"
    if not followed or not _are_plain(mean, var, inputs.mean, inputs.var) or not _is_dense(inputs.x):
        update_running(running, (inputs.mean, inputs.var), momentum, _rows(inputs.x)[0])
        return bn_act(inputs), None
    assert mean is not None
    assert var is not None
    y = torch.empty_like(inputs.x)
    passes = _Passes(inputs)
    counters = torch.empty(_counters(*passes.sizes[:2]), dtype=torch.int32, device=y.device)
    to = y.data_ptr(), momentum, mean.data_ptr(), var.data_ptr()
    passes.run("train", (early, counters.data_ptr()), to=to)
    increment_version((mean, var))
    return y, counters


def bn_act_backward(
    grad: Tensor,
    inputs: BnActInputs,
    results: Sequence[Tensor | None],
    ranks: ProcessRanks | None = None,
    counters: Tensor | None = None,
) -> None:
    """Overwrite the gradients of x, weight, bias, residual; those that are None are not wanted.

    Where statistics are those of all `ranks`, the gradient of x takes its sums from all, too; those of weight
    and bias are this rank's. `counters` are what `bn_act_in_training` returned: without them, CUDA takes one
    launch more.
    """
    grad_x, grad_weight, grad_bias, grad_residual = results
    dense_x = None if grad_x is None else _dense(grad_x)
    dense_residual = None if grad_residual is None else _dense(grad_residual)
    grad = grad.contiguous(memory_format=_LAST)
    passes = _Passes(inputs)
    before = (grad.data_ptr(),)
    to = (_address(grad_weight), _address(grad_bias), _address(dense_residual))
    if counters is not None and inputs.batch_statistics and ranks is None:
        passes.run("backward_counted", (False, counters.data_ptr(), *before), to=(_address(dense_x), *to))
    elif ranks is None or not inputs.batch_statistics:
        passes.run("backward", before, to=(_address(dense_x), *to), flags=(inputs.batch_statistics,))
    else:
        sums = torch.empty(2 * len(inputs.mean) + 1, dtype=torch.float64, device=grad.device)
        passes.run("sums", before, to=(sums.data_ptr(), *to))
        ranks.sum_([sums])
        if dense_x is not None:
            whole = dense_residual is not None and dense_residual.shape[1] == dense_x.shape[1]
            dz = _address(dense_residual) if whole else 0
            passes.run("grad_x", before, dz, sums.data_ptr(), to=(dense_x.data_ptr(),))
    for result, dense in ((grad_x, dense_x), (grad_residual, dense_residual)):
        if result is not None and dense is not None and result is not dense:
            result.copy_(dense)


def _rows(x: Tensor) -> tuple[int, int]:
    """Return how many values each channel has, and how many channels there are."""
    batch, channels, height, width = x.shape
    return batch * height * width, channels


def _are_plain(*tensors: Tensor | None) -> bool:
    """Return whether kernels take these vectors as they are: contiguous float32."""
    return all(one is not None and one.dtype == torch.float32 and one.is_contiguous() for one in tensors)


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=_LAST)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _dense(result: Tensor) -> Tensor:
    """Return what the kernels write for this result: itself, where it is channels_last."""
    if _is_dense(result):
        return result
    return torch.empty_like(result, memory_format=_LAST)


def _workspace(device: torch.device, *arguments: Any) -> Tensor:
    return torch.empty(_workspace_bytes(*arguments), dtype=torch.uint8, device=device)


@functools.cache
def _counters(rows: int, channels: int) -> int:
    """Return how many counters the backward pass needs on CUDA."""
    count: int = compiled.load().bn_act_counters_cuda(rows, channels)
    return count


@functools.cache
def _workspace_bytes(kind: str, rows: int, channels: int, residual_channels: int, threads: int) -> int:
    """Return how much memory a pass needs; on the CPU it depends on the number of threads."""
    more = (threads,) if kind == "cpu" else ()
    ask = getattr(compiled.load(), f"bn_act_workspace_{kind}")
    size: int = ask(rows, channels, residual_channels, *more)
    return size
