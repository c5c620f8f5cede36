# ruff: noqa: N999
# Made by csrc/bindings/make_stub.py.
"""Native code of lasfast. Use lasfast.ops: this module checks little.

Tensors arrive as the addresses of their data (`data_ptr()`), 0 where there is none; strides are in
elements; dtypes, activations and instruction sets are numbers. What functions compute is said in
csrc/include/lasfast, in the header that their name begins with. Those with `cuda` in their names exist
in CUDA builds only, and all that they are given lies in the device's memory.
"""

import typing
from collections.abc import Sequence

import numpy

class ScheduleTables:
    """What a pass reads and writes; Python keeps all of it alive."""

    def __init__(
        self,
        values: int,
        value_count: int,
        norms: int = 0,
        norm_count: int = 0,
        operations: int = 0,
        operation_count: int = 0,
        weights: int = 0,
        weight_bytes: int = 0,
        biases: int = 0,
        bias_count: int = 0,
        gamma: int = 0,
        beta: int = 0,
        scale: int = 0,
        shift: int = 0,
        mean: int = 0,
        variance: int = 0,
        channel_count: int = 0,
        pixels: int = 0,
    ) -> None: ...

class Pass:
    forward: typing.ClassVar[Pass]
    grad_input: typing.ClassVar[Pass]
    grad_weight: typing.ClassVar[Pass]

class DepthwiseNhwcParams:
    """`sizes` are (images, channels), `input` and `output` are (height, width)."""

    def __init__(
        self,
        sizes: Sequence[int],
        input: Sequence[int],
        output: Sequence[int],
        kernel: int,
        stride: int,
        padding: int,
        weight_stride: Sequence[int],
        weight_dtype: int,
        storage: int,
    ) -> None: ...

class GroupedNhwcParams:
    """`sizes` are (images, groups), `input` and `output` are (channels, height, width)."""

    def __init__(
        self,
        sizes: Sequence[int],
        input: Sequence[int],
        output: Sequence[int],
        kernel: int,
        stride: int,
        padding: int,
        weight_stride: Sequence[int],
        weight_dtype: int,
        storage: int,
    ) -> None: ...

class Conv2dNhwcParams:
    """`input` and `output` are (channels, height, width)."""

    def __init__(
        self,
        batch: int,
        input: Sequence[int],
        output: Sequence[int],
        kernel: int,
        stride: int,
        padding: int,
        weight_stride: Sequence[int],
        storage: int,
        weight: int,
        tf32: bool = False,
        warpgroups: bool = False,
        packed: bool = False,
        early: bool = False,
        tile: int = 0,
    ) -> None: ...

class SlicedConv2dParams:
    """`sizes` are (images, groups); the others are (channels, height, width)."""

    def __init__(
        self,
        sizes: Sequence[int],
        input: Sequence[int],
        output: Sequence[int],
        kernel: Sequence[int],
        stride: int,
        padding: int,
        input_stride: Sequence[int],
        weight_stride: Sequence[int],
        output_stride: Sequence[int],
    ) -> None: ...

def batch_statistics_cpu(
    rows: int,
    channels: int,
    storage: int,
    x: int,
    workspace: int,
    threads: int,
    isa: int,
    mean: int,
    var: int,
) -> None: ...
def batch_statistics_cuda(
    rows: int,
    channels: int,
    storage: int,
    x: int,
    workspace: int,
    device: int,
    stream: int,
    mean: int,
    var: int,
) -> None: ...
def bn_act_backward_counted_cuda(
    rows: int,
    channels: int,
    residual_channels: int,
    storage: int,
    activation: int,
    eps: float,
    early: bool,
    counters: int,
    grad: int,
    x: int,
    mean: int,
    var: int,
    weight: int,
    bias: int,
    residual: int,
    workspace: int,
    device: int,
    stream: int,
    grad_x: int,
    grad_weight: int,
    grad_bias: int,
    grad_residual: int,
) -> None: ...
def bn_act_backward_cpu(
    rows: int,
    channels: int,
    residual_channels: int,
    storage: int,
    activation: int,
    batch_statistics: bool,
    eps: float,
    grad: int,
    x: int,
    mean: int,
    var: int,
    weight: int,
    bias: int,
    residual: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_x: int,
    grad_weight: int,
    grad_bias: int,
    grad_residual: int,
) -> None: ...
def bn_act_backward_cuda(
    rows: int,
    channels: int,
    residual_channels: int,
    storage: int,
    activation: int,
    batch_statistics: bool,
    eps: float,
    grad: int,
    x: int,
    mean: int,
    var: int,
    weight: int,
    bias: int,
    residual: int,
    workspace: int,
    device: int,
    stream: int,
    grad_x: int,
    grad_weight: int,
    grad_bias: int,
    grad_residual: int,
) -> None: ...
def bn_act_counters_cuda(rows: int, channels: int) -> int:
    """How many counters bn_act_train_cuda makes for bn_act_backward_counted_cuda."""

