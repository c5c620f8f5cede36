"""Recalibration of the BatchNorm statistics of any PyTorch network."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lasfast.core.checks import check_choice
from lasfast.engine import CONVENTIONS
from lasfast.engine.backend import BACKENDS
from lasfast.evaluation.images import watch_sizes
from lasfast.evaluation.norm_recorder import (
    NormRecorder,
    Norms,
    NormStatistics,
    listed,
    norms_of,
    ready_to_record,
)
from lasfast.evaluation.readable import CannotError, ReadNetwork, SizesError, calibrate_read
from lasfast.execution.interpret import evaluation_mode
from lasfast.ir.precision import PRECISIONS
from lasfast.nn.plain import is_plain
from lasfast.runtime import kernels
from lasfast.runtime.placement import device_of
from lasfast.runtime.precision import autocast


@overload
def calibrate(
    network: nn.Module,
    loader: Iterable[Any],
    *,
    statistics: str = "cumulative",
    backend: str = "auto",
    precision: str = "fp32",
) -> str: ...


@overload
def calibrate(
    network: Sequence[nn.Module],
    loader: Iterable[Any],
    *,
    statistics: str = "cumulative",
    backend: str = "auto",
    precision: str = "fp32",
) -> list[str]: ...


def calibrate(
    network: nn.Module | Sequence[nn.Module],
    loader: Iterable[Any],
    *,
    statistics: str = "cumulative",
    backend: str = "auto",
    precision: str = "fp32",
) -> str | list[str]:
    """Replace the running statistics of every BatchNorm in `network` by those of the loader's images.

    Every batch is normalised by its own statistics; everything else runs in evaluation mode. In ordinary
    PyTorch, `"cumulative"` is as follows, where only the BatchNorms are in training mode:

        for norm in norms: norm.reset_running_stats(); norm.momentum = None
        for images in loader: network(images)

    lasfast's kernels run a network that is understood: its forward was read, and gives what the network gives
    on the first two images, at each norm and at the end. PyTorch runs any other network, as it is. There
    every batch norm is seen, also where a module normalizes by the buffers of another one (elastic widths).

    Several networks are calibrated in one pass over the loader: those that are understood together, in one
    schedule of the kernels, which holds the values of all of them at once. The statistics of each are those
    that it gets alone, bit for bit.

    Args:
        network: any module that takes images [N, C, H, W]; it is changed in place, its modes are not. Or
            several such modules, on one device, none of which has a norm of another.
        loader: batches of images, or tuples or lists that begin with one.
        statistics: the convention: "cumulative", "ema" or "batch_mean" (`lasfast.engine.calibration`).
        backend: "native" for lasfast's kernels, for float32 networks that `torch.fx` can trace (parts without
            batch norm that it cannot, or that there is no kernel for, run through torch); "torch" for any;
            "auto" for native where possible, and on a GPU whose check it passed (see
            `lasfast.runtime.gpu_check`).
        precision: "fp32", or "bf16" (autocast, or bf16 kernels). With "fp32", PyTorch computes in the dtype
            that the network and the images have.

    Returns:
        The backend that ran: "native" or "torch". Of several networks, a list of these.

    Warns:
        UserWarning: the images do not reach some of the norms, which are named and keep their statistics; or
            the smallest batch has fewer than half the images of the largest, and the same weight.

    Raises:
        ValueError: an unknown choice; a loader without a batch; a batch in which a BatchNorm sees one value
            per channel; statistics that are used in a way that cannot be followed; images that reach no norm;
            networks that do not fit together; or backend="native" where it cannot run a network, for the
            reason that is given.
    """
    check_choice("statistics", statistics, tuple(CONVENTIONS))
    check_choice("backend", backend, BACKENDS)
    check_choice("precision", precision, tuple(PRECISIONS))
    networks = [_unwrapped(one) for one in ([network] if isinstance(network, nn.Module) else network)]
    norms = list(map(_norms_of, networks))
    for one, of_one in zip(networks, norms, strict=True):
        _check_norms(one, of_one)
    batches = _Batches(loader, _check_together(networks, norms))
    with _restored_on_errors(networks):
        used = _calibrate(networks, norms, loader, batches, statistics, backend, precision)
    return used[0] if isinstance(network, nn.Module) else used


def update_bn(
    loader: Iterable[Any],
    model: nn.Module | Sequence[nn.Module],
    device: int | str | torch.device | None = None,
) -> None:
    """Do what `torch.optim.swa_utils.update_bn` does, with its arguments, by `calibrate`.

    Statistics are cumulative. Unlike there, everything but the norms runs in evaluation mode, so that dropout
    and stochastic depth do nothing; and images are brought to the model's device even where none is given.
    As there, a model without BatchNorm is left as it is.

    Args:
        loader: batches of images [N, C, H, W], or tuples or lists that begin with one.
        model: the network, an `AveragedModel` for instance, or several networks, which share one pass.
        device: where the model is; None asks the model.

    Raises:
        ValueError: `device` is another one, or as for `calibrate`.
    """
    models = [model] if isinstance(model, nn.Module) else list(model)
    wanted = [one for one in models if _norms_of(one)]
    if device is not None:
        for one in wanted:
            _check_device(device_of(one), torch.device(device))
    if wanted:
        calibrate(wanted, loader)


def _check_device(own: torch.device, given: torch.device) -> None:
    """Raise ValueError unless a device is the one that was given, whose number may be left out."""
    if own.type != given.type or (given.index is not None and own.index not in (given.index, None)):
        raise ValueError(f"device must be that of the model, {own}, got {given}")


def _unwrapped(network: nn.Module) -> nn.Module:
    """Return the network that an averaged model calls, whose own forward takes any arguments."""
    while type(network) is AveragedModel and is_plain(network):
        network = network.module
    return network


def _norms_of(network: nn.Module) -> Norms:
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be a torch.nn.Module or a list of them, got {type(network).__name__}")
    return norms_of(network)


def _check_together(networks: Sequence[nn.Module], norms: Sequence[Norms]) -> torch.device:
    """Return the device of networks; ValueError where they have several, or a norm in common, or are none."""
    if not networks:
        raise ValueError("network must be a module, or at least one, got none")
    devices = list(dict.fromkeys(map(device_of, networks)))
    if len(devices) > 1:
        raise ValueError(f"network must be modules on one device, got {', '.join(map(str, devices))}")
    first: dict[int, int] = {}
    for number, of_one in enumerate(norms):
        for name, norm in of_one.items():
            other = first.setdefault(id(norm), number)
            if other != number:
                raise ValueError(
                    f"network must be modules with norms of their own, got {name!r} of number {number} in "
                    f"number {other}, too"
                )
    return devices[0]


def _calibrate(
    networks: Sequence[nn.Module],
    norms: Sequence[Norms],
    loader: Iterable[Any],
    batches: _Batches,
    statistics: str,
    backend: str,
    precision: str,
) -> list[str]:
    """Calibrate each network by one backend or the other; return which."""
    understood: dict[int, ReadNetwork] = {}
    if backend == "native" or (backend == "auto" and kernels.usable(batches.device)):
        for number, (network, of_one) in enumerate(zip(networks, norms, strict=True)):
            try:
                understood[number] = ReadNetwork.of(network, of_one, batches.first)
            except CannotError as error:
                if backend == "native":
                    raise ValueError(f"backend='native' cannot calibrate this network: {error}") from error
    while True:
        try:
            with _restored_on_errors(networks):
                kept = _run(networks, norms, understood, batches, statistics, precision)
            break
        except SizesError as error:
            if backend == "native" or isinstance(loader, Iterator):
                raise
            del understood[error.number]
            batches = _Batches(loader, batches.device)
    with torch.inference_mode(False):  # buffers outlive the mode that this is called in
        for number, of_one in enumerate(norms):
            _keep(of_one, kept[number])
    return ["native" if number in understood else "torch" for number in range(len(networks))]


def _run(
    networks: Sequence[nn.Module],
    norms: Sequence[Norms],
    understood: dict[int, ReadNetwork],
    batches: _Batches,
    convention: str,
    precision: str,
) -> dict[int, dict[str, NormStatistics]]:
    """Return the statistics of each network: of those that were understood natively, else by PyTorch."""
    with ExitStack() as modes:
        recorders: dict[int, NormRecorder] = {}
        for number, (network, of_one) in enumerate(zip(networks, norms, strict=True)):
            if number not in understood:
                dtype = next((value.dtype for value in network.parameters()), batches.first.dtype)
                modes.enter_context(evaluation_mode(network))
                modes.enter_context(ready_to_record(of_one, dtype, batches.device))
                recorders[number] = NormRecorder(of_one, convention)

        def seen() -> Iterator[Tensor]:
            """Give batches that PyTorch's networks have seen."""
            for images in watch_sizes(batches, convention):
                for number, recorder in recorders.items():
                    _record(networks[number], recorder, images, precision)
                yield images

        found = {}
        if understood:
            found = calibrate_read(understood, seen(), convention, precision)
        else:
            for _ in seen():
                pass
        return found | {number: recorder.result() for number, recorder in recorders.items()}


