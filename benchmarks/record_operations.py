"""The short record of a pytest-benchmark run: medians and rates by operation, and the machine.

python -m pytest benchmarks --benchmark-json=whole.json --record benchmarks/results/operations.json

The benchmarks of training steps have a record of their own:

python -m pytest benchmarks/bench_conv_bn_act.py benchmarks/bench_conv_train.py \\
    benchmarks/bench_depthwise_train.py benchmarks/bench_bn_act.py --benchmark-json=whole.json \\
    --record benchmarks/results/operations-training.json

`--benchmark-json` is needed, since pytest-benchmark puts its results together for that file alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import _harness


def record(benchmarks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the record of the benchmarks in the JSON of pytest-benchmark."""
    operations: dict[str, dict[str, dict[str, Any]]] = {}
    for one in benchmarks:
        operation = Path(one["fullname"].partition("::")[0]).stem.removeprefix("bench_")
        parameters, more = one["params"] or {}, dict(one["extra_info"])
        name = one["group"]
        if parameters.get("shape", "") not in name:  # several shapes in a group
            name = f"{parameters['shape']}, {name}"
        group = operations.setdefault(operation, {}).setdefault(name, {})
        who = more.pop("who", None) or parameters.get("who") or parameters.get("side", "torch")
        seconds = one["stats"]["median"] / more.pop("repeats", 1)
        group[who] = {"seconds": seconds, "rounds": one["stats"]["rounds"], **more}
    return {"record": "operations", "threads": 1, "machine": _harness.machine(), "operations": operations}
