"""Chooses how a network is run in each mode: by measuring it as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lasfast.runtime import autotune, seeds
from lasfast.runtime.precision import fp32_products

MODES = {True: "training", False: "evaluation"}
"""The modes by the value of `nn.Module.training`."""
OWN, OWN_IN_CHANNELS_LAST, FUSED = "torch", "torch in channels_last", "native"
"""The ways to run a network: by its own forward, as that of images in channels_last, and fused."""
ONE_PASS = "one pass"
"""A way to run a network in evaluation mode: as one pass of the compiled module."""
autotune.register(ONE_PASS)
RUNS = 7
"""Each way is timed so often: more often than single operators, since whole networks are closer."""


class OnePass(Protocol):
    """It runs a network in evaluation mode as one pass of the compiled module."""

    def run(self, images: Tensor) -> Tensor | None:
        """Return what the network gives for images; None where it has to be called itself."""

    def forget(self) -> None:
        """Take the weights anew at the next call."""


def quickest_ways(
    runs: Mapping[bool, Mapping[str, Callable[[Tensor], object]]],
    network: nn.Module,
    images: Tensor,
    code: str,
) -> dict[bool, str]:
    """Return the quickest way to run a network in each mode, by the values of `nn.Module.training`.

    A step of training is forward and backward, one of evaluation forward without gradients. Another way than
    the first is taken where it is quicker by the margin of `lasfast.runtime.autotune`, which also remembers
    the choice. torch's generators are left as they were.

    Args:
        runs: in each mode, the network's outputs for images, by the name of the way.
        network: what all of these run, in whichever mode it is; it is trained on.
        images: a batch, [N, C, H, W].
        code: text that says what the network computes, beside its modules.
    """
    key = f"network {_digest(network, images, code)}"
    ways = {}
    with seeds.torch_seed(0, images.device):
        for training in (network.training, not network.training):  # norms may be frozen in the present mode
            step = _train if training else _evaluate
            steps = {name: partial(step, network, run, images) for name, run in runs[training].items()}
            # What was chosen among others says nothing of all of them.
            among = f"{MODES[training]} among {', '.join(steps)}"
            ways[training] = autotune.fastest(f"{key} {among}", images.device, steps, runs=RUNS)
    return ways


def _train(network: nn.Module, run: Callable[[Tensor], object], images: Tensor) -> None:
    """Run a batch forwards and backwards."""
    _begin(network, True)
    with torch.enable_grad():
        outputs = [one for one in tree_leaves(run(images)) if isinstance(one, Tensor)]
        losses = [one.float().square().mean() for one in outputs if one.requires_grad]
        if losses:
            torch.stack(losses).sum().backward()
    network.zero_grad()


def _evaluate(network: nn.Module, run: Callable[[Tensor], object], images: Tensor) -> None:
    """Run a batch forwards, without gradients."""
    _begin(network, False)
    with torch.no_grad():
        run(images)


def _begin(network: nn.Module, training: bool) -> None:
    """Put a network into a mode, in which its modules keep their own modes if it is in it already.

    Weights that autocast has rounded are forgotten, as they are from one step of a training to the next.
    """
    torch.clear_autocast_cache()
    if network.training != training:
        network.train(training)


def _digest(network: nn.Module, images: Tensor, code: str) -> str:
    """Return a hash of what the times of a network depend on."""
    kind = images.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    where = fp32_products() if kind == "cuda" else f"{torch.get_num_threads()} threads"
    tensors = [*network.parameters(), *network.buffers(), images]
    laid_out = [(one.shape, one.stride(), one.dtype, one.requires_grad) for one in tensors]
    modes = [module.training for module in network.modules()]
    text = f"{network!r} {code} {laid_out} {modes} {autocast} {where}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
