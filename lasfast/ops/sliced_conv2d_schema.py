"""`lasfast::sliced_conv2d` apart from any device: schemas, checks, fakes and gradients.

The two gradients are operators of their own, and each one's gradient is one of the three again, so the
operator can be differentiated any number of times. `lasfast.ops.sliced_conv2d` implements them.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Size = Sequence[int]
_INPUT, _WEIGHT, _OUTPUT = "[N, c_in, H, W]", "[C_out, C_in / groups, kh, kw]", "[N, c_out, H', W']"

library = torch.library.Library("lasfast", "FRAGMENT")
library.define(
    "sliced_conv2d(Tensor input, Tensor weight, SymInt c_in, SymInt c_out, "
    "SymInt stride, SymInt padding, SymInt groups) -> Tensor"
)
library.define(
    "sliced_conv2d_statistics(Tensor input, Tensor weight, SymInt c_in, SymInt c_out, "
    "SymInt stride, SymInt padding, SymInt groups) -> (Tensor, Tensor, Tensor)"
)
library.define(
    "sliced_conv2d_grad_input(Tensor grad_output, Tensor weight, SymInt c_in, SymInt height, SymInt width, "
    "SymInt stride, SymInt padding, SymInt groups) -> Tensor"
)
library.define(
    "sliced_conv2d_grad_weight(Tensor grad_output, Tensor input, Tensor weight, "
    "SymInt stride, SymInt padding, SymInt groups) -> Tensor"
)


class Geometry(NamedTuple):
    """The sizes of a convolution, which fit each other.

    Attributes:
        input: [N, c_in, H, W].
        output: [N, c_out, H', W'].
        weight: [>= c_out, >= c_in // groups, kh, kw].
    """

    input: Size
    output: Size
    weight: Size
    stride: int
    padding: int
    groups: int


def as_arguments(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> tuple[Any, ...]:
    """Return the operators' arguments: ints as ints, the input as autocast wants it.

    Raises TypeError for arguments of other types.
    """
    if not isinstance(input, Tensor):
        raise TypeError(f"input must be a tensor {_INPUT}, got a {type(input).__name__}")
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a tensor {_WEIGHT}, got a {type(weight).__name__}")
    numbers: tuple[Any, ...] = c_in, c_out, stride, padding, groups
    if not all(type(number) is int for number in numbers):
        names = ("c_in", "c_out", "stride", "padding", "groups")
        numbers = tuple(map(_as_int, names, numbers))
    device = input.device.type
    if torch.is_autocast_enabled(device) and input.is_floating_point() and input.dtype != torch.float64:
        # The weight is rounded where it is read, and its gradient is not.
        input = input.to(torch.get_autocast_dtype(device))
    return (input, weight, *numbers)


def _as_int(name: str, value: Any) -> Any:
    """Return an int as it is, also one that torch.compile has not fixed, and anything like it as an int."""
    if isinstance(value, (int, torch.SymInt)):
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None


def check_tensors(input: Tensor, weight: Tensor) -> None:
    """Raise TypeError or ValueError unless these can be convolved, whatever their sizes."""
    _check_tensor("input", input, None, _INPUT)
    _check_tensor("weight", weight, input, _WEIGHT)


def _check_tensor(name: str, value: Tensor, like: Tensor | None, dimensions: str) -> None:
    if value.dim() != 4:
        raise ValueError(f"{name} must have 4 dimensions {dimensions}, got shape {tuple(value.shape)}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must have a floating-point dtype, got {value.dtype}")
    if like is not None and not _is_dtype_for(value.dtype, like.dtype):
        raise TypeError(f"{name} must have the dtype {like.dtype} of the other tensor, got {value.dtype}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name} must be on {like.device} as the other tensor is, got {value.device}")


def _is_dtype_for(weight: torch.dtype, values: torch.dtype) -> bool:
    """Return whether a weight can be read for values of another dtype: float32 is rounded to 16 bits."""
    return weight == values or (weight == torch.float32 and values in (torch.bfloat16, torch.float16))


def geometry_of(
    input_size: Size, weight_size: Size, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> Geometry:
    """Return the sizes of a convolution; raises ValueError where they do not fit each other."""
    for name, value, least in (("groups", groups, 1), ("stride", stride, 1), ("padding", padding, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    for name, value in (("c_in", c_in), ("c_out", c_out)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
        if value % groups != 0:
            raise ValueError(f"{name} must be a multiple of groups={groups}, got {value}")
    if c_out > weight_size[0]:
        raise ValueError(f"c_out must be at most the {weight_size[0]} filters of weight, got {c_out}")
    if c_in // groups > weight_size[1]:
        raise ValueError(
            f"c_in must be at most {weight_size[1] * groups}: {groups} groups of the {weight_size[1]} input "
            f"channels of each filter of weight {tuple(weight_size)}, got {c_in}"
        )
    if c_in != input_size[1]:
        raise ValueError(
            f"c_in must be the {input_size[1]} channels of input {tuple(input_size)}, got {c_in}"
        )
    for name, size, kernel in zip(("height", "width"), input_size[2:], weight_size[2:], strict=True):
        if kernel < 1 or size < 1 or size + 2 * padding < kernel:
            raise ValueError(
                f"input must have room for the kernel of {name} {kernel}, got {name} {size} and padding "
                f"{padding}"
            )
    output = output_size(input_size, c_out, weight_size[2:], stride, padding)
    return Geometry(input_size, output, weight_size, stride, padding, groups)


known_geometry_of = functools.lru_cache(maxsize=4096)(geometry_of)
"""The same, remembered, for sizes that are plain ints."""


def output_size(input_size: Size, c_out: int, kernel: Size, stride: int, padding: int) -> tuple[int, ...]:
    """Return the size [N, c_out, H', W'] of a convolution's output; `kernel` is (kh, kw)."""
    return (
        input_size[0],
        c_out,
        (input_size[2] + 2 * padding - kernel[0]) // stride + 1,
        (input_size[3] + 2 * padding - kernel[1]) // stride + 1,
    )


def check_for_grad_input(grad_output: Tensor, weight: Tensor) -> None:
    """Raise TypeError or ValueError unless these can give the input's gradient, whatever their sizes."""
    _check_tensor("grad_output", grad_output, None, _OUTPUT)
    _check_tensor("weight", weight, grad_output, _WEIGHT)


def check_for_grad_weight(grad_output: Tensor, input: Tensor, weight: Tensor) -> None:
    """Raise TypeError or ValueError unless these can give the weight's gradient, whatever their sizes."""
    _check_tensor("grad_output", grad_output, None, _OUTPUT)
    _check_tensor("input", input, grad_output, _INPUT)
    _check_tensor("weight", weight, input, _WEIGHT)


def check_grad_output(grad_output: Tensor, geometry: Geometry) -> None:
    """Raise ValueError unless this has the size of the convolution's output."""
    if tuple(grad_output.shape) != tuple(geometry.output):
        raise ValueError(
            f"grad_output must have shape {tuple(geometry.output)}, got {tuple(grad_output.shape)}"
        )


def is_channels_last(values: Tensor) -> bool:
    """Return whether values are channels_last and not contiguous: one channel or position may be both."""
    return values.is_contiguous(memory_format=torch.channels_last) and not values.is_contiguous()


def _empty(size: Size, like: Tensor) -> Tensor:
    """Return a result of this size, channels_last exactly if `like` is that and not contiguous."""
    memory_format = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _fake(input: Tensor, weight: Tensor, *numbers: int) -> Tensor:
    check_tensors(input, weight)
    return _empty(geometry_of(input.shape, weight.shape, *numbers).output, input)


def _fake_statistics(input: Tensor, weight: Tensor, *numbers: int) -> tuple[Tensor, Tensor, Tensor]:
    output = _fake(input, weight, *numbers)
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    mean, var = (torch.empty(output.shape[1], dtype=dtype, device=input.device) for _ in range(2))
    return output, mean, var


def _fake_grad_input(
    grad_output: Tensor, weight: Tensor, c_in: int, height: int, width: int, *numbers: int
) -> Tensor:
    check_for_grad_input(grad_output, weight)
    size, c_out = (grad_output.shape[0], c_in, height, width), grad_output.shape[1]
    check_grad_output(grad_output, geometry_of(size, weight.shape, c_in, c_out, *numbers))
    return _empty(size, grad_output)


def _fake_grad_weight(grad_output: Tensor, input: Tensor, weight: Tensor, *numbers: int) -> Tensor:
    check_for_grad_weight(grad_output, input, weight)
    channels = input.shape[1], grad_output.shape[1]
    check_grad_output(grad_output, geometry_of(input.shape, weight.shape, *channels, *numbers))
    return torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, ctx.c_in, _, *ctx.numbers = inputs
    ctx.save_for_backward(input if ctx.needs_input_grad[1] else None, weight)
    ctx.size = input.shape[2:]


def _save_statistics(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs, output[0])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad_output: Tensor, *of_statistics: None) -> tuple[Any, ...]:
    input, weight = ctx.saved_tensors
    ops = torch.ops.lasfast
    grad_input = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_input = ops.sliced_conv2d_grad_input(grad_output, weight, ctx.c_in, *ctx.size, *ctx.numbers)
    if ctx.needs_input_grad[1]:
        grad_weight = ops.sliced_conv2d_grad_weight(grad_output, input, weight, *ctx.numbers)
    return grad_input, grad_weight, None, None, None, None, None


