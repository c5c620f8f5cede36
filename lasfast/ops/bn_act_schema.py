"""`lasfast::bn_act` apart from any device: schemas, checks, fakes and gradients.

There are three operators: the batch's statistics; the normalization with all that follows; its gradients.
`lasfast.ops.bn_act` implements them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lasfast.ir.activations import ACTIVATIONS
from lasfast.ops.derivatives import first_order

library = torch.library.Library("lasfast", "FRAGMENT")
library.define("batch_statistics(Tensor x) -> (Tensor mean, Tensor var)")
library.define(
    "bn_act(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor? residual, "
    "bool batch_statistics, float eps, str activation) -> Tensor"
)
library.define(
    "bn_act_backward(Tensor grad, Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, "
    "Tensor? residual, bool batch_statistics, float eps, str activation, bool[4] needed) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)

Needed = Sequence[bool]
"""A flag for each gradient, of x, weight, bias and residual: it says whether that one is wanted."""


Statistics = tuple[Tensor, Tensor]
"""Mean and variance, [C] each."""
Running = tuple[Tensor | None, Tensor | None]
"""Running mean and variance, [C] each, if there are any."""


class BnActInputs(NamedTuple):
    """The arguments of `lasfast::bn_act`, as `lasfast.ops.bn_act` describes them.

    Attributes:
        mean, var: [C] each, what x is normalized by.
        batch_statistics: whether these are of x itself, so that gradients flow through them.
    """

    x: Tensor
    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    batch_statistics: bool
    eps: float
    activation: str


TENSORS = 6  # of the inputs, which come first


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of statistics, parameters and arithmetic for values of this dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_x(x: Tensor) -> None:
    """Raise ValueError or TypeError unless these are floating-point values of four dimensions."""
    if x.dim() != 4:
        raise ValueError(f"x must have 4 dimensions [N, C, H, W], got shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"x must have a floating-point dtype, got {x.dtype}")


def check_channels(name: str, values: Tensor, x: Tensor, dtype: torch.dtype) -> None:
    """Raise ValueError or TypeError unless these are [C] of this dtype, on the device of x."""
    if values.dim() != 1 or values.shape[0] != x.shape[1]:
        raise ValueError(
            f"{name} must have shape [{x.shape[1]}], the channels of x, got {tuple(values.shape)}"
        )
    if values.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype} for x of {x.dtype}, got {values.dtype}")
    if values.device != x.device:
        raise ValueError(f"{name} must be on {x.device} as x is, got {values.device}")


def check_statistics(x: Tensor, mean: Tensor, var: Tensor) -> None:
    """Raise ValueError or TypeError unless x can be normalized by these."""
    dtype = statistics_dtype(x.dtype)
    check_channels("mean", mean, x, dtype)
    check_channels("var", var, x, dtype)


def check_parameters(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, activation: str
) -> None:
    """Raise ValueError or TypeError unless these fit x."""
    dtype = statistics_dtype(x.dtype)
    if weight is not None:
        check_channels("weight", weight, x, dtype)
    if bias is not None:
        check_channels("bias", bias, x, dtype)
    if residual is not None:
        channels = residual.shape[1] if residual.dim() == 4 else -1
        if not 1 <= channels <= x.shape[1]:
            channels = x.shape[1]
        _check_image("residual", residual, x, channels, f"[N, at most {x.shape[1]}, H, W]")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")


def check_inputs(inputs: BnActInputs) -> None:
    """Raise ValueError or TypeError unless the operator can be computed."""
    x, mean, var, weight, bias, residual, _, _, activation = inputs
    check_x(x)
    check_statistics(x, mean, var)
    check_parameters(x, weight, bias, residual, activation)


def check_grad(grad: Tensor, x: Tensor) -> None:
    """Raise ValueError or TypeError unless this can be the gradient of the output."""
    _check_image("grad", grad, x, x.shape[1], "[N, C, H, W]")


def _check_image(name: str, values: Tensor, x: Tensor, channels: int, expected: str) -> None:
    if tuple(values.shape) != (x.shape[0], channels, *x.shape[2:]):
        raise ValueError(
            f"{name} must have shape {expected} for x {tuple(x.shape)}, got {tuple(values.shape)}"
        )
    if values.dtype != x.dtype:
        raise TypeError(f"{name} must have the dtype {x.dtype} of x, got {values.dtype}")
    if values.device != x.device:
        raise ValueError(f"{name} must be on {x.device} as x is, got {values.device}")


def empty_gradients(inputs: BnActInputs, needed: Needed) -> list[Tensor | None]:
    """Return memory for the gradients of x, weight, bias and residual; None for those not wanted."""
    mean, residual = inputs.mean, inputs.residual
    return [
        torch.empty_like(inputs.x) if needed[0] else None,
        torch.empty_like(mean) if needed[1] else None,
        torch.empty_like(mean) if needed[2] else None,
        torch.empty_like(residual) if needed[3] and residual is not None else None,
    ]


def as_outputs(gradients: Sequence[Tensor | None], x: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients with empty tensors for None: operators return tensors."""
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in gradients)


def save_inputs(ctx: Any, inputs: Sequence[Any]) -> None:
    """Keep the operator's arguments for its backward pass."""
    ctx.save_for_backward(*inputs[:TENSORS])
    ctx.rest = inputs[TENSORS:]


def saved_inputs(ctx: Any) -> BnActInputs:
    """Return what `save_inputs` kept."""
    return BnActInputs(*ctx.saved_tensors, *ctx.rest)


def needed_gradients(needs_input_grad: Sequence[bool]) -> Needed:
    """Return which gradients are wanted, by which of the operator's arguments need one."""
    x, _, _, weight, bias, residual, *_ = needs_input_grad
    return x, weight, bias, residual


def _fake_batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    check_x(x)
    dtype = statistics_dtype(x.dtype)
    return x.new_empty(x.shape[1], dtype=dtype), x.new_empty(x.shape[1], dtype=dtype)


def _fake_forward(*arguments: Any) -> Tensor:
    inputs = BnActInputs(*arguments)
    check_inputs(inputs)
    return torch.empty_like(inputs.x)


def _fake_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *forward, needed = arguments
    inputs = BnActInputs(*forward)
    check_inputs(inputs)
    check_grad(grad, inputs.x)
    return as_outputs(empty_gradients(inputs, needed), inputs.x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    save_inputs(ctx, inputs)


@first_order
def gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Return the gradients of the operator's arguments, by the operator `bn_act_backward`."""
    needed = needed_gradients(ctx.needs_input_grad)
    results = torch.ops.lasfast.bn_act_backward(grad, *ctx.saved_tensors, *ctx.rest, needed)
    return for_arguments(
        *(result if wanted else None for result, wanted in zip(results, needed, strict=True))
    )


def for_arguments(
    x: Tensor | None, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Return gradients as autograd takes them, one for each of the operator's arguments."""
    return x, None, None, weight, bias, residual, None, None, None


for _name, _fake in (
    ("batch_statistics", _fake_batch_statistics),
    ("bn_act", _fake_forward),
    ("bn_act_backward", _fake_backward),
):
    torch.library.register_fake(f"lasfast::{_name}", _fake, lib=library)
torch.library.register_autograd("lasfast::bn_act", gradients, setup_context=_setup, lib=library)
# No gradient flows through these two, which run without recording any: bn_act's counts what flows through the
# statistics.
for _name in ("batch_statistics", "bn_act_backward"):
    library.impl(_name, torch.library.fallthrough_kernel, "Autograd")
