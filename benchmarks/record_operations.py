"""Write a short record of a pytest-benchmark run: medians and rates by operation, and the machine.

python -m pytest benchmarks --benchmark-json=operations.json
python -m benchmarks.record_operations operations.json benchmarks/results/operations.json

The benchmarks of training steps have a record of their own:

python -m pytest benchmarks/bench_conv_bn_act.py benchmarks/bench_conv_train.py \\
    benchmarks/bench_depthwise_train.py benchmarks/bench_bn_act.py --benchmark-json=training.json
python -m benchmarks.record_operations training.json benchmarks/results/operations-training.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from benchmarks import _harness


def main(source: Path, output: Path) -> None:
    """Write the record of a run to `output`."""
    operations: dict[str, dict[str, dict[str, Any]]] = {}
    for one in json.loads(source.read_text(encoding="utf-8"))["benchmarks"]:
        operation = Path(one["fullname"].partition("::")[0]).stem.removeprefix("bench_")
        parameters = one["params"] or {}
        name = one["group"]
        if parameters.get("shape", "") not in name:  # several shapes in a group
            name = f"{parameters['shape']}, {name}"
        group = operations.setdefault(operation, {}).setdefault(name, {})
        who = one["extra_info"].pop("who", None) or parameters.get("who") or parameters.get("side", "torch")
        group[who] = {
            "seconds": one["stats"]["median"] / one["extra_info"].pop("repeats", 1),
            "rounds": one["stats"]["rounds"],
            **one["extra_info"],
        }
    _harness.write(
        {"record": "operations", "threads": 1, "machine": _harness.machine(), "operations": operations},
        output,
    )


if __name__ == "__main__":
    typer.run(main)
