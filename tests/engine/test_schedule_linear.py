"""A schedule's linear layers, which end in logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lasfast.engine.schedule import Kind
from tests.engine.schedule_helpers import (
    STORAGES,
    SWISH,
    Schedule,
    agrees,
    randn,
)


@pytest.mark.parametrize(
    ("channels", "size", "classes"),
    [(64, (1, 1), 10), (37, (1, 1), 100), (16, (4, 3), 17), (130, (2, 2), 1000)],
)
@pytest.mark.parametrize("count", [1, 21])
def test_linear_leaves(
    channels: int, size: tuple[int, int], classes: int, count: int, storage: str, isa: int
) -> None:
    """Leaves are fp32 in any storage, and flattening has torch's order."""
    schedule, generator = Schedule(isa, storage), torch.Generator().manual_seed(1)
    features = channels * size[0] * size[1]
    x = randn(count, channels, *size).to(STORAGES[storage]).float()
    weights = [randn(classes, features, seed=s) / features**0.5 for s in (2, 3)]
    bias, norm = randn(classes, seed=4), schedule.norm(channels, generator)
    source = schedule.images(x)
    for leaf, weight in enumerate(weights):
        schedule.add(
            Kind.LINEAR,
            source,
            -1,
            weight[:, :, None, None],
            out_channels=classes,
            leaf=1 - leaf,
            bias=bias,
            input_norm=norm,
            input_activation=SWISH,
        )
    ours = schedule.predict(x)
    for leaf, weight in enumerate(weights):
        truth, theirs = (
            F.linear(F.silu(schedule.affine(norm, x.to(dtype))).flatten(1), weight.to(dtype), bias.to(dtype))
            for dtype in (torch.float64, torch.bfloat16)
        )
        agrees(ours[1 - leaf], truth, theirs, storage)