def _record(network: nn.Module, recorder: NormRecorder, images: Tensor, precision: str) -> None:
    """Run a network as it is, its BatchNorms in training mode, while a recorder looks on."""
    eager = getattr(torch.compiler, "set_stance", nullcontext)("force_eager")  # compiled code cannot be seen
    with eager, torch.no_grad(), autocast(images.device, precision), recorder:
        network(images)
    recorder.check()


@contextmanager
def _restored_on_errors(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Let networks have their buffers as they were where an error ends what they run in.

    Their own code may change some at each call, such as averages.
    """
    buffers = [
        (owner, name, buffer, buffer.detach().clone())
        for network in networks
        for owner in network.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    ]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for owner, name, buffer, value in buffers:
                owner._buffers[name] = buffer.copy_(value)
        raise


def _check_norms(network: nn.Module, norms: Norms) -> None:
    """Raise ValueError unless a network has BatchNorms, and none that cannot be seen."""
    scripted = [
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.jit.ScriptModule) and "BatchNorm" in getattr(module, "original_name", "")
    ]
    if scripted:
        raise ValueError(f"network must have its batch norms as modules of Python, got {listed(scripted)}")
    if not norms:
        raise ValueError(f"network is a {type(network).__name__} without any BatchNorm to calibrate")


def _keep(norms: Norms, kept: dict[str, NormStatistics]) -> None:
    """Let norms have these running statistics; those that no image has reached keep their own."""
    missing = [name for name in norms if name not in kept]
    if not kept:
        raise ValueError(f"network must run its batch norms, but no image has reached {listed(missing)}")
    if missing:
        warnings.warn(f"no image has reached {listed(missing)}: these keep their statistics", stacklevel=3)
    for name, found in kept.items():
        norm = norms[name]
        if norm.running_mean is None or norm.running_var is None:
            example = found.mean if norm.weight is None else norm.weight.detach()
            norm.register_buffer("running_mean", example.new_zeros(norm.num_features))
            norm.register_buffer("running_var", example.new_ones(norm.num_features))
            norm.register_buffer("num_batches_tracked", example.new_zeros((), dtype=torch.long))
            norm.track_running_stats = True
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.narrow(0, found.first, len(found.mean)).copy_(found.mean)
        norm.running_var.narrow(0, found.first, len(found.mean)).copy_(found.variance)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(found.updates)


class _Batches:
    """The images of a loader, on the device; its first batch is checked before anything runs."""

    def __init__(self, loader: Iterable[Any], device: torch.device) -> None:
        if not isinstance(loader, Iterable):
            raise TypeError(f"loader must give batches of images, got {type(loader).__name__}")
        self._iterator = iter(loader)
        self.device = device
        self.count = 0
        first = next(self._iterator, None)
        if first is None:
            raise ValueError("loader gave no batch of images")
        self.first = self._images(first)

    def __iter__(self) -> Iterator[Tensor]:
        for images in chain([self.first], map(self._images, self._iterator)):
            self.count += 1
            yield images

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
