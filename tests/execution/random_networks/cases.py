"""Random networks as people write them, and how they are compared."""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lasfast.runtime.seeds import torch_seed
from tests.execution.random_networks import blocks, layers, memory, oddities  # noqa: F401  they register proposals
from tests.execution.random_networks.programs import Network, Program, build, change
from tests.execution.random_networks.writer import PROPOSALS, write

FEATURES = tuple(name for name in PROPOSALS if name != "core")
EXTRA_FEATURES = ("subclasses", "odd norms", "ours")
SIMPLE_FEATURES = (
    "pools",
    "gates",
    "aliases",
    "views",
    "shapes",
    "blocks",
    "lazy norms",
    "ours",
    "spare parts",
)
RARE = (
    "hooks",
    "uncalled norms",
    "spare parts",
    "modes",
    "opaque",
    "subclasses",
    "slice writes",
    "functions",
    "ours",
    "contexts",
    "several inputs",
    "state",
)
LATER = (
    "self.{n}.register_forward_pre_hook(pieces.shift_input)",
    "self.{n}.register_forward_hook(pieces.double_output)",
    "self.{n}.register_forward_hook(pieces.see_output)",
    "self.{n}.forward = pieces.ClippedForward(self.{n})",
    "prune.custom_from_mask(self.{n}, 'weight', self.{n}.weight.detach().abs() > 0.1)",
    "parametrize.register_parametrization(self.{n}, 'weight', pieces.Softened())",
    "self.{n}.eval()",
    "self.{n}.requires_grad_(False)",
    "self.{n}.weight.data.mul_(0.5)",
    "self.{n}.weight = nn.Parameter(self.{n}.weight.detach() * 0.5)",
    "self.{n}.momentum = 0.3",
    "self.{n}.eps = 0.1",
    "self.{n} = {part}",
)
"""What may be done to a module of a network that was accelerated before."""

JUDGES = ("plain", "channels_last", "noise")
"""PyTorch's network as it is, in channels_last, or with noise of one rounding behind its layers."""


@dataclass(frozen=True)
class Case:
    """A random network, and how it is compared."""

    seed: int
    program: Program
    shape: tuple[int, ...]
    batches: tuple[int, ...]
    dtype: str
    default_dtype: str
    conventions: tuple[str, str]
    """Of native calibration and of PyTorch's."""
    channels_last: bool
    """Whether the images lie so in memory."""
    later: str
    """A statement that changes the network, after it was accelerated; or none."""
    autocast: bool
    """Whether networks of float32 are run under bfloat16 autocast."""
    judge: str = "plain"
    """One of `JUDGES`: how PyTorch's network runs, by whose errors ours are judged."""

    def images(self, seed: int) -> list[Tensor]:
        """Return the batches, float64."""
        generator = torch.Generator().manual_seed(seed + 1)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        shapes = [(count, *self.shape) for count in self.batches]
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3 for shape in shapes]
        return [one.contiguous(memory_format=layout) for one in drawn]


def random_case(seed: int) -> Case:
    """Return the case of a seed."""
    rng = random.Random(seed)
    while True:
        # Lists, since a set's order differs from process to process, and each name takes a random number.
        names = [one for one in (*FEATURES, *EXTRA_FEATURES) if rng.random() < (0.12 if one in RARE else 0.4)]
        if rng.random() < 0.6:
            names = [one for one in names if one in SIMPLE_FEATURES and rng.random() < 0.7] + ["simple"]
        features = set(names)
        shape = (rng.choice((1, 2, 3, 3, 4, 4, 6, 8)), rng.randint(5, 14), rng.randint(5, 14))
        # Where control flow depends on values, what is written does, too: on the weights that torch draws.
        with torch_seed(0):
            program = write(rng, shape, 0, features, rng.randint(2, 12))
            if program is None or "Norm" not in program.source():
                continue
            if _trains(program, shape) or rng.random() < 0.2:
                break
    if "hooks" in features and rng.random() < 0.1:
        text = rng.choice(("forward_pre_hook(pieces.shift_input)", "forward_hook(pieces.see_output)"))
        program = replace(program, setup=(*program.setup, f"self.register_{text}"))
    dtype = rng.choice(("float32",) * 17 + ("float64", "bfloat16", "float16"))
    return Case(
        seed,
        program,
        shape,
        tuple(rng.randint(4, 8) for _ in range(3)),
        dtype,
        rng.choice(("float32",) * 19 + ("float64",)),
        (rng.choice(("cumulative", "ema", "batch_mean")), rng.choice(("cumulative", "ema", "batch_mean"))),
        rng.random() < 0.12,
        _later(rng, program),
        rng.random() < 0.08,
    )


def _trains(program: Program, shape: tuple[int, ...]) -> bool:
    """Return whether PyTorch can train a network; it often cannot where a value was changed in place."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = build(program, 0)(torch.randn(4, *shape, requires_grad=True) * 1.0)
            tensors = [outputs] if isinstance(outputs, Tensor) else outputs
            torch.stack([one.sum() for one in tensors]).sum().backward()
    except RuntimeError:
        return False
    return True


def _later(rng: random.Random, program: Program) -> str:
    """Return a statement that changes one of the network's convolutions and norms; mostly none."""
    texts = [(name, part) for name, part in program.parts if isinstance(part, str)]
    modules = [(name, part) for name, part in texts if name.startswith(("conv", "norm"))]
    if not modules or rng.random() < 0.9:
        return ""
    name, part = rng.choice(modules)
    text = rng.choice(LATER).format(n=name, part=part)
    try:
        change(build(program, 0), text)
    except Exception:  # such as of a norm without a weight
        return ""
    return text


def random_network(seed: int) -> tuple[Network, tuple[int, ...]]:
    """Return the network of a seed and the shape of its images."""
    case = random_case(seed)
    return build(case.program, seed), case.shape
