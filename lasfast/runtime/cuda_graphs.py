"""CUDA graphs of work that a GPU is given again and again."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

import torch

logger = logging.getLogger("lasfast")

T = TypeVar("T")
Recorded = tuple[Callable[[], None], T]
"""A function that queues recorded work, and the result that it leaves in the same memory each time."""
Record = Callable[[Callable[[], Any]], Recorded[Any]]


class Replays:
    """Queues the same work on a device again and again, from the second time on as a CUDA graph.

    The first time it is queued as it is, since what a kernel needs once (its code, more shared memory) cannot
    be had while a graph is recorded. All graphs share one pool of memory, so a result holds until other work
    is queued.

    Args:
        device: where the work runs.
        enabled: whether to record graphs; otherwise work is queued as it is every time. A graph that cannot
            be recorded ends recording, too.
        recorder: makes the function that records graphs, a new one for each pool; by default a `Recorder`.
    """

    def __init__(
        self, device: torch.device, *, enabled: bool, recorder: Callable[[], Record] | None = None
    ) -> None:
        self.enabled = enabled
        self._device = device
        self._recorder = recorder or partial(Recorder, device)
        self.clear()

    def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Queue `work` on the device's current stream; calls with one key must queue the same."""
        if not self.enabled:
            return work()
        if key not in self._recorded:
            self._recorded[key] = None
            # Where it will be recorded: autograd keeps for a while in which stream a gradient was summed.
            with _beside(self._device):
                return work()
        recorded = self._recorded[key]
        if recorded is None:
            try:
                recorded = self._recorded[key] = self._record(work)
            except RuntimeError as error:  # whatever CUDA has against it
                logger.warning("a CUDA graph could not be recorded; going on without: %s", error)
                self.enabled = False
                self.clear()
                return work()
        replay, result = recorded
        replay()
        return cast(T, result)

    def clear(self) -> None:
        """Forget all graphs; their memory is free when their results are."""
        self._recorded: dict[Hashable, Recorded[Any] | None] = {}
        self._record = self._recorder()


class Recorder:
    """Records CUDA graphs of a device, whose memory comes from one pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, work: Callable[[], T]) -> Recorded[T]:
        """Record what `work` queues, which does not run now."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(_side_stream(self._device)):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = work()
            finally:
                graph.capture_end()
        self._pool = graph.pool()
        return graph.replay, result


@contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """Queue the block's work on the side stream, between the current stream's before and after."""
    if device.type != "cuda":
        yield
        return
    current, side = torch.cuda.current_stream(device), _side_stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        yield
    current.wait_stream(side)


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which graphs are recorded: a single one, since cuBLAS keeps memory for each."""
    return torch.cuda.Stream(device)
