"""Scores: class ranks and losses of several networks' answers, gathered batch by batch on their device."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.runtime.placement import stream_of

NEVER = 1 << 30
"""The class rank of a row with NaN, beyond all others."""
AT_ONCE = 16 << 20
"""Bytes: of logits that wait to be scored together, or of scores that have a place."""
SCORE_BYTES, LABEL_BYTES = 4 + 8, 8
"""The bytes of a class rank and a loss, and those of a label."""


class Scores:
    """Scores the answers of several networks by PyTorch.

    Logits wait until they are many, since scoring takes a dozen small kernels for each batch. What is counted
    for one network does not depend on the others, to the last bit.
    """

    def __init__(self) -> None:
        self._class_ranks: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Take in logits [networks, N, classes], which it keeps, and labels [N]. A row with NaN is wrong."""
        self._waiting.append((logits, labels))
        if sum(one.nbytes for one, _ in self._waiting) >= AT_ONCE:
            self._score()

    def _score(self) -> None:
        """Score what waits."""
        if not self._waiting:
            return
        logits = torch.cat([one for one, _ in self._waiting], 1)
        labels = torch.cat([one for _, one in self._waiting])
        self._waiting = []
        own = labels.expand(logits.shape[:2])
        losses = F.cross_entropy(logits.double().flatten(0, 1), own.flatten(), reduction="none")
        self._losses.append(losses.view(own.shape))
        self._class_ranks.append(torch.where(logits.isnan().any(2), NEVER, _class_ranks(logits, own)))

    def result(self) -> tuple[Tensor, Tensor]:
        """Return class ranks (int64) and losses (float64) [networks, N] of all images so far."""
        self._score()
        return torch.cat(self._class_ranks, 1), torch.cat(self._losses, 1)


class Tally:
    """Scores the answers of several networks on a GPU by one kernel, which a CUDA graph may have.

    A graph finds labels in the same place every time, and before them the place of the batch's scores.

    Args:
        native: the compiled module.
        networks: how many there are.
        device: that of logits and labels.
    """

    def __init__(self, native: Any, networks: int, device: torch.device) -> None:
        self._native, self._networks, self._device = native, networks, device
        self._parts: list[tuple[Tensor, ...]] = []
        self._capacity = self._end = 0

    def expect(self, labels: Tensor) -> None:
        """Say what is right (int64 [N]) for the images whose logits are scored next."""
        begin, count = self._end, len(labels)
        if begin + count > self._capacity:
            self._keep()
            begin = 0
        if count > self._capacity:
            of_image = SCORE_BYTES * self._networks + 2 * LABEL_BYTES
            self._make_room(max(count, AT_ONCE // of_image))
        torch.cat((self._places[begin : begin + 1], labels), out=self._expected[: 1 + count])
        self._end = begin + count

    def score(self, logits: Tensor, *, early: bool) -> None:
        """Score logits [networks, N, classes]; more than once, it does the same again.

        `early` says that a pass of the compiled module was queued right before.
        """
        self._native.schedule_tally_cuda(
            *logits.shape,
            logits.data_ptr(),
            self._expected.data_ptr(),
            self._capacity,
            self._class_ranks.data_ptr(),
            self._losses.data_ptr(),
            early,
            self._device.index or 0,
            stream_of(self._device),
        )

    @property
    def memory(self) -> tuple[int, ...]:
        """Addresses and sizes that a graph which scores has in it."""
        tensors = self._expected, self._class_ranks, self._losses
        return self._capacity, *(tensor.data_ptr() for tensor in tensors)

    def result(self) -> tuple[Tensor, Tensor]:
        """Return class ranks (int64) and losses (float64) [networks, N] of all images so far."""
        self._keep()
        class_ranks, losses = (torch.cat(parts, 1) for parts in zip(*self._parts, strict=True))
        return class_ranks.long(), losses

    def _keep(self) -> None:
        """Keep the scores that have a place, which others may then take."""
        if self._end:
            kept = (scores[:, : self._end].clone() for scores in (self._class_ranks, self._losses))
            self._parts.append(tuple(kept))
        self._end = 0

    def _make_room(self, images: int) -> None:
        self._capacity = images
        self._places = torch.arange(images, device=self._device)
        self._expected = torch.empty(1 + images, dtype=torch.int64, device=self._device)
        shape = self._networks, images
        self._class_ranks = torch.empty(shape, dtype=torch.int32, device=self._device)
        self._losses = torch.empty(shape, dtype=torch.float64, device=self._device)


def _class_ranks(logits: Tensor, own: Tensor) -> Tensor:
    """Return how many classes are before the right one; of equal logits, the first class comes first."""
    right = logits.gather(2, own[..., None])
    first = torch.arange(logits.shape[2], device=logits.device) < own[..., None]
    return ((logits > right) | ((logits == right) & first)).sum(2)
