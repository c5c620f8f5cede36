"""A schedule's combinations: norm, activation and sum of stored values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lasfast.engine.schedule import Kind
from tests.engine.schedule_helpers import (
    ACTIVATIONS,
    HARDSWISH,
    RELU6,
    STORAGES,
    Schedule,
    agrees,
    randn,
)


@pytest.mark.parametrize("activation", range(1, len(ACTIVATIONS)))
@pytest.mark.parametrize("channels", [3, 16, 37])
def test_combine(channels: int, activation: int, storage: str, isa: int) -> None:
    """Activations are right for all magnitudes, infinities and NaN, and so are sums with norms."""
    x = torch.linspace(-120, 120, 2 * channels * 77).view(2, channels, 7, 11)[..., torch.randperm(11)]
    x[0, 0, 0, :4] = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0])
    x = x.to(STORAGES[storage]).float()
    schedule = Schedule(isa, storage)
    source = schedule.images(x)
    output = schedule.value(channels, 7, 11)
    schedule.add(Kind.COMBINE, source, output, activation=activation)
    schedule.predict(x)
    ours, truth = schedule.read(output, 2), ACTIVATIONS[activation](x)
    torch.testing.assert_close(
        ours, truth, equal_nan=True, rtol=2e-6 if storage == "fp32" else 0.004, atol=1e-36
    )
    # A sum of two values, with norms and activations of both and of the result.
    generator = torch.Generator().manual_seed(1)
    x = randn(2, channels, 7, 11).to(STORAGES[storage]).float()
    fields = {"input_norm": schedule.norm(channels, generator), "input_activation": activation}
    fields |= {"other": source, "other_norm": schedule.norm(channels, generator), "other_activation": RELU6}
    fields |= {"output_norm": schedule.norm(channels, generator), "activation": HARDSWISH}
    result = schedule.value(channels, 7, 11)
    schedule.add(Kind.COMBINE, source, result, **fields)
    schedule.predict(x)
    truth, theirs = (
        combine_expression(schedule, x.to(dtype), fields) for dtype in (torch.float64, torch.bfloat16)
    )
    agrees(schedule.read(result, 2), truth, theirs, storage)


def combine_expression(schedule: Schedule, x: Tensor, fields: dict) -> Tensor:
    y = ACTIVATIONS[fields["input_activation"]](schedule.affine(fields["input_norm"], x))
    z = ACTIVATIONS[fields["other_activation"]](schedule.affine(fields["other_norm"], x))
    return ACTIVATIONS[fields["activation"]](schedule.affine(fields["output_norm"], y) + z)
