"""In which modes a network is run fused: measured for the network as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lasfast.runtime import autotune, seeds
from lasfast.runtime.precision import fp32_products

MODES = {True: "training", False: "evaluation"}
"""The modes by the value of `nn.Module.training`."""
BOTH_MODES = frozenset(MODES)
RUNS = 9
"""How often each way is timed: more often than single operators, since whole networks are closer."""


def fused_modes(
    given: nn.Module, own: nn.Module, fused: nn.Module, images: Tensor, code: str
) -> frozenset[bool] | None:
    """Return the modes in which a network is to run fused, by what is quickest.

    A step of training is forward and backward, one of evaluation forward without gradients. In each mode the
    network runs fused if that is quicker than its own forward by the margin of `lasfast.runtime.autotune`,
    which also remembers the choice. The way that is taken, whose weights are laid out for kernels, is then
    compared with the network as it was given. torch's generators are left as they were.

    Args:
        given: a copy of the network.
        own: a copy whose weights are laid out for kernels, with the network's own forward.
        fused: the same weights with fused operators.
        images: a batch, [N, C, H, W].
        code: text that says what the network computes, beside its modules.

    Returns:
        The modes; None where the network as it was given is the quickest in one of them.
    """
    device = images.device
    key = f"network {_digest(given, images, code)}"
    chosen = {}
    with seeds.torch_seed(0, device):
        for training in (given.training, not given.training):  # norms may be frozen in the present mode
            mode, step = MODES[training], _train if training else _evaluate
            runs = {"torch": partial(step, own, images), "native": partial(step, fused, images)}
            chosen[training] = autotune.fastest(f"{key} {mode}", device, runs, runs=RUNS)
            whole: dict[str, Callable[[], None]] = {
                "native": runs[chosen[training]],
                "torch": partial(step, given, images),
            }
            if autotune.fastest(f"{key} {mode}, as given", device, whole, runs=RUNS) == "torch":
                return None
    return frozenset(training for training, way in chosen.items() if way == "native")


def _train(network: nn.Module, images: Tensor) -> None:
    """Run a batch forwards and backwards."""
    _begin(network, True)
    network.zero_grad()
    with torch.enable_grad():
        outputs = [one for one in tree_leaves(network(images)) if isinstance(one, Tensor)]
        losses = [one.float().square().mean() for one in outputs if one.requires_grad]
        if losses:
            torch.stack(losses).sum().backward()


def _evaluate(network: nn.Module, images: Tensor) -> None:
    """Run a batch forwards, without gradients."""
    _begin(network, False)
    with torch.no_grad():
        network(images)


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
