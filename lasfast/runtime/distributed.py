"""Several processes that work as one.

`torchrun` starts the processes, called ranks; `start` joins them. `world()` says which of them this process
is, and exchanges values with the others. Code reads the same for one process, whose world has one rank.
Exchanges have to be called by all ranks, in the same order: the others wait for one that does not call.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

BUCKET = 25 * 2**20  # bytes that are summed at a time, as many as in torch's DistributedDataParallel
PARTS = 4  # tasks for each rank: more of them end at about the same time, fewer share more of their work
PATIENCE = timedelta(days=7)  # how long others wait for a rank that works on; one that ends is noticed

T = TypeVar("T")
R = TypeVar("R")


class LostRankError(ConnectionError):
    """Another rank ended before this one."""


class World:
    """The ranks that work together: here a process alone, which is rank 0 of 1."""

    rank = 0
    size = 1
    parts = 1
    """The number of tasks that work is best cut into for `spread`."""

    @property
    def main(self) -> bool:
        """True on rank 0, which alone writes files and prints."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """Return the device of this rank, of kind "cpu" or "cuda"."""
        return torch.device(kind)

    def rows(self, images: int) -> slice:
        """Return which of a batch's images are this rank's: consecutive ones, nearly as many on each rank."""
        return slice(0, images)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, whose bits are the same on each."""

    def stack(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all ranks, `[size, *shape]`."""
        return tensor[None]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is set on any rank, so that all decide alike."""
        return flags

    def gather(self, value: T) -> list[T]:
        """Return the values that the ranks call this with, in the order of the ranks."""
        return [value]

    def share(self, work: Callable[[], T]) -> T:
        """Do work on rank 0 alone, and return its result or raise its error on all ranks."""
        return work()

    def spread(self, tasks: Sequence[T], work: Callable[[T], R]) -> list[R]:
        """Do each task on one of the ranks; on all, return the results in order or raise the first error.

        All ranks call with the same tasks. A rank takes the next one when it is done with its last.
        """
        return [work(task) for task in tasks]

    def check_same(self, name: str, value: dict[str, Any]) -> None:
        """Raise ValueError on all ranks unless all have the same value under each key."""

    @contextmanager
    def first_here(self) -> Iterator[None]:
        """Let the first rank of each machine run the block before the others, say to download."""
        yield


class _SeveralRanks(World):
    """Several ranks: CPU tensors and Python objects travel by gloo, CUDA tensors by NCCL."""

    def __init__(self, store: dist.Store, rank: int, size: int, local: tuple[int, int]) -> None:
        self.rank, self.size, self.parts = rank, size, PARTS * size
        self._local_rank, self._local_size = local
        self._store = store
        self._calls = count()
        self._cuda_group: Any = None

    def device(self, kind: str) -> torch.device:
        if kind != "cuda":
            return torch.device(kind)
        available = torch.cuda.device_count()
        if self._local_size > available:
            raise ValueError(
                f"{self._local_size} processes were started on this machine, which has {available} usable "
                "GPU(s); each needs one of its own: start as many, or take the device cpu"
            )
        torch.cuda.set_device(self._local_rank)
        return torch.device("cuda", self._local_rank)

    def rows(self, images: int) -> slice:
        if images < self.size:
            raise ValueError(
                f"a batch has {images} image(s) for {self.size} ranks; each needs at least one: leave such a "
                "batch out (drop_last), or start fewer"
            )
        return slice(images * self.rank // self.size, images * (self.rank + 1) // self.size)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _exchange():
                dist.all_reduce(flat, group=self._group(flat))
            for tensor, part in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def stack(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with _exchange():
            dist.all_gather(parts, tensor, group=self._group(tensor))
        return torch.stack(parts)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        values = torch.tensor(flags, dtype=torch.uint8)
        with _exchange():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return tuple(map(bool, values.tolist()))

    def gather(self, value: T) -> list[T]:
        every: list[Any] = [None] * self.size
        with _exchange():
            dist.all_gather_object(every, value)
        return every

    def share(self, work: Callable[[], T]) -> T:
        outcome: list[Any] = [_attempt(work) if self.main else None]
        with _exchange():
            dist.broadcast_object_list(outcome, src=0)
        return _result(outcome[0])

    def spread(self, tasks: Sequence[T], work: Callable[[T], R]) -> list[R]:
        done: dict[int, Any] = {}
        for number in self._taken(len(tasks)):
            done[number] = _attempt(partial(work, tasks[number]))
            if isinstance(done[number], _Failure):
                break  # the others end what they are at
        every = {number: outcome for part in self.gather(done) for number, outcome in part.items()}
        return [_result(outcome) for _, outcome in sorted(every.items())]

    def check_same(self, name: str, value: dict[str, Any]) -> None:
        every = self.gather(value)
        for rank, other in enumerate(every):
            for key in sorted(every[0].keys() | other.keys()):  # in one order on all ranks
                first, second = every[0].get(key), other.get(key)
                if first != second:
                    raise ValueError(
                        f"{name} must be the same on all ranks, but its {key} is {first!r} on rank 0 and "
                        f"{second!r} on rank {rank}"
                    )

    @contextmanager
    def first_here(self) -> Iterator[None]:
        if self._local_rank:
            self.any(False)
        yield
        if not self._local_rank:
            self.any(False)

    def open_cuda(self) -> None:
        """Make the group by which CUDA tensors travel; all ranks call this."""
        self._cuda_group = dist.new_group(backend="nccl")

    def fails_first(self) -> bool:
        """Announce that this rank fails, and return whether no other did before."""
        try:
            return self._store.add("failed", 1) == 1
        except RuntimeError:
            return False  # the store ended with the rank that failed

    def _group(self, tensor: Tensor) -> Any:
        return self._cuda_group if tensor.is_cuda else None

    def _taken(self, tasks: int) -> Iterator[int]:
        """Yield the numbers of the tasks that this rank does in one call of `spread`.

        All ranks draw them from one counter.
        """
        counter = f"tasks/{next(self._calls)}"
        while True:
            with _exchange():
                number = self._store.add(counter, 1) - 1
            if number >= tasks:
                return
            yield number


_world: World = World()


def world() -> World:
    """Return the ranks that this process works with: outside of `start`, itself alone."""
    return _world


@contextmanager
def start() -> Iterator[World]:
    """Work together with the other processes that torchrun started; alone where it started one or none.

    Trainers of supernets, evaluators and studies that are made and run within the block share their work. The
    first rank that an exception ends raises it and so says why; the others end silently, with status 1.

    Raises:
        ValueError, RuntimeError: torchrun's environment is incomplete, or the ranks do not reach each other.
    """
    global _world
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield _world
        return
    joined = _join()
    _world = joined
    try:
        yield joined
    except SystemExit:
        raise
    except BaseException:
        if not joined.fails_first():
            raise SystemExit(1) from None
        raise
    finally:
        _world = World()
        dist.destroy_process_group()


def _join() -> _SeveralRanks:
    store, rank, size = next(rendezvous("env://"))
    local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    own, groups = dist.PrefixStore("lasfast", store), dist.PrefixStore("groups", store)
    dist.init_process_group("gloo", store=groups, rank=rank, world_size=size, timeout=PATIENCE)
    ranks = _SeveralRanks(own, rank, size, local)
    able = torch.cuda.is_available() and dist.is_nccl_available() and local[1] <= torch.cuda.device_count()
    if not ranks.any(not able)[0]:
        ranks.open_cuda()
    return ranks


@contextmanager
def _exchange() -> Iterator[None]:
    """Raise LostRankError where an exchange fails."""
    try:
        yield
    except RuntimeError as error:
        raise LostRankError(
            f"another rank ended before the work was done; its own output says why ({error})"
        ) from error


@dataclass(frozen=True)
class _Failure:
    """An error on its way to all ranks.

    Attributes:
        kind, arguments: what the error is made of again.
        traceback: where it was raised, as text.
    """

    kind: type[Exception]
    arguments: tuple[Any, ...]
    traceback: str


def _attempt(work: Callable[[], T]) -> T | _Failure:
    """Return the result of work, or its error."""
    try:
        return work()
    except Exception as error:
        where = traceback.format_exc()
        try:
            pickle.dumps((type(error), error.args))
        except Exception:  # a class or a value of one process alone
            return _Failure(RuntimeError, (f"{type(error).__name__}: {error}",), where)
        return _Failure(type(error), error.args, where)


def _result(outcome: T | _Failure) -> T:
    """Return the result that `_attempt` gave, or raise the error."""
    if isinstance(outcome, _Failure):
        # Not by calling the class, whose arguments need not be those that the error keeps.
        error = outcome.kind.__new__(outcome.kind, *outcome.arguments)
        raise error from RuntimeError(f"on the rank where it happened:\n{outcome.traceback}")
    return outcome


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut a sequence into parts, each of at most BUCKET bytes or of one tensor."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        if bucket and held + tensor.nbytes > BUCKET:
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += tensor.nbytes
    if bucket:
        yield bucket
