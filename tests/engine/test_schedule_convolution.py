"""A schedule's convolutions, dense and depthwise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lasfast.engine.schedule import Kind
from tests.engine.schedule_helpers import (
    CONVOLUTIONS,
    RELU,
    CudaSchedule,
    Schedule,
    convolution_agrees,
    isa_number,
    randn,
    relative,
)


@pytest.mark.parametrize("fusion", ["plain", "prologue", "epilogue", "everything"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case: str, fusion: str, storage: str, isa: int) -> None:
    images, cin, cout, height, width, kernel, stride, padding = CONVOLUTIONS[case]
    x = randn(images, cin, height, width)
    weight = randn(cout + 3, cin + 2, kernel, kernel, seed=1)[:cout, :cin] / (cin * kernel**2) ** 0.5
    convolution_agrees(x, weight, fusion, storage, isa, stride, padding, 1)


@pytest.mark.parametrize("fusion", ["plain", "everything"])
@pytest.mark.parametrize(
    ("channels", "size", "kernel", "stride"),
    [
        (16, (8, 8), 3, 1),
        (37, (9, 12), 3, 2),
        (96, (14, 14), 5, 1),
        (24, (15, 13), 7, 2),
        (5, (4, 1), 1, 1),
        (64, (70, 40), 3, 1),
    ],
)
def test_depthwise(
    channels: int, size: tuple[int, int], kernel: int, stride: int, fusion: str, storage: str, isa: int
) -> None:
    x, weight = randn(3, channels, *size), randn(channels, 1, kernel, kernel, seed=1) / kernel
    convolution_agrees(x, weight, fusion, storage, isa, stride, kernel // 2, channels)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("channels", "kernel", "stride"), [(3, 3, 1), (16, 3, 1), (16, 5, 2), (40, 3, 1)])
def test_nonfinite_inputs_come_out_as_torchs_do(
    channels: int, kernel: int, stride: int, value: float, storage: str, isa: int
) -> None:
    """Only outputs whose window has a nonfinite input are nonfinite, as in PyTorch."""
    x, weight = randn(5, channels, 9, 10), randn(20, channels, kernel, kernel, seed=1)
    x[1, -1, 4, 5] = value
    x[2, 0, 0, 9] = value
    schedule = Schedule(isa, storage)
    expected = F.conv2d(x, weight, None, stride, 1)
    source, output = schedule.images(x), schedule.value(*expected.shape[1:])
    schedule.add(
        Kind.CONV2D, source, output, weight, kernel=kernel, stride=stride, padding=1, activation=RELU
    )
    pooled = F.max_pool2d(expected.relu(), 2, 1)
    largest = schedule.value(*pooled.shape[1:])
    schedule.add(Kind.MAX_POOL, output, largest, kernel=2)
    schedule.predict(x)
    for ours, truth in ((schedule.read(output, 5), expected.relu()), (schedule.read(largest, 5), pooled)):
        assert torch.equal(ours.isnan(), truth.isnan())
        assert torch.equal(ours.isposinf(), truth.isposinf())


def test_tf32_rounds_inputs_and_weights_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    isa = isa_number("cuda")
    monkeypatch.setattr(CudaSchedule, "tf32", True)
    x, weight = randn(2, 19, 9, 7), randn(37, 19, 3, 3, seed=1)
    for values, bound in ((x, 1e-3), (x.bfloat16().float(), 1e-6)):
        rounded = weight if bound == 1e-3 else weight.bfloat16().float()
        schedule = Schedule(isa)
        source, output = schedule.images(values), schedule.value(37, 9, 7)
        schedule.add(Kind.CONV2D, source, output, rounded, kernel=3, padding=1)
        schedule.predict(values)
        truth = F.conv2d(values.double(), rounded.double(), padding=1)
        error = relative(schedule.read(output, 2), truth)
        assert error <= bound
        assert (error > 1e-5) == (values is x)
