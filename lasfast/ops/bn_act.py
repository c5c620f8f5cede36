"""`lasfast::bn_act`: batch norm, activation and the sum of a residual block as one operator, for training.

Three operators (the batch's statistics; the normalization with all that follows; its gradients) and the
function on top of them, which stands for `F.batch_norm` and what comes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

from lasfast.ir.activations import ACTIVATIONS
from lasfast.ops import native_bn_act as native
from lasfast.ops import reference_bn_act as reference
from lasfast.ops.process_ranks import Ranks, merge_statistics
from lasfast.ops.reference_bn_act import statistics_dtype

_library = torch.library.Library("lasfast", "FRAGMENT")
_library.define("batch_statistics(Tensor x) -> (Tensor mean, Tensor var)")
_library.define(
    "bn_act(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor? residual, "
    "bool batch_statistics, float eps, str activation) -> Tensor"
)
_library.define(
    "bn_act_backward(Tensor grad, Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
    "Tensor? residual, bool batch_statistics, float eps, str activation, bool[4] needed) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)

Needed = Sequence[bool]
"""Which gradients are wanted: of x, weight, bias, residual."""


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
    ranks: Ranks | None = None,
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
        raise TypeError(f"x is a {type(x).__name__}, expected a tensor [N, C, H, W]")
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected 4 dimensions [N, C, H, W]")
    _check_running(x, running_mean, running_var)
    dtype = statistics_dtype(x.dtype)
    rows = x.shape[0] * x.shape[2] * x.shape[3]
    mean: Tensor | None
    var: Tensor | None
    if training:
        mean, var = (None, None) if statistics is None else (s.detach() for s in statistics)
        if rows == 1 and not several(ranks):
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {x.size()}"
            )
    else:
        if statistics is not None:
            raise ValueError("statistics are given, expected none in evaluation, which uses the running ones")
        if running_mean is None or running_var is None:
            raise ValueError("running_mean or running_var is None, expected tensors [C] in evaluation")
        mean, var = running_mean.to(dtype), running_var.to(dtype)
    if weight is not None and weight.dtype != dtype:
        weight = weight.to(dtype)
    if bias is not None and bias.dtype != dtype:
        bias = bias.to(dtype)
    if residual is not None and residual.dtype != x.dtype:
        residual = residual.to(x.dtype)
    _check(x, mean, var, weight, bias, residual, activation)

    direct = is_direct(x)
    if mean is None or var is None:
        mean, var = (native if direct else torch.ops.lasfast).batch_statistics(x)
    if training:
        running = running_mean, running_var
        mean, var = follow(*running, mean, var, momentum, rows, ranks, native if direct else reference)
        if several(ranks):
            over_ranks: Tensor = _OverRanks.apply(
                ranks, x, mean, var, weight, bias, residual, eps, activation
            )
            return over_ranks
    run = _Direct.apply if direct else torch.ops.lasfast.bn_act
    result: Tensor = run(x, mean, var, weight, bias, residual, training, eps, activation)
    return result


def several(ranks: Ranks | None) -> TypeGuard[Ranks]:
    """Whether there is anybody to exchange anything with."""
    return ranks is not None and ranks.size > 1


def follow(
    running_mean: Tensor | None,
    running_var: Tensor | None,
    mean: Tensor,
    var: Tensor,
    momentum: float,
    rows: int,
    ranks: Ranks | None,
    operators: ModuleType,
) -> tuple[Tensor, Tensor]:
    """Statistics of all ranks from one's own, of `rows` values a channel; the running ones follow these."""
    if several(ranks):
        mean, var, values = merge_statistics(ranks, mean, var, rows)
        with torch.no_grad():
            reference.update_running(running_mean, running_var, mean, var, momentum, values)
    elif rows > 0:
        operators.update_running(running_mean, running_var, mean, var, momentum, rows)
    return mean, var


