"""Tells where kernels of the compiled module may run; where they may not, a warning says once why."""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from lasfast.runtime import compiled, gpu_check

logger = logging.getLogger("lasfast")


def available() -> bool:
    """Return whether the compiled module loads."""
    if compiled.available():
        return True
    _warn_once("lasfast's compiled module is missing; using PyTorch's operators (lasfast info says why)")
    return False


def usable(device: torch.device) -> bool:
    """Return whether kernels may run on a device without being asked for by name.

    A GPU is checked first if it has not been (see `lasfast.runtime.gpu_check`).
    """
    if device.type == "cuda":
        index = device.index or 0
        return available() and _are_built_for(index) and gpu_check.passed(index)
    return device.type == "cpu" and available()


def usable_for(tensor: Tensor) -> bool:
    """Return whether kernels may run on a tensor: a strided one, on a device where they are usable."""
    return tensor.layout == torch.strided and usable(tensor.device)


def has_warpgroups(device: torch.device) -> bool:
    """Return whether the compiled module has code for Hopper's warpgroups that a GPU runs."""
    return available() and bool(compiled.load().schedule_has_warpgroups_cuda(device.index or 0))


def has_tensor_maps(device: torch.device) -> bool:
    """Return whether kernels may copy by Hopper's tensor maps: where they are asked for, and are built."""
    return (
        compiled.tensor_maps_wanted()
        and available()
        and bool(compiled.load().schedule_has_tensor_maps_cuda(device.index or 0))
    )


@functools.cache
def _are_built_for(gpu: int) -> bool:
    if compiled.cuda_runs_on(gpu):
        return True
    _warn_once("lasfast has no CUDA kernels that this GPU and its driver can run; using PyTorch's operators")
    return False


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)
