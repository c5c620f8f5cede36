"""Prints what a machine with a GPU has; the last line is the architecture that its kernels are built for.

python -m benchmarks.describe_gpu
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata

import torch

from lasfast.runtime.compiled import arch_for

PACKAGES = ("torch", "torchvision", "triton", "numpy", "pybind11", "cmake", "ninja", "pytest", "pytest-xdist")


def main() -> None:
    print(f"Python {platform.python_version()}, CUDA {torch.version.cuda} of torch")
    for name in PACKAGES:
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name}: not installed as a package of Python")
    for tool in ("nvcc", "cmake", "ninja", "ncu", "compute-sanitizer"):
        print(f"{tool}: {version(tool)}")
    print(arch_for(torch.cuda.get_device_capability()))


def version(tool: str) -> str:
    """Return the last line of what a tool says of its version, or that it is missing."""
    if shutil.which(tool) is None:
        return "not on the PATH"
    done = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout.strip().splitlines() or ["it says nothing of its version"])[-1]


if __name__ == "__main__":
    main()
