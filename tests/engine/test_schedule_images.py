"""A schedule's input operation, which makes images a value."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lasfast.engine.schedule import Kind
from tests.engine.schedule_helpers import (
    STORAGES,
    Schedule,
    agrees,
    randn,
)


@pytest.mark.parametrize("kind", ["floats", "bytes"])
@pytest.mark.parametrize(("channels", "more"), [(1, 0), (3, 0), (3, 2), (9, 8)])
def test_images(channels: int, more: int, kind: str, storage: str, isa: int) -> None:
    """Floats are copied, bytes are looked up in their channel's table, and further channels are zero."""
    schedule = Schedule(isa, storage)
    x = truth = randn(5, channels, 3, 7)
    if kind == "bytes":
        x = torch.randint(256, x.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        x[0, 0, 0, :2] = torch.tensor([0, 255])
        schedule.pixels = randn(channels, 256, seed=2)
        truth = schedule.pixels[torch.arange(channels)[:, None, None], x.long()]
    value = schedule.value(channels + more, 3, 7)
    schedule.add(Kind.INPUT, -1, value, out_channels=channels)
    schedule.predict(x)
    expected = F.pad(truth.to(STORAGES[storage]).float(), (0, 0, 0, 0, 0, more))
    assert torch.equal(schedule.read(value, 5), expected)
    # Logits have the same bits in blocks of images as all at once.
    weight = randn(4, (channels + more) * 21, 1, 1, seed=3)
    schedule.add(Kind.LINEAR, value, -1, weight, out_channels=4, leaf=0)
    logits = schedule.predict(x)
    assert torch.equal(schedule.predict(x, block=2, threads=2), logits)
    truth, theirs = (
        expected.flatten(1).to(dtype) @ weight.flatten(1).T.to(dtype)
        for dtype in (torch.float64, torch.bfloat16)
    )
    agrees(logits[0], truth, theirs, storage)
