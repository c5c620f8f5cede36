"""Gathers the statistics of batch norms while PyTorch runs a network, however the network uses its norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lasfast.engine.backend import too_few_values
from lasfast.engine.calibration import CONVENTIONS, RunningStatistics

Norms = dict[str, _BatchNorm]


def norms_of(network: nn.Module) -> Norms:
    """Return the batch norms of a network by their names."""
    return {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}


@dataclass
class NormStatistics:
    """The statistics that batches of images gave for one batch norm.

    Attributes:
        mean, variance: [c].
        updates: how often the norm ran.
        first: the first of the c channels.
    """

    mean: Tensor
    variance: Tensor
    updates: int
    first: int = 0


@dataclass
class _Found:
    """The statistics of one norm, so far, of its channels from the first on."""

    running: RunningStatistics
    first: int
    channels: int
    updates: int = 0


class NormRecorder(TorchDispatchMode):
    """Sees every batch norm that PyTorch computes, and takes its batch's statistics if it is one of `norms`.

    It does not matter who computes it: the norm's own forward, another module that passes the norm's buffers
    (or a part of them: elastic widths) to `F.batch_norm`, or compiled code. What it sees are PyTorch's
    operators that take a running mean: with momentum 1, they leave the batch's statistics in it.
    """

    def __init__(self, norms: Norms, convention: str) -> None:
        super().__init__()
        self._kind = CONVENTIONS[convention]
        self._owners = {
            buffer.untyped_storage().data_ptr(): name
            for name, norm in norms.items()
            for buffer in (norm.running_mean, norm.running_var)
            if buffer is not None
        }
        self._found: dict[str, _Found] = {}
        self._read: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and record what it does if it is a batch norm."""
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | (kwargs or {})
        owner = self._owner(given.get("running_mean"))
        if owner is None or not given.get("training", True):
            for one in tree_leaves(given):
                name = self._owner(one)
                if name is not None:
                    self._read[name] = None
            return func(*args, **(kwargs or {}))
        given["momentum" if "momentum" in names else "exponential_average_factor"] = 1.0
        result = func(**given)
        self._record(owner, given)
        return result

    def _owner(self, value: Any) -> str | None:
        """Return the norm in whose running statistics a value lies."""
        if not isinstance(value, Tensor) or not self._owners:
            return None
        return self._owners.get(value.untyped_storage().data_ptr())

    def _record(self, name: str, given: dict[str, Any]) -> None:
        x, mean, variance = (given[part] for part in ("input", "running_mean", "running_var"))
        counts = given.get("counts")  # of all processes
        count = x.numel() // x.shape[1] if counts is None else int(counts.sum())
        first, channels = mean.storage_offset(), mean.numel()
        if name not in self._found:
            self._found[name] = _Found(self._kind(channels, mean.device), first, channels)
        found = self._found[name]
        if (first, channels) != (found.first, found.channels):
            raise ValueError(
                f"network must run each batch norm with the same channels, got {name!r} with {channels} "
                f"from {first} and with {found.channels} from {found.first}"
            )
        found.running.update(mean, variance, len(x), count)
        found.updates += 1

    def check(self) -> None:
        """Raise ValueError where statistics are used in a way that cannot be followed."""
        unfollowed = [name for name in self._read if name not in self._found]
        if unfollowed:
            raise ValueError(
                "network must normalize by PyTorch's batch norm, of the batch where a norm is in training "
                f"mode; got statistics that are used otherwise, of {listed(unfollowed)}"
            )

    def result(self) -> dict[str, NormStatistics]:
        """Return the statistics of every norm that ran."""
        return {
            name: NormStatistics(one.running.mean, one.running.variance, one.updates, one.first)
            for name, one in self._found.items()
        }


@contextmanager
def ready_to_record(norms: Norms, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Let every norm normalize by its batch, and write statistics to buffers of its own for the time being.

    Norms without running statistics get some, of `dtype` where they have no weights either.
    """
    before = [(norm, {name: getattr(norm, name) for name in _STATE}) for norm in norms.values()]
    hooks = []
    for name, norm in norms.items():
        # A weight that is computed anew in each call, as of a pruned norm, may have another dtype by now.
        known = [value for value in (norm.running_mean, *norm.parameters()) if value is not None]
        like = known[0] if known else torch.empty(0, dtype=dtype, device=device)
        norm.training = norm.track_running_stats = True
        norm.running_mean = torch.zeros(norm.num_features, dtype=like.dtype, device=like.device)
        norm.running_var = torch.ones(norm.num_features, dtype=like.dtype, device=like.device)
        norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=like.device)
        # The hook has another effect, too: lasfast's own modules call a norm that has one.
        hooks.append(norm.register_forward_pre_hook(_check_values(name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm, state in before:
            for attribute, value in state.items():
                setattr(norm, attribute, value)


_STATE = ("training", "track_running_stats", "running_mean", "running_var", "num_batches_tracked")


def _check_values(name: str) -> Any:
    def check(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        [x, *_] = inputs
        if x.numel() // x.shape[1] < 2:
            raise too_few_values(name, len(x))

    return check


def listed(names: list[str]) -> str:
    """Return names as a text, not too many of them."""
    shown = ", ".join(map(repr, names[:10]))
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
