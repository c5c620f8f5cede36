"""The compiled passes of convolutions on channels_last values, dense and depthwise, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lasfast import _native
from lasfast.ops import native

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
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
        self._params: dict[str, Any] = {}
        self._bytes: dict[str, int] = {}
        square = weight_size[2] == weight_size[3]
        if not (square and dtype in DTYPES and weight_dtype in DTYPES and native.available()):
            return
        self._depthwise = groups == input_size[1] == output_size[1]
        self._module = module = _native.load()
        numbers = (weight_size[2], stride, padding)
        for which in PASSES:
            strides = grad_stride if which == "grad_weight" else weight_stride
            sizes: tuple[Any, ...]
            if self._depthwise:
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

    def _run(self, which: str, first: Tensor, second: Tensor, result: Tensor, *more: int) -> Tensor:
        params = self._params[which]
        name = f"{'depthwise' if self._depthwise else 'conv2d'}_nhwc"
        size = self._bytes.get(which)
        if size is None:
            kind = getattr(self._module.Pass, which)
            threads = () if self._depthwise else (self._threads,)
            size = getattr(self._module, f"{name}_workspace_cpu")(params, kind, *threads, self._isa)
            self._bytes[which] = size
        workspace = torch.empty(size, dtype=torch.uint8)
        getattr(self._module, f"{name}_{which}_cpu")(
            params,
            first.data_ptr(),
            second.data_ptr(),
            workspace.data_ptr(),
            self._threads,
            self._isa,
            result.data_ptr(),
            *more,
        )
        return result
