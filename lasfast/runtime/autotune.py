"""Which of several ways to compute the same thing is fastest here: measured once, then remembered.

The choice for a shape is kept in a file of this machine, so that later processes take the same way and give
the same bits. ``LASFAST_CHOICE`` decides instead: the name of a way (``native`` or ``torch``; ``warpgroups``
for convolutions on Hopper; ``levels``, ``resident`` or ``resident alone`` for predictions on CUDA), taken
wherever it is one of those there are, and the first of them elsewhere; or ``measure``, the default.
``LASFAST_CACHE`` is the directory of the file, ``~/.cache/lasfast`` by default (``XDG_CACHE_HOME`` is
heeded).
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from lasfast._version import __version__
from lasfast.core.files import atomic_write_json
from lasfast.runtime import compiled
from lasfast.runtime.machine import processor

logger = logging.getLogger("lasfast")

WAYS = ("native", "warpgroups", "torch", "levels", "resident", "resident alone")  # all that there are
RUNS = 3  # of each way, after one to warm up
BUSY = 4_000_000  # clock cycles of a GPU, about two milliseconds: more than queuing the runs takes
MARGIN = 0.95  # what another way's time must be below, of the first's, to be taken instead


class UnfitError(Exception):
    """What a way raises that finds, when it is tried, that it does not do what the others do."""


def fastest(
    key: str,
    device: torch.device,
    ways: Mapping[str, Callable[[], Any]],
    share: Callable[[Callable[[], str | None]], str | None] = lambda work: work(),
) -> str:
    """Return the name of the fastest of `ways` for `key` on this machine.

    The first is the one to prefer where times are alike. Where nothing is known of `key` yet, each is run
    a few times; they must not change anything. One that raises `UnfitError` then is not taken. Of several
    processes that run the ways together, all take what one of them takes: `share` has one do some work, and
    gives its result to all. While a CUDA graph is recorded what is known is taken, else the first, which
    must be fit for that; a warm-up before lets it be known.
    """
    chosen = share(lambda: _decided(key, device, list(ways)))
    if chosen is None:
        times = {name: _time_if_fit(way, device) for name, way in ways.items()}
        chosen = share(lambda: _decide(key, device, times))
    assert chosen is not None
    return chosen


def _decided(key: str, device: torch.device, names: Sequence[str]) -> str | None:
    """What is chosen without measuring, if anything is."""
    wanted = os.environ.get("LASFAST_CHOICE", "measure")
    if wanted in names:
        return wanted
    if wanted not in ("measure", *WAYS):
        raise ValueError(f"LASFAST_CHOICE is {wanted!r}, expected one of {', '.join(('measure', *WAYS))}")
    if wanted != "measure" or len(names) == 1:
        return names[0]
    known = _known(_file(device)).get(key)
    if known in names:
        return known
    return names[0] if is_capturing(device) else None  # nothing can be timed within a CUDA graph


def _decide(key: str, device: torch.device, times: Mapping[str, float]) -> str:
    """The choice by what each way took, which is remembered."""
    first, best = next(iter(times)), min(times, key=lambda name: times[name])
    file = _file(device)
    known = _known(file)
    known[key] = best if times[best] < MARGIN * times[first] else first
    save(file, known)
    return known[key]


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being recorded: then nothing can be timed, and what is unknown stays so."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _time_if_fit(run: Callable[[], Any], device: torch.device) -> float:
    try:
        return _time(run, device)
    except UnfitError:
        return float("inf")


def _time(run: Callable[[], Any], device: torch.device) -> float:
    """The shortest of some runs, in seconds."""
    if device.type == "cuda":
        return _time_on_gpu(run, device)
    # One thread's own time does not count what others do on a busy machine meanwhile.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    best = float("inf")
    for number in range(RUNS + 1):
        began = clock()
        run()
        if number:
            best = min(best, clock() - began)
    return best


def _time_on_gpu(run: Callable[[], Any], device: torch.device) -> float:
    """The same of the GPU's time alone, as in a CUDA graph: runs are queued while it is kept busy."""
    with torch.cuda.device(device):
        run()
        torch.cuda.synchronize()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(RUNS + 1)]
        torch.cuda._sleep(BUSY)
        marks[0].record()
        for mark in marks[1:]:
            run()
            mark.record()
        torch.cuda.synchronize()
    return min(a.elapsed_time(b) for a, b in pairwise(marks)) / 1e3


def directory() -> Path:
    """Where the files are in which lasfast remembers what it found out about this machine."""
    wanted = os.environ.get("LASFAST_CACHE")
    if not wanted:
        home = os.environ.get("XDG_CACHE_HOME")
        wanted = os.path.join(home or Path.home() / ".cache", "lasfast")
    return Path(wanted)


def _file(device: torch.device) -> Path:
    """Where the choices of this machine are: another processor, GPU or library has its own file."""
    return directory() / _name(device, "" if device.type == "cuda" else compiled.isa())


@functools.cache
def _name(device: torch.device, isa: str) -> str:
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()} {isa}"
    machine = f"{what} torch {torch.__version__} lasfast {__version__}"
    return f"choices-{hashlib.blake2b(machine.encode(), digest_size=6).hexdigest()}.json"


@functools.cache
def _known(file: Path) -> dict[str, str]:
    """What was chosen in earlier processes; the caller adds to it."""
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): choosing the fastest operators anew", file, error)
        return {}


def save(file: Path, known: Mapping[str, Any]) -> None:
    """Write what is known, as JSON; says so where it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_name(f"{file.name}.{os.getpid()}")  # other processes may be writing, too
        atomic_write_json(own, known)
        os.replace(own, file)
    except OSError as error:
        logger.warning("%s cannot be written (%s): the next process does it again", file, error)
