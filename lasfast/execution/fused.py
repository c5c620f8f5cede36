"""Runs layers with lasfast's fused operators, for training: each batch norm with its neighbours at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard

from torch import Tensor

from lasfast.execution.interpret import Modules, conv_weight, last_uses, leading, run_op
from lasfast.ir import layers
from lasfast.ir.fusion import Chain, Stage, match_layer
from lasfast.ir.layers import Layer, Op
from lasfast.ops import bn_act, conv_bn_act, sliced_conv2d
from lasfast.ops.depthwise import depthwise_conv2d
from lasfast.ops.process_ranks import ProcessRanks

MOMENTUM = 0.1  # of the supernet's own running statistics; torch's default


@dataclass(frozen=True)
class Step:
    """Ops that run at once: one as it is, or a chain around a batch norm.

    `inputs` are the values that are read, `output` is the one that is made. A fused step reads the
    convolution's input (the batch norm's, without one) and, if there is an `Add`, the value it adds.
    """

    inputs: tuple[int, ...]
    output: int
    op: Op
    conv: layers.Conv2d | None = None
    activation: str = "none"


@lru_cache(maxsize=4096)
def fused_steps(layer: Layer) -> tuple[Step, ...]:
    """Return the steps of a layer, each at the place of its last op."""
    ops = list(layer.steps())

    def step(chain: Chain) -> Step:
        parts = {stage: ops[number - 1][0] for stage, number in chain.parts.items()}
        inputs = ops[chain.first - 1][1]
        if Stage.NORM not in parts:
            return Step(inputs, chain.last, ops[chain.last - 1][0])
        conv, activation = parts.get(Stage.HEAD), parts.get(Stage.ACTIVATION)
        assert conv is None or isinstance(conv, layers.Conv2d)
        return Step(
            inputs if chain.other is None else (*inputs, chain.other),
            chain.last,
            parts[Stage.NORM],
            conv,
            activation.kind if isinstance(activation, layers.Activation) else "none",
        )

    return tuple(map(step, match_layer(layer, _is_head)))


def _is_head(op: Op) -> bool:
    """Return whether the fused operators can run a convolution like this one."""
    return _is_sliceable(op) and not op.bias


def _is_sliceable(op: Op) -> TypeGuard[layers.Conv2d]:
    """Return whether the operator for slices of weights can run a convolution."""
    return isinstance(op, layers.Conv2d) and op.dilation == 1 and isinstance(op.padding, int)


def _is_depthwise(op: layers.Conv2d) -> bool:
    """Return whether the operator for depthwise convolutions can run this one, dilated or not."""
    return op.groups == op.in_channels == op.out_channels > 1 and isinstance(op.padding, int)


@lru_cache(maxsize=4096)
def _last_uses(layer: Layer) -> tuple[tuple[int, ...], ...]:
    return last_uses([step.inputs for step in fused_steps(layer)])


def run_fused(layer: Layer, x: Tensor, modules: Modules, ranks: ProcessRanks | None = None) -> Tensor:
    """Run one layer on x [N, C, H, W] (or [N, F]) as `run_layer` does, with lasfast's fused operators.

    Batch norm is torch's: batch statistics where `modules[""]` is in training mode (the modules' running
    statistics follow), running statistics elsewhere. A batch that is spread over `ranks` has the statistics
    of all.
    """
    values: dict[int, Tensor] = {0: x}
    output = x
    for step, dead in zip(fused_steps(layer), _last_uses(layer), strict=True):
        inputs = [values[source] for source in step.inputs]
        if isinstance(step.op, layers.BatchNorm2d):
            output = _run_fused(step, step.op, modules, ranks, *inputs)
        elif isinstance(step.op, layers.Conv2d) and (_is_depthwise(step.op) or _is_sliceable(step.op)):
            output = _run_conv(step.op, modules, *inputs)
        else:
            output = run_op(step.op, modules, *inputs)
        values[step.output] = output
        for source in dead:
            del values[source]
    return output


def _run_fused(
    step: Step,
    op: layers.BatchNorm2d,
    modules: Modules,
    ranks: ProcessRanks | None,
    x: Tensor,
    residual: Tensor | None = None,
) -> Tensor:
    norm, channels, training = modules[op.module], op.channels, modules[""].training
    buffers = (
        leading(norm.running_mean, channels),
        leading(norm.running_var, channels),
        leading(norm.weight, channels),
        leading(norm.bias, channels),
        residual,
    )
    if step.conv is None:
        return bn_act(
            x,
            *buffers,
            training=training,
            momentum=MOMENTUM,
            eps=op.eps,
            activation=step.activation,
            ranks=ranks,
        )
    conv = step.conv
    assert isinstance(conv.padding, int)
    return conv_bn_act(
        x,
        _weight(conv, modules),
        *buffers,
        c_out=conv.out_channels,
        stride=conv.stride,
        padding=conv.padding,
        groups=conv.groups,
        training=training,
        momentum=MOMENTUM,
        eps=op.eps,
        activation=step.activation,
        ranks=ranks,
    )


def _run_conv(op: layers.Conv2d, modules: Modules, x: Tensor) -> Tensor:
    weight = _weight(op, modules)
    assert isinstance(op.padding, int)
    if _is_depthwise(op):
        y = depthwise_conv2d(x, weight, op.stride, op.padding, op.dilation)
    else:
        y = sliced_conv2d(x, weight, op.in_channels, op.out_channels, op.stride, op.padding, op.groups)
    bias = modules[op.module].bias
    return y + leading(bias, op.out_channels).to(y.dtype).view(1, -1, 1, 1) if op.bias else y


def _weight(op: layers.Conv2d, modules: Modules) -> Tensor:
    """Return a weight whose slice can be read: the module's whole one, unless it is quantized."""
    return modules[op.module].weight if op.weight_bits is None else conv_weight(op, modules)
