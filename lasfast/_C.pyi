# ruff: noqa: N999
# What csrc/bindings/ offers. Addresses are data_ptr() values, strides are in elements.
from collections.abc import Sequence

cuda: bool
openmp: bool
compiler: str
activations: dict[str, int]
dtypes: dict[str, int]

def isa_names() -> list[str]: ...
def isas_compiled() -> list[str]: ...
def isas_supported() -> list[str]: ...
def isa_preferred() -> str: ...
def cuda_archs() -> list[str]: ...
def cuda_runtime_version() -> int: ...
def cuda_driver_version() -> int: ...
def cuda_device_count() -> int: ...

# Of csrc/include/lasfast/bn_act.h; 0 for tensors that are missing or not wanted.
def bn_act_workspace_cpu(rows: int, channels: int, residual_channels: int, threads: int, /) -> int: ...
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
    /,
) -> None: ...
def update_running_cpu(
    rows: int,
    channels: int,
    mean: int,
    var: int,
    momentum: float,
    running_mean: int,
    running_var: int,
    /,
) -> None: ...
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
    /,
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
    /,
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
    /,
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
    /,
) -> None: ...
def bn_act_workspace_cuda(rows: int, channels: int, residual_channels: int, /) -> int: ...
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
    /,
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
    /,
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
    /,
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
    /,
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
    /,
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
    /,
) -> None: ...

# Of csrc/include/lasfast/sgd.h: `parts` is an int64 array [count, 9] of SgdPart.
def sgd_plan(parts: int, count: int, /) -> int: ...
def sgd_workspace(chunks: int, /) -> int: ...
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
    /,
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
    /,
) -> None: ...

# Addresses of arrays that mirror the records of csrc/include/lasfast/schedule.h; 0 where there is none.
class ScheduleTables:
    def __init__(
        self,
        values: int,
        value_count: int,
        norms: int,
        norm_count: int,
        operations: int,
        operation_count: int,
        weights: int,
        weight_bytes: int,
        biases: int,
        bias_count: int,
        gamma: int,
        beta: int,
        scale: int,
        shift: int,
        mean: int,
        variance: int,
        channel_count: int,
        pixels: int = 0,
    ) -> None: ...

def schedule_packed_bytes(operation: int, input: int, storage: int, isa: int) -> int: ...
def schedule_pack(
    operation: int,
    input: int,
    storage: int,
    isa: int,
    weight: int,
    weight_stride: Sequence[int],
    packed: int,
) -> None: ...
def schedule_scratch_bytes(
    tables: ScheduleTables,
    storage: int,
    isa: int,
    images: int,
    threads: int,
    calibration: bool,
) -> int: ...
def schedule_calibrate(
    tables: ScheduleTables,
    storage: int,
    isa: int,
    threads: int,
    images_nchw: int,
    images: int,
    arena: int,
    arena_bytes: int,
    scratch: int,
) -> None: ...
def schedule_predict(
    tables: ScheduleTables,
    storage: int,
    isa: int,
    threads: int,
    images_nchw: int,
    images: int,
    block: int,
    arenas: int,
    arena_bytes: int,
    scratch: int,
    logits: int,
) -> None: ...

# CUDA builds only; weights, images, arena, scratch, logits and device_plan are the device's.
def schedule_packed_bytes_cuda(operation: int, input: int, storage: int) -> int: ...
def schedule_pack_cuda(
    operation: int,
    input: int,
    storage: int,
    weight: int,
    weight_stride: Sequence[int],
    device: int,
    stream: int,
    packed: int,
) -> None: ...
def schedule_plan_bytes_cuda(tables: ScheduleTables, storage: int, images: int, purpose: int) -> int: ...
def schedule_plan_cuda(
    tables: ScheduleTables, storage: int, tf32: bool, images: int, purpose: int, plan: int
) -> None: ...

# Of each tile positions, channels, and whether warpgroups multiply it.
def schedule_conv_tiles_cuda() -> list[tuple[int, int, bool]]: ...
def schedule_usual_tile_cuda(channels: int) -> int: ...
def schedule_has_warpgroups_cuda(device: int) -> bool: ...

