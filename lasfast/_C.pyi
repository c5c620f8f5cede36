# ruff: noqa: N999
# What csrc/bindings/module.cpp offers. Addresses are data_ptr() values, strides are in elements.
from collections.abc import Sequence

cuda: bool
openmp: bool
compiler: str

def isa_names() -> list[str]: ...
def isas_compiled() -> list[str]: ...
def isas_supported() -> list[str]: ...
def cuda_archs() -> list[str]: ...
def cuda_runtime_version() -> int: ...
def cuda_driver_version() -> int: ...
def cuda_device_count() -> int: ...

class Pass:
    forward: Pass
    grad_input: Pass
    grad_weight: Pass

class SlicedConv2dParams:
    def __init__(
        self,
        sizes: Sequence[int],  # batch, groups
        input: Sequence[int],  # c_in, height, width
        output: Sequence[int],  # c_out, height, width
        kernel: Sequence[int],  # height, width
        stride: int,
        padding: int,
        input_stride: Sequence[int],
        weight_stride: Sequence[int],
        output_stride: Sequence[int],
    ) -> None: ...

def sliced_conv2d_workspace_cpu(params: SlicedConv2dParams, which: Pass, threads: int, /) -> int: ...
def sliced_conv2d_forward_cpu(
    params: SlicedConv2dParams,
    input: int,
    weight: int,
    workspace: int,
    threads: int,
    isa: int,
    output: int,
    /,
) -> None: ...
def sliced_conv2d_grad_input_cpu(
    params: SlicedConv2dParams,
    grad_output: int,
    weight: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_input: int,
    /,
) -> None: ...
def sliced_conv2d_grad_weight_cpu(
    params: SlicedConv2dParams,
    grad_output: int,
    input: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_weight: int,
    /,
) -> None: ...
def sliced_conv2d_workspace_cuda(params: SlicedConv2dParams, which: Pass, /) -> int: ...
def sliced_conv2d_forward_cuda(
    params: SlicedConv2dParams,
    dtype: int,
    input: int,
    weight: int,
    workspace: int,
    device: int,
    stream: int,
    output: int,
    /,
) -> None: ...
def sliced_conv2d_grad_input_cuda(
    params: SlicedConv2dParams,
    dtype: int,
    grad_output: int,
    weight: int,
    workspace: int,
    device: int,
    stream: int,
    grad_input: int,
    /,
) -> None: ...
def sliced_conv2d_grad_weight_cuda(
    params: SlicedConv2dParams,
    dtype: int,
    grad_output: int,
    input: int,
    workspace: int,
    device: int,
    stream: int,
    grad_weight: int,
    /,
) -> None: ...