def bn_act_forward_cpu(
    rows: int,
    channels: int,
    residual_channels: int,
    storage: int,
    activation: int,
    eps: float,
    x: int,
    mean: int,
    var: int,
    weight: int,
    bias: int,
    residual: int,
    workspace: int,
    threads: int,
    isa: int,
    y: int,
) -> None: ...
def bn_act_forward_cuda(
    rows: int,
    channels: int,
    residual_channels: int,
    storage: int,
    activation: int,
    eps: float,
    x: int,
    mean: int,
    var: int,
    weight: int,
    bias: int,
    residual: int,
    workspace: int,
    device: int,
    stream: int,
    y: int,
) -> None: ...
def bn_act_grad_x_cpu(
    rows: int,
    channels: int,
    residual_channels: int,
    storage: int,
    activation: int,
    eps: float,
    grad: int,
    x: int,
    mean: int,
    var: int,
    weight: int,
    bias: int,
    residual: int,
    dz: int,
    sums: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_x: int,
) -> None: ...
def bn_act_grad_x_cuda(
    rows: int,
    channels: int,
    residual_channels: int,
    storage: int,
    activation: int,
    eps: float,
    grad: int,
    x: int,
    mean: int,
    var: int,
    weight: int,
    bias: int,
    residual: int,
    dz: int,
    sums: int,
    workspace: int,
    device: int,
    stream: int,
    grad_x: int,
) -> None: ...
def bn_act_sums_cpu(
    rows: int,
    channels: int,
    residual_channels: int,
    storage: int,
    activation: int,
    eps: float,
    grad: int,
    x: int,
    mean: int,
    var: int,
    weight: int,
    bias: int,
    residual: int,
    workspace: int,
    threads: int,
    isa: int,
    sums: int,
    grad_weight: int,
    grad_bias: int,
    grad_residual: int,
) -> None: ...
def bn_act_sums_cuda(
    rows: int,
    channels: int,
    residual_channels: int,
    storage: int,
    activation: int,
    eps: float,
    grad: int,
    x: int,
    mean: int,
    var: int,
    weight: int,
    bias: int,
    residual: int,
    workspace: int,
    device: int,
    stream: int,
    sums: int,
    grad_weight: int,
    grad_bias: int,
    grad_residual: int,
) -> None: ...
def bn_act_train_cuda(
    rows: int,
    channels: int,
    residual_channels: int,
    storage: int,
    activation: int,
    eps: float,
    early: bool,
    counters: int,
    x: int,
    mean: int,
    var: int,
    weight: int,
    bias: int,
    residual: int,
    workspace: int,
    device: int,
    stream: int,
    y: int,
    momentum: float,
    running_mean: int,
    running_var: int,
) -> None: ...
def bn_act_workspace_cpu(rows: int, channels: int, residual_channels: int, threads: int) -> int: ...
def bn_act_workspace_cuda(rows: int, channels: int, residual_channels: int) -> int: ...
def conv2d_nhwc_forward_cpu(
    params: Conv2dNhwcParams,
    input: int,
    weight: int,
    workspace: int,
    threads: int,
    isa: int,
    output: int,
    mean: int,
    variance: int,
) -> None: ...
def conv2d_nhwc_forward_cuda(
    params: Conv2dNhwcParams,
    input: int,
    weight: int,
    workspace: int,
    device: int,
    stream: int,
    output: int,
    mean: int,
    variance: int,
) -> None: ...
def conv2d_nhwc_grad_input_cpu(
    params: Conv2dNhwcParams,
    grad_output: int,
    weight: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_input: int,
) -> None: ...
def conv2d_nhwc_grad_input_cuda(
    params: Conv2dNhwcParams,
    grad_output: int,
    weight: int,
    workspace: int,
    device: int,
    stream: int,
    grad_input: int,
) -> None: ...
def conv2d_nhwc_grad_weight_cpu(
    params: Conv2dNhwcParams,
    grad_output: int,
    input: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_weight: int,
) -> None: ...
def conv2d_nhwc_grad_weight_cuda(
    params: Conv2dNhwcParams,
    grad_output: int,
    input: int,
    workspace: int,
    device: int,
    stream: int,
    grad_weight: int,
) -> None: ...
def conv2d_nhwc_pack_cuda(
    weights: Sequence[tuple[Conv2dNhwcParams, int, int, int]], device: int, stream: int
) -> None:
    """Each weight: parameters, its address, where to for the forward pass and the input's gradient."""

