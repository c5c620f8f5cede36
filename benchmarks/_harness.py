"""Paired timing, and records of what was measured and on which machine."""

import json
import os
import re
import statistics
import time
from datetime import datetime, timezone
from pathlib import Path

import torch

from lasfast.runtime import autotune, gpu_check, kernels
from lasfast.runtime.machine import gather
from lasfast.runtime.precision import fp32_products


def paired(runs, rounds, warm_up=1, once=(), clock=time.perf_counter):
    """Time each of `runs` (name -> function) once in every round; return name -> seconds of each round.

    The order is reversed from round to round, so that what else the machine does hits all of them alike.
    Those named in `once` are timed in the first round only. Of work on one thread, `clock` may be its own.
    """
    for _ in range(warm_up):
        for run in runs.values():
            run()
    seconds = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            if number and name in once:
                continue
            start = clock()
            runs[name]()
            seconds[name].append(clock() - start)
    return seconds


def clock(device, threads):
    """Return the clock to time work with: one thread's own on a CPU, so that other work counts less."""
    return time.process_time if device == "cpu" and threads == 1 else time.perf_counter


def conditions(record):
    """Return in words under which conditions a record was made."""
    limited = record.get("most_of_onednn")
    return (
        f"load of the machine beforehand {record['machine']['load_before']:.1f}"
        + ("; seconds of the processor" if record.get("clock") == "process_time" else "")
        + (f"; PyTorch's kernels, too, were kept to `{limited}`" if limited else "")
    )


def ratio(seconds, baseline, ours):
    """Return the median of baseline / ours over the rounds that have both."""
    return statistics.median(b / o for b, o in zip(seconds[baseline], seconds[ours], strict=False))


PEAK_SIZES = {"cpu": (1024, 16), "cuda": (8192, 1024)}
"""By device: rows of a large matrix, and images of a large convolution."""


def peak_flops(precision, device="cpu", rounds=5):
    """Return torch's multiply-adds a second in a large matrix product or 3x3 convolution, the faster one."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size, images = PEAK_SIZES[device]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    x, weight = (
        torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last)
        for shape in [(images, 256, 16, 16), (256, 256, 3, 3)]
    )

    def product():
        _ = a @ b
        synchronize(device)

    def convolution():
        _ = torch.nn.functional.conv2d(x, weight, padding=1)
        synchronize(device)

    with torch.inference_mode():
        seconds = paired({"product": product, "convolution": convolution}, rounds)
    return max(size**3 / min(seconds["product"]), x.numel() * 256 * 9 / min(seconds["convolution"]))


def is_rounded(precision, device):
    """Return whether products are rounded: in bf16, and on a GPU in fp32 as TF32."""
    return precision != "fp32" or (torch.device(device).type == "cuda" and fp32_products() == "tf32")


def logits_limit(precision, device, theirs):
    """Return the error that logits may have where PyTorch's in the same precision have `theirs`."""
    return 2 * theirs + 0.005 if is_rounded(precision, device) else 1e-4


def synchronize(device):
    """Wait for the work that was queued on a device."""
    if device == "cuda":
        torch.cuda.synchronize()


def recorded(work, pool=None):
    """Record a function's work as a CUDA graph; return a function that replays it, and the result.

    (`torch.cuda.graph` would collect garbage each time, which takes longer than recording.)
    """
    graph, stream, current = torch.cuda.CUDAGraph(), torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        work()  # one-time preparations are not possible while a graph is recorded
        graph.capture_begin(*([] if pool is None else [pool]))
        try:
            result = work()
        finally:
            graph.capture_end()
    current.wait_stream(stream)
    return graph.replay, result


def machine():
    """Return the machine, its software, and its load before the measurement.

    With a GPU, `kernels` says what is known of their check, and `fp32_products` how fp32 is multiplied.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    on_gpu = {}
    if torch.cuda.is_available():
        on_gpu = {"kernels": kernels_label(), "fp32_products": fp32_products()}
    return {**gather(), "load_before": load, **on_gpu}


CHECKED = str(gpu_check.CheckResult(True))


def kernels_label():
    """Return what is known of the check of the GPU's kernels; CHECKED where they passed."""
    result = gpu_check.known(torch.cuda.current_device())
    label = "not checked" if result is None else str(result)
    if label == CHECKED or autotune.is_measuring():
        return label
    return f"{label}; measured all the same, by LASFAST_CHOICE={os.environ['LASFAST_CHOICE']}"


def require_kernels(device):
    """Raise RuntimeError where PyTorch's operators would be measured in the place of lasfast's on a GPU."""
    if device == "cuda" and not kernels.usable(torch.device(device, torch.cuda.current_device())):
        raise RuntimeError(
            "lasfast's kernels are not used on this GPU, and PyTorch's would be measured under their name: "
            f"{kernels_label()}. LASFAST_CHOICE=native measures them all the same, and records say so"
        )


def write(record, path):
    """Write a record as JSON, with the time."""
    record = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **record}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1)
    # A list of plain values is on one line, so that people can read the record.
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    path.write_text(text + "\n", encoding="utf-8")
    print(f"wrote {path}")
