"""Loads the compiled module `lasfast._C`, and says what it holds; nothing else imports it.

This imports without the compiled module, too; then :func:`load` raises, and says what to do about it.

``LASFAST_ISA`` forces the CPU kernels' instruction set: ``generic``, on x86-64 ``avx2``, ``avx512``,
``avx512_bf16`` or ``amx``, on 64-bit ARM ``neon`` or ``neon_bf16``. It is read at every call, so tests can go
through all of them in one process.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

# First, on purpose: the module then finds torch's OpenMP library loaded, and both share its threads.
import torch

MINIMUM_CAPABILITY = (8, 0)
"""The lowest compute capability of GPUs that run the kernels: they copy asynchronously and multiply bf16."""
BF16_ISAS = ("avx512_bf16", "amx", "neon_bf16")
"""Instruction sets that multiply bf16; on the others, PyTorch and lasfast convert to fp32 first."""

_C: ModuleType | None
_error: ImportError | None
try:
    _C, _error = importlib.import_module("lasfast._C"), None
except ImportError as error:
    _C, _error = None, error


def available() -> bool:
    """Return whether the compiled module loads."""
    return _C is not None


def load() -> Any:
    """Return the compiled module; raises ImportError, with reason and remedy, where it does not load."""
    if _C is None:
        raise ImportError(
            f"lasfast's compiled module lasfast._C does not load ({_error}). Build it with `pip install .` "
            "in a checkout of lasfast (a C++17 compiler is needed); without it lasfast runs on PyTorch alone."
        ) from _error
    return _C


@functools.cache
def digest() -> str:
    """Return a digest of the compiled module's file, which differs between builds."""
    return hashlib.blake2b(Path(load().__file__).read_bytes(), digest_size=16).hexdigest()


def isa() -> str:
    """Return the instruction set that CPU kernels use now: the machine's best, or what ``LASFAST_ISA`` says.

    Raises ValueError where that is none, or one that this build or this machine lacks.
    """
    wanted = os.environ.get("LASFAST_ISA")
    if not wanted:
        return str(load().isa_preferred())
    supported: list[str] = load().isas_supported()
    if wanted not in supported:
        known = load().isa_names()
        if wanted not in known:
            raise ValueError(f"LASFAST_ISA must be one of {', '.join(known)}, got {wanted!r}")
        lacks = "this machine" if wanted in load().isas_compiled() else "this build of lasfast"
        raise ValueError(
            f"LASFAST_ISA must be one of {', '.join(supported)}, got {wanted!r}, which {lacks} lacks"
        )
    return wanted


def bf16_is_slow() -> bool:
    """Return whether CPU kernels run that have no instructions for products of bf16."""
    return available() and isa() not in BF16_ISAS


def isa_number() -> int:
    """Return the number of :func:`isa`, as compiled functions take it."""
    return _isa_number(os.environ.get("LASFAST_ISA"))


@functools.cache  # operators ask at every call
def _isa_number(wanted: str | None) -> int:
    names: list[str] = load().isa_names()
    return names.index(isa())


def tensor_maps_wanted() -> bool:
    """Return whether ``LASFAST_TENSOR_MAPS`` asks for kernels that copy by Hopper's tensor maps.

    By default they are not tried, since none has run on a GPU yet.
    """
    wanted = os.environ.get("LASFAST_TENSOR_MAPS", "0")
    if wanted not in ("0", "1"):
        raise ValueError(f"LASFAST_TENSOR_MAPS must be 0 or 1, got {wanted!r}")
    return wanted == "1"


def arch_runs_on(arch: str, capability: tuple[int, int]) -> bool:
    """Return whether code for `arch` ("80", "90a", "90-virtual") runs on a GPU of this compute capability."""
    number = arch.removesuffix("-virtual").rstrip("af")
    major, minor = int(number[:-1]), int(number[-1])
    if arch.removesuffix("-virtual")[-1] == "a":
        return capability == (major, minor)
    if arch.endswith("-virtual") and number == arch.removesuffix("-virtual"):
        return capability >= (major, minor)
    return capability[0] == major and capability[1] >= minor


def arch_for(capability: tuple[int, int]) -> str:
    """Return what ``LASFAST_CUDA_ARCHS`` has to name for all kernels to run on such a GPU.

    Hopper's warpgroups are in code for "90a" alone.
    """
    major, minor = capability
    return f"{major}{minor}" + "a" * (capability == (9, 0))


def cuda_runs_on(device: int) -> bool:
    """Return whether the module holds CUDA kernels that this GPU can run with the installed driver."""
    return _C is not None and why_no_cuda(device) is None


def why_no_cuda(device: int) -> str | None:
    """Return why the compiled module has no kernels for a GPU, and what to do; None where it has some."""
    module = load()
    if not module.cuda:
        return (
            "this build of lasfast has no CUDA kernels: build it again with `LASFAST_CUDA=ON pip install .`, "
            "where the CUDA compiler nvcc is"
        )
    if module.cuda_device_count() <= device:
        runtime, driver = _version(module.cuda_runtime_version()), _version(module.cuda_driver_version())
        known = f"the driver, for CUDA {driver}, may be too old for it" if driver else "there is no driver"
        return f"lasfast's CUDA runtime {runtime} does not see GPU {device}: {known}"
    capability = torch.cuda.get_device_capability(device)
    if any(arch_runs_on(arch, capability) for arch in module.cuda_archs()):
        return None
    major, minor = capability
    name, archs = torch.cuda.get_device_name(device), ", ".join(module.cuda_archs())
    remedy = (
        f"build it again with `LASFAST_CUDA_ARCHS={arch_for(capability)} pip install .`"
        if capability >= MINIMUM_CAPABILITY
        else "its kernels need 8.0 or newer"
    )
    return f"lasfast was built for {archs}, not for {name} of compute capability {major}.{minor}: {remedy}"


def build_info() -> dict[str, Any]:
    """Return what was compiled and what this machine has, as JSON values.

    ``available`` (bool), ``error`` (why not, or None), ``compiler``, ``openmp``;
    ``isa``: ``compiled`` and ``supported`` (lists, worst first), ``selected`` (what runs now);
    ``cuda``: ``compiled`` (bool), ``archs`` (list), ``runtime`` (linked in) and ``driver`` (the highest it
    supports), as "13.0" or None, ``devices`` (``name``, ``capability``, ``supported`` of those torch sees).
    Raises ValueError as :func:`isa` does.
    """
    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            name = torch.cuda.get_device_name(index)
            devices.append(
                {"name": name, "capability": f"{major}.{minor}", "supported": cuda_runs_on(index)},
            )
    compiled = _C is not None and _C.cuda
    return {
        "available": _C is not None,
        "error": None if _error is None else str(_error),
        "compiler": None if _C is None else _C.compiler,
        "openmp": _C is not None and _C.openmp,
        "isa": {
            "compiled": [] if _C is None else _C.isas_compiled(),
            "supported": [] if _C is None else _C.isas_supported(),
            "selected": None if _C is None else isa(),
        },
        "cuda": {
            "compiled": compiled,
            "archs": [] if _C is None else _C.cuda_archs(),
            "runtime": _version(_C.cuda_runtime_version()) if _C is not None and compiled else None,
            "driver": _version(_C.cuda_driver_version()) if _C is not None and compiled else None,
            "devices": devices,
        },
    }


def _version(number: int) -> str | None:
    """Return CUDA's 13020 as "13.2", and 0 as None."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None