def is_direct(x: Tensor) -> bool:
    """Whether the kernels can be called without the dispatcher, which takes longer than a small layer.

    Not where somebody watches the operators, or where x only stands for a tensor.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and type(x) in (Tensor, Parameter)
        and native.supports(x)
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
    )


def _check_running(x: Tensor, *running: Tensor | None) -> None:
    """Raise unless the running statistics fit x: in the middle of an update would be too late."""
    for name, values in zip(("running_mean", "running_var"), running, strict=True):
        if values is not None:
            _check_channels(name, values, x, values.dtype)


def _check_channels(name: str, values: Tensor, x: Tensor, dtype: torch.dtype) -> None:
    if values.dim() != 1 or values.shape[0] != x.shape[1]:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, expected [{x.shape[1]}], the channels of x"
        )
    if values.dtype != dtype:
        raise TypeError(f"{name} has dtype {values.dtype}, expected {dtype} for x of {x.dtype}")
    if values.device != x.device:
        raise ValueError(f"{name} is on {values.device}, expected {x.device} as x is")


def _check_x(x: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected 4 dimensions [N, C, H, W]")
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}, expected a floating-point tensor")


def _check_image(name: str, values: Tensor, x: Tensor, channels: int, expected: str) -> None:
    if tuple(values.shape) != (x.shape[0], channels, *x.shape[2:]):
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, expected {expected} for x {tuple(x.shape)}"
        )
    if values.dtype != x.dtype:
        raise TypeError(f"{name} has dtype {values.dtype}, expected {x.dtype} as x has")
    if values.device != x.device:
        raise ValueError(f"{name} is on {values.device}, expected {x.device} as x is")


def _check(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
) -> None:
    _check_x(x)
    dtype = statistics_dtype(x.dtype)
    for name, values in (("mean", mean), ("var", var), ("weight", weight), ("bias", bias)):
        if values is not None:
            _check_channels(name, values, x, dtype)
    if residual is not None:
        channels = residual.shape[1] if residual.dim() == 4 else -1
        if not 1 <= channels <= x.shape[1]:
            channels = x.shape[1]
        _check_image("residual", residual, x, channels, f"[N, at most {x.shape[1]}, H, W]")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")


@torch.no_grad()
def _batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    _check_x(x)
    return native.batch_statistics(x) if native.supports(x) else reference.batch_statistics(x)


def _fake_batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    _check_x(x)
    dtype = statistics_dtype(x.dtype)
    return x.new_empty(x.shape[1], dtype=dtype), x.new_empty(x.shape[1], dtype=dtype)


def _forward(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    batch_statistics: bool,
    eps: float,
    activation: str,
) -> Tensor:
    _check(x, mean, var, weight, bias, residual, activation)
    if native.supports(x):
        return native.bn_act(x, mean, var, weight, bias, residual, eps, activation)
    y = reference.bn_act(x, mean, var, weight, bias, residual, eps, activation)
    return torch.empty_like(x).copy_(y)


def _fake_forward(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    batch_statistics: bool,
    eps: float,
    activation: str,
) -> Tensor:
    _check(x, mean, var, weight, bias, residual, activation)
    return torch.empty_like(x)


def bn_results(x: Tensor, mean: Tensor, residual: Tensor | None, needed: Needed) -> list[Tensor | None]:
    """Room for the gradients of x, weight, bias and residual; None for those that nobody needs."""
    return [
        torch.empty_like(x) if needed[0] else None,
        torch.empty_like(mean) if needed[1] else None,
        torch.empty_like(mean) if needed[2] else None,
        torch.empty_like(residual) if needed[3] and residual is not None else None,
    ]


def _filled(results: Sequence[Tensor | None], x: Tensor) -> tuple[Tensor, ...]:
    """The same with empty tensors for None, since operators return tensors."""
    return tuple(x.new_empty(0) if result is None else result for result in results)


@torch.no_grad()
def _backward(
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
    needed: Needed,
) -> tuple[Tensor, ...]:
    _check(x, mean, var, weight, bias, residual, activation)
    _check_image("grad", grad, x, x.shape[1], "[N, C, H, W]")
    results = bn_results(x, mean, residual, needed)
    arguments = (grad, x, mean, var, weight, bias, residual, batch_statistics, eps, activation)
    _write_gradients(arguments, results)
    return _filled(results, x)


def _write_gradients(arguments: Any, results: Sequence[Tensor | None], ranks: Ranks | None = None) -> None:
    """Overwrite `results` with the gradients of x, weight, bias, residual that are wanted."""
    every: list[Any] = [*arguments, ranks]
    if native.supports(arguments[1]):
        native.bn_act_backward(*[*every, results])
        return
    gradients = reference.bn_act_backward(*every)
    for result, gradient in zip(results, gradients, strict=True):
        if result is not None:
            result.copy_(gradient if result.dim() == 1 else gradient[:, : result.shape[1]])


def _fake_backward(
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
    needed: Needed,
) -> tuple[Tensor, ...]:
    _check(x, mean, var, weight, bias, residual, activation)
    _check_image("grad", grad, x, x.shape[1], "[N, C, H, W]")
    return _filled(bn_results(x, mean, residual, needed), x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.rest = inputs[6:]


def _needed(ctx: Any) -> Needed:
    x, _, _, *rest = ctx.needs_input_grad
    return [x, *rest[:3]]


@once_differentiable
def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    needed = _needed(ctx)
    results = torch.ops.lasfast.bn_act_backward(grad, *ctx.saved_tensors, *ctx.rest, needed)
    x, weight, bias, residual = (r if n else None for r, n in zip(results, needed, strict=True))
    return x, None, None, weight, bias, residual, None, None, None


class _Direct(torch.autograd.Function):
    """The operator without the dispatcher, and without checks of what was checked before."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        _setup(ctx, inputs, inputs[0])
        return native.bn_act(*inputs[:6], *inputs[7:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # somebody may want to differentiate again: that takes longer to refuse
            return _gradients(ctx, grad)
        saved = ctx.saved_tensors
        x, weight, bias, residual = results = bn_results(saved[0], saved[1], saved[5], _needed(ctx))
        arguments: list[Any] = [grad, *saved, *ctx.rest, None, results]
        native.bn_act_backward(*arguments)
        return x, None, None, weight, bias, residual, None, None, None


class _OverRanks(torch.autograd.Function):
    """The operator where statistics are those of several ranks, whose gradient of x takes sums from all."""

    @staticmethod
    def forward(
        ctx: Any,
        ranks: Ranks,
        x: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        eps: float,
        activation: str,
    ) -> Tensor:
        ctx.save_for_backward(x, mean, var, weight, bias, residual)
        ctx.ranks, ctx.rest = ranks, (True, eps, activation)
        return _forward(x, mean, var, weight, bias, residual, True, eps, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        _, of_x, _, _, *of_rest = ctx.needs_input_grad
        results = bn_results(saved[0], saved[1], saved[5], [of_x, *of_rest[:3]])
        _write_gradients((grad, *saved, *ctx.rest), results, ctx.ranks)
        x, weight, bias, residual = results
        return None, x, None, None, weight, bias, residual, None, None


for _name, _kernel, _fake_kernel in (
    ("batch_statistics", _batch_statistics, _fake_batch_statistics),
    ("bn_act", _forward, _fake_forward),
    ("bn_act_backward", _backward, _fake_backward),
):
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lasfast::{_name}", _fake_kernel, lib=_library)
torch.library.register_autograd("lasfast::bn_act", _gradients, setup_context=_setup, lib=_library)
# No gradient flows through these two, which run without recording any: bn_act's counts what flows through the
# statistics.
for _name in ("batch_statistics", "bn_act_backward"):
    _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")
