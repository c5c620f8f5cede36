"""Learning rates of schedules, against their formulas."""

import math

import pytest

from lasfast.train import TrainSettings
from lasfast.train.curriculum import standalone_schedule, supernet_schedule

SHAPES = {
    "linear": lambda share: 1 - share,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "constant": lambda share: 1.0,
    "exponential": lambda share: math.exp(math.log(0.05) * share),
}


def rates(schedule, epochs, batches=4):
    assert [schedule.epochs(step) for step in range(3)] == [epochs, 0, 0]
    return [schedule.learning_rate(0, batch, batches) for batch in range(epochs * batches)]


@pytest.mark.parametrize("ramp", [0, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_the_rate_rises_and_then_falls_as_it_is_called(name, ramp):
    settings = TrainSettings(
        learning_rate=0.4,
        supernet_epochs=5,
        supernet_schedule=name,
        supernet_ramp_epochs=ramp,
        standalone_epochs=5,
        standalone_schedule=name,
        standalone_ramp_epochs=ramp,
        exponential_end=0.05,
    )
    first = [0.4 * (batch + 1) / 8 for batch in range(4 * ramp)]
    rest = 20 - 4 * ramp
    expected = first + [0.4 * SHAPES[name](batch / rest) for batch in range(rest)]
    assert rates(supernet_schedule(settings), 5) == pytest.approx(expected)
    assert rates(standalone_schedule(settings), 5) == pytest.approx(expected)


def test_milestones_come_after_the_ramp():
    settings = TrainSettings(
        learning_rate=0.4, standalone_epochs=4, milestones=(2, 3.5), standalone_ramp_epochs=1
    )
    expected = [0.1, 0.2, 0.3] + [0.4] * 5 + [0.08] * 6 + [0.016] * 2
    assert rates(standalone_schedule(settings), 4) == pytest.approx(expected)
