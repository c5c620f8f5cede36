"""The table of activations: what each is called here, in native code and in PyTorch.

A new activation is a row here, a member of the enum `Activation` in csrc/include/lasfast/activation.h
with its formula for CPU and CUDA, and its gradient in lasfast/ops/activations.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ActivationSpec:
    """One activation.

    Attributes:
        code: its number in native code (`Activation` in csrc/include/lasfast/activation.h).
        module: the class of `torch.nn` that applies it.
        function: PyTorch's function that applies it, by its dotted name.
        others: further functions and methods of PyTorch that do, also those that do so in place.
    """

    code: int
    module: str
    function: str
    others: tuple[str, ...] = ()


ACTIVATIONS: dict[str, ActivationSpec] = {
    "none": ActivationSpec(0, "Identity", ""),
    "relu": ActivationSpec(
        1,
        "ReLU",
        "torch.nn.functional.relu",
        ("torch.relu", "torch.relu_", "torch.Tensor.relu", "torch.Tensor.relu_"),
    ),
    "relu6": ActivationSpec(2, "ReLU6", "torch.nn.functional.relu6"),
    "hardswish": ActivationSpec(3, "Hardswish", "torch.nn.functional.hardswish"),
    "swish": ActivationSpec(4, "SiLU", "torch.nn.functional.silu"),
    "sigmoid": ActivationSpec(
        5,
        "Sigmoid",
        "torch.sigmoid",
        ("torch.nn.functional.sigmoid", "torch.sigmoid_", "torch.Tensor.sigmoid", "torch.Tensor.sigmoid_"),
    ),
    "hardsigmoid": ActivationSpec(6, "Hardsigmoid", "torch.nn.functional.hardsigmoid"),
}
"""By the name that records and `lasfast.ops` have; "none" leaves values as they are."""
