"""Calibration computes the statistics of batch norms, with which prediction is right."""

from __future__ import annotations

from operator import itemgetter

import pytest
import torch

from lasfast.engine.schedule import Kind
from tests.engine.schedule_helpers import (
    CUDA,
    STORAGES,
    Schedule,
    agrees,
    isa_number,
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


@pytest.mark.parametrize(
    ("images", "channels", "size"),
    [(1, 8, (40, 104)), (1, 20, (40, 104)), (3, 40, (64, 66))],
    ids=["33 tiles", "two widths", "three groups"],
)
def test_cuda_pools_many_tiles(images: int, channels: int, size: tuple[int, int], storage: str) -> None:
    """The last block of a group of 32 tiles pools them, and the last of all groups these; in any order."""
    x = randn(images, 4, *size) + torch.linspace(0, 9, size[0])[:, None]
    x = x.to(STORAGES[storage]).float()
    results = []
    for isa in map(isa_number, CUDA):
        schedule = Schedule(isa, storage)
        source, output = schedule.images(x), schedule.value(channels, *size)
        number = schedule.norm(channels, torch.Generator().manual_seed(0))
        weight = randn(channels, 4, 1, 1, seed=1).to(STORAGES[storage]).float()
        bias = randn(channels, seed=2)
        schedule.add(Kind.CONV2D, source, output, weight, statistics=number, bias=bias)
        plan = schedule.plan(images, calibration=True)
        on_device, nowhere = plan.clone(), torch.zeros(1, 1, 1)
        for _ in range(2):  # what it counts with is zero again
            schedule.tables[2:] = torch.nan
            schedule.run(plan, x, nowhere, device_plan=on_device.data_ptr())
            results.append(schedule.tables[2:].clone())
        assert torch.equal(on_device, plan)
    assert all(torch.equal(one, results[0]) for one in results)
    exact = torch.einsum("nchw,oc->nohw", x.double(), weight.double()[:, :, 0, 0])
    mean, variance = results[0][2:].double()
    spread = exact.std((0, 2, 3), correction=0)
    assert ((mean - exact.mean((0, 2, 3)) - bias).abs() <= 1e-6 * (spread + mean.abs())).all()
    assert relative(variance, spread.square()) <= 1e-6


def test_cuda_pools_the_tiles_of_fewer_images_than_the_plan_is_for() -> None:
    x = randn(6, 3, 32, 32)
    found = []
    for planned in (6, 2):
        schedule = Schedule(isa_number("cuda"))
        source, output = schedule.images(x), schedule.value(16, 32, 32)
        number = schedule.norm(16, torch.Generator().manual_seed(0))
        schedule.add(Kind.CONV2D, source, output, randn(16, 3, 3, 3), kernel=3, padding=1, statistics=number)
        schedule.run(schedule.plan(planned, calibration=True), x[:2], torch.zeros(1, 1, 1))
        found.append(schedule.tables[2:].clone())
    assert torch.equal(*found)
