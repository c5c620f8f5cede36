"""Checks an installed wheel: its module runs a small search, and the process has one OpenMP runtime.

Usage, in an environment with the wheel and torch, from another folder than the repository's:

    python .ci/check_wheel.py
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

import lasfast
from lasfast.runtime import compiled


def openmp_runtimes() -> set[str]:
    """Return the paths of the OpenMP runtimes that this process has loaded (Linux)."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    return set(re.findall(r"/\S*/lib(?:g|i)?omp5?\b[^/\s]*\.so\S*", maps))


def main() -> None:
    """Raise AssertionError where something is wrong; print what was found."""
    compiled.load()
    data = lasfast.data.load("digits", limit=100)
    supernet = lasfast.supernets.ResidualNet((2, 2, 2), num_classes=10, in_channels=1)
    evaluator = lasfast.Evaluator(supernet, data.calibration, data.validation, backend="native")
    trainer = lasfast.train.SupernetTrainer(supernet, data.train, warm_up_epochs=1, epochs_per_step=1)
    result = lasfast.Study(lasfast.searchers.NIR(supernet.space, depth=4), evaluator, trainer=trainer).run()
    runtimes = openmp_runtimes()
    print(f"lasfast {lasfast.__version__} of {lasfast.__file__}, torch {torch.__version__}")
    print(compiled.build_info())
    print(result.best)
    print(f"OpenMP: {', '.join(sorted(runtimes))}")
    assert sum(result.best.architecture) <= 4, f"the search must end within depth 4, got {result.best}"
    assert len(runtimes) == 1, f"one OpenMP runtime must be loaded, got {sorted(runtimes)}"


if __name__ == "__main__":
    main()
