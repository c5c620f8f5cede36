"""A schedule's pools."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.engine.schedule import Kind
from tests.engine.schedule_helpers import (
    HARDSWISH,
    RELU,
    STORAGES,
    Schedule,
    agrees,
    randn,
)


@pytest.mark.parametrize("kind", [Kind.MAX_POOL, Kind.AVG_POOL, Kind.GLOBAL_POOL])
@pytest.mark.parametrize(
    ("channels", "size", "kernel", "stride", "padding"),
    [(16, (8, 9), 2, 2, 0), (21, (11, 7), 3, 2, 1), (64, (5, 5), 3, 1, 1), (5, (6, 4), 1, 2, 0)],
)
def test_pools(
    kind: Kind, channels: int, size: tuple, kernel: int, stride: int, padding: int, storage: str, isa: int
) -> None:
    schedule, generator = Schedule(isa, storage), torch.Generator().manual_seed(1)
    x = randn(3, channels, *size).to(STORAGES[storage]).float()
    norms = schedule.norm(channels, generator), schedule.norm(channels, generator)

    def expression(dtype: torch.dtype) -> Tensor:
        y = F.relu(schedule.affine(norms[0], x.to(dtype)))
        if kind == Kind.MAX_POOL:
            y = F.max_pool2d(y, kernel, stride, padding)
        elif kind == Kind.AVG_POOL:
            y = F.avg_pool2d(y, kernel, stride, padding, count_include_pad=False)
        else:
            y = y.mean((2, 3), keepdim=True)
        return F.hardswish(schedule.affine(norms[1], y))

    truth = expression(torch.float64)
    source, output = schedule.images(x), schedule.value(*truth.shape[1:])
    schedule.add(
        kind,
        source,
        output,
        kernel=kernel,
        stride=stride,
        padding=padding,
        input_norm=norms[0],
        input_activation=RELU,
        output_norm=norms[1],
        activation=HARDSWISH,
    )
    schedule.predict(x)
    agrees(schedule.read(output, 3), truth, expression(torch.bfloat16), storage)