def _save_grad_input(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_output, weight, ctx.c_in, _, _, *ctx.numbers = inputs
    ctx.save_for_backward(grad_output, weight)


def _backward_grad_input(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Differentiate grad_input, which is linear in grad_output and weight: `grad` stands for the input."""
    grad_output, weight = ctx.saved_tensors
    ops = torch.ops.lasfast
    for_output = for_weight = None
    if ctx.needs_input_grad[0]:
        for_output = ops.sliced_conv2d(grad, weight, ctx.c_in, grad_output.shape[1], *ctx.numbers)
    if ctx.needs_input_grad[1]:
        for_weight = ops.sliced_conv2d_grad_weight(grad_output, grad, weight, *ctx.numbers)
    return for_output, for_weight, None, None, None, None, None, None


def _save_grad_weight(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_output, input, _, *ctx.numbers = inputs
    ctx.save_for_backward(grad_output, input)


def _backward_grad_weight(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Differentiate grad_weight, which is linear in grad_output and input: `grad` stands for the weight."""
    grad_output, input = ctx.saved_tensors
    ops = torch.ops.lasfast
    for_output = for_input = None
    c_in, height, width = input.shape[1:]
    if ctx.needs_input_grad[0]:
        for_output = ops.sliced_conv2d(input, grad, c_in, grad_output.shape[1], *ctx.numbers)
    if ctx.needs_input_grad[1]:
        for_input = ops.sliced_conv2d_grad_input(grad_output, grad, c_in, height, width, *ctx.numbers)
    return for_output, for_input, None, None, None, None


for _name, _fake_of, _backward_of, _save_of in (
    ("sliced_conv2d", _fake, _backward, _save),
    ("sliced_conv2d_statistics", _fake_statistics, _backward, _save_statistics),
    ("sliced_conv2d_grad_input", _fake_grad_input, _backward_grad_input, _save_grad_input),
    ("sliced_conv2d_grad_weight", _fake_grad_weight, _backward_grad_weight, _save_grad_weight),
):
    torch.library.register_fake(f"lasfast::{_name}", _fake_of, lib=library)
    torch.library.register_autograd(f"lasfast::{_name}", _backward_of, setup_context=_save_of, lib=library)