# Bytes of arena and of scratch, levels, bytes of a block's shared memory.
def schedule_needs_cuda(plan: int) -> list[int]: ...
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

# Multiprocessors; bytes of shared memory of a block, of a multiprocessor, and taken by each block besides.
def cuda_limits(device: int) -> list[int]: ...

class Pass:
    forward: Pass
    grad_input: Pass
    grad_weight: Pass

# Dense NHWC values. `storage` and `weight`: 0 fp32, 1 bf16.
class Conv2dNhwcParams:
    def __init__(
        self,
        batch: int,
        input: Sequence[int],  # c_in, height, width
        output: Sequence[int],  # c_out, height, width
        kernel: int,
        stride: int,
        padding: int,
        weight_stride: Sequence[int],
        storage: int,
        weight: int,
        tf32: bool = False,
        warpgroups: bool = False,
    ) -> None: ...

def conv2d_nhwc_why_not(params: Conv2dNhwcParams, which: Pass, isa: int) -> str | None: ...
def conv2d_nhwc_workspace_cpu(params: Conv2dNhwcParams, which: Pass, threads: int, isa: int) -> int: ...
def conv2d_nhwc_forward_cpu(
    params: Conv2dNhwcParams,
    input: int,
    weight: int,
    workspace: int,
    threads: int,
    isa: int,
    output: int,
    mean: int,  # these two may be 0
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
def conv2d_nhwc_grad_weight_cpu(
    params: Conv2dNhwcParams,
    grad_output: int,
    input: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_weight: int,
) -> None: ...

# CUDA builds only; all but the parameters is the device's.
def conv2d_nhwc_why_not_cuda(params: Conv2dNhwcParams, which: Pass) -> str | None: ...
def conv2d_nhwc_workspace_cuda(params: Conv2dNhwcParams, which: Pass) -> int: ...
def conv2d_nhwc_forward_cuda(
    params: Conv2dNhwcParams,
    input: int,
    weight: int,
    workspace: int,
    device: int,
    stream: int,
    output: int,
    mean: int,  # these two may be 0
    variance: int,
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
def conv2d_nhwc_grad_weight_cuda(
    params: Conv2dNhwcParams,
    grad_output: int,
    input: int,
    workspace: int,
    device: int,
    stream: int,
    grad_weight: int,
) -> None: ...

class DepthwiseNhwcParams:
    def __init__(
        self,
        sizes: Sequence[int],  # batch, channels
        input: Sequence[int],  # height, width
        output: Sequence[int],  # height, width
        kernel: int,
        stride: int,
        padding: int,
        weight_stride: Sequence[int],  # channels, kernel, kernel
        weight_dtype: int,
        storage: int,
    ) -> None: ...

def depthwise_nhwc_workspace_cpu(params: DepthwiseNhwcParams, which: Pass, isa: int, /) -> int: ...
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
    /,
) -> None: ...
def depthwise_nhwc_grad_input_cpu(
    params: DepthwiseNhwcParams,
    grad_output: int,
    weight: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_input: int,
    /,
) -> None: ...
def depthwise_nhwc_grad_weight_cpu(
    params: DepthwiseNhwcParams,
    grad_output: int,
    input: int,
    workspace: int,
    threads: int,
    isa: int,
    grad_weight: int,
    /,
) -> None: ...
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
    /,
) -> None: ...
def depthwise_nhwc_why_not_cuda(params: DepthwiseNhwcParams, /) -> str | None: ...
def depthwise_nhwc_workspace_cuda(params: DepthwiseNhwcParams, which: Pass, /) -> int: ...
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
    /,
) -> None: ...
def depthwise_nhwc_grad_input_cuda(
    params: DepthwiseNhwcParams,
    grad_output: int,
    weight: int,
    workspace: int,
    device: int,
    stream: int,
    grad_input: int,
    /,
) -> None: ...
def depthwise_nhwc_grad_weight_cuda(
    params: DepthwiseNhwcParams,
    grad_output: int,
    input: int,
    workspace: int,
    device: int,
    stream: int,
    grad_weight: int,
    /,
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
    /,
) -> None: ...

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
