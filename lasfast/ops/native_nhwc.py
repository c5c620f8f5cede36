"""The compiled passes of convolutions on channels_last values, dense and depthwise, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lasfast import _native
from lasfast.ops import native
from lasfast.ops.native import DTYPES

PASSES = ("forward", "grad_input", "grad_weight")


class NhwcPasses:
    """One convolution of given sizes; `has` says which of its passes these kernels run.

    Args:
        input_size, output_size: [N, c_in, H, W] and [N, c_out, H', W'], of dense channels_last values.
        weight_size: [>= c_out, >= c_in // groups, kh, kw].
        weight_stride, grad_stride: in elements, of the weight and of its gradient.
        dtype, weight_dtype: of values and weight; the weight's gradient is float32.
        stride, padding, groups: of the convolution.
        threads: how many run.
        isa: the instruction set's number.
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
        threads: int,
        isa: int,
    ) -> None:
        self._threads, self._isa = threads, isa
        self.depthwise = groups == input_size[1] == output_size[1]
        self._params: dict[str, Any] = {}
        self._bytes: dict[str, int] = {}
        square = weight_size[2] == weight_size[3]
        if not (square and dtype in DTYPES and weight_dtype in DTYPES and native.available()):
            return
        self._name = "depthwise_nhwc" if self.depthwise else "conv2d_nhwc"
        self._module = module = _native.load()
        numbers = (weight_size[2], stride, padding)
        for which in PASSES:
            strides = grad_stride if which == "grad_weight" else weight_stride
            sizes: tuple[Any, ...]
            if self.depthwise:
                sizes = (input_size[:2], input_size[2:], output_size[2:])
                spatial = (strides[0], strides[2], strides[3])
                self._params[which] = module.DepthwiseNhwcParams(
                    *sizes, *numbers, spatial, DTYPES[weight_dtype], DTYPES[dtype]
                )
            elif groups == 1:
                sizes = (input_size[0], input_size[1:], output_size[1:])
                params = module.Conv2dNhwcParams(
                    *sizes, *numbers, strides, DTYPES[dtype], DTYPES[weight_dtype]
                )
                if module.conv2d_nhwc_why_not(params, getattr(module.Pass, which), isa) is None:
                    self._params[which] = params

    @classmethod
    def of(
        cls, input: Tensor, weight: Tensor, output: Tensor, stride: int, padding: int, groups: int = 1
    ) -> NhwcPasses:
        """The passes of a convolution of these tensors, on as many threads as torch takes."""
        sizes = (input.shape, output.shape, weight.shape, weight.stride(), weight.stride())
        dtypes = (input.dtype, weight.dtype)
        threads = torch.get_num_threads()
        return cls(*sizes, *dtypes, stride, padding, groups, threads, _native.isa_number())

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
        """Overwrite both gradients of a depthwise convolution, reading `grad_output` once."""
        size = self._workspace_bytes("grad_input") + self._workspace_bytes("grad_weight")
        workspace = torch.empty(size, dtype=torch.uint8)
        self._module.depthwise_nhwc_backward_cpu(
            self._params["grad_input"],
            grad_output.data_ptr(),
            input.data_ptr(),
            weight.data_ptr(),
            (of_weight.stride(0), of_weight.stride(2), of_weight.stride(3)),
            workspace.data_ptr(),
            self._threads,
            self._isa,
            of_input.data_ptr(),
            of_weight.data_ptr(),
        )

    def _workspace_bytes(self, which: str) -> int:
        size = self._bytes.get(which)
        if size is None:
            threads = () if self.depthwise else (self._threads,)
            ask = getattr(self._module, f"{self._name}_workspace_cpu")
            size = ask(self._params[which], getattr(self._module.Pass, which), *threads, self._isa)
            self._bytes[which] = size
        return size

    def _run(self, which: str, first: Tensor, second: Tensor, result: Tensor, *more: int) -> Tensor:
        workspace = torch.empty(self._workspace_bytes(which), dtype=torch.uint8)
        getattr(self._module, f"{self._name}_{which}_cpu")(
            self._params[which],
            first.data_ptr(),
            second.data_ptr(),
            workspace.data_ptr(),
            self._threads,
            self._isa,
            result.data_ptr(),
            *more,
        )
        return result
