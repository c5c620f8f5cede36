"""The operations of a cell's edges, as ops of layer records (DARTS, Liu et al. 2019, section 3.1.1)."""

from __future__ import annotations

from lasfast.ir.builder import LayerBuilder, Value
from lasfast.spaces.cell import OPERATIONS


def apply_operation(block: LayerBuilder, module: str, operation: str, x: Value, stride: int) -> Value:
    """Append an operation of `OPERATIONS`, which keeps the number of channels, and return its output.

    A skip of stride 1 is x itself; one of stride 2 is a `factorized_reduction`. A convolution is a ReLU, the
    convolution and a batch norm, in this order. A separable one is applied twice, the first with the stride.

    Args:
        block: the builder of the layer.
        module: the prefix of the modules' names.
        operation: a key of `OPERATIONS`.
        x: the operation's input.
        stride: 1, or 2 to halve height and width.
    """
    kind, kernel = operation.rsplit("_", 1)[0], int(operation[-1]) if operation[-1].isdigit() else 1
    if kind in ("max_pool", "avg_pool"):
        return block.pool(x, "max" if kind == "max_pool" else "avg", kernel, stride, padding=kernel // 2)
    if kind == "sep_conv":
        x = _separable(block, f"{module}.1", x, kernel, stride)
        return _separable(block, f"{module}.2", x, kernel, 1)
    if kind == "dil_conv":
        return _separable(block, module, x, kernel, stride, dilation=2)
    if operation != "skip_connect":
        raise ValueError(f"operation must be one of {', '.join(OPERATIONS)}, got {operation!r}")
    return x if stride == 1 else factorized_reduction(block, module, x, x.channels)


def preprocess(block: LayerBuilder, module: str, x: Value, channels: int) -> Value:
    """Append ReLU, a 1x1 convolution to `channels` and a batch norm."""
    y = block.conv(f"{module}.conv", block.activation(x), channels, 1)
    return block.batch_norm(f"{module}.bn", y)


def factorized_reduction(block: LayerBuilder, module: str, x: Value, channels: int) -> Value:
    """Append ReLU, two 1x1 convolutions of stride 2 and a batch norm.

    The first half of the output's `channels` reads the even positions, the other half the odd ones. For an
    odd size, the last odd position counts as zero (DARTS' code takes even sizes only).
    """
    y = block.activation(x)
    even = block.conv(f"{module}.conv1", y, channels // 2, 1, 2)
    odd = block.conv(f"{module}.conv2", block.pad(y, (-1, 1, -1, 1)), channels - channels // 2, 1, 2)
    return block.batch_norm(f"{module}.bn", block.concat(even, odd))


def _separable(
    block: LayerBuilder, module: str, x: Value, kernel: int, stride: int, dilation: int = 1
) -> Value:
    y = block.activation(x)
    y = block.conv(f"{module}.depthwise", y, x.channels, kernel, stride, groups=x.channels, dilation=dilation)
    return block.batch_norm(f"{module}.bn", block.conv(f"{module}.pointwise", y, x.channels, 1))
