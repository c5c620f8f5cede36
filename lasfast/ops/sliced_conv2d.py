"""`sliced_conv2d`: a convolution with a slice of its weight, by lasfast's kernels or by PyTorch's."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from lasfast.ops import reference
from lasfast.ops.derivatives import refuse_forward_mode
from lasfast.ops.sliced_conv2d_kernels import PASSES, NhwcKernels, Norm, Packed, StridedKernels
from lasfast.ops.sliced_conv2d_schema import (
    Geometry,
    Size,
    as_arguments,
    check_for_grad_input,
    check_for_grad_weight,
    check_grad_output,
    check_tensors,
    is_channels_last,
    known_geometry_of,
    library,
)
from lasfast.runtime import autotune, kernels, placement
from lasfast.runtime.placement import Placement
from lasfast.runtime.precision import fp32_products
from lasfast.runtime.winograd import LEAST_POSITIONS, tiles_for

autotune.register("native", "torch", "warpgroups")

T = TypeVar("T")
_WITH_STATISTICS, _PREDICTION, _GRADIENTS = "forward with statistics", "prediction", "gradients"
_ON_CUDA = Placement("cuda", (0, 0))


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
    channels_last, on processors with AMX or AVX-512 BF16 and on 64-bit ARM with BF16; where PyTorch's are
    faster for a shape (see `lasfast.runtime.autotune`), and for everything else, those run. On CUDA, tensor
    cores multiply what is in channels_last, float32 as TF32 where torch lets its own convolutions do so (see
    `lasfast.runtime.precision.fp32_products`). The same inputs give the same bits. The gradient of `weight`
    has its full size and is zero outside the slice. Under autocast the input is cast, as for `F.conv2d`, and
    the weight is rounded as it is read.

    Raises TypeError for arguments of other types, ValueError for values that do not fit, before any work.
    """
    refuse_forward_mode("sliced_conv2d", input, weight)
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
    refuse_forward_mode("sliced_conv2d_statistics", input, weight)
    output, mean, var = torch.ops.lasfast.sliced_conv2d_statistics(
        *as_arguments(input, weight, c_in, c_out, stride, padding, groups)
    )
    return output, mean, var


