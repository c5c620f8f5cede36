"""Convolution, batch norm and activation as one module."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lasfast.core.checks import check_choice
from lasfast.nn.plain import is_plain
from lasfast.nn.sliced import SlicedBatchNorm2d, SlicedConv2d, active_outputs, begin_batch
from lasfast.ops import bn_act, conv_bn_act
from lasfast.ops.activations import FUNCTIONS, MODULES
from lasfast.ops.derivatives import is_transformed


class ConvBNAct(nn.Sequential):
    """`nn.Sequential(nn.Conv2d, nn.BatchNorm2d, activation)` in few passes over memory.

    ``forward(x, c_out=None, residual=None)`` gives ``act(batch_norm(conv(x)) + residual)`` in channels_last:
    x [N, c_in, H, W] with any c_in up to `in_channels`, the first `c_out` filters (all by default), residual
    [N, <= c_out, H', W'] (channels that it lacks count as zero). The state dict's keys are those of the
    sequence (``0.weight``, ``1.weight``, ..., as torchvision's `Conv2dNormActivation`).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, groups: as `nn.Conv2d` has them; there is no
            bias, which batch norm would take off again. `padding` keeps the size by default.
        activation: "none", "relu", "relu6", "hardswish", "swish", "sigmoid" or "hardsigmoid".
        eps, momentum: as `nn.BatchNorm2d` has them.

    Raises ValueError for an unknown activation, and what `SlicedConv2d` raises.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        *,
        activation: str = "relu",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        check_choice("activation", activation, tuple(MODULES))
        self.activation = activation
        if padding is None:
            padding = kernel_size // 2
        super().__init__(
            SlicedConv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False),
            SlicedBatchNorm2d(out_channels, eps, momentum),
            MODULES[activation](),
        )

    def forward(self, x: Tensor, c_out: int | None = None, residual: Tensor | None = None) -> Tensor:
        """Map x [N, c_in, H, W] to [N, c_out, H', W']; ValueError where the weight has no such slice."""
        conv, norm, _ = self
        assert isinstance(conv, SlicedConv2d)
        assert isinstance(norm, SlicedBatchNorm2d)
        return fused(x, conv, norm, residual, self.activation, c_out)


def fused(
    x: Tensor,
    conv: nn.Conv2d | None,
    norm: nn.BatchNorm2d,
    residual: Tensor | None = None,
    activation: str = "none",
    c_out: int | None = None,
) -> Tensor:
    """Return ``act(norm(conv(x)) + residual)`` with the weights of two modules, in `norm`'s mode.

    Without a convolution, `x` is what the batch norm reads. A convolution has equal strides and paddings of
    its axes and no dilation, as `SlicedConv2d` has, and no bias. Modules with hooks are called, so that these
    are, too; and so are all within transforms (`torch.func`: vmap, jvp, grad), which operators do not know.
    """
    if is_transformed():
        return _called(x, conv, norm, residual, activation, c_out)
    if not (is_plain(norm) and (conv is None or is_plain(conv))):
        # As the operators do: code that follows may share memory with the result or not, by its layout.
        x = x.contiguous(memory_format=torch.channels_last)
        return _called(x, conv, norm, residual, activation, c_out)
    channels = x.shape[1]
    if conv is not None:
        channels, groups = active_outputs(conv, channels, c_out)
    if channels > norm.num_features:
        raise ValueError(f"c_out must be at most the {norm.num_features} features, got {channels}")
    mean, var, by_batch, factor = begin_batch(norm, channels)
    parameters: list[Tensor | None] = [norm.weight, norm.bias]
    if channels < norm.num_features:
        parameters = [None if one is None else one[:channels] for one in parameters]
    vectors = (mean, var, *parameters, residual)
    arguments: dict[str, Any] = {
        "training": by_batch,
        "momentum": factor,
        "eps": norm.eps,
        "activation": activation,
    }
    if conv is None:
        return bn_act(x, *vectors, **arguments)
    return conv_bn_act(
        x,
        conv.weight,
        *vectors,
        c_out=channels,
        stride=conv.stride[0],
        padding=int(conv.padding[0]),
        groups=groups,
        **arguments,
    )


def _called(
    x: Tensor,
    conv: nn.Conv2d | None,
    norm: nn.BatchNorm2d,
    residual: Tensor | None,
    activation: str,
    c_out: int | None,
) -> Tensor:
    """Return what `fused` does, by calling the modules."""
    if conv is not None:
        x = conv(x) if c_out is None else conv(x, c_out)
    x = norm(x)
    if residual is not None:
        missing = x.shape[1] - residual.shape[1]
        x = x + (F.pad(residual, (0, 0, 0, 0, 0, missing)) if missing else residual)
    return FUNCTIONS[activation](x)
