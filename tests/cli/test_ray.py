"""`examples/ray_table.py`, where Ray is installed: parts of a table as its tasks, on one machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lasfast as package

TABLE = ["--depths", "4", "--standalone-epochs", "1", "--limit", "200", "--threads", "1", "--device", "cpu"]


@pytest.mark.slow
def test_tasks_of_ray_leave_the_table_of_one_process(lasfast, tmp_path):
    pytest.importorskip("ray")
    root = Path(package.__file__).parents[1]
    command = [sys.executable, root / "examples" / "ray_table.py", "--parts", "2", "--", *TABLE]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(
        [*map(str, command), "-o", str(tmp_path / "tasks")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(part.name for part in (tmp_path / "tasks" / "parts").iterdir()) == ["1-of-2", "2-of-2"]
    assert lasfast("dataset", *TABLE, "-o", tmp_path / "one", "-q")[0] == 0
    for name in ("journal.jsonl", "table.csv"):
        assert (tmp_path / "tasks" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
