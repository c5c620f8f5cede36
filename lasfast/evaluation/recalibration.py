"""Recalibration of the BatchNorm statistics of any PyTorch network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lasfast.core.checks import check_choice
from lasfast.engine import CONVENTIONS, NativeBackend, NotLowerableError
from lasfast.engine.backend import BACKENDS
from lasfast.engine.lower import lower
from lasfast.engine.native_backend import why_missing
from lasfast.evaluation.images import watch_sizes
from lasfast.evaluation.norm_recorder import NormRecorder, Norms, NormStatistics, listed, ready_to_record
from lasfast.execution.from_fx import UntraceableError, read
from lasfast.execution.interpret import evaluation_mode, run_layer
from lasfast.ir.layers import Code, Layer, Opaque, Shape
from lasfast.ir.precision import PRECISIONS
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime import kernels
from lasfast.runtime.placement import device_of
from lasfast.runtime.precision import autocast


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

    lasfast's kernels run a network that is understood: its forward was read, and gives what the network gives
    on the first two images, at each norm and at the end. PyTorch runs any other network, as it is. There
    every batch norm is seen, also where a module normalizes by the buffers of another one (elastic widths).

    Args:
        network: any module that takes images [N, C, H, W]; it is changed in place, its modes are not.
        loader: batches of images, or tuples that begin with one.
        statistics: the convention: "cumulative", "ema" or "batch_mean" (`lasfast.engine.calibration`).
        backend: "native" for lasfast's kernels, for float32 networks that `torch.fx` can trace (parts without
            batch norm that it cannot, or that there is no kernel for, run through torch); "torch" for any;
            "auto" for native where possible, and on a GPU whose check it passed (see
            `lasfast.runtime.gpu_check`).
        precision: "fp32", or "bf16" (autocast, or bf16 kernels). With "fp32", PyTorch computes in the dtype
            that the network and the images have.

    Returns:
        The backend that ran: "native" or "torch".

    Warns:
        UserWarning: the images do not reach some of the norms, which are named and keep their statistics; or
            the smallest batch has fewer than half the images of the largest, and the same weight.

    Raises:
        ValueError: an unknown choice; a loader without a batch; a batch in which a BatchNorm sees one value
            per channel; statistics that are used in a way that cannot be followed; images that reach no norm;
            or backend="native" where it cannot run the network, for the reason that is given.
    """
    check_choice("statistics", statistics, tuple(CONVENTIONS))
    check_choice("backend", backend, BACKENDS)
    check_choice("precision", precision, tuple(PRECISIONS))
    norms = {name: module for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    _check_norms(network, norms)
    batches = _Batches(loader, device_of(network))
    with _restored_on_errors(network):
        return _calibrate(network, norms, loader, batches, statistics, backend, precision)


def _calibrate(
    network: nn.Module,
    norms: Norms,
    loader: Iterable[Any],
    batches: _Batches,
    statistics: str,
    backend: str,
    precision: str,
) -> str:
    """Calibrate by one backend or the other; return which."""
    kept: dict[str, NormStatistics] | None = None
    if backend == "native" or (backend == "auto" and kernels.usable(batches.device)):
        try:
            kept = _native(network, norms, batches, statistics, precision)
        except _CannotError as error:
            if backend == "native":
                raise ValueError(f"backend='native' cannot calibrate this network: {error}") from error
        except _SizesError:
            if backend == "native" or isinstance(loader, Iterator):
                raise
            batches = _Batches(loader, batches.device)
    used = "native" if kept is not None else "torch"
    if kept is None:
        kept = _torch(network, norms, batches, statistics, precision)
    with torch.inference_mode(False):  # buffers outlive the mode that this is called in
        _keep(norms, kept)
    return used


@contextmanager
def _restored_on_errors(network: nn.Module) -> Iterator[None]:
    """Let a network have its buffers as they were where an error ends what it runs in.

    Its own code may change some at each call, such as averages.
    """
    buffers = [
        (owner, name, buffer, buffer.detach().clone())
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


class _CannotError(Exception):
    """The native backend cannot run a network, for the reason in the text."""


class _SizesError(ValueError):
    """Images of another size have come, for which a network was not read."""


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


def _native(
    network: nn.Module, norms: Norms, batches: _Batches, convention: str, precision: str
) -> dict[str, NormStatistics]:
    """Calibrate by the native backend; raise _CannotError, before any batch has run, where it cannot."""
    missing = why_missing(batches.device)
    if missing is not None:
        raise _CannotError(missing)
    dtypes = {value.dtype for value in (*network.parameters(), batches.first) if value.is_floating_point()}
    if dtypes != {torch.float32}:
        raise _CannotError(f"weights and images are not float32, but {', '.join(sorted(map(str, dtypes)))}")
    with evaluation_mode(network):
        try:
            shape = tuple(batches.first.shape[1:])
            with _in_training(norms):
                program = read(network, shape)
            layer = program.layer
            tree = PrefixTree([(layer,)])
            lower(tree, shape, calibration=True)
        except (UntraceableError, NotLowerableError, ValueError) as error:
            raise _CannotError(str(error)) from error
        _check_reading(network, norms, layer, batches.first[:2])
        backend = NativeBackend(network, precision)

        def holds(other: Shape) -> bool:
            return not program.of_one_size and _is_read_again(network, norms, layer, other)

        images = _of_sizes(batches, shape, holds)
        [statistics] = backend.calibrate(tree, watch_sizes(images, convention), convention)
    return {
        name: NormStatistics(mean, variance, batches.count) for name, (mean, variance) in statistics.items()
    }


def _of_sizes(batches: Iterable[Tensor], shape: Shape, holds: Callable[[Shape], bool]) -> Iterator[Tensor]:
    """Give batches; raise _SizesError where images have a shape for which what was read does not hold."""
    known = {shape}
    for images in batches:
        found = tuple(images.shape[1:])
        if found not in known and not holds(found):
            raise _SizesError(
                f"images must have one size for backend='native', since this network was read for {shape} "
                f"and may do otherwise with others, got {found}; backend='torch' takes any"
            )
        known.add(found)
        yield images


def _is_read_again(network: nn.Module, norms: Norms, layer: Layer, shape: Shape) -> bool:
    """Return whether a network is read to be the same layer for images of another shape.

    That is so unless there is code, or a module that is called: these were tried with few sizes.
    """
    if not any(isinstance(op, Code | Opaque) for op in layer.ops):
        return True
    try:
        with _in_training(norms):
            return read(network, shape).layer == layer
    except UntraceableError:
        return False


@contextmanager
def _in_training(norms: Norms) -> Iterator[None]:
    """Let norms be in training mode, as they are while images run, and in evaluation mode afterwards."""
    for norm in norms.values():
        norm.training = True
    try:
        yield
    finally:
        for norm in norms.values():
            norm.training = False


def _check_reading(network: nn.Module, norms: Norms, layer: Layer, images: Tensor) -> None:
    """Raise _CannotError unless a layer gives what a network gives, at each norm and at the end.

    Reading a network may go wrong in ways that nobody thought of. This is seen before it does harm.
    """
    expected: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    try:
        twins = copy.deepcopy(network), copy.deepcopy(network)  # a call may change a module
    except Exception as error:  # such as of parameters that are computed
        raise _CannotError(f"the network cannot be copied, to try what was read: {error}") from error
    modules = dict(twins[1].named_modules())

    def note(name: str) -> Any:
        def hook(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
            expected[name] = inputs[0].clone()

        return hook

    def batch_norm(op: Any, x: Tensor) -> Tensor:
        found[op.module] = x.clone()
        return nn.BatchNorm2d.forward(modules[op.module], x)  # which a subclass may go on from

    for name in norms:
        twins[0].get_submodule(name).register_forward_pre_hook(note(name))
    with torch.no_grad():
        expected["its output"] = twins[0](images.clone())
        found["its output"] = run_layer(layer, images, modules, batch_norm)
    for name, value in expected.items():
        same = name in found and found[name].shape == value.shape
        if not same or not (found[name] - value).norm() <= 1e-3 * value.norm():  # so for NaN, too
            raise _CannotError(f"its forward was read, but what is read gives something else for {name!r}")


def _torch(
    network: nn.Module, norms: Norms, batches: _Batches, convention: str, precision: str
) -> dict[str, NormStatistics]:
    """Calibrate by running the network as it is, its BatchNorms in training mode."""
    eager = getattr(torch.compiler, "set_stance", nullcontext)("force_eager")  # compiled code cannot be seen
    dtype = next((value.dtype for value in network.parameters()), batches.first.dtype)
    with evaluation_mode(network), ready_to_record(norms, dtype, batches.device), eager:
        recorder = NormRecorder(norms, convention)
        for images in watch_sizes(batches, convention):
            with torch.no_grad(), autocast(batches.device, precision), recorder:
                network(images)
            recorder.check()
    return recorder.result()
