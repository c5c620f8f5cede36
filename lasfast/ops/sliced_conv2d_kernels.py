"""The compiled module's kernels of convolutions, on CPU and CUDA: for channels_last and for any strides.

Arguments were checked by the caller. What is overwritten is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lasfast.ir.activations import ACTIVATIONS
from lasfast.ops.sliced_conv2d_schema import Geometry, Size
from lasfast.runtime import compiled, kernels, placement
from lasfast.runtime.placement import Placement
from lasfast.runtime.precision import DTYPES, fp32_products

PASSES = ("forward", "grad_input", "grad_weight")


def _arguments_for(kind: str, on_cpu: tuple[int, int], result: Tensor) -> tuple[int, int]:
    """Return a placement's arguments; a GPU's stream is that of the call."""
    return on_cpu if kind == "cpu" else placement.of(result).arguments


def _run(
    function: Callable[..., None],
    before: tuple[Any, ...],
    operands: tuple[Tensor, Tensor],
    workspace_bytes: int,
    arguments: tuple[int, int],
    result: Tensor,
    *more: int,
) -> Tensor:
    """Call a compiled function that overwrites `result`, and `more` if it has further outputs."""
    workspace = torch.empty(workspace_bytes, dtype=torch.uint8, device=result.device)
    first, second = operands
    function(
        *before,
        first.data_ptr(),
        second.data_ptr(),
        workspace.data_ptr(),
        *arguments,
        result.data_ptr(),
        *more,
    )
    return result


class StridedKernels:
    """The kernels of one convolution on values of any strides: float32, and on CUDA bfloat16.

    Args:
        geometry: the sizes.
        dtype: of values, weight and the weight's gradient.
        placement: where they run; on CUDA, in the current stream of each call.
    """

    def __init__(self, geometry: Geometry, dtype: torch.dtype, placement: Placement) -> None:
        size, output, weight, *numbers, groups = geometry
        self._sizes = ((size[0], groups), size[1:], output[1:], weight[2:], *numbers)
        self._kind, self._on_cpu = placement
        self._dtype = () if self._kind == "cpu" else (DTYPES[dtype],)  # the CPU's take float32 alone
        self.grad_dtype = dtype

    @staticmethod
    def take(dtype: torch.dtype, weight_dtype: torch.dtype, device: torch.device) -> bool:
        """Return whether there are such kernels for these dtypes on a device that has kernels."""
        return dtype == weight_dtype and dtype in ((torch.float32,) if device.type == "cpu" else DTYPES)

    def forward(self, input: Tensor, weight: Tensor, output: Tensor) -> Tensor:
        """Overwrite `output` [N, c_out, H', W']."""
        return self._run("forward", (input, weight, output), input, weight, output)

    def grad_input(self, grad_output: Tensor, weight: Tensor, result: Tensor) -> Tensor:
        """Overwrite `result` [N, c_in, H, W]."""
        return self._run("grad_input", (result, weight, grad_output), grad_output, weight, result)

    def grad_weight(self, grad_output: Tensor, input: Tensor, result: Tensor) -> Tensor:
        """Overwrite the slice of `result` that the convolution read; the rest stays as it is."""
        return self._run("grad_weight", (input, result, grad_output), grad_output, input, result)

    def _run(
        self,
        which: str,
        tensors: tuple[Tensor, Tensor, Tensor],
        first: Tensor,
        second: Tensor,
        result: Tensor,
    ) -> Tensor:
        """Run a pass; `tensors` stand where input, weight and output do in a forward pass."""
        module, kind = compiled.load(), self._kind
        params = module.SlicedConv2dParams(*self._sizes, *(tensor.stride() for tensor in tensors))
        arguments = _arguments_for(kind, self._on_cpu, result)
        threads = arguments[:1] if kind == "cpu" else ()  # on which the need for memory depends
        ask = getattr(module, f"sliced_conv2d_workspace_{kind}")
        size = ask(params, getattr(module.Pass, which), *threads)
        function = getattr(module, f"sliced_conv2d_{which}_{kind}")
        return _run(function, (params, *self._dtype), (first, second), size, arguments, result)


class _Pass(NamedTuple):
    """One compiled function for one convolution."""

    function: Callable[..., None]
    params: Any
    workspace_bytes: int


class Packed(NamedTuple):
    """A weight as CUDA's kernels read it in the passes over windows: uint8.

    Behind the forward pass's stand counters, which its kernel needs to be zero and leaves so. A pass that is
    given this has to be queued right behind a kernel of lasfast's: it may begin before that has ended. That
    does not hold for the forward pass where the weight was packed `ahead`, with others.
    """

    forward: Tensor
    grad_input: Tensor
    ahead: bool


class Norm(NamedTuple):
    """A batch norm, a sum and an activation, which follow a convolution where nothing is trained.

    Attributes:
        mean, var, weight, bias: float32 [c_out]; of the last two, None is 1 and 0.
        residual: [N, <= c_out, H', W'] in the dtype and layout of the values, or None.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    eps: float
    activation: str


