"""What two networks are compared by: how near values are, and what a network holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

import lasfast
from tests.execution.random_networks.cases import Case
from tests.execution.random_networks.programs import Network, build, change


class TorchFailsError(Exception):
    """PyTorch itself cannot do what was to be compared."""


class RoundingError(TorchFailsError):
    """PyTorch itself is so far off that nothing can be compared."""


class DifferenceError(Exception):
    """Lasfast gave something else than PyTorch; the text says what."""


def general(error: Exception) -> str:
    """Return an error's text without the names and numbers that differ from network to network."""
    text = re.sub(r"'[^']*'|%\w+|`[^`]*`|\[.*?\]", "_", str(error).split("\n")[0])
    return re.sub(r"\d+", "0", text)[:150]


def truth_of(case: Case, seed: int) -> Network:
    return changed(build(case.program, seed), case).double()


def plain_of(case: Case, seed: int) -> Network:
    return changed(build(case.program, seed), case).to(getattr(torch, case.dtype))


def torchs_of(case: Case, seed: int) -> Network:
    """Return the network whose errors PyTorch may make, run as the case says."""
    network = plain_of(case, seed)
    if case.judge == "channels_last":
        network.to(memory_format=torch.channels_last)
    elif case.judge == "noise":
        generator = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if isinstance(module, _ConvNd | nn.Linear | _BatchNorm):
                module.register_forward_hook(partial(_with_noise, generator))
    return network


def _with_noise(generator: torch.Generator, layer: nn.Module, inputs: Any, output: Any) -> Any:
    """Return a layer's output with other last digits; so are those of the gradient that reaches it.

    A norm's input may be rounded behind its statistics, as in lasfast, and not ahead of them, as in PyTorch.
    What that changes is large where a mean is far from zero, and its average is not zero.
    """
    if not isinstance(output, Tensor):
        return None
    noise = torch.rand(output.shape, generator=generator, dtype=torch.float64) * 2 - 1
    last_digit = torch.finfo(output.dtype).eps
    result = output * (1 + noise * last_digit).to(output.dtype)
    if isinstance(layer, _BatchNorm):
        x = inputs[0].detach().double()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        slope = output.detach().double().std(axes, keepdim=True) / x.std(axes, keepdim=True)
        result = result + (slope * x * noise * last_digit).nan_to_num(0, 0, 0).to(output.dtype)
    return result


def changed(network: nn.Module, case: Case) -> nn.Module:
    """Return a network with what happens to it later."""
    change(network, case.later)
    return network


def perhaps_accelerated(network: nn.Module, case: Case) -> nn.Module:
    """Return a network, which in every fifth case is accelerated where it can be."""
    if case.seed % 5:
        return network
    try:
        return lasfast.accelerate(network)
    except ValueError:
        return network


@contextmanager
def expecting(what: type[Exception], doing: str) -> Iterator[None]:
    """Turn PyTorch's failures to `TorchFailsError`, or lasfast's to `DifferenceError`."""
    try:
        yield
    except (TorchFailsError, DifferenceError):
        raise
    except Exception as error:
        raise what(f"{doing}: {type(error).__name__}: {str(error)[:300]}") from error


# ---- how near is near


def flat(value: Any) -> list[Tensor]:
    """Return copies of the tensors of an output, in float64."""
    if isinstance(value, Tensor):
        return [value.detach().to(torch.float64, copy=True)]
    return [one for part in value for one in flat(part)]


_ROUNDING = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 6e-2, "float16": 8e-3}


def autocasts(case: Case) -> bool:
    """Return whether a case is run under autocast."""
    return case.autocast and case.dtype == "float32"


def context(case: Case) -> torch.autocast:
    """Return the context in which networks are run; it does nothing to those of float64."""
    return torch.autocast("cpu", torch.bfloat16, enabled=autocasts(case))


def check_near(what: str, case: Case, ours: list[Tensor], plain: list[Tensor], true: list[Tensor]) -> None:
    """Raise unless our tensors are as near to the true ones as PyTorch's."""
    if [one.shape for one in ours] != [one.shape for one in true]:
        raise DifferenceError(f"{what}: shapes are {[tuple(one.shape) for one in ours]}")
    tolerance = _ROUNDING["bfloat16" if autocasts(case) else case.dtype]
    # Gradients ahead of a norm cancel out: PyTorch's are far less exact in channels_last than otherwise.
    part = 1.0 if tolerance > 1e-3 or "gradient" in what else 0.1
    whole = max((float(one.norm() / max(one.numel(), 1) ** 0.5) for one in true), default=0.0)
    for number, (mine, torchs, truth) in enumerate(zip(ours, plain, true, strict=True)):
        size = truth.numel() ** 0.5
        unit = float(truth.norm()) + (part * whole + 1e-3) * size
        if 0 < truth.norm() < 1e-9 * whole * size:  # as of a bias ahead of a norm
            unit += 10 * whole * size
        allowed = 2 * float((torchs - truth).norm()) + tolerance * unit
        if float((torchs - truth).norm()) > 30 * tolerance * unit:
            raise RoundingError(f"{what}: rounding is all that there is")
        error = float((mine - truth).norm())
        if not error <= allowed:
            raise DifferenceError(
                f"{what} {number}: off by {error:.3g} of {float(truth.norm()):.3g}, {allowed:.3g} allowed"
            )


def state_of(network: nn.Module) -> dict[str, Any]:
    """Return all that a network holds: its tensors, and the mode of each module."""
    tensors = {name: one.detach().clone() for name, one in network.state_dict().items()}
    return tensors | {f"{name} training": one.training for name, one in network.named_modules()}


def check_unchanged(
    what: str, before: dict[str, Any], network: nn.Module, but: set[str] = frozenset()
) -> None:
    """Raise unless a network holds what it held, except for some tensors."""
    after = state_of(network)
    if before.keys() - but != after.keys() - but:
        raise DifferenceError(f"{what}: names are others: {before.keys() ^ after.keys()}")
    for name in before.keys() - but:
        one, other = before[name], after[name]
        if type(one) is not type(other):
            raise DifferenceError(f"{what}: {name} became a {type(other).__name__}")
        same = torch.equal(one, other) if isinstance(one, Tensor) else one == other
        if not same and not (
            isinstance(one, Tensor) and torch.equal(one.isnan(), other.isnan()) and one.isnan().any()
        ):
            raise DifferenceError(f"{what}: {name} changed")


def norms_of(network: nn.Module) -> dict[str, _BatchNorm]:
    return {name: one for name, one in network.named_modules() if isinstance(one, _BatchNorm)}


def run(network: nn.Module, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the outputs, and the input as the network leaves it."""
    x = images.clone()
    with torch.no_grad():
        return flat(network(x)), x.double()


def attempted(work: Callable[[], Any]) -> Any:
    """Return the result of PyTorch, None where it fails."""
    try:
        return work()
    except Exception:
        return None