def conv2d_nhwc_packed_bytes_cuda(params: Conv2dNhwcParams, which: Pass) -> int: ...
def conv2d_nhwc_predict_cpu(
    params: Conv2dNhwcParams,
    input: int,
    weight: int,
    mean: int,
    var: int,
    bn_weight: int,
    bn_bias: int,
    eps: float,
    residual: int,
    residual_channels: int,
    activation: int,
    workspace: int,
    threads: int,
    isa: int,
    output: int,
) -> None: ...
def conv2d_nhwc_why_not(params: Conv2dNhwcParams, which: Pass, isa: int) -> str | None:
    """Why a pass cannot be run; None where it can."""

def conv2d_nhwc_why_not_cuda(params: Conv2dNhwcParams, which: Pass) -> str | None:
    """Why a pass cannot be run; None where it can."""

def conv2d_nhwc_workspace_cpu(params: Conv2dNhwcParams, which: Pass, threads: int, isa: int) -> int: ...
def conv2d_nhwc_workspace_cuda(params: Conv2dNhwcParams, which: Pass) -> int: ...
def cuda_archs() -> list[str]: ...
def cuda_device_count() -> int: ...
def cuda_driver_version() -> int: ...
def cuda_limits(device: int) -> list[int]:
    """Multiprocessors; bytes of shared memory: a block's, a multiprocessor's, reserved in each block."""

def cuda_runtime_version() -> int: ...
def depthwise_nhwc_backward_cpu(
    params: DepthwiseNhwcParams,
    grad_output: int,
    input: int,
    weight: int,
    grad_weight_stride: Sequence[int],
    workspace: int,
    threads: int,
    isa: int,
    grad_input: int,
    grad_weight: int,
) -> None: ...
def depthwise_nhwc_backward_cuda(
    params: DepthwiseNhwcParams,
    grad_output: int,
    input: int,
    weight: int,
    grad_weight_stride: Sequence[int],
    workspace: int,
    device: int,
    stream: int,
    grad_input: int,
    grad_weight: int,
) -> None: ...
def depthwise_nhwc_forward_cpu(
    params: DepthwiseNhwcParams,
    input: int,
    weight: int,
    workspace: int,
    threads: int,
    isa: int,
    output: int,
    mean: int,
    variance: int,
) -> None: ...
def depthwise_nhwc_forward_cuda(
    params: DepthwiseNhwcParams,
    input: int,
    weight: int,
    workspace: int,
    device: int,
    stream: int,
    output: int,
    mean: int,
    variance: int,
) -> None: ...
def depthwise_nhwc_grad_input_cpu(
    params: DepthwiseNhwcParams,
    grad_output: int,
    weight: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_input: int,
) -> None: ...
def depthwise_nhwc_grad_input_cuda(
    params: DepthwiseNhwcParams,
    grad_output: int,
    weight: int,
    workspace: int,
    device: int,
    stream: int,
    grad_input: int,
) -> None: ...
def depthwise_nhwc_grad_weight_cpu(
    params: DepthwiseNhwcParams,
    grad_output: int,
    input: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_weight: int,
) -> None: ...
def depthwise_nhwc_grad_weight_cuda(
    params: DepthwiseNhwcParams,
    grad_output: int,
    input: int,
    workspace: int,
    device: int,
    stream: int,
    grad_weight: int,
) -> None: ...
def depthwise_nhwc_predict_cpu(
    params: DepthwiseNhwcParams,
    input: int,
    weight: int,
    mean: int,
    var: int,
    bn_weight: int,
    bn_bias: int,
    eps: float,
    residual: int,
    residual_channels: int,
    activation: int,
    workspace: int,
    threads: int,
    isa: int,
    output: int,
) -> None: ...
def depthwise_nhwc_why_not_cuda(params: DepthwiseNhwcParams) -> str | None:
    """Why the passes cannot be run; None where they can."""

