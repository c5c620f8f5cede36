"""A layer's program with each batch norm's neighbours drawn into one fused operation, for training."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from lasfast.ops import bn_act, conv_bn_act, sliced_conv2d
from lasfast.ops.ranks import Ranks
from lasfast.supernets import layers
from lasfast.supernets.layers import Layer, Op
from lasfast.supernets.run import Modules, conv_weight, last_uses, leading, run_op

MOMENTUM = 0.1  # of the supernet's own running statistics; torch's default


@dataclass(frozen=True)
class Step:
    """What runs at once: an op as it is, or a batch norm with what stands before and behind it.

    `inputs` are the values that are read, `output` the one that is made. A fused step reads the
    convolution's input (the batch norm's, without one) and, if there is an `Add`, the value it adds.
    """

    inputs: tuple[int, ...]
    output: int
    op: Op
    conv: layers.Conv2d | None = None
    activation: str = "none"


@lru_cache(maxsize=4096)
def fused_steps(layer: Layer) -> tuple[Step, ...]:
    """Return the steps of a layer, each at the place of its last op.

    A batch norm takes in the convolution that it alone reads (one without a bias and not dilated), then the
    sum that alone reads its output, and then the activation that alone reads that. Where both sides of a sum
    are batch norms, the first takes it in.
    """
    program = dict(enumerate(layer.steps(), start=1))
    readers = Counter(source for _, sources in program.values() for source in sources)
    readers[len(program)] += 1  # the layer's output
    reader = {source: number for number, (_, sources) in program.items() for source in sources}

    def only_reader(value: int, kind: type[Op]) -> int | None:
        number = reader.get(value)
        return number if readers[value] == 1 and number and isinstance(program[number][0], kind) else None

    steps: dict[int, Step] = {}
    inside: set[int] = set()
    for number, (op, sources) in program.items():
        if not isinstance(op, layers.BatchNorm2d):
            continue
        source, last = sources[0], number
        before = program[source][0] if source else None
        conv = (
            before if isinstance(before, layers.Conv2d) and not before.bias and before.dilation == 1 else None
        )
        if readers[source] != 1:
            conv = None
        members = {number}
        inputs: tuple[int, ...] = (source,)
        if conv is not None:
            members.add(source)
            inputs = program[source][1]
        added = only_reader(last, layers.Add)
        if added is not None and added not in inside:
            add, (first, second) = program[added]
            assert isinstance(add, layers.Add)
            if first == last or not add.missing:
                inputs = (*inputs, second if first == last else first)
                members.add(added)
                last = added
        activated = only_reader(last, layers.Activation)
        activation = "none"
        if activated is not None:
            op_after = program[activated][0]
            assert isinstance(op_after, layers.Activation)
            activation = op_after.kind
            members.add(activated)
            last = activated
        inside |= members
        steps[last] = Step(inputs, last, op, conv, activation)
    alone = {
        number: Step(sources, number, op) for number, (op, sources) in program.items() if number not in inside
    }
    return tuple(step for _, step in sorted((steps | alone).items()))


@lru_cache(maxsize=4096)
def _last_uses(layer: Layer) -> tuple[tuple[int, ...], ...]:
    return last_uses([step.inputs for step in fused_steps(layer)])


def run_fused(layer: Layer, x: Tensor, modules: Modules, ranks: Ranks | None = None) -> Tensor:
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
        elif isinstance(step.op, layers.Conv2d) and step.op.dilation == 1:
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
    ranks: Ranks | None,
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
    y = sliced_conv2d(x, weight, op.in_channels, op.out_channels, op.stride, op.padding, op.groups)
    bias = modules[op.module].bias
    return y + leading(bias, op.out_channels).to(y.dtype).view(1, -1, 1, 1) if op.bias else y


def _weight(op: layers.Conv2d, modules: Modules) -> Tensor:
    """A weight to read a slice of: the module's whole one, unless it is quantized."""
    return modules[op.module].weight if op.weight_bits is None else conv_weight(op, modules)
