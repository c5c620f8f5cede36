"""What the whole process takes, as the operating system counts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lasfast.engine.native_backend import why_missing

MEGABYTE = 2**20
SLACK = 8 * MEGABYTE
"""For what Python and the allocator take meanwhile."""

SCRIPT = """
import json, sys
from pathlib import Path
import torch
import lasfast

def read(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))

torch.manual_seed(0)
torch.set_num_threads(2)
supernet = lasfast.supernets.ResidualNet((5, 5, 5))
candidates = list(supernet.space.enumerate(depth=9))
images, labels = torch.randn(125, 3, 32, 32), torch.randint(0, 10, (125,))

def evaluate(architectures, images, budget):
    pair = images, labels[: len(images)]
    lasfast.Evaluator(supernet, images, pair, "native", memory_budget=budget)(architectures)

evaluate(candidates[:1], images[:2], None)  # threads and modules are there from now on
peaks = []
for budget in (int(sys.argv[1]), None):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = read("VmRSS")
    evaluate(candidates, images, budget)
    peaks.append(read("VmHWM") - before)
weights = sum(parameter.nbytes for parameter in supernet.parameters())
print(json.dumps([*peaks, weights]))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's /proc")
@pytest.mark.skipif(why_missing(torch.device("cpu")) is not None, reason="needs the native kernels")
def test_the_process_stays_within_the_budget():
    budget = 30 * MEGABYTE
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(budget)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_WAIT_POLICY": "passive"},
    )
    # The most memory in use at once, beside what was in use before: within the budget, and then without one.
    tight, free, weights = json.loads(result.stdout)
    # Calibration and prediction each pack the weights.
    assert tight <= budget + 2 * weights + SLACK
    assert free > budget + 2 * weights + SLACK  # or else the test would show nothing