def depthwise_nhwc_workspace_cpu(params: DepthwiseNhwcParams, which: Pass, isa: int) -> int: ...
def depthwise_nhwc_workspace_cuda(params: DepthwiseNhwcParams, which: Pass) -> int: ...
def grouped_nhwc_forward_cpu(
    params: GroupedNhwcParams,
    input: int,
    weight: int,
    workspace: int,
    threads: int,
    isa: int,
    output: int,
    mean: int,
    variance: int,
) -> None: ...
def grouped_nhwc_grad_input_cpu(
    params: GroupedNhwcParams,
    grad_output: int,
    weight: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_input: int,
) -> None: ...
def grouped_nhwc_grad_weight_cpu(
    params: GroupedNhwcParams,
    grad_output: int,
    input: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_weight: int,
) -> None: ...
def grouped_nhwc_predict_cpu(
    params: GroupedNhwcParams,
    input: int,
    weight: int,
    mean: int,
    var: int,
    bn_weight: int,
    bn_bias: int,
    eps: float,
    residual: int,
    residual_channels: int,
    activation: int,
    workspace: int,
    threads: int,
    isa: int,
    output: int,
) -> None: ...
def grouped_nhwc_workspace_cpu(params: GroupedNhwcParams, which: Pass, threads: int, isa: int) -> int: ...
def isa_names() -> list[str]:
    """The names of all instruction sets; an instruction set's number is its place among them."""

def isa_preferred() -> str: ...
def isas_compiled() -> list[str]: ...
def isas_supported() -> list[str]: ...
def schedule_calibrate(
    tables: ScheduleTables,
    storage: int,
    isa: int,
    threads: int,
    operations: Sequence[int],
    images_nchw: int,
    images: int,
    arena: int,
    arena_bytes: int,
    scratch: int,
) -> None: ...
def schedule_conv_tiles_cuda() -> list[tuple[int, int, bool]]:
    """Of each tile: positions, channels, and whether warpgroups multiply it."""

def schedule_has_tensor_maps_cuda(device: int) -> bool: ...
def schedule_has_warpgroups_cuda(device: int) -> bool: ...
def schedule_maps_cuda(tables: ScheduleTables, plan: int, arena: int, device: int, maps: int) -> None: ...
def schedule_needs_cuda(plan: int) -> list[int]:
    """Bytes of arena and scratch memory, levels, bytes of a block's shared memory and of tensor maps."""

def schedule_pack(
    operation: int, input: int, storage: int, isa: int, weight: int, weight_stride: Sequence[int], packed: int
) -> None: ...
def schedule_pack_cuda(
    weights: Sequence[tuple[int, int, int, Sequence[int], int]],
    storage: int,
    tf32: bool,
    device: int,
    stream: int,
) -> None:
    """Each weight: the addresses of an operation and its input, of the weight, its strides, where to."""

