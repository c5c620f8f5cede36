"""Work that a GPU is given again and again, as CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import torch

logger = logging.getLogger("lasfast")

T = TypeVar("T")
Recorded = tuple[Callable[[], None], T]
"""What queues recorded work, and the result that it leaves in the same memory each time."""


class Replays:
    """Queues the same work again and again: from its second time on as a CUDA graph.

    The first time it is queued as it is, since what a kernel needs once (its code, more shared memory) cannot
    be had while a graph is recorded. `enabled=False` queues it so every time. What graphs allocate they take
    from one pool, over each other: a result holds until other work is queued. `record` makes a graph.
    """

    def __init__(
        self, *, enabled: bool, record: Callable[[Callable[[], Any]], Recorded[Any]] | None = None
    ) -> None:
        self.enabled = enabled
        self._record = record or Recorder()
        self._recorded: dict[Hashable, Recorded[Any] | None] = {}

    def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Queue `work` on the current stream; calls with one key must queue the same."""
        if not self.enabled or key not in self._recorded:
            self._recorded[key] = None
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
        """Forget all graphs, and free their memory."""
        self._recorded.clear()


class Recorder:
    """Records CUDA graphs, all on one stream and in one pool of memory."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def __call__(self, work: Callable[[], T]) -> Recorded[T]:
        """Record what `work` queues, which does not run now."""
        if self._stream is None:
            # torch records on streams of one's own only. Always on the same: cuBLAS keeps memory for each.
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = work()
            finally:
                graph.capture_end()
        return graph.replay, result
