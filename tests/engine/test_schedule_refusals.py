"""Schedules and calls that are refused, and what the errors say."""

from __future__ import annotations

import pytest
import torch

from lasfast.engine.schedule import Kind, value_fields
from tests.engine.schedule_helpers import (
    Schedule,
    aligned,
    isa_number,
    randn,
)

REFUSED = {
    "kind": ({"kind": 99}, "kind is unknown"),
    "activation": ({"activation": 7}, "activation is unknown"),
    "input": ({"input": 7}, "input is no value"),
    "output": ({"output": -1}, "neither a value nor a leaf"),
    "overlap": ({"output": 0, "out_channels": 4, "padding": 1}, "overlaps its input"),
    "kernel": ({"kernel": 12}, "kernel is not between"),
    "stride": ({"stride": 0}, "stride is below"),
    "padding": ({"padding": 3}, "padding is not below"),
    "size": ({"padding": 1}, "does not follow"),
    "out_channels": ({"out_channels": 7}, "out_channels is not its value's"),
    "groups": ({"groups": 2}, "groups is neither"),
    "weight": ({"weight": -1}, "weight is missing"),
    "weight alignment": ({"weight": 32}, "weight is missing, misaligned"),
    "weight end": ({"weight": 1 << 20}, "beyond the packed weights"),
    "bias": ({"bias": 3}, "bias is beyond"),
    "norm": ({"input_norm": 4}, "norm that does not exist"),
    "norm channels": ({"input_norm": 0}, "norm's channels"),
    "other": ({"other": 9}, "other is no value"),
    "other shape": ({"other": 0}, "does not fit"),
    "statistics": ({"statistics": 0}, "takes no statistics"),
    "level": ({"level": 2}, "level is not below"),
    "leaf": ({"leaf": 0}, "neither a value nor a leaf"),
    "opaque": ({"kind": Kind.OPAQUE}, "run by the caller"),
    "opaque activation": ({"kind": Kind.OPAQUE, "activation": 1}, "reads and writes plain values"),
    "first": ({"first": 1}, "only an arrangement has a first channel"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_operations_are_refused(case: str) -> None:
    changes, text = REFUSED[case]
    x = randn(2, 4, 5, 5)
    schedule = Schedule(isa_number("generic"))
    schedule.norm(8, torch.Generator())
    source, output = schedule.images(x), schedule.value(8, 3, 3)
    number = schedule.add(Kind.CONV2D, source, output, randn(8, 4, 3, 3), kernel=3, level=1)
    schedule.predict(x)
    schedule.operations[number] |= changes
    tables = schedule.native()
    fits = case == "opaque"  # a valid schedule, but prediction cannot run the opaque operation
    assert (schedule.module.schedule_scratch_bytes(tables, 0, 0, 2, 1, False) > 0) == fits
    with pytest.raises(ValueError, match=text):
        schedule.predict(x)


BINARIES = {
    "gate's size": ({"kind": Kind.GATE, "other": 0}, "not one factor for each channel"),
    "no gate": ({"kind": Kind.GATE}, "not one factor for each channel"),
    "groups": ({"groups": 3}, "groups does not divide"),
    "no groups": ({"groups": 0}, "groups does not divide"),
    "first": ({"first": -1}, "beyond those of its sources"),
    "last": ({"first": 5}, "beyond those of its sources"),
    "other's size": ({"other": 1}, "other does not fit"),
    "other": ({"other": 9}, "other is no value"),
    "size": ({"input": 1}, "differ in size"),
    "overlap": ({"output": 0}, "overlaps its input"),
    "norm": ({"input_norm": 0}, "norm's channels"),
    "other's norm": ({"other": 0, "other_norm": 0}, "norm's channels"),
}


@pytest.mark.parametrize("case", BINARIES)
def test_bad_gates_and_arrangements_are_refused(case: str) -> None:
    changes, text = BINARIES[case]
    x = randn(2, 4, 5, 5)
    schedule = Schedule(isa_number("generic"))
    schedule.norm(8, torch.Generator())
    source, pooled, output = schedule.images(x), schedule.value(4), schedule.value(4, 5, 5)
    schedule.add(Kind.GLOBAL_POOL, source, pooled)
    number = schedule.add(Kind.ARRANGE, source, output)
    schedule.predict(x)
    schedule.operations[number] |= changes
    with pytest.raises(ValueError, match=text):
        schedule.predict(x)


def test_bad_calls_are_refused() -> None:
    x = randn(2, 4, 5, 5)
    schedule = Schedule(isa_number("generic"))
    source, output = schedule.images(x), schedule.value(8, 3, 3)
    schedule.add(Kind.CONV2D, source, output, randn(8, 4, 3, 3), kernel=3)
    schedule.predict(x)
    scratch, logits = aligned(1 << 20, torch.uint8), torch.zeros(1)
    arena = schedule.arena

    def predict(tables: object = None, **changes: int) -> None:
        call = {
            "storage": 0,
            "isa": 0,
            "threads": 1,
            "operations": (0, 2),
            "images_nchw": x.data_ptr(),
            "images": 2,
            "block": 2,
            "shared_arena": 0,
            "shared_bytes": 0,
            "arenas": arena.data_ptr(),
            "arena_bytes": arena.nbytes,
            "scratch": scratch.data_ptr(),
            "logits": logits.data_ptr(),
        }
        schedule.module.schedule_predict(tables or schedule.native(), **call | changes)

    predict()
    for changes, text in (
        ({"storage": 2}, "storage"),
        ({"threads": 0}, "threads"),
        ({"operations": (-1, 2)}, "not within them"),
        ({"operations": (1, 0)}, "not within them"),
        ({"operations": (0, 3)}, "not within them"),
        ({"shared_arena": arena.data_ptr() + 4, "shared_bytes": 64}, "not aligned"),
        ({"block": 0}, "at least one image"),
        ({"images": -1}, "number of images"),
        ({"images_nchw": 0}, "images or logits"),
        ({"logits": 0}, "images or logits"),
        ({"arenas": arena.data_ptr() + 4}, "not aligned"),
        ({"scratch": 0}, "missing or not aligned"),
        ({"arena_bytes": arena.nbytes // 128 * 64}, "beyond the arena"),
        ({"arena_bytes": -1}, "beyond the arena"),
    ):
        with pytest.raises(ValueError, match=text):
            predict(**changes)
    with pytest.raises(RuntimeError, match="lacks the instruction set"):
        predict(isa=99)
    schedule.values[output] = value_fields(8, 3, 3, shared=True)
    with pytest.raises(ValueError, match="beyond the arena"):
        predict(schedule.native())
    shared = aligned(2 * 72, torch.float32)
    predict(schedule.native(), shared_arena=shared.data_ptr(), shared_bytes=shared.nbytes)
    with pytest.raises(ValueError, match="beyond the arena"):
        predict(schedule.native(), shared_arena=shared.data_ptr(), shared_bytes=shared.nbytes - 4)
    with pytest.raises(ValueError, match="shares no value"):
        schedule.calibrate(x)
    schedule.values[output] = value_fields(8, 3, 3) | {"shared": 2}
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        predict(schedule.native())
    schedule.values[output] = value_fields(8, 3, 3, offset=128)
    for changes, text in (
        ({"values": 0}, "table is missing"),
        ({"operation_count": 0}, "table is missing"),
        ({"value_count": 1}, "neither a value"),
        ({"weights": 0}, "weight is missing"),
        ({"weight_bytes": 64}, "beyond the packed weights"),
    ):
        with pytest.raises(ValueError, match=text):
            predict(schedule.native(**changes))


def test_bad_cuda_calls_are_refused() -> None:
    x = randn(2, 4, 5, 5)
    schedule = Schedule(isa_number("cuda"))
    source, output = schedule.images(x), schedule.value(8, 3, 3)
    schedule.add(Kind.CONV2D, source, output, randn(8, 4, 3, 3), kernel=3)
    schedule.add(Kind.GLOBAL_POOL, output, -1, leaf=0, out_channels=8)
    plan, logits, zeros = schedule.plan(2, calibration=False), torch.zeros(1, 2, 8), torch.zeros(64)
    schedule.run(plan, x, logits)
    for changes, text in (
        ({"plan": 0}, "plan is missing"),
        ({"plan": zeros.data_ptr()}, "plan is none"),
        ({"device_plan": 0}, "device's plan or the images"),
        ({"images": 0}, "device's plan or the images"),
        ({"count": 3}, "number of images"),
        ({"count": 0}, "number of images"),
        ({"first_level": 2, "last_level": 1}, "levels are not among"),
        ({"last_level": 3}, "levels are not among"),
        ({"arena": schedule.arena.data_ptr() + 4}, "not aligned"),
        ({"logits": 0}, "logits are missing"),
        ({"logit_images": 1}, "logits are missing"),
    ):
        with pytest.raises(ValueError, match=text):
            schedule.run(plan, x, logits, **changes)
    with pytest.raises(RuntimeError, match="device cannot be used"):
        schedule.run(plan, x, logits, device=1)
    schedule.values[0] = value_fields(4, 1 << 15, 1 << 16)  # too many positions for one launch
    schedule.values[1] = value_fields(8, (1 << 15) - 2, (1 << 16) - 2, offset=1 << 40)
    assert schedule.module.schedule_plan_bytes_cuda(schedule.native(), 0, 2, False) == 0
    with pytest.raises(RuntimeError, match="fewer images"):
        schedule.module.schedule_plan_cuda(schedule.native(), 0, False, 2, False, plan.data_ptr())
    for images, fits in ((143165500, True), (143165576, False)):  # whose last tile ends beyond 2^31 positions
        schedule = Schedule(isa_number("cuda"))
        source, output = schedule.value(8, 3, 5), schedule.value(8, 3, 5)
        schedule.add(Kind.INPUT, -1, source)
        schedule.add(Kind.COMBINE, source, output)
        assert bool(schedule.module.schedule_plan_bytes_cuda(schedule.native(), 0, images, False)) is fits
