"""The table of activations (`lasfast.ir.activations`) in torch's terms: functions, gradients, modules."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from lasfast.ir.activations import ACTIVATIONS


def resolve(name: str) -> Any:
    """Return what a dotted name such as `torch.nn.functional.relu` stands for."""
    return reduce(getattr, name.split(".")[1:], torch)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    name: resolve(one.function) if one.function else (lambda z: z) for name, one in ACTIVATIONS.items()
}
"""The function of each activation."""

MODULES: dict[str, type[nn.Module]] = {name: getattr(nn, one.module) for name, one in ACTIVATIONS.items()}
"""The module of each activation."""

CALLS: dict[Any, str] = {
    resolve(call): name for name, one in ACTIVATIONS.items() for call in (one.function, *one.others) if call
}
"""The activation of each function and method of PyTorch that applies one."""

_aten = torch.ops.aten
GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda grad, z: grad,
    "relu": lambda grad, z: _aten.threshold_backward(grad, z, 0),
    "relu6": lambda grad, z: _aten.hardtanh_backward(grad, z, 0, 6),
    "hardswish": lambda grad, z: _aten.hardswish_backward(grad, z),
    "swish": lambda grad, z: _aten.silu_backward(grad, z),
    "sigmoid": lambda grad, z: _aten.sigmoid_backward(grad, torch.sigmoid(z)),
    "hardsigmoid": lambda grad, z: _aten.hardsigmoid_backward(grad, z),
}
"""The gradient of each activation's input z, from that of its output."""
