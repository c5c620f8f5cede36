"""Recalibration of the BatchNorm statistics of any PyTorch network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lasfast.core.checks import check_choice
from lasfast.engine import CONVENTIONS, NativeBackend, NotLowerableError
from lasfast.engine.backend import BACKENDS, too_few_values
from lasfast.engine.calibration import RunningStatistics
from lasfast.engine.lower import lower
from lasfast.engine.native_backend import why_missing
from lasfast.execution.from_fx import UntraceableError, trace
from lasfast.execution.interpret import evaluation_mode
from lasfast.ir.precision import PRECISIONS
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime import kernels
from lasfast.runtime.precision import autocast

Statistics = dict[str, tuple[Tensor, Tensor]]


def calibrate(
    network: nn.Module,
    loader: Iterable[Any],
    *,
    statistics: str = "cumulative",
    backend: str = "auto",
    precision: str = "fp32",
) -> str:
    """Replace the running statistics of every BatchNorm in `network` by those of the loader's images.

    Every batch is normalised by its own statistics; everything else runs in evaluation mode. In ordinary
    PyTorch, `"cumulative"` is as follows, where only the BatchNorms are in training mode:

        for norm in norms: norm.reset_running_stats(); norm.momentum = None
        for images in loader: network(images)

    Args:
        network: any module that takes images [N, C, H, W]; it is changed in place, its modes are not.
        loader: batches of images, or tuples that begin with one.
        statistics: the convention: "cumulative", "ema" or "batch_mean" (`lasfast.engine.calibration`).
        backend: "native" for lasfast's kernels, for networks that `torch.fx` can trace (parts without batch
            norm that it cannot, or that there is no kernel for, run through torch); "torch" for any; "auto"
            for native where possible, and on a GPU whose check it passed (see `lasfast.runtime.gpu_check`).
        precision: "fp32", or "bf16" (autocast, or bf16 kernels).

    Returns:
        The backend that ran: "native" or "torch".

    Raises:
        ValueError: an unknown choice; a loader without a batch; a batch in which a BatchNorm sees one value
            per channel; or backend="native" where it cannot run the network, for the reason that is given.
    """
    check_choice("statistics", statistics, tuple(CONVENTIONS))
    check_choice("backend", backend, BACKENDS)
    check_choice("precision", precision, tuple(PRECISIONS))
    norms = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    if not norms:
        raise ValueError(f"network is a {type(network).__name__} without any BatchNorm to calibrate")
    batches = _Batches(loader, next(network.parameters()).device)
    kept: Statistics | None = None
    if backend == "native" or (backend == "auto" and kernels.usable(batches.device)):
        try:
            kept = _native(network, batches, statistics, precision)
        except _CannotError as error:
            if backend == "native":
                raise ValueError(f"backend='native' cannot calibrate this network: {error}") from error
    used = "native" if kept is not None else "torch"
    if kept is None:
        kept = _torch(network, norms, batches, statistics, precision)
    for name, (mean, variance) in kept.items():
        norm = norms[name]
        if norm.running_mean is None:
            norm.register_buffer("running_mean", torch.zeros_like(mean))
            norm.register_buffer("running_var", torch.ones_like(variance))
            norm.track_running_stats = True
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(variance)  # type: ignore[union-attr]
    return used


class _CannotError(Exception):
    """The native backend cannot run a network, for the reason in the text."""


class _Batches:
    """The images of a loader, on the device; its first batch is checked before anything runs."""

    def __init__(self, loader: Iterable[Any], device: torch.device) -> None:
        if not isinstance(loader, Iterable):
            raise TypeError(f"loader must give batches of images, got {type(loader).__name__}")
        self._iterator = iter(loader)
        self.device = device
        first = next(self._iterator, None)
        if first is None:
            raise ValueError("loader gave no batch of images")
        self.first = self._images(first)

    def __iter__(self) -> Iterator[Tensor]:
        yield self.first
        for batch in self._iterator:
            yield self._images(batch)

    def _images(self, batch: Any) -> Tensor:
        images = batch[0] if isinstance(batch, tuple | list) else batch
        if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
            kind = (
                f"{images.dtype} {tuple(images.shape)}"
                if isinstance(images, Tensor)
                else type(images).__name__
            )
            raise TypeError(f"loader must give floating-point images [N, C, H, W], got {kind}")
        return images.to(self.device, non_blocking=True)


def _native(network: nn.Module, batches: _Batches, convention: str, precision: str) -> Statistics:
    """Calibrate by the native backend; raise _CannotError, before any batch has run, where it cannot."""
    missing = why_missing(batches.device)
    if missing is not None:
        raise _CannotError(missing)
    with evaluation_mode(network):
        try:
            shape = tuple(batches.first.shape[1:])
            tree = PrefixTree([(trace(network, shape),)])
            lower(tree, shape, calibration=True)
        except (UntraceableError, NotLowerableError, ValueError) as error:
            raise _CannotError(str(error)) from error
        backend = NativeBackend(network, precision)
        [statistics] = backend.calibrate(tree, batches, convention)
    return statistics


def _torch(
    network: nn.Module, norms: dict[str, _BatchNorm], batches: _Batches, convention: str, precision: str
) -> Statistics:
    """Calibrate by running the network, its BatchNorms in training mode."""
    running: dict[str, RunningStatistics] = {}

    def read(name: str, norm: Any, x: Tensor) -> None:
        # With momentum 1, torch leaves the batch's own mean and unbiased variance in the buffers.
        if name not in running:
            running[name] = CONVENTIONS[convention](norm.num_features, x.device)
        count = x.numel() // x.shape[1]
        running[name].update(norm.running_mean, norm.running_var, len(x), count)

    def check(name: str, x: Tensor) -> None:
        if x.numel() // x.shape[1] < 2:
            raise too_few_values(name, len(x))

    with evaluation_mode(network), _own_statistics(norms):
        handles = [
            norm.register_forward_pre_hook(lambda _, inputs, name=name: check(name, inputs[0]))
            for name, norm in norms.items()
        ]
        handles += [
            norm.register_forward_hook(lambda norm, inputs, _, name=name: read(name, norm, inputs[0]))
            for name, norm in norms.items()
        ]
        try:
            with torch.no_grad(), autocast(batches.device, precision):
                for images in batches:
                    network(images)
        finally:
            for handle in handles:
                handle.remove()
    return {name: one.result() for name, one in running.items()}


@contextmanager
def _own_statistics(norms: dict[str, _BatchNorm]) -> Iterator[None]:
    """Let every BatchNorm use and leave its batch's statistics, in buffers that are put back afterwards."""
    before = [
        (
            norm,
            norm.momentum,
            norm.track_running_stats,
            norm.running_mean,
            norm.running_var,
            norm.num_batches_tracked,
        )
        for norm in norms.values()
    ]
    for norm in norms.values():
        norm.train()
        norm.momentum, norm.track_running_stats = 1.0, True
        weight = next(iter(norm.parameters()), None)
        device = None if weight is None else weight.device
        norm.running_mean = torch.zeros(norm.num_features, device=device)
        norm.running_var = torch.ones(norm.num_features, device=device)
        norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, momentum, track, mean, variance, batches in before:
            norm.momentum, norm.track_running_stats = momentum, track
            norm.running_mean, norm.running_var, norm.num_batches_tracked = mean, variance, batches
