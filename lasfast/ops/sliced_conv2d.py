"""`lasfast::sliced_conv2d`: schema, checks, fake, gradients and the choice between native code and reference.

The two gradients are operators of their own, and each one's gradient is one of the three again, so the
operator can be differentiated any number of times.
"""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lasfast.ops import native
from lasfast.ops.convolution import Convolution, Size, find_convolution
from lasfast.ops.native_nhwc import may_round_to_tf32
from lasfast.runtime import placement

_library = torch.library.Library("lasfast", "FRAGMENT")
_library.define(
    "sliced_conv2d(Tensor input, Tensor weight, SymInt c_in, SymInt c_out, "
    "SymInt stride, SymInt padding, SymInt groups) -> Tensor"
)
_library.define(
    "sliced_conv2d_statistics(Tensor input, Tensor weight, SymInt c_in, SymInt c_out, "
    "SymInt stride, SymInt padding, SymInt groups) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "sliced_conv2d_grad_input(Tensor grad_output, Tensor weight, SymInt c_in, SymInt height, SymInt width, "
    "SymInt stride, SymInt padding, SymInt groups) -> Tensor"
)
_library.define(
    "sliced_conv2d_grad_weight(Tensor grad_output, Tensor input, Tensor weight, "
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
        weight: [>= c_out, >= c_in // groups, kh, kw], any strides; on the input's device, of its dtype or,
            with an input of lower precision, float32: it is then rounded as it is read.
        c_in: active input channels, a multiple of `groups`.
        c_out: active output channels, a multiple of `groups`. With ``groups == c_in == c_out`` (depthwise)
            these are the first c_out filters.
        stride: of both axes, at least 1.
        padding: zeros on all four sides, at least 0.
        groups: at least 1.

    Returns:
        [N, c_out, (H + 2 * padding - kh) // stride + 1, ...], of the input's dtype, channels_last where the
        input is.

    lasfast's kernels take float32 on the CPU and on CUDA, bfloat16 (with fp32 sums) on CUDA and, in
    channels_last, on processors with AMX or AVX-512 BF16; where PyTorch's are faster for a shape (see
    `lasfast.runtime.autotune`), and for everything else, those run. On CUDA, tensor cores multiply what is in
    channels_last, float32 as TF32 where `torch.backends.cudnn` lets PyTorch's own convolutions do so. The
    same inputs give the same bits. The gradient of `weight` has its full size and is zero outside the slice.
    Under autocast the input is cast, as for `F.conv2d`, and the weight is rounded as it is read.

    Raises TypeError for arguments of other types, ValueError for values that do not fit, before any work.
    """
    result: Tensor = torch.ops.lasfast.sliced_conv2d(
        *as_arguments(input, weight, c_in, c_out, stride, padding, groups)
    )
    return result


def sliced_conv2d_statistics(
    input: Tensor,
    weight: Tensor,
    c_in: int,
    c_out: int,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve as :func:`sliced_conv2d`, and take the output's mean and biased variance along the way.

    Returns:
        The output [N, c_out, H', W']; mean and variance fp32 [c_out] (float64 for a float64 input), over
        images and positions, of the sums before they are rounded or of the rounded output. No gradient flows
        through these two.
    """
    output, mean, var = torch.ops.lasfast.sliced_conv2d_statistics(
        *as_arguments(input, weight, c_in, c_out, stride, padding, groups)
    )
    return output, mean, var


def as_arguments(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> tuple[Any, ...]:
    """The operators' arguments: ints as ints, tensors as autocast wants them; TypeError for other types."""
    if not isinstance(input, Tensor):
        raise TypeError(f"input is a {type(input).__name__}, expected a tensor [N, c_in, H, W]")
    if not isinstance(weight, Tensor):
        raise TypeError(
            f"weight is a {type(weight).__name__}, expected a tensor [C_out, C_in / groups, kh, kw]"
        )
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
    if isinstance(value, (int, torch.SymInt)):
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an int") from None


def _check_tensor(name: str, value: Tensor, like: Tensor | None, expected: str) -> None:
    if value.dim() != 4:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected 4 dimensions {expected}")
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {value.dtype}, expected a floating-point tensor")
    if like is not None and not _is_dtype_for(value.dtype, like.dtype):
        raise TypeError(f"{name} has dtype {value.dtype}, expected {like.dtype} as the other tensor has")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name} is on {value.device}, expected {like.device} as the other tensor is")


def _is_dtype_for(weight: torch.dtype, values: torch.dtype) -> bool:
    """Whether a weight of this dtype can be read for values of that: float32 is rounded to 16 bits."""
    return weight == values or (weight == torch.float32 and values in (torch.bfloat16, torch.float16))


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


def _is_channels_last(values: Tensor) -> bool:
    """Whether values are channels_last, and not contiguous as well: one channel or position may be both."""
    return values.is_contiguous(memory_format=torch.channels_last) and not values.is_contiguous()


def _empty(size: Sequence[int], like: Tensor) -> Tensor:
    """A result of this size, channels_last exactly if `like` is that and not contiguous."""
    memory_format = torch.channels_last if _is_channels_last(like) else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _check_tensors(input: Tensor, weight: Tensor) -> None:
    _check_tensor("input", input, None, "[N, c_in, H, W]")
    _check_tensor("weight", weight, input, "[C_out, C_in / groups, kh, kw]")


def _check_sizes(
    input_size: Size, weight_size: Size, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> tuple[int, int, int, int]:
    """The size of the output."""
    _check_numbers(weight_size, c_in, c_out, stride, padding, groups)
    if c_in != input_size[1]:
        raise ValueError(
            f"c_in is {c_in}, expected the {input_size[1]} channels of input {tuple(input_size)}"
        )
    return _output_size(input_size, weight_size, c_out, stride, padding)


_check_sizes_once = functools.lru_cache(maxsize=4096)(_check_sizes)


def _check_for_grad_input(
    grad_output: Tensor, weight: Tensor, size: tuple[int, int, int, int], *numbers: int
) -> None:
    _check_tensor("grad_output", grad_output, None, "[N, c_out, H', W']")
    _check_tensor("weight", weight, grad_output, "[C_out, C_in / groups, kh, kw]")
    c_out, (stride, padding, groups) = grad_output.shape[1], numbers
    _check_numbers(weight.shape, size[1], c_out, stride, padding, groups)
    _check_grad_output(grad_output, _output_size(size, weight.shape, c_out, stride, padding))


def _fake(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> Tensor:
    _check_tensors(input, weight)
    size = _check_sizes(input.shape, weight.shape, c_in, c_out, stride, padding, groups)
    return _empty(size, input)


def _fake_statistics(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    output = _fake(input, weight, c_in, c_out, stride, padding, groups)
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    mean, var = (torch.empty(output.shape[1], dtype=dtype, device=input.device) for _ in range(2))
    return output, mean, var


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
    size = (grad_output.shape[0], c_in, height, width)
    _check_for_grad_input(grad_output, weight, size, stride, padding, groups)
    return _empty(size, grad_output)


def _fake_grad_weight(
    grad_output: Tensor, input: Tensor, weight: Tensor, stride: int, padding: int, groups: int
) -> Tensor:
    _check_tensor("grad_output", grad_output, None, "[N, c_out, H', W']")
    _check_tensor("input", input, grad_output, "[N, c_in, H, W]")
    _check_tensor("weight", weight, input, "[C_out, C_in / groups, kh, kw]")
    c_out = grad_output.shape[1]
    _check_numbers(weight.shape, input.shape[1], c_out, stride, padding, groups)
    _check_grad_output(grad_output, _output_size(input.shape, weight.shape, c_out, stride, padding))
    return torch.empty_like(weight)


def find(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> Convolution:
    """The convolution of these tensors; raises ValueError and TypeError where there is none."""
    _check_tensors(input, weight)
    size = _check_sizes_once(input.shape, weight.shape, c_in, c_out, stride, padding, groups)
    return _find(input, input.shape, size, weight, stride, padding, groups)


def _find(values: Tensor, input_size: Size, output_size: Size, weight: Tensor, *numbers: int) -> Convolution:
    """The convolution of these sizes on values laid out like `values`."""
    where = placement.place_of(values) if native.reaches(values) else None
    kind, (threads, isa) = where or ("", (torch.get_num_threads(), 0))
    tf32 = False
    if kind == "cuda":  # its stream may change from call to call, which changes nothing here
        threads, isa, tf32 = 1, 0, values.dtype == torch.float32 and may_round_to_tf32()
    return find_convolution(
        input_size,
        output_size,
        weight.shape,
        weight.stride(),
        values.dtype,
        weight.dtype,
        values.device,
        numbers,
        _is_channels_last(values),
        kind,
        threads,
        isa,
        tf32,
        os.environ.get("LASFAST_CHOICE"),
    )


def _forward(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> Tensor:
    return find(input, weight, c_in, c_out, stride, padding, groups).forward(input, weight)


def _forward_statistics(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    return find(input, weight, c_in, c_out, stride, padding, groups).forward_statistics(input, weight)


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
    size = (grad_output.shape[0], c_in, height, width)
    _check_for_grad_input(grad_output, weight, size, stride, padding, groups)
    convolution = _find(grad_output, size, grad_output.shape, weight, stride, padding, groups)
    return convolution.grad_input(grad_output, weight)


def _grad_weight(
    grad_output: Tensor, input: Tensor, weight: Tensor, stride: int, padding: int, groups: int
) -> Tensor:
    _fake_grad_weight(grad_output, input, weight, stride, padding, groups)
    if _is_channels_last(input) and not _is_channels_last(grad_output):
        grad_output = grad_output.contiguous(memory_format=torch.channels_last)
    convolution = _find(input, input.shape, grad_output.shape, weight, stride, padding, groups)
    return convolution.grad_weight(grad_output, input)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, ctx.c_in, ctx.c_out, *ctx.rest = inputs
    ctx.save_for_backward(input if ctx.needs_input_grad[1] else None, weight)
    ctx.size = input.shape[2:]


def _backward(ctx: Any, grad_output: Tensor, *of_statistics: None) -> tuple[Any, ...]:
    input, weight = ctx.saved_tensors
    ops = torch.ops.lasfast
    grad_input = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_input = ops.sliced_conv2d_grad_input(grad_output, weight, ctx.c_in, *ctx.size, *ctx.rest)
    if ctx.needs_input_grad[1]:
        grad_weight = ops.sliced_conv2d_grad_weight(grad_output, input, weight, *ctx.rest)
    return grad_input, grad_weight, None, None, None, None, None


def _setup_statistics(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _setup(ctx, inputs, output[0])
    ctx.mark_non_differentiable(*output[1:])


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
        for_weight = ops.sliced_conv2d_grad_weight(grad_output, grad, weight, *ctx.rest)
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
    ("sliced_conv2d_statistics", _forward_statistics, _fake_statistics, _backward, _setup_statistics),
    ("sliced_conv2d_grad_input", _grad_input, _fake_grad_input, _backward_grad_input, _setup_grad_input),
    ("sliced_conv2d_grad_weight", _grad_weight, _fake_grad_weight, _backward_grad_weight, _setup_grad_weight),
):
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lasfast::{_name}", _fake_kernel, lib=_library)
    torch.library.register_autograd(
        f"lasfast::{_name}", _backward_kernel, setup_context=_setup_kernel, lib=_library
    )
