"""`bn_act`: batch norm, the sum of a residual block and activation as one operator, for training.

The function stands for `F.batch_norm` and what comes after it; below are the operators' implementations, each
by the kernels of the compiled module or by the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from lasfast.ops import bn_act_kernels, reference
from lasfast.ops.bn_act_schema import (
    BnActInputs,
    Running,
    Statistics,
    as_outputs,
    check_channels,
    check_grad,
    check_inputs,
    check_parameters,
    check_statistics,
    check_x,
    empty_gradients,
    for_arguments,
    gradients,
    library,
    needed_gradients,
    save_inputs,
    saved_inputs,
    statistics_dtype,
)
from lasfast.ops.derivatives import first_order, is_watched, refuse_forward_mode
from lasfast.ops.process_ranks import ProcessRanks, is_distributed, merge_statistics


def bn_act(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    statistics: tuple[Tensor, Tensor] | None = None,
    ranks: ProcessRanks | None = None,
) -> Tensor:
    """Normalize x, add a residual, and apply an activation, in one pass over memory (two backward).

    The same as ``act(F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps) +
    residual)``, but computed in float32 throughout, and with nothing saved for backward but the arguments.

    Args:
        x: [N, C, H, W], any strides; channels_last is taken as it is, anything else is copied.
        running_mean: [C], or None in training; updated in place in training.
        running_var: [C], as `running_mean`, with the unbiased variance.
        weight: [C], or None for 1.
        bias: [C], or None for 0.
        residual: [N, c, H, W] with c <= C; missing channels count as zero. Cast to the dtype of x.
        training: normalize by the statistics of x, not by the running ones.
        momentum: weight of the batch in the running statistics.
        eps: added to the variance.
        activation: "none", "relu", "relu6", "hardswish", "swish", "sigmoid" or "hardsigmoid".
        statistics: mean and biased variance of x in training, [C] each, where somebody has them already. The
            gradient goes through them as if they had been taken here. With `ranks`, of this process's x.
        ranks: several processes, whose x are parts of one batch (`lasfast.distributed.world()`): in training,
            statistics are those of all, running ones follow alike on all, and the gradient of x is that of
            the whole batch. Gradients of weight and bias are this process's part, to be summed like all
            others. All ranks call forward and backward, in the same order; not under `torch.compile`.

    Returns:
        [N, C, H, W], with the dtype and layout of x (also under autocast).

    float32 and bfloat16 run in lasfast's kernels, on the CPU and on CUDA (where no call waits for the GPU, so
    CUDA graphs may capture it), everything else through PyTorch. Statistics and parameters are float32
    (float64 where x is); others are cast. The same inputs give the same bits, whatever the number of threads.
    It can be differentiated once.

    Raises TypeError for tensors of the wrong dtype, ValueError for values that do not fit, before any work;
    like `F.batch_norm`, also where training has one value per channel.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor [N, C, H, W], got a {type(x).__name__}")
    check_x(x)
    refuse_forward_mode("bn_act", x, weight, bias, residual)
    running = running_mean, running_var
    _check_running(x, running)
    dtype = statistics_dtype(x.dtype)
    rows = x.shape[0] * x.shape[2] * x.shape[3]
    mean: Tensor | None = None
    var: Tensor | None = None
    if training:
        if statistics is not None:
            mean, var = (one.detach() for one in statistics)
            check_statistics(x, mean, var)
        if rows == 1 and not is_distributed(ranks):
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {x.size()}"
            )
    else:
        if statistics is not None:
            raise ValueError("statistics must be None in evaluation, which uses the running ones")
        if running_mean is None or running_var is None:
            raise ValueError("running_mean and running_var must be tensors [C] in evaluation, got None")
        mean, var = running_mean.to(dtype), running_var.to(dtype)
    if weight is not None and weight.dtype != dtype:
        weight = weight.to(dtype)
    if bias is not None and bias.dtype != dtype:
        bias = bias.to(dtype)
    if residual is not None and residual.dtype != x.dtype:
        residual = residual.to(x.dtype)
    check_parameters(x, weight, bias, residual, activation)

    direct = is_direct(x)
    if mean is None or var is None:
        mean, var = (bn_act_kernels if direct else torch.ops.lasfast).batch_statistics(x)
    if training:
        operators = bn_act_kernels if direct else reference
        mean, var = follow(running, (mean, var), momentum, rows, ranks, operators)
    inputs = x, mean, var, weight, bias, residual, training, eps, activation
    result: Tensor
    if training and is_distributed(ranks):
        result = _Distributed.apply(ranks, *inputs)
    elif direct and not torch.is_grad_enabled():
        result = bn_act_kernels.bn_act(BnActInputs(*inputs))
    else:
        run = _Direct.apply if direct else torch.ops.lasfast.bn_act
        result = run(*inputs)
    return result


