"""Describes this machine, what is installed and what was compiled, for records of measurements."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

from lasfast._version import __version__
from lasfast.runtime import compiled


def gather() -> dict[str, Any]:
    """Return the description as JSON values."""
    return {
        "lasfast": __version__,
        "python": platform.python_version(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "torchvision": torchvision_version(),
        "native": compiled.build_info(),
    }


def processor() -> str:
    """Return the processor's name as the kernel gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def torchvision_version() -> str:
    """Return torchvision's version, or why it does not import."""
    try:
        import torchvision
    except Exception as error:  # its compiled part fails with whatever it likes where torch does not match
        try:
            installed = importlib.metadata.version("torchvision")
        except importlib.metadata.PackageNotFoundError:
            return "not installed; CIFAR and Fashion-MNIST need it (pip install torchvision)"
        return f"{installed}, which does not import with torch {torch.__version__}: {error}"
    return str(torchvision.__version__)
