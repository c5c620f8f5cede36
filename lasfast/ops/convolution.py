"""One convolution of given sizes: its passes, each in lasfast's kernels or PyTorch's, whichever is faster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from lasfast.ops import native, reference
from lasfast.ops.native_nhwc import NhwcPasses
from lasfast.runtime import autotune

T = TypeVar("T")
Size = Sequence[int]


class Convolution:
    """The passes of a convolution; arguments were checked, and have the sizes that it is for.

    Results are channels_last where the values are (`channels_last`), contiguous otherwise. A gradient of
    the weight has the weight's full size, and is zero outside the slice. `kind` is that of the place (see
    `lasfast.runtime.placement`), "" where lasfast has no kernels; `threads` and `isa`, the instruction set's
    number, are the CPU's, `tf32` is CUDA's, and `wanted` is what LASFAST_CHOICE says.
    """

    def __init__(
        self,
        input_size: Size,
        output_size: Size,
        weight_size: Size,
        weight_stride: Size,
        dtype: torch.dtype,
        weight_dtype: torch.dtype,
        device: torch.device,
        numbers: tuple[int, int, int],
        channels_last: bool,
        kind: str,
        threads: int,
        isa: int,
        tf32: bool,
        wanted: str | None,
    ) -> None:
        self.input_size, self.output_size, self.numbers = input_size, output_size, numbers
        self.channels_last = channels_last
        self._dtype, self._weight_dtype, self._device = dtype, weight_dtype, device
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        weight = torch.empty_strided(weight_size, weight_stride, dtype=weight_dtype, device="meta")
        self._grad_size, self._grad_stride = weight_size, torch.empty_like(weight).stride()
        how = ("TF32" if tf32 else "exact") if kind == "cuda" else f"{threads} threads"
        self._key = (
            f"{dtype} {weight_dtype} {'channels_last' if channels_last else 'strided'} {tuple(input_size)} "
            f"to {output_size[1]}, kernel {tuple(weight_size[2:])} stride {numbers[0]} padding {numbers[1]} "
            f"groups {numbers[2]}, {how}"
        )
        self._wanted = wanted
        self._chosen: dict[str, str] = {}
        self._nhwc: NhwcPasses | None = None
        self._warpgroups: NhwcPasses | None = None  # the same by Hopper's instructions
        if channels_last and kind:
            sizes = (input_size, output_size, weight_size, weight_stride, self._grad_stride)
            make = partial(NhwcPasses, *sizes, dtype, weight_dtype, *numbers, kind, threads, isa, tf32)
            self._nhwc = make()
            if kind == "cuda" and numbers[2] == 1 and native.has_warpgroups(device):
                self._warpgroups = make(warpgroups=True)

    def forward(self, input: Tensor, weight: Tensor) -> Tensor:
        """Output [N, c_out, H', W']."""
        return self._run(
            "forward",
            input,
            lambda nhwc: nhwc.forward(input, weight, self._empty(self.output_size)),
            lambda: native.sliced_conv2d(input, weight, self._empty(self.output_size), *self.numbers),
            lambda: self._output(input, weight),
        )

    def forward_statistics(self, input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Output [N, c_out, H', W'], and its mean and biased variance [c_out]."""
        nhwc = self._nhwc

        def apart(output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return (output, *torch.ops.lasfast.batch_statistics(output))

        if nhwc is None or not nhwc.has("forward"):
            return apart(self.forward(input, weight))

        def in_one(nhwc: NhwcPasses) -> tuple[Tensor, Tensor, Tensor]:
            mean, var = (torch.empty(self.output_size[1], device=self._device) for _ in range(2))
            return nhwc.forward(input, weight, self._empty(self.output_size), mean, var), mean, var

        return self._fastest(
            "forward with statistics",
            partial(in_one, nhwc),
            lambda: apart(self._output(input, weight)),
            self._by_warpgroups("forward", in_one),
        )

    def grad_input(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        """Gradient [N, c_in, H, W] of the input."""

        def in_torch() -> Tensor:
            _, c_in, height, width = self.input_size
            return self._laid_out(
                reference.sliced_conv2d_grad_input(grad_output, weight, c_in, height, width, *self.numbers)
            )

        return self._run(
            "grad_input",
            grad_output,
            lambda nhwc: nhwc.grad_input(grad_output, weight, self._empty(self.input_size)),
            lambda: native.sliced_conv2d_grad_input(
                grad_output, weight, self._empty(self.input_size), *self.numbers
            ),
            in_torch,
        )

    def grad_weight(self, grad_output: Tensor, input: Tensor) -> Tensor:
        """Gradient of the whole weight, laid out like it."""

        def in_torch() -> Tensor:
            gradient = self._zeros(self._weight_dtype)
            reference.sliced_conv2d_grad_weight(grad_output, input, gradient, *self.numbers)
            return gradient

        return self._run(
            "grad_weight",
            input,
            lambda nhwc: nhwc.grad_weight(grad_output, input, self._zeros(torch.float32)).to(
                self._weight_dtype
            ),
            lambda: native.sliced_conv2d_grad_weight(
                grad_output, input, self._zeros(self._weight_dtype), *self.numbers
            ),
            in_torch,
        )

    def gradients(
        self, grad_output: Tensor, input: Tensor, weight: Tensor, of_input: bool, of_weight: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients that are wanted, of the input and of the weight."""

        def apart() -> tuple[Tensor | None, Tensor | None]:
            return (
                self.grad_input(grad_output, weight) if of_input else None,
                self.grad_weight(grad_output, input) if of_weight else None,
            )

        if not (of_input and of_weight):
            return apart()
        nhwc = self._nhwc

        def together() -> tuple[Tensor | None, Tensor | None]:
            assert nhwc is not None
            of_both = self._empty(self.input_size), self._zeros(torch.float32)
            nhwc.both(grad_output, input, weight, *of_both)
            return of_both[0], of_both[1].to(self._weight_dtype)

        def in_torch() -> tuple[Tensor | None, Tensor | None]:
            gradient = self._zeros(self._weight_dtype)
            result = reference.sliced_conv2d_gradients(grad_output, input, weight, gradient, *self.numbers)
            return self._laid_out(result), gradient

        fused = nhwc is not None and nhwc.depthwise and nhwc.has("grad_input")
        return self._fastest("gradients", together if fused else apart, in_torch)

    def _zeros(self, dtype: torch.dtype) -> Tensor:
        """Of the gradient of the weight; what no filter of the slice writes stays zero."""
        gradient = torch.empty_strided(self._grad_size, self._grad_stride, dtype=dtype, device=self._device)
        active = self.output_size[1], self.input_size[1] // self.numbers[2]
        return gradient if active == tuple(self._grad_size[:2]) else gradient.zero_()

    def _output(self, input: Tensor, weight: Tensor) -> Tensor:
        """PyTorch's output."""
        c_in, c_out = self.input_size[1], self.output_size[1]
        return self._laid_out(reference.sliced_conv2d(input, weight, c_in, c_out, *self.numbers))

    def _laid_out(self, result: Tensor) -> Tensor:
        return result.contiguous(memory_format=self._format)

    def _empty(self, size: Size) -> Tensor:
        return torch.empty(tuple(size), dtype=self._dtype, device=self._device, memory_format=self._format)

    def _run(
        self,
        which: str,
        values: Tensor,
        in_nhwc: Callable[[NhwcPasses], Tensor],
        in_planes: Callable[[], Tensor],
        in_torch: Callable[[], Tensor],
    ) -> Tensor:
        """A pass on `values`: by PyTorch, or by the best of ours, for channels_last or for any strides."""
        nhwc = self._nhwc
        if nhwc is not None and nhwc.has(which):
            by_warpgroups = self._by_warpgroups(which, in_nhwc)
            return self._fastest(which, partial(in_nhwc, nhwc), in_torch, by_warpgroups)
        if self._dtype == self._weight_dtype and native.supports(values):
            return self._fastest(which, in_planes, in_torch)
        return in_torch()

    def _by_warpgroups(self, which: str, run: Callable[[NhwcPasses], T]) -> Callable[[], T] | None:
        passes = self._warpgroups
        return None if passes is None or not passes.has(which) else partial(run, passes)

    def _fastest(
        self,
        which: str,
        ours: Callable[[], T],
        theirs: Callable[[], T],
        by_warpgroups: Callable[[], T] | None = None,
    ) -> T:
        name = "native" if self._wanted == "native" else self._chosen.get(which)
        if name == "native":
            return ours()
        ways = {"native": ours, "torch": theirs}
        if by_warpgroups is not None:
            ways["warpgroups"] = by_warpgroups
        if name is None:
            name = autotune.fastest(f"conv2d {which} {self._key}", self._device, ways)
            if not autotune.is_capturing(self._device):  # then nothing may have been measured yet
                self._chosen[which] = name
        return ways[name]()


find_convolution = functools.lru_cache(maxsize=4096)(Convolution)
