"""Activations as people write them: modules, functions and methods, in place or not."""

from __future__ import annotations

import re

ACTIVATION_MODULES = (
    "nn.ReLU({})",
    "nn.ReLU6({})",
    "nn.LeakyReLU(0.1{,})",
    "nn.Hardswish({})",
    "nn.Hardsigmoid({})",
    "nn.SiLU({})",
    "nn.ELU(1.0{,})",
    "nn.Mish({})",
    "nn.Hardtanh(-1.0, 1.0{,})",
    "nn.CELU(1.0{,})",
    "nn.SELU({})",
)
OTHER_ACTIVATION_MODULES = (
    "nn.Sigmoid()",
    "nn.Tanh()",
    "nn.GELU()",
    "nn.GELU(approximate='tanh')",
    "nn.PReLU()",
    "nn.PReLU({c})",
    "nn.Softplus()",
    "nn.Softsign()",
    "nn.LogSigmoid()",
    "nn.Softmax(1)",
    "nn.Tanhshrink()",
    "nn.Threshold(0.1, 0.2)",
    "pieces.PlainReLU()",
    "pieces.PlainReLU(inplace=True)",
)
ACTIVATION_CALLS = (
    "F.relu({v})",
    "F.relu({v}, inplace=False)",
    "torch.relu({v})",
    "{v}.relu()",
    "F.relu6({v})",
    "F.leaky_relu({v}, 0.2)",
    "F.hardswish({v})",
    "F.hardsigmoid({v})",
    "F.silu({v})",
    "F.elu({v})",
    "F.gelu({v})",
    "F.mish({v})",
    "F.softplus({v})",
    "torch.sigmoid({v})",
    "{v}.sigmoid()",
    "torch.tanh({v})",
    "{v}.tanh()",
    "{v}.clamp(min=0)",
    "torch.clamp({v}, 0, 6)",
    "{v} * torch.sigmoid({v})",
    "{v}.clamp(0, 1)",
    "torch.abs({v})",
    "F.softmax({v}, 1)",
    "F.normalize({v}, dim=1)",
)
ACTIVATION_CALLS_IN_PLACE = (
    "F.relu({v}, inplace=True)",
    "F.relu({v}, True)",
    "F.relu_({v})",
    "torch.relu_({v})",
    "{v}.relu_()",
    "{v}.sigmoid_()",
    "{v}.tanh_()",
    "F.relu6({v}, inplace=True)",
    "F.leaky_relu({v}, 0.2, inplace=True)",
    "F.leaky_relu_({v}, 0.1)",
    "F.hardswish({v}, inplace=True)",
    "F.hardsigmoid({v}, inplace=True)",
    "F.silu({v}, inplace=True)",
    "F.elu({v}, inplace=True)",
    "F.hardtanh_({v})",
    "{v}.clamp_(min=0)",
    "{v}.clamp_(0, 6)",
    "{v}.abs_()",
)


SIMPLE = re.compile(r"relu\b|relu_\b|ReLU6?\(|hardswish|Hardswish|SiLU|silu|Hardsigmoid|sigmoid", re.I)
"""The activations that layer records know; networks of these alone are read as a whole."""
UNRECORDED = re.compile(
    r"narrow|clamp|select|roll|flip|permute|einsum|expand_as|view_as|interpolate|Upsample|pixel|unfold|pad\("
    r"|Pad2d|\* 0\.5|/= 2|\+= 0\.5|detach|\[\.\.\.\]|\[:\]|::2|repeat|alpha=2|copy_|maximum|stack|sum\("
    r"| - |-=|sub|mul_\(1\.5|\(2, 3\)\)$|None|AdaptiveMax|adaptive_max|\.to\(|float\(|transpose\(2|shape\)"
    r"|transpose\(1, 2\)$|nn\.(LeakyReLU|ELU|Mish|CELU|SELU|Hardtanh)|ceil_mode|divisor|True, track"
)
"""What layer records cannot say, or let a module be called: simple networks have little of it."""


def inplace_form(text: str) -> str:
    return text.replace("{,}", ", inplace=True").replace("{}", "inplace=True")


def plain_form(text: str) -> str:
    return text.replace("{,}", "").replace("{}", "")
