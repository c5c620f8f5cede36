"""Networks as text: the expressions of their parts and the statements of their forward."""

from __future__ import annotations

import operator
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import lasfast.nn
from tests.execution.random_networks import pieces

NAMES: dict[str, Any] = {
    "torch": torch,
    "nn": nn,
    "F": F,
    "operator": operator,
    "prune": prune,
    "parametrize": parametrize,
    "parametrizations": parametrizations,
    "pieces": pieces,
    "lasfast": lasfast,
}
"""What the texts of a program may name."""

Names = tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A network as text: its parts by attribute, what is done to it afterwards, and its forward.

    A part is an expression, or a program of its own. The forward's statements read `x` and assign `result`.
    """

    parts: tuple[tuple[str, str | Program], ...] = ()
    setup: Names = ()
    steps: Names = ()

    def source(self, name: str = "Network") -> str:
        """Return a class that can be pasted into a file."""
        classes = [part.source(f"{name}_{key}") for key, part in self.parts if isinstance(part, Program)]
        parts = [
            f"self.{key} = {f'{name}_{key}()' if isinstance(part, Program) else part}"
            for key, part in self.parts
        ]
        init = ["super().__init__()", *parts, *self.setup]
        lines = [f"class {name}(nn.Module):", "    def __init__(self):", *(f"        {one}" for one in init)]
        lines += ["    def forward(self, x):", *(f"        {one}" for one in self.steps)]
        return "\n\n".join([*classes, "\n".join([*lines, "        return result"])])


@lru_cache(maxsize=100_000)
def _compiled(text: str) -> Any:
    return compile(text, f"<{text}>", "exec")


def run_text(text: str, values: dict[str, Any]) -> None:
    """Run a statement, which reads and assigns values."""
    exec(_compiled(text), values)


class Network(nn.Module):
    """The network of a program."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.steps = program.steps
        for name, part in program.parts:
            self.add(name, part)
        for text in program.setup:
            run_text(text, {**NAMES, "self": self})

    def add(self, name: str, part: str | Program) -> None:
        """Add a part."""
        setattr(self, name, Network(part) if isinstance(part, Program) else eval(part, dict(NAMES)))

    def forward(self, x: Tensor) -> Any:
        """Run the statements one after the other."""
        values = {**NAMES, "self": self, "x": x}
        for text in self.steps:
            run_text(text, values)
        return values["result"]


def build(program: Program, seed: int) -> Network:
    """Return a network with the weights and statistics of a seed."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's older parametrizations
            network = Network(program)
    finally:
        torch.set_rng_state(state)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            tensors = (module.weight, module.bias, module.running_mean, module.running_var)
            for tensor, least, most in zip(
                tensors, (0.5, -0.3, -0.5, 0.5), (1.5, 0.3, 0.5, 1.5), strict=True
            ):
                if isinstance(tensor, Tensor):
                    drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                    tensor.data.copy_(drawn * (most - least) + least)
    return network


def change(network: nn.Module, text: str) -> None:
    """Run a statement that changes a network."""
    torch.manual_seed(0)
    run_text(text, {**NAMES, "self": network})
