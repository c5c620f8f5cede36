"""The search in the README: what it prints, and how long it takes.

OMP_NUM_THREADS=1 python -m benchmarks.record_example --output benchmarks/results/example.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import _harness

README = Path(__file__).parents[1] / "README.md"


def example() -> str:
    """Return the code of the README's search."""
    code = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in code if "ResidualNet" in block)


def main() -> None:
    """Run it in an empty folder; write what it prints, and its seconds of processor time."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", required=True)
    output = Path(parser.parse_args().output).resolve()
    torch.set_num_threads(1)
    machine, printed, began = _harness.machine(), io.StringIO(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        os.chdir(folder)
        exec(example(), {})
        os.chdir("/")
    seconds = time.process_time() - began
    record = {"record": "example", "machine": machine, "cpu_seconds": seconds, "printed": printed.getvalue()}
    _harness.write(record, output)


if __name__ == "__main__":
    main()