class Convolution:
    """The passes of one convolution, each in lasfast's kernels or PyTorch's, whichever is faster.

    Arguments were checked, and have the sizes that it is for. Results are channels_last where the values are,
    contiguous otherwise. A gradient of the weight has the weight's full size, and is zero outside the slice.

    Args:
        geometry: the sizes.
        weight_stride: in elements.
        dtype, weight_dtype: of values and of the weight.
        device: of all tensors.
        channels_last: whether the values are.
        placement: where kernels run, of kind "" if none may; of CUDA's, the kind alone counts.
        tf32: on CUDA, whether the products of float32 values may be TF32's.
        wanted: what LASFAST_CHOICE says.
    """

    def __init__(
        self,
        geometry: Geometry,
        weight_stride: Size,
        dtype: torch.dtype,
        weight_dtype: torch.dtype,
        device: torch.device,
        channels_last: bool,
        placement: Placement,
        tf32: bool,
        wanted: str | None,
    ) -> None:
        self.geometry, self.channels_last = geometry, channels_last
        self._numbers = geometry[3:]
        self._dtype, self._weight_dtype, self._device = dtype, weight_dtype, device
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        weight = torch.empty_strided(geometry.weight, weight_stride, dtype=weight_dtype, device="meta")
        self._grad_stride = torch.empty_like(weight).stride()
        how = f"{placement.arguments[0]} threads"
        if placement.kind == "cuda":
            how = "TF32" if tf32 else "exact"
        stride, padding, groups = self._numbers
        active = geometry.output[1], geometry.input[1] // groups
        self._is_whole = active == tuple(geometry.weight[:2])  # the slice is all of the weight
        self._key = (
            f"{dtype} {weight_dtype} {'channels_last' if channels_last else 'strided'} "
            f"{tuple(geometry.input)} to {geometry.output[1]}, kernel {tuple(geometry.weight[2:])} "
            f"stride {stride} padding {padding} groups {groups}, {how}"
        )
        by_name = (*PASSES, _WITH_STATISTICS, _PREDICTION, _GRADIENTS) if wanted == "native" else ()
        self._fastest_ways: dict[str, str] = dict.fromkeys(by_name, "native")
        self._kernels: dict[str, StridedKernels | NhwcKernels] = {}
        self._others: dict[str, dict[str, NhwcKernels]] = {}  # the same in other ways, by their names
        if not placement.kind:
            return
        if StridedKernels.take(dtype, weight_dtype, device):
            self._kernels |= dict.fromkeys(PASSES, StridedKernels(geometry, dtype, placement))
        if channels_last:
            make = partial(
                NhwcKernels, geometry, weight_stride, self._grad_stride, dtype, weight_dtype, placement, tf32
            )
            self._kernels |= _by_pass(make())
            if placement.kind == "cuda" and groups == 1 and kernels.has_warpgroups(device):
                self._others["warpgroups"] = _by_pass(make(warpgroups=True))
            if placement.kind == "cpu" and groups == 1:
                batch, _, height, width = geometry.output
                for name, tile in tiles_for(geometry.input[1], *geometry.output[1:]).items():
                    self._others[name] = _by_pass(make(tile=tile))
                    if batch * height * width < LEAST_POSITIONS:
                        self._others[name].pop("grad_weight", None)

    def forward(self, input: Tensor, weight: Tensor) -> Tensor:
        """Return the output [N, c_out, H', W']."""
        return self._run(
            "forward",
            lambda ours: ours.forward(input, weight, self._empty(self.geometry.output)),
            lambda: self._output(input, weight),
        )

    def predict(
        self, input: Tensor, weight: Tensor, norm: Norm, in_two: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return what follows the convolution, [N, c_out, H', W']: `in_two` computes it of the output."""

        def theirs() -> Tensor:
            return in_two(self.forward(input, weight))

        known = self._kernels.get(_PREDICTION)
        if norm.residual is not None and isinstance(known, NhwcKernels) and not known.takes_residual:
            return theirs()
        return self._run(
            _PREDICTION,
            lambda ours: ours.predict(input, weight, norm, self._empty(self.geometry.output)),
            theirs,
        )

    @property
    def packing(self) -> NhwcKernels | None:
        """The kernels that take a packed weight, in `forward_statistics` and for the gradient of the input.

        None stands for a weight that each of them packs for itself, or reads as it is: on the CPU, and until
        lasfast's kernels are known to be the fastest for both.
        """
        ours = self._kernels.get(_WITH_STATISTICS)
        names = (_WITH_STATISTICS, "grad_input", _GRADIENTS)
        known = all(self._fastest_ways.get(name) in ("native", "warpgroups") for name in names)
        return ours if known and isinstance(ours, NhwcKernels) and ours.takes_packed else None

    def forward_statistics(
        self, input: Tensor, weight: Tensor, packed: Packed | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output [N, c_out, H', W'], and its mean and biased variance [c_out]."""

        def in_two(output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return (output, *torch.ops.lasfast.batch_statistics(output))

        if _WITH_STATISTICS not in self._kernels:
            return in_two(self.forward(input, weight))

        def in_one(ours: NhwcKernels) -> tuple[Tensor, Tensor, Tensor]:
            mean, var = (
                torch.empty(self.geometry.output[1], dtype=torch.float32, device=self._device)
                for _ in range(2)
            )
            output = self._empty(self.geometry.output)
            return ours.forward(input, weight, output, mean, var, packed), mean, var

        return self._run(_WITH_STATISTICS, in_one, lambda: in_two(self._output(input, weight)))

    def grad_input(self, grad_output: Tensor, weight: Tensor, packed: Packed | None = None) -> Tensor:
        """Return the gradient [N, c_in, H, W] of the input."""
        more = () if packed is None else (packed,)  # which kernels for any strides do not know

        def in_torch() -> Tensor:
            _, c_in, height, width = self.geometry.input
            return self._laid_out(
                reference.sliced_conv2d_grad_input(grad_output, weight, c_in, height, width, *self._numbers)
            )

        return self._run(
            "grad_input",
            lambda ours: ours.grad_input(grad_output, weight, self._empty(self.geometry.input), *more),
            in_torch,
        )

    def grad_weight(self, grad_output: Tensor, input: Tensor) -> Tensor:
        """Return the gradient of the whole weight, laid out like it."""

        def in_torch() -> Tensor:
            size = self.geometry.weight
            return self._whole(reference.sliced_conv2d_grad_weight(grad_output, input, size, *self._numbers))

        return self._run(
            "grad_weight",
            lambda ours: ours.grad_weight(grad_output, input, self._zeros(ours.grad_dtype)).to(
                self._weight_dtype
            ),
            in_torch,
        )

    def gradients(
        self,
        grad_output: Tensor,
        input: Tensor,
        weight: Tensor,
        of_input: bool,
        of_weight: bool,
        packed: Packed | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients that are wanted, of the input and of the weight."""

        def in_two() -> tuple[Tensor | None, Tensor | None]:
            return (
                self.grad_input(grad_output, weight, packed) if of_input else None,
                self.grad_weight(grad_output, input) if of_weight else None,
            )

        if not (of_input and of_weight):
            return in_two()
        ours = self._kernels.get("grad_input")

        def in_one() -> tuple[Tensor | None, Tensor | None]:
            assert isinstance(ours, NhwcKernels)
            of_both = self._empty(self.geometry.input), self._zeros(ours.grad_dtype)
            ours.both(grad_output, input, weight, *of_both)
            return of_both[0], of_both[1].to(self._weight_dtype)

        def in_torch() -> tuple[Tensor | None, Tensor | None]:
            grad_input, of_slice = reference.sliced_conv2d_gradients(
                grad_output, input, weight, *self._numbers
            )
            return self._laid_out(grad_input), self._whole(of_slice)

        fused = isinstance(ours, NhwcKernels) and ours.depthwise
        return self._fastest(_GRADIENTS, in_one if fused else in_two, in_torch)

    def _zeros(self, dtype: torch.dtype) -> Tensor:
        """Return memory for the weight's gradient, zero where no filter of the slice writes."""
        size = self.geometry.weight
        gradient = torch.empty_strided(size, self._grad_stride, dtype=dtype, device=self._device)
        return gradient if self._is_whole else gradient.zero_()

    def _whole(self, of_slice: Tensor) -> Tensor:
        """Return the gradient of the whole weight, laid out like it, from that of the slice."""
        size, stride = self.geometry.weight, self._grad_stride
        if self._is_whole and of_slice.dtype == self._weight_dtype:
            steps = zip(size, of_slice.stride(), stride, strict=True)
            if all(length == 1 or ours == theirs for length, ours, theirs in steps):
                return of_slice.as_strided(size, stride)  # where there is one value, any stride is as good
        gradient = self._zeros(self._weight_dtype)
        gradient[: of_slice.shape[0], : of_slice.shape[1]].copy_(of_slice)
        return gradient

    def _output(self, input: Tensor, weight: Tensor) -> Tensor:
        """Return PyTorch's output."""
        channels = self.geometry.input[1], self.geometry.output[1]
        return self._laid_out(reference.sliced_conv2d(input, weight, *channels, *self._numbers))

    def _laid_out(self, result: Tensor) -> Tensor:
        return result.contiguous(memory_format=self._format)

    def _empty(self, size: Size) -> Tensor:
        return torch.empty(tuple(size), dtype=self._dtype, device=self._device, memory_format=self._format)

    def _run(self, which: str, ours: Callable[[Any], T], theirs: Callable[[], T]) -> T:
        """Run a pass by the fastest of the kernels that have it, or by PyTorch: `ours` takes kernels."""
        own = self._kernels.get(which)
        if own is None:
            return theirs()
        if self._fastest_ways.get(which) == "native":
            return ours(own)
        others = {name: partial(ours, of[which]) for name, of in self._others.items() if which in of}
        return self._fastest(which, partial(ours, own), theirs, others)

    def _fastest(
        self,
        which: str,
        ours: Callable[[], T],
        theirs: Callable[[], T],
        others: Mapping[str, Callable[[], T]] = MappingProxyType({}),
    ) -> T:
        name = self._fastest_ways.get(which)
        if name == "native":
            return ours()
        ways = {"native": ours, "torch": theirs, **others}
        if name is None:
            name = autotune.fastest(f"conv2d {which} {self._key}", self._device, ways)
            if not autotune.is_capturing(self._device):  # then nothing may have been measured yet
                self._fastest_ways[which] = name
        return ways[name]()


def _by_pass(nhwc: NhwcKernels) -> dict[str, NhwcKernels]:
    """Return the kernels under the name of each pass that they have."""
    names = [which for which in PASSES if nhwc.has(which)]
    if "forward" in names:
        names.append(_WITH_STATISTICS)
    if nhwc.can_predict:
        names.append(_PREDICTION)
    return dict.fromkeys(names, nhwc)


known_convolution = functools.lru_cache(maxsize=4096)(Convolution)
"""The convolution of these arguments, which remembers what was fastest."""


def find(
    input: Tensor, weight: Tensor, c_in: int, c_out: int, stride: int, padding: int, groups: int
) -> Convolution:
    """Return the convolution of these tensors; raises ValueError and TypeError where there is none."""
    check_tensors(input, weight)
    geometry = known_geometry_of(input.shape, weight.shape, c_in, c_out, stride, padding, groups)
    return _find(geometry, input, weight)


def _find(geometry: Geometry, values: Tensor, weight: Tensor) -> Convolution:
    """Return the convolution of these sizes, on values laid out like `values`."""
    tf32 = False
    if not kernels.usable_for(values):
        where = Placement("", (torch.get_num_threads(), 0))
    else:
        where = placement.of(values)
        if where.kind == "cuda":  # its stream may change from call to call, which changes nothing here
            where, tf32 = _ON_CUDA, values.dtype == torch.float32 and fp32_products() == "tf32"
    return known_convolution(
        geometry,
        weight.stride(),
        values.dtype,
        weight.dtype,
        values.device,
        is_channels_last(values),
        where,
        tf32,
        os.environ.get("LASFAST_CHOICE"),
    )


def _forward(input: Tensor, weight: Tensor, *numbers: int) -> Tensor:
    return find(input, weight, *numbers).forward(input, weight)


def _forward_statistics(input: Tensor, weight: Tensor, *numbers: int) -> tuple[Tensor, Tensor, Tensor]:
    return find(input, weight, *numbers).forward_statistics(input, weight)


def _grad_input(
    grad_output: Tensor, weight: Tensor, c_in: int, height: int, width: int, *numbers: int
) -> Tensor:
    check_for_grad_input(grad_output, weight)
    batch, c_out = grad_output.shape[:2]
    geometry = known_geometry_of((batch, c_in, height, width), weight.shape, c_in, c_out, *numbers)
    check_grad_output(grad_output, geometry)
    return _find(geometry, grad_output, weight).grad_input(grad_output, weight)


def _grad_weight(grad_output: Tensor, input: Tensor, weight: Tensor, *numbers: int) -> Tensor:
    check_for_grad_weight(grad_output, input, weight)
    channels = input.shape[1], grad_output.shape[1]
    geometry = known_geometry_of(input.shape, weight.shape, *channels, *numbers)
    check_grad_output(grad_output, geometry)
    if is_channels_last(input) and not is_channels_last(grad_output):
        grad_output = grad_output.contiguous(memory_format=torch.channels_last)
    return _find(geometry, input, weight).grad_weight(grad_output, input)


for _name, _implementation in (
    ("sliced_conv2d", _forward),
    ("sliced_conv2d_statistics", _forward_statistics),
    ("sliced_conv2d_grad_input", _grad_input),
    ("sliced_conv2d_grad_weight", _grad_weight),
):
    library.impl(_name, _implementation, "CompositeExplicitAutograd")
