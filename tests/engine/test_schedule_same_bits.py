"""A schedule gives the same bits on any number of threads, and in any parts in which it is run."""

from __future__ import annotations

import pytest
import torch

from lasfast.engine.schedule import Kind
from tests.engine.schedule_helpers import (
    CPU_ISAS,
    Schedule,
    isa_number,
    randn,
    residual,
)


def test_the_same_bits_whatever_the_threads_and_blocks(storage: str, isa: int) -> None:
    x = randn(23, 3, 14, 14)
    results = []
    for threads in (1, 2, 3):
        schedule = Schedule(isa, storage)
        residual(schedule, x, True)
        schedule.calibrate(x, threads)
        results.append(schedule.tables[2:].clone())
    assert all(torch.equal(result, results[0]) for result in results)
    for op in schedule.operations:
        op["statistics"] = -1
    logits = [schedule.predict(x, block, threads) for block, threads in ((23, 1), (4, 2), (1, 1), (7, 3))]
    assert all(torch.equal(one, logits[0]) for one in logits)


@pytest.mark.parametrize("isa", CPU_ISAS, indirect=True)
@pytest.mark.parametrize("cuts", [(3,), (1, 2, 2, 5, 8), (0, 4, 9)])
def test_the_same_bits_in_one_range_and_in_several(cuts: tuple[int, ...], storage: str, isa: int) -> None:
    """Values that operations of several ranges touch are shared, while threads run different images."""
    x = randn(23, 3, 14, 14)
    results, logits = [], []
    for several in (False, True):
        schedule = Schedule(isa, storage)
        residual(schedule, x, True)
        count = len(schedule.operations)
        ranges = list(zip((0, *cuts), (*cuts, count), strict=True)) if several else None
        schedule.calibrate(x, 2, ranges)
        results.append(schedule.tables[2:].clone())
        for op in schedule.operations:
            op["statistics"] = -1
        for value in range(len(schedule.values)) if several else ():
            touching = [
                number
                for number, op in enumerate(schedule.operations)
                if value in (op["input"], op["other"], op["output"])
            ]
            crosses = len({sum(number >= cut for cut in cuts) for number in touching}) > 1
            schedule.values[value]["shared"] = crosses
        logits.append(schedule.predict(x, 4, 3, ranges))
    assert any(value["shared"] for value in schedule.values)
    assert torch.equal(*results)
    assert torch.equal(*logits)


def test_the_same_bits_in_several_ranges_of_levels(storage: str) -> None:
    """A CUDA plan runs any levels; the caller runs an opaque operation, which has a level of its own."""
    x = randn(23, 3, 14, 14)
    schedule = Schedule(isa_number("cuda"), storage)
    residual(schedule, x, False)
    expected = schedule.predict(x)
    plan, logits = schedule.plan(23, calibration=False), torch.full((1, 23, 10), torch.nan)
    for first, last in ((0, 0), (1, 3), (4, 6)):
        schedule.run(plan, x, logits, first_level=first, last_level=last)
    assert torch.equal(logits, expected)
    schedule.operations[-2]["kind"] = Kind.OPAQUE
    plan = schedule.plan(23, calibration=False)
    schedule.run(plan, x, logits, last_level=4)
    with pytest.raises(ValueError, match="run by the caller"):
        schedule.run(plan, x, logits, first_level=5, last_level=5)


@pytest.mark.parametrize("count", [1, 5, 23])
def test_a_plan_is_good_for_fewer_images(count: int, storage: str) -> None:
    """With fewer images, some blocks of a launch do nothing."""
    x = randn(23, 3, 14, 14)
    schedule = Schedule(isa_number("cuda"), storage)
    residual(schedule, x, False)
    expected = schedule.predict(x)
    plan, logits = schedule.plan(23, calibration=False), torch.full((1, 30, 10), torch.nan)
    schedule.run(plan, x[:count], logits)
    assert torch.equal(logits[:, :count], expected[:, :count])
    assert logits[:, count:].isnan().all()
