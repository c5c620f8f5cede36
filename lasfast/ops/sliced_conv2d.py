"""`lasfast::sliced_conv2d`: schema, checks, fake, gradients and the choice between native code and reference.

The two gradients are operators of their own, and each one's gradient is one of the three again, so the
operator can be differentiated any number of times.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lasfast.ops import native, reference

_library = torch.library.Library("lasfast", "FRAGMENT")
_library.define(
    "sliced_conv2d(Tensor input, Tensor weight, SymInt c_in, SymInt c_out, "
    "SymInt stride, SymInt padding, SymInt groups) -> Tensor"
)
_library.define(
    "sliced_conv2d_grad_input(Tensor grad_output, Tensor weight, SymInt c_in, SymInt height, SymInt width, "
    "SymInt stride, SymInt padding, SymInt groups) -> Tensor"
)
_library.define(
    "sliced_conv2d_grad_weight(Tensor grad_output, Tensor input, SymInt[] weight_size, "
    "SymInt stride, SymInt padding, SymInt groups) -> Tensor"
)


def sliced_conv2d(
    input: Tensor,
    weight: Tensor,
    c_in: int,
    c_out: int,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Tensor:
    """Convolve with the slice ``weight[:c_out, :c_in // groups]``, read in place.

    The same as ``F.conv2d(input, weight[:c_out, :c_in // groups], None, stride, padding, 1, groups)``.

    Args:
        input: [N, c_in, H, W], any strides.
        weight: [>= c_out, >= c_in // groups, kh, kw], any strides; same dtype and device as `input`.
        c_in: active input channels, a multiple of `groups`.
        c_out: active output channels, a multiple of `groups`. With ``groups == c_in == c_out`` (depthwise)
            these are the first c_out filters.
        stride: of both axes, at least 1.
        padding: zeros on all four sides, at least 0.
        groups: at least 1.

    Returns:
        [N, c_out, (H + 2 * padding - kh) // stride + 1, ...], of the input's dtype, channels_last where the
        input is.

    float32 on the CPU, float32 and bfloat16 (with fp32 sums) on CUDA run in lasfast's kernels, everything
    else through PyTorch. The same inputs give the same bits. The gradient of `weight` has its full size and
    is zero outside the slice. Under autocast both tensors are cast, as for `F.conv2d`.

    Raises TypeError for arguments of other types, ValueError for values that do not fit, before any work.
    """
    if not isinstance(input, Tensor):
        raise TypeError(f"input is a {type(input).__name__}, expected a tensor [N, c_in, H, W]")
    if not isinstance(weight, Tensor):
        raise TypeError(
            f"weight is a {type(weight).__name__}, expected a tensor [C_out, C_in / groups, kh, kw]"
        )
    numbers: dict[str, Any] = {
        "c_in": c_in,
        "c_out": c_out,
        "stride": stride,
        "padding": padding,
        "groups": groups,
    }
    for name, value in numbers.items():
        if isinstance(value, torch.SymInt):
            continue
        try:
            numbers[name] = operator.index(value)
        except TypeError:
            raise TypeError(f"{name} is {value!r}, expected an int") from None
    device = input.device.type
    if torch.is_autocast_enabled(device) and input.is_floating_point() and input.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        if weight.dtype != dtype and weight.dim() == 4:  # cast what is read, not the whole weight
            weight = weight[: numbers["c_out"], : max(0, c_in) // max(1, groups)]
        input, weight = input.to(dtype), weight.to(dtype)
    result: Tensor = torch.ops.lasfast.sliced_conv2d(input, weight, *numbers.values())
    return result


def _check_tensor(name: str, value: Tensor, like: Tensor | None, expected: str) -> None:
    if value.dim() != 4:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected 4 dimensions {expected}")
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {value.dtype}, expected a floating-point tensor")
    if like is not None and value.dtype != like.dtype:
        raise TypeError(f"{name} has dtype {value.dtype}, expected {like.dtype} as the other tensor has")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name} is on {value.device}, expected {like.device} as the other tensor is")


def _check_numbers(
    weight_size: Sequence[int], c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> None:
    if groups < 1:
        raise ValueError(f"groups is {groups}, expected at least 1")
    if stride < 1:
        raise ValueError(f"stride is {stride}, expected at least 1")
    if padding < 0:
        raise ValueError(f"padding is {padding}, expected at least 0")
    for name, value in (("c_in", c_in), ("c_out", c_out)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")
        if value % groups != 0:
            raise ValueError(f"{name} is {value}, expected a multiple of groups={groups}")
    if c_out > weight_size[0]:
        raise ValueError(f"c_out is {c_out}, expected at most the {weight_size[0]} filters of weight")
    if c_in // groups > weight_size[1]:
        raise ValueError(
            f"c_in is {c_in} ({c_in // groups} for each of {groups} groups), expected at most the "
            f"{weight_size[1]} input channels of each filter of weight {tuple(weight_size)}"
        )


def _output_size(
    input_size: Sequence[int], weight_size: Sequence[int], c_out: int, stride: int, padding: int
) -> tuple[int, int, int, int]:
    for name, size, kernel in zip(("height", "width"), input_size[2:], weight_size[2:], strict=True):
        if kernel < 1 or size < 1 or size + 2 * padding < kernel:
            raise ValueError(
                f"input has {name} {size} and padding {padding}, "
                f"expected room for the kernel of {name} {kernel}"
            )
    return (
        input_size[0],
        c_out,
        (input_size[2] + 2 * padding - weight_size[2]) // stride + 1,
        (input_size[3] + 2 * padding - weight_size[3]) // stride + 1,
    )


def _check_grad_output(grad_output: Tensor, expected: Sequence[int]) -> None:
    if tuple(grad_output.shape) != tuple(expected):
        raise ValueError(f"grad_output has shape {tuple(grad_output.shape)}, expected {tuple(expected)}")


def _empty(size: Sequence[int], like: Tensor) -> Tensor:
    """A result of this size, channels_last exactly if `like` is that and not contiguous."""
    last = not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _fake(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> Tensor:
    _check_tensor("input", input, None, "[N, c_in, H, W]")
    _check_tensor("weight", weight, input, "[C_out, C_in / groups, kh, kw]")
    _check_numbers(weight.shape, c_in, c_out, stride, padding, groups)
    if c_in != input.shape[1]:
        raise ValueError(
            f"c_in is {c_in}, expected the {input.shape[1]} channels of input {tuple(input.shape)}"
        )
    return _empty(_output_size(input.shape, weight.shape, c_out, stride, padding), input)


def _fake_grad_input(
    grad_output: Tensor,
    weight: Tensor,
    c_in: int,
    height: int,
    width: int,
    stride: int,
    padding: int,
    groups: int,
) -> Tensor:
    _check_tensor("grad_output", grad_output, None, "[N, c_out, H', W']")
    _check_tensor("weight", weight, grad_output, "[C_out, C_in / groups, kh, kw]")
    batch, c_out = grad_output.shape[:2]
    _check_numbers(weight.shape, c_in, c_out, stride, padding, groups)
    size = (batch, c_in, height, width)
    _check_grad_output(grad_output, _output_size(size, weight.shape, c_out, stride, padding))
    return _empty(size, grad_output)


def _fake_grad_weight(
    grad_output: Tensor, input: Tensor, weight_size: Sequence[int], stride: int, padding: int, groups: int
) -> Tensor:
    _check_tensor("grad_output", grad_output, None, "[N, c_out, H', W']")
    _check_tensor("input", input, grad_output, "[N, c_in, H, W]")
    if len(weight_size) != 4:
        raise ValueError(
            f"weight_size is {tuple(weight_size)}, expected 4 sizes [C_out, C_in / groups, kh, kw]"
        )
    c_out = grad_output.shape[1]
    _check_numbers(weight_size, input.shape[1], c_out, stride, padding, groups)
    _check_grad_output(grad_output, _output_size(input.shape, weight_size, c_out, stride, padding))
    return torch.empty(weight_size, dtype=input.dtype, device=input.device)


def _forward(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> Tensor:
    output = _fake(input, weight, c_in, c_out, stride, padding, groups)
    if native.supports(input):
        native.sliced_conv2d(input, weight, output, stride, padding, groups)
        return output
    return output.copy_(reference.sliced_conv2d(input, weight, c_in, c_out, stride, padding, groups))


def _grad_input(
    grad_output: Tensor,
    weight: Tensor,
    c_in: int,
    height: int,
    width: int,
    stride: int,
    padding: int,
    groups: int,
) -> Tensor:
    result = _fake_grad_input(grad_output, weight, c_in, height, width, stride, padding, groups)
    if native.supports(grad_output):
        native.sliced_conv2d_grad_input(grad_output, weight, result, stride, padding, groups)
        return result
    return result.copy_(
        reference.sliced_conv2d_grad_input(grad_output, weight, c_in, height, width, stride, padding, groups)
    )


def _grad_weight(
    grad_output: Tensor, input: Tensor, weight_size: Sequence[int], stride: int, padding: int, groups: int
) -> Tensor:
    result = _fake_grad_weight(grad_output, input, weight_size, stride, padding, groups)
    if native.supports(input):
        result.zero_()
        native.sliced_conv2d_grad_weight(grad_output, input, result, stride, padding, groups)
        return result
    return reference.sliced_conv2d_grad_weight(grad_output, input, weight_size, stride, padding, groups)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, ctx.c_in, ctx.c_out, *ctx.rest = inputs
    need_input, need_weight = ctx.needs_input_grad[:2]
    ctx.save_for_backward(input if need_weight else None, weight if need_input else None)
    ctx.size, ctx.weight_size = input.shape[2:], weight.shape


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    input, weight = ctx.saved_tensors
    ops = torch.ops.lasfast
    grad_input = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_input = ops.sliced_conv2d_grad_input(grad_output, weight, ctx.c_in, *ctx.size, *ctx.rest)
    if ctx.needs_input_grad[1]:
        grad_weight = ops.sliced_conv2d_grad_weight(grad_output, input, ctx.weight_size, *ctx.rest)
    return grad_input, grad_weight, None, None, None, None, None


def _setup_grad_input(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_output, weight, ctx.c_in, _, _, *ctx.rest = inputs
    ctx.save_for_backward(grad_output, weight)


def _backward_grad_input(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """grad_input is linear in grad_output and in weight; `grad` stands where the input stood."""
    grad_output, weight = ctx.saved_tensors
    ops = torch.ops.lasfast
    for_output = for_weight = None
    if ctx.needs_input_grad[0]:
        for_output = ops.sliced_conv2d(grad, weight, ctx.c_in, grad_output.shape[1], *ctx.rest)
    if ctx.needs_input_grad[1]:
        for_weight = ops.sliced_conv2d_grad_weight(grad_output, grad, weight.shape, *ctx.rest)
    return for_output, for_weight, None, None, None, None, None, None


def _setup_grad_weight(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad_output, input, _, *ctx.rest = inputs
    ctx.save_for_backward(grad_output, input)


def _backward_grad_weight(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """grad_weight is linear in grad_output and in input; `grad` stands where the weight stood."""
    grad_output, input = ctx.saved_tensors
    ops = torch.ops.lasfast
    for_output = for_input = None
    c_in, height, width = input.shape[1:]
    if ctx.needs_input_grad[0]:
        for_output = ops.sliced_conv2d(input, grad, c_in, grad_output.shape[1], *ctx.rest)
    if ctx.needs_input_grad[1]:
        for_input = ops.sliced_conv2d_grad_input(grad_output, grad, c_in, height, width, *ctx.rest)
    return for_output, for_input, None, None, None, None


for _name, _kernel, _fake_kernel, _backward_kernel, _setup_kernel in (
    ("sliced_conv2d", _forward, _fake, _backward, _setup),
    ("sliced_conv2d_grad_input", _grad_input, _fake_grad_input, _backward_grad_input, _setup_grad_input),
    ("sliced_conv2d_grad_weight", _grad_weight, _fake_grad_weight, _backward_grad_weight, _setup_grad_weight),
):
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lasfast::{_name}", _fake_kernel, lib=_library)
    torch.library.register_autograd(
        f"lasfast::{_name}", _backward_kernel, setup_context=_setup_kernel, lib=_library
    )
