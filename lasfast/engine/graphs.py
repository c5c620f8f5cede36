"""Work that a GPU is given again and again, as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch


class Replays:
    """Queues the same work again and again: from its second time on as a CUDA graph.

    The first time it is queued as it is, since what a kernel needs once (its code, more shared memory) cannot
    be had while a graph is recorded. `enabled=False` queues it so every time.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Queue `work` on the current stream; calls with one key must queue the same."""
        if not self.enabled or key not in self._graphs:
            self._graphs[key] = None
            work()
            return
        graph = self._graphs[key]
        if graph is None:
            graph = self._graphs[key] = _record(work)
        graph.replay()


def _record(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.Stream()):  # torch records on streams of one's own only
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            work()
        finally:
            graph.capture_end()
    return graph
