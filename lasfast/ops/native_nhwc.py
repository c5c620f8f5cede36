"""The compiled passes of convolutions on channels_last values, dense and depthwise, on CPU and CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lasfast.ops import native
from lasfast.runtime import compiled, placement
from lasfast.runtime.precision import DTYPES

PASSES = ("forward", "grad_input", "grad_weight")


def may_round_to_tf32() -> bool:
    """Whether PyTorch's fp32 convolutions on CUDA may round their operands to TF32, and so lasfast's."""
    newer = getattr(torch.backends.cudnn, "conv", None)
    return bool(torch.backends.cudnn.allow_tf32 if newer is None else newer.fp32_precision == "tf32")


class NhwcPasses:
    """One convolution of given sizes; `has` says which of its passes these kernels run.

    Args:
        input_size, output_size: [N, c_in, H, W] and [N, c_out, H', W'], of dense channels_last values.
        weight_size: [>= c_out, >= c_in // groups, kh, kw].
        weight_stride, grad_stride: in elements, of the weight and of its gradient.
        dtype, weight_dtype: of values and weight; the weight's gradient is float32.
        stride, padding, groups: of the convolution.
        kind: of the place where it runs (see `lasfast.runtime.placement`), which has kernels.
        threads: how many run, on the CPU.
        isa: the instruction set's number, on the CPU.
        tf32: on CUDA, whether the products of float32 values may be TF32's; not those of depthwise ones.
        warpgroups: on CUDA, whether the products of bfloat16 values are those of Hopper's warpgroups.
    """

    def __init__(
        self,
        input_size: Sequence[int],
        output_size: Sequence[int],
        weight_size: Sequence[int],
        weight_stride: Sequence[int],
        grad_stride: Sequence[int],
        dtype: torch.dtype,
        weight_dtype: torch.dtype,
        stride: int,
        padding: int,
        groups: int,
        kind: str,
        threads: int = 1,
        isa: int = 0,
        tf32: bool = False,
        warpgroups: bool = False,
    ) -> None:
        self._kind, self._on_cpu = kind, (threads, isa)
        self.depthwise = groups == input_size[1] == output_size[1]
        self._params: dict[str, Any] = {}
        self._bytes: dict[str, int] = {}
        square = weight_size[2] == weight_size[3]
        if not (square and dtype in DTYPES and weight_dtype in DTYPES and native.available()):
            return
        self._name = "depthwise_nhwc" if self.depthwise else "conv2d_nhwc"
        self._module = module = compiled.load()
        numbers = (weight_size[2], stride, padding)
        for which in PASSES:
            strides = grad_stride if which == "grad_weight" else weight_stride
            sizes: tuple[Any, ...]
            if self.depthwise:
                sizes = (input_size[:2], input_size[2:], output_size[2:])
                spatial = (strides[0], strides[2], strides[3])
                params = module.DepthwiseNhwcParams(
                    *sizes, *numbers, spatial, DTYPES[weight_dtype], DTYPES[dtype]
                )
                why = module.depthwise_nhwc_why_not_cuda(params) if kind == "cuda" else None
            elif groups == 1:
                sizes = (input_size[0], input_size[1:], output_size[1:])
                params = module.Conv2dNhwcParams(
                    *sizes, *numbers, strides, DTYPES[dtype], DTYPES[weight_dtype], tf32, warpgroups
                )
                which_pass = getattr(module.Pass, which)
                if kind == "cuda":
                    why = module.conv2d_nhwc_why_not_cuda(params, which_pass)
                else:
                    why = module.conv2d_nhwc_why_not(params, which_pass, isa)
            else:
                continue
            if why is None:
                self._params[which] = params

    @classmethod
    def of(
        cls, input: Tensor, weight: Tensor, output: Tensor, stride: int, padding: int, groups: int = 1
    ) -> NhwcPasses:
        """The passes of a convolution of these tensors, on as many threads as torch takes."""
        sizes = (input.shape, output.shape, weight.shape, weight.stride(), weight.stride())
        numbers = (input.dtype, weight.dtype, stride, padding, groups)
        kind, arguments = placement.place_of(input)
        if kind == "cuda":
            return cls(*sizes, *numbers, kind, tf32=may_round_to_tf32())
        return cls(*sizes, *numbers, kind, *arguments)

    def has(self, which: str) -> bool:
        """Whether "forward", "grad_input" or "grad_weight" can be run by these kernels."""
        return which in self._params

    def forward(
        self,
        input: Tensor,
        weight: Tensor,
        output: Tensor,
        mean: Tensor | None = None,
        var: Tensor | None = None,
    ) -> Tensor:
        """Overwrite `output`, and mean and variance fp32 [c_out] if given."""
        statistics = (0 if one is None else one.data_ptr() for one in (mean, var))
        return self._run("forward", input, weight, output, *statistics)

    def grad_input(self, grad_output: Tensor, weight: Tensor, result: Tensor) -> Tensor:
        """Overwrite `result` [N, c_in, H, W]."""
        return self._run("grad_input", grad_output, weight, result)

    def grad_weight(self, grad_output: Tensor, input: Tensor, result: Tensor) -> Tensor:
        """Overwrite the slice of `result`, fp32, that the convolution read."""
        return self._run("grad_weight", grad_output, input, result)

    def both(
        self, grad_output: Tensor, input: Tensor, weight: Tensor, of_input: Tensor, of_weight: Tensor
    ) -> None:
        """Overwrite both gradients of a depthwise convolution; the CPU reads `grad_output` once."""
        size = self._workspace_bytes("grad_input") + self._workspace_bytes("grad_weight")
        workspace = torch.empty(size, dtype=torch.uint8, device=of_input.device)
        getattr(self._module, f"depthwise_nhwc_backward_{self._kind}")(
            self._params["grad_input"],
            grad_output.data_ptr(),
            input.data_ptr(),
            weight.data_ptr(),
            (of_weight.stride(0), of_weight.stride(2), of_weight.stride(3)),
            workspace.data_ptr(),
            *self._arguments(of_input),
            of_input.data_ptr(),
            of_weight.data_ptr(),
        )

    def _workspace_bytes(self, which: str) -> int:
        size = self._bytes.get(which)
        if size is None:
            ask = getattr(self._module, f"{self._name}_workspace_{self._kind}")
            threads, isa = self._on_cpu
            on_cpu = (isa,) if self.depthwise else (threads, isa)
            more = on_cpu if self._kind == "cpu" else ()
            size = ask(self._params[which], getattr(self._module.Pass, which), *more)
            self._bytes[which] = size
        return size

    def _run(self, which: str, first: Tensor, second: Tensor, result: Tensor, *more: int) -> Tensor:
        workspace = torch.empty(self._workspace_bytes(which), dtype=torch.uint8, device=result.device)
        getattr(self._module, f"{self._name}_{which}_{self._kind}")(
            self._params[which],
            first.data_ptr(),
            second.data_ptr(),
            workspace.data_ptr(),
            *self._arguments(result),
            result.data_ptr(),
            *more,
        )
        return result

    def _arguments(self, result: Tensor) -> tuple[int, int]:
        """What a pass is told of the place where its result is."""
        return self._on_cpu if self._kind == "cpu" else placement.place_of(result).arguments
