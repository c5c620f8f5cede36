"""Paired timing, and records that say on which machine."""

import json
import os
import re
import statistics
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

from lasfast.cli.info import gather


def paired(runs, rounds, warm_up=1):
    """Time each of `runs` (name -> function) once in every round, in turn, the order reversed each round.

    Returns name -> seconds of each round. What else the machine does then hits all of them alike.
    """
    for _ in range(warm_up):
        for run in runs.values():
            run()
    seconds = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds, baseline, ours):
    """The median over the rounds of baseline / ours."""
    return statistics.median(b / o for b, o in zip(seconds[baseline], seconds[ours], strict=True))


def peak_flops(precision, device="cpu", rounds=5):
    """Multiply-adds per second of a large matrix product with torch, the best of several."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def product():
        _ = a @ b
        synchronize(device)

    with torch.inference_mode():
        best = min(paired({"product": product}, rounds)["product"])
    return size**3 / best


def synchronize(device):
    """Wait for what was queued."""
    if device == "cuda":
        torch.cuda.synchronize()


def machine():
    """The machine and the software, and how busy it was beforehand."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {**gather(), "load_before": load}


def write(record, path):
    """Write a record as JSON, with the time."""
    record = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **record}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1)
    # Lists of plain values on one line, so that a record can be read.
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {path}")
