"""Calibration computes the statistics of batch norms, with which prediction is right."""

from __future__ import annotations

from operator import itemgetter

import pytest
import torch

from lasfast.engine.schedule import Kind
from tests.engine.schedule_helpers import (
    STORAGES,
    Schedule,
    agrees,
    randn,
    relative,
    residual,
    residual_reference,
)


@pytest.mark.parametrize("size", [(32, 32), (9, 15)])
def test_calibration_then_prediction(size: tuple[int, int], storage: str, isa: int) -> None:
    """Statistics are those of the batch, and prediction with their scale and shift is right."""
    x = randn(19, 3, *size).to(STORAGES[storage]).float() + 1
    schedule = Schedule(isa, storage)
    norms, weights = residual(schedule, x, True)
    schedule.tables[2:] = torch.nan
    schedule.calibrate(x)
    truth, statistics = residual_reference(schedule, x, norms, weights, torch.float64)
    theirs, _ = residual_reference(schedule, x, norms, weights, torch.bfloat16)
    bound = 1e-5 if storage == "fp32" else 0.01
    for number in norms:
        channels, offset = itemgetter("channels", "offset")(schedule.norms[number])
        gamma, beta, scale, shift, mean, variance = schedule.tables[:, offset : offset + channels].double()
        expected_mean, expected_variance = statistics[number]
        assert (mean - expected_mean).abs().max() <= bound * expected_variance.sqrt().max()
        assert relative(variance, expected_variance) <= bound
        torch.testing.assert_close(scale, gamma / (variance + 1e-5).sqrt(), rtol=1e-6, atol=0)
        torch.testing.assert_close(shift, beta - mean * scale, rtol=1e-5, atol=1e-6)
    for op in schedule.operations:
        op["statistics"] = -1
    # A mean over many positions averages PyTorch's errors out, so the bound has more slack.
    agrees(schedule.predict(x)[0], truth, theirs, storage, slack=5e-3)


def test_statistics_do_not_cancel(isa: int) -> None:
    """The variance is right even if the mean is a thousand standard deviations from zero."""
    x = randn(6, 4, 20, 20) + 1000
    schedule = Schedule(isa)
    source, output = schedule.images(x), schedule.value(4, 20, 20)
    number = schedule.norm(4, torch.Generator())
    schedule.add(Kind.CONV2D, source, output, torch.eye(4)[:, :, None, None], statistics=number)
    schedule.calibrate(x)
    exact = x.double().var((0, 2, 3), correction=0)
    assert relative(schedule.tables[5], exact) <= 1e-4
