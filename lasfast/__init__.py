"""lasfast: fast one-shot search of convolutional networks.

Submodules and classes load on first use, so that spaces, searchers and journals work without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lasfast._version import __version__
from lasfast.core import entry_points

if TYPE_CHECKING:
    from lasfast import (
        constraints,
        costs,
        data,
        deploy,
        engine,
        nn,
        ops,
        searchers,
        spaces,
        supernets,
        train,
    )
    from lasfast.evaluation import latency
    from lasfast.evaluation.accelerate import accelerate
    from lasfast.evaluation.evaluator import Evaluator
    from lasfast.evaluation.recalibration import calibrate, update_bn
    from lasfast.evaluation.standalone import StandaloneEvaluator
    from lasfast.measurements import ranking
    from lasfast.measurements.measurement import Measurement
    from lasfast.measurements.table import ArchitectureTable
    from lasfast.measurements.tabular import TabularEvaluator
    from lasfast.runtime import distributed
    from lasfast.study.study import Study

_MODULES = {
    "constraints": "lasfast.constraints",
    "costs": "lasfast.costs",
    "data": "lasfast.data",
    "deploy": "lasfast.deploy",
    "distributed": "lasfast.runtime.distributed",
    "engine": "lasfast.engine",
    "latency": "lasfast.evaluation.latency",
    "nn": "lasfast.nn",
    "ops": "lasfast.ops",
    "ranking": "lasfast.measurements.ranking",
    "searchers": "lasfast.searchers",
    "spaces": "lasfast.spaces",
    "supernets": "lasfast.supernets",
    "train": "lasfast.train",
}
_OBJECTS = {
    "ArchitectureTable": "lasfast.measurements.table",
    "Evaluator": "lasfast.evaluation.evaluator",
    "Measurement": "lasfast.measurements.measurement",
    "StandaloneEvaluator": "lasfast.evaluation.standalone",
    "Study": "lasfast.study.study",
    "TabularEvaluator": "lasfast.measurements.tabular",
    "accelerate": "lasfast.evaluation.accelerate",
    "calibrate": "lasfast.evaluation.recalibration",
    "update_bn": "lasfast.evaluation.recalibration",
}

entry_points.register(entry_points.CHECK_COMMAND, "-m", "lasfast", "check", "--device")
entry_points.register(entry_points.AUTOTUNED_MODULES, "lasfast.ops", "lasfast.engine")

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
    "deploy",
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
    "update_bn",
]


def __getattr__(name: str) -> Any:
    """Import the submodule, or the module of the class or function, on first access."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _OBJECTS:
        return getattr(importlib.import_module(_OBJECTS[name]), name)
    raise AttributeError(f"module 'lasfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
