"""Makes the torch module of an op: supernets own such modules, and extracted networks consist of them."""

from __future__ import annotations

from functools import lru_cache, singledispatch

import torch
from torch import nn

from lasfast.execution.interpret import leading
from lasfast.ir import layers
from lasfast.ir.layers import Op
from lasfast.nn.quantize import PACT
from lasfast.ops.activations import MODULES


@singledispatch
def make_module(op: Op) -> nn.Module:
    """Return a new torch module of the op's own shape, initialised; TypeError where there is none."""
    raise TypeError(f"op {op!r} has no module of its own")


@make_module.register
def _(op: layers.Conv2d) -> nn.Module:
    conv = nn.Conv2d(
        op.in_channels,
        op.out_channels,
        op.kernel_size,
        op.stride,
        op.padding,
        op.dilation,
        groups=op.groups,
        bias=op.bias,
    )
    if not conv.weight.is_meta:  # where torch would import its compiler, to draw nothing
        # He et al. 2015, Eq. 10: networks of every depth that a supernet holds start with unit variance.
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


@make_module.register
def _(op: layers.BatchNorm2d) -> nn.Module:
    return nn.BatchNorm2d(op.channels, eps=op.eps, affine=op.affine)


@make_module.register
def _(op: layers.Linear) -> nn.Module:
    return nn.Linear(op.in_features, op.out_features, bias=op.bias)


@make_module.register
def _(op: layers.Activation) -> nn.Module:
    return MODULES[op.kind]()


@make_module.register
def _(op: layers.Quantize) -> nn.Module:
    return PACT(op.bits)


@make_module.register
def _(op: layers.Pool) -> nn.Module:
    if op.kind == "max":
        return nn.MaxPool2d(op.kernel_size, op.stride, op.padding)
    return nn.AvgPool2d(op.kernel_size, op.stride, op.padding, count_include_pad=op.counts_padding)


@make_module.register
def _(op: layers.GlobalAvgPool) -> nn.Module:
    pool = nn.AdaptiveAvgPool2d(1)
    return pool if op.keep_axes else nn.Sequential(pool, nn.Flatten())


@make_module.register
def _(op: layers.Shuffle) -> nn.Module:
    return nn.ChannelShuffle(op.groups)


@make_module.register
def _(op: layers.Flatten) -> nn.Module:
    return nn.Flatten()


@make_module.register
def _(op: layers.Dropout) -> nn.Module:
    return nn.Dropout(op.p)


@lru_cache(maxsize=4096)
def parameter_shapes(op: Op) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Name and shape of each parameter that an op has, which are the leading part of its module's.

    Raises TypeError where the op has no module of its own (`make_module`).
    """
    with torch.device("meta"):
        return tuple((name, tuple(one.shape)) for name, one in make_module(op).named_parameters())


def add_module(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register `module` as `root`'s submodule under a dotted name, making the modules on the way.

    It takes over the modules below that name, where there is one that was made on the way to them.

    Raises ValueError where the name is that of an attribute, such as a method, which it would hide.
    """
    *parents, last = name.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        child = getattr(root, parent)
        if not isinstance(child, nn.Module):
            raise ValueError(f"no layer may be named {parent!r}: {type(root).__name__} has that attribute")
        root = child
    known = getattr(root, last, None)
    if known is not None and is_made_on_the_way(known):
        for below, child in known.named_children():
            module.add_module(below, child)
    root.add_module(last, module)


def is_made_on_the_way(module: nn.Module) -> bool:
    """Return whether `add_module` made a module on the way to those below it."""
    return type(module) is nn.Module


def move_like(module: nn.Module, source: nn.Module) -> None:
    """Move a module to the device and the dtype of the parameters, or else the buffers, of another one."""
    tensors = (one for one in source.state_dict().values() if one.is_floating_point())
    example = next(tensors, None)
    if example is not None:
        module.to(example.device, example.dtype)


def copy_leading(target: nn.Module, source: nn.Module) -> None:
    """Copy every parameter and buffer of `source` into `target`, of each the leading part that fits.

    Parameters that are frozen stay so.
    """
    tensors = dict(source.state_dict(keep_vars=True))
    with torch.no_grad():
        for name, tensor in target.state_dict(keep_vars=True).items():
            tensor.copy_(leading(tensors[name], *tensor.shape))
    for name, parameter in target.named_parameters():
        parameter.requires_grad_(tensors[name].requires_grad)
