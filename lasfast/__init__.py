"""lasfast: fast one-shot search of convolutional networks.

Submodules and classes load on first use, so that spaces, searchers and journals work without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lasfast._version import __version__

if TYPE_CHECKING:
    from lasfast import (
        constraints,
        costs,
        data,
        distributed,
        engine,
        latency,
        nn,
        ops,
        ranking,
        searchers,
        spaces,
        supernets,
        train,
    )
    from lasfast.evaluate import Evaluator
    from lasfast.measurement import Measurement
    from lasfast.nn import accelerate
    from lasfast.recalibrate import calibrate
    from lasfast.standalone import StandaloneEvaluator
    from lasfast.study import Study
    from lasfast.tabular import ArchitectureTable, TabularEvaluator

_MODULES = (
    "constraints",
    "costs",
    "data",
    "distributed",
    "engine",
    "latency",
    "nn",
    "ops",
    "ranking",
    "searchers",
    "spaces",
    "supernets",
    "train",
)
_OBJECTS = {
    "ArchitectureTable": "lasfast.tabular",
    "Evaluator": "lasfast.evaluate",
    "Measurement": "lasfast.measurement",
    "StandaloneEvaluator": "lasfast.standalone",
    "Study": "lasfast.study",
    "TabularEvaluator": "lasfast.tabular",
    "accelerate": "lasfast.nn",
    "calibrate": "lasfast.recalibrate",
}

__all__ = [
    "ArchitectureTable",
    "Evaluator",
    "Measurement",
    "StandaloneEvaluator",
    "Study",
    "TabularEvaluator",
    "__version__",
    "accelerate",
    "calibrate",
    "constraints",
    "costs",
    "data",
    "distributed",
    "engine",
    "latency",
    "nn",
    "ops",
    "ranking",
    "searchers",
    "spaces",
    "supernets",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import the submodule, or the module of the class or function, on first access."""
    if name in _MODULES:
        return importlib.import_module(f"lasfast.{name}")
    if name in _OBJECTS:
        return getattr(importlib.import_module(_OBJECTS[name]), name)
    raise AttributeError(f"module 'lasfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