def schedule_packed_bytes(operation: int, input: int, storage: int, isa: int) -> int: ...
def schedule_packed_bytes_cuda(operation: int, input: int, storage: int) -> int: ...
def schedule_plan_bytes_cuda(tables: ScheduleTables, storage: int, images: int, purpose: int) -> int: ...
def schedule_plan_cuda(
    tables: ScheduleTables, storage: int, tf32: bool, images: int, purpose: int, plan: int
) -> None: ...
def schedule_predict(
    tables: ScheduleTables,
    storage: int,
    isa: int,
    threads: int,
    operations: Sequence[int],
    images_nchw: int,
    images: int,
    block: int,
    shared_arena: int,
    shared_bytes: int,
    arenas: int,
    arena_bytes: int,
    scratch: int,
    logits: int,
) -> None: ...
def schedule_run_cuda(
    tables: ScheduleTables,
    plan: int,
    device_plan: int,
    images: int,
    count: int,
    first_level: int,
    last_level: int,
    arena: int,
    scratch: int,
    logits: int,
    logit_images: int,
    device: int,
    stream: int,
    maps: int = 0,
) -> None: ...
def schedule_run_resident_cuda(
    tables: ScheduleTables,
    plan: int,
    device_plan: int,
    images: int,
    count: int,
    logits: int,
    logit_images: int,
    device: int,
    stream: int,
) -> None: ...
def schedule_scratch_bytes(
    tables: ScheduleTables, storage: int, isa: int, images: int, threads: int, calibration: bool
) -> int: ...
def schedule_tally_cuda(
    networks: int,
    images: int,
    classes: int,
    logits: int,
    labels: int,
    capacity: int,
    class_ranks: int,
    losses: int,
    early: bool,
    device: int,
    stream: int,
) -> None: ...
def schedule_usual_tile_cuda(channels: int) -> int: ...
def sgd_chunks(parts: int, count: int) -> int:
    """Number the chunks of `parts`, int64 [count, 10] of SgdPart; return how many there are."""

def sgd_cpu(
    parts: int,
    count: int,
    chunks: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    gradient_scale: float,
    clip_norm: float,
    workspace: int,
    threads: int,
) -> None: ...
def sgd_cuda(
    parts: int,
    count: int,
    chunks: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    gradient_scale: float,
    clip_norm: float,
    workspace: int,
    device: int,
    stream: int,
) -> None: ...
def sgd_workspace(chunks: int) -> int: ...
def sliced_conv2d_forward_cpu(
    params: SlicedConv2dParams, input: int, weight: int, workspace: int, threads: int, isa: int, output: int
) -> None: ...
def sliced_conv2d_forward_cuda(
    params: SlicedConv2dParams,
    dtype: int,
    input: int,
    weight: int,
    workspace: int,
    device: int,
    stream: int,
    output: int,
) -> None: ...
def sliced_conv2d_grad_input_cpu(
    params: SlicedConv2dParams,
    grad_output: int,
    weight: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_input: int,
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
) -> None: ...
def sliced_conv2d_grad_weight_cpu(
    params: SlicedConv2dParams,
    grad_output: int,
    input: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_weight: int,
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
) -> None: ...
def sliced_conv2d_workspace_cpu(params: SlicedConv2dParams, which: Pass, threads: int) -> int: ...
def sliced_conv2d_workspace_cuda(params: SlicedConv2dParams, which: Pass) -> int: ...
def update_running_cpu(
    rows: int, channels: int, mean: int, var: int, momentum: float, running_mean: int, running_var: int
) -> None: ...
def update_running_cuda(
    rows: int,
    channels: int,
    mean: int,
    var: int,
    momentum: float,
    device: int,
    stream: int,
    running_mean: int,
    running_var: int,
) -> None: ...

activations: dict[str, int]
compiler: str
cuda: bool
dtypes: dict[str, int]
kinds: dict[str, int]
openmp: bool
records: dict[str, numpy.dtype]
schedule_limits: dict[str, int]
