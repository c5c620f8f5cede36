"""Directories of studies, as they are while they run and after, without running one."""

import io
import json
import math

import pytest
from rich.console import Console

from lasfast.measurements.journal import Journal
from lasfast.measurements.measurement import Measurement

STEPS = [
    {(1, 1, 2): 0.50, (1, 2, 1): 0.60, (2, 1, 1): 0.60},
    {(1, 2, 2): 0.70, (1, 3, 1): 0.65, (2, 2, 1): 0.55},
]
ASSIGNMENTS = {"searcher": {"name": "nir"}, "supernet": {"supernet": "ResidualNet"}}
CHOICES = {
    "searcher": {"name": "layernas", "default": [1, 1], "space": {"name": "ChoiceSpace"}},
    "supernet": None,
}


@pytest.fixture
def directory(tmp_path):
    """A search of layer assignments that has not finished, in two steps."""
    with Journal.create(tmp_path / "journal.jsonl", ASSIGNMENTS) as journal:
        for number, step in enumerate(STEPS, start=1):
            journal.append(number, [Measurement(a, top1, 1.0, 1.5, 100) for a, top1 in step.items()])
    return tmp_path


@pytest.fixture
def unmeasured(tmp_path):
    """A search of layer assignments that has measured nothing yet."""
    Journal.create(tmp_path / "journal.jsonl", ASSIGNMENTS).close()
    return tmp_path


@pytest.fixture
def of_choices(tmp_path):
    """A finished search in a table of four networks, in two steps."""
    steps = [{(0, 1): 0.5, (1, 1): 0.7}, {(0, 0): 0.6, (1, 0): 0.65}]
    with Journal.create(tmp_path / "journal.jsonl", CHOICES) as journal:
        for number, step in enumerate(steps, start=1):
            journal.append(number, [Measurement(a, v, math.nan, math.nan, 100) for a, v in step.items()])
    flops = {(0, 1): 2e6, (1, 1): 4e6, (0, 0): 1e6, (1, 0): 3e6}
    written = [
        [{"architecture": a, "text": f"opt{a[0]}-{a[1]}", "flops": flops[a], "params": 1e6} for a in step]
        for step in steps
    ]
    (tmp_path / "result.json").write_text(
        json.dumps({"best": written[1][1], "winners": {}, "steps": written})
    )
    return tmp_path


@pytest.fixture
def text_of():
    """Prints a table and returns its text."""

    def text(table) -> str:
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(table)
        return console.export_text()

    return text