class NhwcKernels:
    """The kernels of one convolution on dense channels_last values; on CUDA, depthwise or of one group.

    Args:
        geometry: the sizes; kernels are square.
        weight_stride, grad_stride: in elements, of the weight and of its gradient.
        dtype, weight_dtype: of values and weight; the weight's gradient is float32.
        placement: where they run; on CUDA, in the current stream of each call.
        tf32: on CUDA, whether the products of float32 values may be TF32's; not those of depthwise ones.
        warpgroups: on CUDA, whether the products of bfloat16 values are those of Hopper's warpgroups.
        tile: on the CPU, the outputs along an axis that Winograd's algorithm computes at once, 2 or 4; or 0.
    """

    grad_dtype = torch.float32

    def __init__(
        self,
        geometry: Geometry,
        weight_stride: Size,
        grad_stride: Size,
        dtype: torch.dtype,
        weight_dtype: torch.dtype,
        placement: Placement,
        tf32: bool = False,
        warpgroups: bool = False,
        tile: int = 0,
    ) -> None:
        size, output, weight, *_, groups = geometry
        self._kind, self._on_cpu = placement
        self.depthwise = groups == size[1] == output[1]
        self._passes: dict[str, _Pass] = {}
        # For the passes that can read a packed weight; whether they begin early.
        self._packed_params: dict[tuple[str, bool], Any] = {}
        known = dtype in DTYPES and weight_dtype in DTYPES and kernels.available()
        self._grouped = groups > 1 and not self.depthwise
        if not known or weight[2] != weight[3] or (self._grouped and self._kind == "cuda"):
            return
        self._module = compiled.load()
        codes = DTYPES[dtype], DTYPES[weight_dtype]
        for which in PASSES:
            stride = grad_stride if which == "grad_weight" else weight_stride
            if self.depthwise:
                self._add_depthwise(which, geometry, stride, *codes)
            elif self._grouped:
                self._add_grouped(which, geometry, stride, *codes)
            else:
                self._add_dense(which, geometry, stride, *codes, tf32, warpgroups, tile)

    @classmethod
    def of(
        cls,
        input: Tensor,
        weight: Tensor,
        output: Tensor,
        stride: int,
        padding: int,
        groups: int = 1,
        *,
        warpgroups: bool = False,
        tile: int = 0,
    ) -> NhwcKernels:
        """Return the kernels of a convolution of these tensors, on as many threads as torch takes."""
        geometry = Geometry(input.shape, output.shape, weight.shape, stride, padding, groups)
        where = placement.of(input)
        tf32 = where.kind == "cuda" and fp32_products() == "tf32"
        strides = weight.stride(), weight.stride()
        return cls(geometry, *strides, input.dtype, weight.dtype, where, tf32, warpgroups, tile)

    def has(self, which: str) -> bool:
        """Return whether there is a kernel of "forward", "grad_input" or "grad_weight"."""
        return which in self._passes

    def forward(
        self,
        input: Tensor,
        weight: Tensor,
        output: Tensor,
        mean: Tensor | None = None,
        var: Tensor | None = None,
        packed: Packed | None = None,
    ) -> Tensor:
        """Overwrite `output` [N, c_out, H', W'], and its mean and variance fp32 [c_out] if given.

        The weight is packed anew where `packed` is None.
        """
        statistics = (0 if one is None else one.data_ptr() for one in (mean, var))
        rows, early = (None, False) if packed is None else (packed.forward, not packed.ahead)
        return self._run("forward", input, weight, output, *statistics, packed=rows, early=early)

    @property
    def can_predict(self) -> bool:
        """True where `predict` is there."""
        return "predict" in self._passes

    @property
    def takes_residual(self) -> bool:
        """True where what `predict` computes may have a residual."""
        return not (self.depthwise or self._grouped)

    def predict(self, input: Tensor, weight: Tensor, norm: Norm, output: Tensor) -> Tensor:
        """Overwrite `output` [N, c_out, H', W'] with what follows the convolution, in one pass."""
        function, params, workspace_bytes = self._passes["predict"]
        workspace = torch.empty(workspace_bytes, dtype=torch.uint8)
        vectors = [None if one is None else one.contiguous() for one in norm[:4]]
        residual = norm.residual
        function(
            params,
            input.data_ptr(),
            weight.data_ptr(),
            *(0 if one is None else one.data_ptr() for one in vectors),
            norm.eps,
            0 if residual is None else residual.data_ptr(),
            0 if residual is None else residual.shape[1],
            ACTIVATIONS[norm.activation].code,
            workspace.data_ptr(),
            *self._on_cpu,
            output.data_ptr(),
        )
        return output

    def grad_input(
        self, grad_output: Tensor, weight: Tensor, result: Tensor, packed: Packed | None = None
    ) -> Tensor:
        """Overwrite `result` [N, c_in, H, W]; the weight is packed anew where `packed` is None."""
        rows = None if packed is None else packed.grad_input
        return self._run("grad_input", grad_output, weight, result, packed=rows)

    @property
    def takes_packed(self) -> bool:
        """True where both of these take a weight that `pack` gave."""
        return all((which, True) in self._packed_params for which in ("forward", "grad_input"))

    def row(self, weight: Tensor, ahead: bool) -> tuple[Packed, tuple[Any, ...]]:
        """Return room for a packed weight, and what the compiled module has to know in order to pack it."""
        params, kinds = self._packed_params["forward", True], self._module.Pass
        ask = self._module.conv2d_nhwc_packed_bytes_cuda
        sizes = ask(params, kinds.forward), ask(params, kinds.grad_input)
        forward, grad_input = torch.empty(sum(sizes), dtype=torch.uint8, device=weight.device).split(sizes)
        to = forward.data_ptr(), grad_input.data_ptr()
        return Packed(forward, grad_input, ahead), (params, weight.data_ptr(), *to)

    def grad_weight(self, grad_output: Tensor, input: Tensor, result: Tensor) -> Tensor:
        """Overwrite the slice of `result`, fp32, that the convolution read; the rest stays as it is."""
        return self._run("grad_weight", grad_output, input, result)

    def both(
        self, grad_output: Tensor, input: Tensor, weight: Tensor, of_input: Tensor, of_weight: Tensor
    ) -> None:
        """Overwrite both gradients of a depthwise convolution; the CPU reads `grad_output` once."""
        one, other = self._passes["grad_input"], self._passes["grad_weight"]
        size = one.workspace_bytes + other.workspace_bytes
        workspace = torch.empty(size, dtype=torch.uint8, device=of_input.device)
        getattr(self._module, f"depthwise_nhwc_backward_{self._kind}")(
            one.params,
            grad_output.data_ptr(),
            input.data_ptr(),
            weight.data_ptr(),
            _depthwise_stride(of_weight.stride()),
            workspace.data_ptr(),
            *_arguments_for(self._kind, self._on_cpu, of_input),
            of_input.data_ptr(),
            of_weight.data_ptr(),
        )

    def _add_depthwise(
        self, which: str, geometry: Geometry, weight_stride: Size, code: int, weight_code: int
    ) -> None:
        size, output, weight, *numbers, _ = geometry
        params = self._module.DepthwiseNhwcParams(
            size[:2],
            size[2:],
            output[2:],
            weight[2],
            *numbers,
            _depthwise_stride(weight_stride),
            weight_code,
            code,
        )
        if self._kind == "cpu" or self._module.depthwise_nhwc_why_not_cuda(params) is None:
            self._add("depthwise_nhwc", which, params, self._on_cpu[1:])

    def _add_grouped(
        self, which: str, geometry: Geometry, weight_stride: Size, code: int, weight_code: int
    ) -> None:
        size, output, weight, *numbers, groups = geometry
        params = self._module.GroupedNhwcParams(
            (size[0], groups), size[1:], output[1:], weight[2], *numbers, weight_stride, weight_code, code
        )
        self._add("grouped_nhwc", which, params, self._on_cpu)

    def _add_dense(
        self,
        which: str,
        geometry: Geometry,
        weight_stride: Size,
        code: int,
        weight_code: int,
        tf32: bool,
        warpgroups: bool,
        tile: int,
    ) -> None:
        size, output, weight, *numbers, _ = geometry
        make = partial(
            self._module.Conv2dNhwcParams,
            size[0],
            size[1:],
            output[1:],
            weight[2],
            *numbers,
            weight_stride,
            code,
            weight_code,
            tf32,
            warpgroups,
            tile=tile,
        )
        params = make()
        of_pass = getattr(self._module.Pass, which)
        if self._kind == "cpu":
            why_not = self._module.conv2d_nhwc_why_not(params, of_pass, self._on_cpu[1])
        else:
            why_not = self._module.conv2d_nhwc_why_not_cuda(params, of_pass)
        if why_not is None:
            self._add("conv2d_nhwc", which, params, self._on_cpu)
            if self._kind == "cuda" and which != "grad_weight":
                for early in (False, True):
                    self._packed_params[which, early] = make(packed=True, early=early)

    def _add(self, name: str, which: str, params: Any, on_cpu: tuple[int, ...]) -> None:
        """Add a pass; on the CPU its need for memory depends on what `on_cpu` has of the placement."""
        ask = getattr(self._module, f"{name}_workspace_{self._kind}")
        size = ask(params, getattr(self._module.Pass, which), *(on_cpu if self._kind == "cpu" else ()))
        self._passes[which] = _Pass(getattr(self._module, f"{name}_{which}_{self._kind}"), params, size)
        if which == "forward" and self._kind == "cpu":
            self._passes["predict"] = _Pass(getattr(self._module, f"{name}_predict_cpu"), params, size)

    def _run(
        self,
        which: str,
        first: Tensor,
        second: Tensor,
        result: Tensor,
        *more: int,
        packed: Tensor | None = None,
        early: bool = True,
    ) -> Tensor:
        function, params, workspace_bytes = self._passes[which]
        if packed is not None:
            params, second = self._packed_params[which, early], packed
        arguments = _arguments_for(self._kind, self._on_cpu, result)
        return _run(function, (params,), (first, second), workspace_bytes, arguments, result, *more)


def pack(weights: Sequence[tuple[NhwcKernels, Tensor]], *, ahead: bool) -> list[Packed]:
    """Return weights packed for the forward pass and for the gradient of the input, by few launches.

    Args:
        weights: at least one, each with the kernels that will read it, which take it packed.
        ahead: whether anything is queued before these kernels but that.
    """
    packed, rows = zip(*(kernels.row(weight, ahead) for kernels, weight in weights), strict=True)
    compiled.load().conv2d_nhwc_pack_cuda(list(rows), *placement.of(weights[0][1]).arguments)
    return list(packed)


def _depthwise_stride(stride: Size) -> tuple[int, int, int]:
    """Return the strides of a weight [C, 1, kh, kw] without the one that counts for nothing."""
    return stride[0], stride[2], stride[3]
