"""How much is queued on a GPU, held to the record of benchmarks/record_launches.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import record_launches

RECORD = Path(__file__).parents[1] / "benchmarks" / "results" / "launches.json"


@pytest.fixture(scope="module")
def record() -> dict:
    pytest.importorskip("lasfast._emulated", reason="lasfast._emulated is not built (LASFAST_EMULATE=ON)")
    return json.loads(RECORD.read_text(encoding="utf-8"))


@pytest.mark.parametrize("what", ["evaluation", "training"])
def test_as_much_is_queued_as_recorded(record: dict, what: str) -> None:
    """PyTorch's part may be another in another version."""
    with record_launches.on_the_host() as module:
        found = getattr(record_launches, what)(record_launches.Counter(module))
    same_torch = record["torch"] == torch.__version__
    for case, of_steps in record["counts"][what].items():
        for step, counts in of_steps.items():
            for what_counts in ("lasfast", "early"):
                assert found[case][step][what_counts] == counts[what_counts], (case, step)
            if same_torch:
                assert found[case][step] == counts, (case, step)
    assert found.keys() == record["counts"][what].keys()
