"""Finds which of several ways to compute the same thing is the fastest on this machine, and remembers it.

The way for a shape is kept in a file of this machine, so that later processes take the same one and give the
same bits; where several measure at once, the first to write decides. Instead of the measurement,
``LASFAST_CHOICE`` may name a way: ``native`` or ``torch``; ``direct``, ``winograd 2x2`` or ``winograd 4x4``
for convolutions on the CPU, ``warpgroups`` for those on Hopper; ``levels``, ``levels by tensor maps``,
``resident`` or ``resident alone`` for predictions on CUDA. Where that way is not offered, the first of those
offered is taken. ``measure``, the default, measures. The file is in the directory of `lasfast.core.cache`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lasfast._version import __version__
from lasfast.core import cache, entry_points
from lasfast.runtime import compiled
from lasfast.runtime.machine import processor

logger = logging.getLogger("lasfast")

MEASURE = "measure"  # what LASFAST_CHOICE says by default
RUNS = 3  # of each way, after one to warm up
BUSY = 4_000_000  # clock cycles of a GPU, about two milliseconds: more than queuing an operation takes
MOST_BUSY = 64 * BUSY  # more than queuing a training step takes
LEAST = 1e-9  # seconds: no run is taken for shorter
MARGIN = 0.95  # what another way's time must be below, of the first's, to be taken instead

Share = Callable[[Callable[[], str | None]], str | None]
"""The way in which processes share a choice (see `fastest`)."""

_registered: dict[str, None] = {}
"""The names of all ways, in the order in which they were registered."""


class UnfitError(Exception):
    """Raised by a way that finds, when it is tried, that it does not compute what the others do."""


def register(*names: str) -> None:
    """Let ``LASFAST_CHOICE`` say these names of ways; called where a module that offers them is imported."""
    _registered.update(dict.fromkeys(names))


def alone(work: Callable[[], str | None]) -> str | None:
    """Do work in this process, which chooses for itself."""
    return work()


def fastest(
    key: str,
    device: torch.device,
    ways: Mapping[str, Callable[[], Any]],
    share: Share = alone,
    runs: int = RUNS,
) -> str:
    """Return the name of the fastest of `ways` for `key` on this machine.

    The first way is preferred where times are alike. Where nothing is known of `key` yet, each is run a few
    times; none may change anything, and one that raises `UnfitError` is not taken. While a CUDA graph is
    recorded nothing is measured: what is known is taken, else the first way, which must be fit for that.

    Args:
        key: names what is computed and its shape; each key stands for one computation.
        device: where it is computed.
        ways: the ways, each a name and what computes it.
        share: calls its argument in one of the processes that choose together and returns the result in
            all of them, so that all take the same way.
        runs: how often each way is timed, at least 1.

    Raises:
        ValueError: LASFAST_CHOICE is not the name of any way.
    """
    taken = share(lambda: _without_measuring(key, device, list(ways)))
    if taken is None:
        times = _relative_times(ways, device, runs)
        taken = share(lambda: _remember_fastest(key, device, times))
    assert taken is not None
    if is_measuring() and len(ways) > 1 and not is_capturing(device):
        _known(_file(device))[key] = taken
    return taken


def is_measuring() -> bool:
    """Return whether ``LASFAST_CHOICE`` leaves it to measurements which way is taken."""
    return os.environ.get("LASFAST_CHOICE", MEASURE) == MEASURE


def is_capturing(device: torch.device) -> bool:
    """Return whether a CUDA graph is being recorded on the device: then nothing can be timed there."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):  # torch asks about the stream of the current device
        return torch.cuda.is_current_stream_capturing()


def _without_measuring(key: str, device: torch.device, names: Sequence[str]) -> str | None:
    """Return the way that is taken without measuring, if there is one."""
    wanted = os.environ.get("LASFAST_CHOICE", MEASURE)
    if wanted in names:
        return wanted
    _check_known(wanted)
    if wanted != MEASURE or len(names) == 1:
        return names[0]
    known = _known(_file(device)).get(key)
    if known in names:
        return known
    return names[0] if is_capturing(device) else None


def _check_known(wanted: str) -> None:
    """Raise ValueError unless this is the name of some way, perhaps of a module not imported so far."""
    if wanted == MEASURE or wanted in _registered:
        return
    for module in entry_points.names(entry_points.AUTOTUNED_MODULES):
        importlib.import_module(module)
    if wanted not in _registered:
        raise ValueError(
            f"LASFAST_CHOICE must be one of {', '.join((MEASURE, *_registered))}, got {wanted!r}"
        )


def _remember_fastest(key: str, device: torch.device, times: Mapping[str, float]) -> str:
    """Return the way to take by the time of each, and keep its name."""
    first, best = next(iter(times)), min(times, key=lambda name: times[name])
    taken = best if times[best] < MARGIN * times[first] else first
    file = _file(device)
    with cache.locked(file):
        known = _read(file)
        if known.get(key) in times:  # another process was first: both take the same
            return known[key]
        known[key] = taken
        cache.save_json(file, known)
    return taken


def _relative_times(
    ways: Mapping[str, Callable[[], Any]], device: torch.device, runs: int
) -> dict[str, float]:
    """Return the time of each way as a share of the first fit one's; infinity for one that is unfit.

    The ways take turns, and those of a turn are compared, of which the median counts: some processors are
    half as fast again in one moment as in the next, which the shortest times would take for a way's merit.
    """
    fit = {name: way for name, way in ways.items() if _is_fit(way)}
    turns = [[_time(way, device) for way in fit.values()] for _ in range(runs)]
    shares = ([one / max(turn[0], LEAST) for one in turn] for turn in turns)
    medians = map(statistics.median, zip(*shares, strict=True))
    return dict.fromkeys(ways, float("inf")) | dict(zip(fit, medians, strict=True))


def _is_fit(run: Callable[[], Any]) -> bool:
    """Return whether a way computes what the others do; this run warms it up."""
    try:
        run()
    except UnfitError:
        return False
    return True


def _time(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a run."""
    if device.type == "cuda":
        return _time_on_gpu(run, device)
    # One thread's own time does not count what others do on a busy machine meanwhile.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    began = clock()
    run()
    return clock() - began


def _time_on_gpu(run: Callable[[], Any], device: torch.device) -> float:
    """Return the GPU's seconds alone, as in a CUDA graph: the run is queued while it is kept busy.

    Where the GPU was done with that before all was queued, it is kept busy longer, and the run is timed
    again. A run that waits for the GPU itself is timed with its waits.
    """
    busy, waited = BUSY, True
    with torch.cuda.device(device):
        while waited:
            torch.cuda.synchronize()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(busy)
            start.record()
            run()
            end.record()
            waited = start.query() and busy < MOST_BUSY
            busy *= 4
            torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def _file(device: torch.device) -> Path:
    """Return the file of the ways taken here: another processor, GPU or library has its own."""
    return cache.directory() / _name(device, "" if device.type == "cuda" else compiled.isa())


@functools.cache
def _name(device: torch.device, isa: str) -> str:
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()} {isa}"
    machine = f"{what} torch {torch.__version__} lasfast {__version__}"
    return f"choices-{hashlib.blake2b(machine.encode(), digest_size=6).hexdigest()}.json"


@functools.cache
def _known(file: Path) -> dict[str, str]:
    """Return the ways by key that this process takes: those that a file had, to which the caller adds."""
    return _read(file)


def _read(file: Path) -> dict[str, str]:
    """Return the ways by key that a file has."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): choosing the fastest operators anew", file, error)
        return {}
