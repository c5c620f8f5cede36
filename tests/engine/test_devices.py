"""Several GPUs in one process: what is computed on one is queued there, on that one's stream."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from lasfast.engine.schedule import Kind
from lasfast.ops import bn_act, conv_bn_act
from lasfast.ops.sgd import Sgd, SgdRule
from lasfast.runtime import placement
from tests.engine.schedule_helpers import Schedule, isa_number, randn

STREAM = 4096  # its address, on a device that is not the first
EARLY, LATE = True, False


@pytest.fixture
def two_devices(emulated: ModuleType) -> Iterator[ModuleType]:
    emulated.set_device_count(2)
    emulated.noted_launches()
    yield emulated
    emulated.set_device_count(1)


def wide_convolution() -> tuple[Schedule, torch.Tensor, torch.Tensor]:
    """A schedule of a convolution whose tile takes more shared memory than a kernel has without asking."""
    x = randn(1, 16, 4, 4)
    schedule = Schedule(isa_number("cuda"))
    schedule.tile = 4  # 128 x 128
    source, output = schedule.images(x), schedule.value(128, 4, 4)
    schedule.add(Kind.CONV2D, source, output, randn(128, 16, 1, 1))
    return schedule, schedule.plan(1, calibration=False), x


def test_schedules_run_on_the_device_that_is_asked_for(two_devices: ModuleType) -> None:
    schedule, plan, x = wide_convolution()
    two_devices.noted_launches()
    for device, stream in ((1, STREAM), (0, 0), (1, STREAM)):
        schedule.run(plan, x, torch.zeros(1, 1, 1), device=device, stream=stream)
    expected = {(1, STREAM, LATE): 2, (1, STREAM, EARLY): 2, (0, 0, LATE): 1, (0, 0, EARLY): 1}
    assert two_devices.noted_launches() == expected  # the first launch of a pass begins late
    with pytest.raises(RuntimeError, match="device cannot be used"):
        schedule.run(plan, x, torch.zeros(1, 1, 1), device=2)


def test_limits_of_shared_memory_are_raised_on_each_device(two_devices: ModuleType) -> None:
    """A kernel that may be launched on one device may not be on another, until it is raised there."""
    schedule, plan, x = wide_convolution()
    for device in (0, 1, 0, 1):
        schedule.run(plan, x, torch.zeros(1, 1, 1), device=device)
    two_devices.set_shared_limits()
    two_devices.set_device_count(3)
    for _ in range(2):
        schedule.run(plan, x, torch.zeros(1, 1, 1), device=2)
    assert len(two_devices.set_shared_limits()) <= 1  # none, where another test has raised it
    assert two_devices.noted_launches()[2, 0, EARLY] == 2


def test_training_runs_on_the_device_of_its_values(
    two_devices: ModuleType, monkeypatch: pytest.MonkeyPatch, emulated_place: ModuleType
) -> None:
    monkeypatch.setattr(placement, "of", lambda tensor: placement.Placement("cuda", (1, STREAM)))
    for groups in (1, 8):
        x = randn(2, 8, 6, 6).requires_grad_()
        weight = randn(8, 8 // groups, 3, 3).requires_grad_()
        running = torch.zeros(8), torch.ones(8)
        y = conv_bn_act(x, weight, *running, padding=1, groups=groups, training=True)
        bn_act(y, *running, training=True).square().sum().backward()
        rule = SgdRule(momentum=0.9, nesterov=False, weight_decay=0.0, clip_norm=1.0)
        Sgd([weight], [torch.zeros_like(weight)], [[()]], rule).update([weight.grad], 0.1, 1.0)
    found = two_devices.noted_launches()
    assert found.keys() == {(1, STREAM, LATE), (1, STREAM, EARLY)}  # seconds of a pass begin early
    assert sum(found.values()) > 30