def follow(
    running: Running,
    batch: Statistics,
    momentum: float,
    rows: int,
    ranks: ProcessRanks | None,
    operators: ModuleType,
) -> Statistics:
    """Let the running statistics follow a batch, and return the batch's: those of all ranks.

    This rank's are of `rows` values a channel. `operators` has `update_running`.
    """
    if is_distributed(ranks):
        mean, var, values = merge_statistics(ranks, *batch, rows)
        batch = mean, var
        with torch.no_grad():
            reference.update_running(running, batch, momentum, values)
    elif rows > 0:
        operators.update_running(running, batch, momentum, rows)
    return batch


def is_direct(x: Tensor) -> bool:
    """Return whether the kernels can be called without the dispatcher, which takes longer than a small layer.

    They cannot where somebody watches the operators, or where x only stands for a tensor.
    """
    return not is_watched() and type(x) in (Tensor, Parameter) and bn_act_kernels.supports(x)


def _check_running(x: Tensor, running: Running) -> None:
    """Raise unless the running statistics fit x: in the middle of an update would be too late."""
    for name, values in zip(("running_mean", "running_var"), running, strict=True):
        if values is not None:
            check_channels(name, values, x, values.dtype)


@torch.no_grad()
def _batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    check_x(x)
    return (bn_act_kernels if bn_act_kernels.supports(x) else reference).batch_statistics(x)


def _forward(*arguments: Any) -> Tensor:
    inputs = BnActInputs(*arguments)
    check_inputs(inputs)
    if bn_act_kernels.supports(inputs.x):
        return bn_act_kernels.bn_act(inputs)
    return torch.empty_like(inputs.x).copy_(reference.bn_act(inputs))


@torch.no_grad()
def _backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *forward, needed = arguments
    inputs = BnActInputs(*forward)
    check_inputs(inputs)
    check_grad(grad, inputs.x)
    results = empty_gradients(inputs, needed)
    _write_gradients(grad, inputs, results)
    return as_outputs(results, inputs.x)


def _write_gradients(
    grad: Tensor, inputs: BnActInputs, results: Sequence[Tensor | None], ranks: ProcessRanks | None = None
) -> None:
    """Overwrite `results` with the gradients of x, weight, bias and residual; None is not wanted."""
    if bn_act_kernels.supports(inputs.x):
        bn_act_kernels.bn_act_backward(grad, inputs, results, ranks)
        return
    for result, gradient in zip(results, reference.bn_act_backward(grad, inputs, ranks), strict=True):
        if result is not None:
            result.copy_(gradient if result.dim() == 1 else gradient[:, : result.shape[1]])


class _Direct(torch.autograd.Function):
    """The operator without the dispatcher, and without checks of what was checked before."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        save_inputs(ctx, arguments)
        return bn_act_kernels.bn_act(BnActInputs(*arguments))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # somebody may want to differentiate again, which this refuses
            return gradients(ctx, grad)
        inputs = saved_inputs(ctx)
        results = empty_gradients(inputs, needed_gradients(ctx.needs_input_grad))
        bn_act_kernels.bn_act_backward(grad, inputs, results)
        return for_arguments(*results)


class _Distributed(torch.autograd.Function):
    """The operator where statistics are those of several ranks, whose gradient of x takes sums from all."""

    @staticmethod
    def forward(ctx: Any, ranks: ProcessRanks, *arguments: Any) -> Tensor:
        save_inputs(ctx, arguments)
        ctx.ranks = ranks
        return _forward(*arguments)

    @staticmethod
    @first_order
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        inputs = saved_inputs(ctx)
        results = empty_gradients(inputs, needed_gradients(ctx.needs_input_grad[1:]))
        _write_gradients(grad, inputs, results, ctx.ranks)
        return None, *for_arguments(*results)


for _name, _implementation in (
    ("batch_statistics", _batch_statistics),
    ("bn_act", _forward),
    ("bn_act_backward", _backward),
):
    library.impl(_name, _implementation, "CompositeExplicitAutograd")
