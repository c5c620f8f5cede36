"""The resident kernel gives the same bits as the kernels that run a schedule level by level.

The latter are compared with PyTorch in the files of single kinds of operation.
"""

from __future__ import annotations

import importlib
from math import prod

import pytest
import torch
from torch import Tensor

from lasfast.engine.cuda_executor import RESIDENT
from lasfast.engine.schedule import Kind
from tests.engine import schedule_helpers as helpers
from tests.engine.schedule_helpers import (
    CUDA,
    HARDSIGMOID,
    HARDSWISH,
    RELU,
    SIGMOID,
    SWISH,
    CudaSchedule,
    Schedule,
    aligned,
    isa_number,
    randn,
)


class ResidentSchedule(CudaSchedule):
    """A schedule that runs with values in shared memory, of which tests only see the leaves."""

    def __new__(cls, isa: int, storage: str) -> ResidentSchedule:
        return object.__new__(cls)

    def value(self, channels: int, height: int = 1, width: int = 1) -> int:
        self.arena_elements = -(-self.arena_elements // 64) * 64
        return super().value(channels, height, width)

    def predict(self, images: Tensor, block: int | None = None, threads: int = 1) -> Tensor:
        """Return logits [leaves, images, classes], computed `block` images at a time."""
        leaves = [op for op in self.operations if op["leaf"] >= 0]
        logits = torch.full((len(leaves), len(images), leaves[0]["out_channels"]), torch.nan)
        self.run_resident(self.plan_resident(block or len(images)), images, logits)
        return logits

    def plan_resident(self, images: int) -> Tensor:
        size = self.module.schedule_plan_bytes_cuda(self.native(), self.number, images, RESIDENT)
        plan = aligned(max(8, size), torch.uint8, 255)
        tables = self.native()
        self.module.schedule_plan_cuda(tables, self.number, self.tf32, images, RESIDENT, plan.data_ptr())
        return plan

    def run_resident(self, plan: Tensor, images: Tensor, logits: Tensor, /, **changes: int) -> None:
        images, on_device = images.contiguous(), plan.clone()
        call = {
            "plan": plan.data_ptr(),
            "device_plan": on_device.data_ptr(),
            "images": images.data_ptr(),
            "count": len(images),
            "logits": logits.data_ptr(),
            "logit_images": logits.stride(0) // logits.stride(1),
            "device": 0,
            "stream": 0,
        }
        self.module.schedule_run_resident_cuda(self.native(), **call | changes)


@pytest.fixture(params=CUDA)
def isa(request: pytest.FixtureRequest) -> int:
    return isa_number(request.param)


def observe(schedule: Schedule, values: list[int]) -> None:
    """Add leaves on which each element of the values has an effect of its own."""
    for leaf, value in enumerate(values):
        shape = (schedule.values[value][name] for name in ("channels", "height", "width"))
        features = prod(shape)
        weight = randn(5, features, 1, 1, seed=leaf) / features**0.5
        schedule.add(Kind.LINEAR, value, -1, weight, out_channels=5, leaf=leaf, bias=randn(5, seed=9))


def same_bits(build, x: Tensor, storage: str, isa: int, tf32: bool = False) -> None:
    """Assert equal bits of the values that build(schedule, value of images) returns, in blocks of 1 and 2."""
    results = []
    for kind, block in ((CudaSchedule, None), (ResidentSchedule, 1), (ResidentSchedule, 2)):
        schedule = kind(isa, storage)
        schedule.tf32 = tf32
        observe(schedule, build(schedule, schedule.images(x)))
        results.append(schedule.predict(x, block))
    assert results[0].isfinite().all()
    for resident in results[1:]:
        assert torch.equal(resident, results[0])


# images, in, out, height, width, kernel, stride, padding
CONVOLUTIONS = {
    name: helpers.CONVOLUTIONS[name]
    for name in ("3x3 odd", "3x3 stride 2", "5x5 stride 2 few", "one channel", "2x2 few")
} | {
    "7x7": (2, 24, 18, 9, 9, 7, 1, 3),
    "several tiles": (3, 16, 16, 12, 13, 3, 1, 1),
    "ring and columns": (3, 72, 150, 4, 5, 3, 1, 1),
    "ring and tiles": (3, 40, 33, 8, 9, 3, 1, 1),
    "1x1": (3, 48, 100, 5, 6, 1, 1, 0),
    "padding of 1x1": (3, 33, 17, 6, 6, 3, 2, 2),
    "one position": (5, 70, 33, 1, 1, 1, 1, 0),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case: str, storage: str, isa: int) -> None:
    """The second convolution has everything that can be fused into it."""
    images, cin, cout, height, width, kernel, stride, padding = CONVOLUTIONS[case]
    fields = {"kernel": kernel, "stride": stride, "padding": padding}
    weight = randn(cout, cin, kernel, kernel, seed=1) / (cin * kernel**2) ** 0.5
    out = [(size + 2 * padding - kernel) // stride + 1 for size in (height, width)]

    def build(schedule: Schedule, source: int) -> list[int]:
        generator = torch.Generator().manual_seed(1)
        other, output = schedule.value(max(1, cout - 3), *out), schedule.value(cout, *out)
        schedule.add(Kind.CONV2D, source, other, weight[: max(1, cout - 3)].flip(0), **fields)
        fused = {"output_norm": schedule.norm(cout, generator), "activation": RELU, "other": other}
        fused |= {"other_norm": schedule.norm(max(1, cout - 3), generator), "other_activation": SWISH}
        schedule.add(Kind.CONV2D, source, output, weight, **fields, **fused, bias=randn(cout, seed=3))
        return [other, output]

    same_bits(build, randn(images, cin, height, width), storage, isa)


@pytest.mark.parametrize("case", ["3x3 odd", "ring and tiles"])
def test_tf32(case: str, isa: int) -> None:
    images, cin, cout, height, width, kernel, _, padding = CONVOLUTIONS[case]
    weight = randn(cout, cin, kernel, kernel, seed=1)

    def build(schedule: Schedule, source: int) -> list[int]:
        output = schedule.value(cout, height, width)
        schedule.add(Kind.CONV2D, source, output, weight, kernel=kernel, padding=padding, activation=RELU)
        return [output]

    same_bits(build, randn(images, cin, height, width), "fp32", isa, tf32=True)


@pytest.mark.parametrize("kind", [Kind.CONV2D, Kind.MAX_POOL, Kind.AVG_POOL, Kind.GLOBAL_POOL])
@pytest.mark.parametrize(
    ("channels", "size", "kernel", "stride"),
    [(37, (9, 8), 3, 2), (72, (5, 7), 5, 1), (16, (12, 11), 11, 1), (5, (4, 1), 1, 1)],
)
def test_windows_of_single_channels(
    kind: Kind, channels: int, size: tuple[int, int], kernel: int, stride: int, storage: str, isa: int
) -> None:
    """Depthwise convolutions and pools have norm and activation on input and output."""
    weight = randn(channels, 1, kernel, kernel, seed=1) / kernel

    def build(schedule: Schedule, source: int) -> list[int]:
        generator = torch.Generator().manual_seed(1)
        norms = schedule.norm(channels, generator), schedule.norm(channels, generator)
        fields: dict = {"input_norm": norms[0], "input_activation": RELU}
        fields |= {"output_norm": norms[1], "activation": HARDSWISH}
        window: dict = {"kernel": kernel, "stride": stride, "padding": kernel // 2}
        out = [(extent + 2 * (kernel // 2) - kernel) // stride + 1 for extent in size]
        if kind == Kind.GLOBAL_POOL:
            out, window = [1, 1], {}
        output = schedule.value(channels, *out)
        if kind == Kind.CONV2D:
            schedule.add(kind, source, output, weight, groups=channels, **window, **fields)
        else:
            schedule.add(kind, source, output, **window, **fields)
        return [output]

    same_bits(build, randn(3, channels, *size), storage, isa)


@pytest.mark.parametrize(("channels", "size"), [(16, (8, 8)), (37, (5, 7)), (3, (1, 1)), (130, (2, 3))])
def test_values_at_rest(channels: int, size: tuple[int, int], storage: str, isa: int) -> None:
    """Combinations, gates and arrangements read stored values."""

    def build(schedule: Schedule, source: int) -> list[int]:
        generator = torch.Generator().manual_seed(1)
        norm = schedule.norm(channels, generator)
        fields: dict = {"input_norm": norm, "input_activation": SWISH, "activation": RELU}
        pooled, gated, combined = (schedule.value(channels, *extent) for extent in ((), size, size))
        schedule.add(Kind.GLOBAL_POOL, source, pooled)
        schedule.add(Kind.GATE, source, gated, other=pooled, other_activation=HARDSIGMOID, **fields)
        schedule.add(Kind.COMBINE, source, combined, other=gated, other_activation=SIGMOID, **fields)
        both = {"other": combined, "other_norm": norm}
        shuffled, part = schedule.value(2 * channels, *size), schedule.value(channels, *size)
        schedule.add(Kind.ARRANGE, source, shuffled, groups=2, **both, **fields)
        schedule.add(Kind.ARRANGE, source, part, first=channels // 2, **both, **fields)
        return [gated, combined, shuffled, part]

    same_bits(build, randn(3, channels, *size), storage, isa)


def test_a_sum_in_the_place_of_what_is_added(storage: str, isa: int) -> None:
    """A sum may overwrite what it adds, a combination or gate its input, but not in a run by levels."""
    x, weight = randn(5, 19, 6, 7), randn(19, 19, 3, 3, seed=1) / 13

    def chain(schedule: Schedule, in_place: bool) -> None:
        values = [schedule.images(x)]
        pooled = schedule.value(19)
        schedule.add(Kind.GLOBAL_POOL, values[0], pooled)
        inner = schedule.value(19, 6, 7)
        schedule.add(Kind.CONV2D, values[0], inner, weight, kernel=3, padding=1)
        for kind, other in ((Kind.CONV2D, values[0]), (Kind.COMBINE, inner), (Kind.GATE, pooled)):
            values.append(schedule.value(19, 6, 7))
            if in_place:
                schedule.values[-1] = schedule.values[0]
            fields = {"kernel": 3, "padding": 1} if kind == Kind.CONV2D else {}
            source = inner if kind == Kind.CONV2D else values[-2]
            given = weight if kind == Kind.CONV2D else None
            schedule.add(kind, source, values[-1], given, other=other, activation=RELU, **fields)
        observe(schedule, values[-1:])

    results = []
    for in_place in (False, True):
        schedule = ResidentSchedule(isa, storage)
        chain(schedule, in_place)
        results.append(schedule.predict(x, 2))
    assert results[0].isfinite().all()
    assert torch.equal(*results)
    assert schedule.module.schedule_plan_bytes_cuda(schedule.native(), schedule.number, 2, 0) == 0
    with pytest.raises(ValueError, match="output overlaps its other"):
        schedule.plan(2, calibration=False)
    schedule.operations[3] |= {"input": 0, "other": -1}  # the convolution's windows would see its own output
    with pytest.raises(ValueError, match="output overlaps its input"):
        schedule.plan_resident(2)


def small(isa: int) -> ResidentSchedule:
    schedule = ResidentSchedule(isa, "fp32")
    source, output = schedule.images(randn(2, 4, 5, 5)), schedule.value(8, 3, 3)
    schedule.norm(4, torch.Generator())
    schedule.add(Kind.CONV2D, source, output, randn(8, 4, 3, 3), kernel=3)
    observe(schedule, [output])
    return schedule


def test_bad_calls_are_refused() -> None:
    x, schedule = randn(2, 4, 5, 5), small(isa_number("cuda"))
    plan, logits, zeros = schedule.plan_resident(1), torch.zeros(1, 2, 5), torch.zeros(64)
    by_levels = schedule.plan(2, calibration=False)
    schedule.run_resident(plan, x, logits)
    for changes, text in (
        ({"plan": 0}, "plan is missing"),
        ({"plan": zeros.data_ptr()}, "plan is none"),
        ({"plan": by_levels.data_ptr()}, "for another purpose"),
        ({"device_plan": 0}, "device's plan is missing"),
        ({"images": 0}, "device's plan or the images"),
        ({"count": 0}, "number of images"),
        ({"logits": 0}, "logits are missing"),
        ({"logit_images": 1}, "logits are missing"),
    ):
        with pytest.raises(ValueError, match=text):
            schedule.run_resident(plan, x, logits, **changes)
    with pytest.raises(ValueError, match="for another purpose"):
        schedule.run(plan, x, logits)
    with pytest.raises(RuntimeError, match="device cannot be used"):
        schedule.run_resident(plan, x, logits, device=1)
    with pytest.raises(RuntimeError, match="device cannot be used"):
        schedule.module.cuda_limits(1)
    with pytest.raises(ValueError, match="purpose of the plan is unknown"):
        schedule.module.schedule_plan_cuda(schedule.native(), 0, False, 1, 4, plan.data_ptr())


def test_schedules_that_it_cannot_run_are_refused() -> None:
    for change, text in (
        ({"input_norm": 0}, "has a norm or an activation"),
        ({"input_activation": RELU}, "has a norm or an activation"),
        ({"kind": Kind.OPAQUE}, "run by the caller"),
    ):
        schedule = small(isa_number("cuda"))
        schedule.operations[1] |= change
        with pytest.raises(ValueError, match=text):
            schedule.plan_resident(1)
    schedule = small(isa_number("cuda"))
    schedule.values[1]["offset"] += 32
    with pytest.raises(ValueError, match="multiple of 64 elements"):
        schedule.plan_resident(1)


def test_more_images_than_fit_are_refused() -> None:
    schedule = small(isa_number("cuda"))
    _, block_bytes, *_ = schedule.module.cuda_limits(0)
    plans = [schedule.plan_resident(n) for n in (1, 2)]
    needs = [schedule.module.schedule_needs_cuda(plan.data_ptr())[3] for plan in plans]
    most = 1 + (block_bytes - needs[0]) // (needs[1] - needs[0])
    x = randn(most + 1, 4, 5, 5)
    expected, logits = schedule.predict(x, 1), torch.zeros(1, most + 1, 5)
    assert torch.equal(schedule.predict(x, most), expected)
    with pytest.raises(RuntimeError, match="plan for fewer"):
        schedule.run_resident(schedule.plan_resident(most + 1), x, logits)
    with pytest.raises(RuntimeError, match="do not fit into a multiprocessor"):
        schedule.plan_resident(10_000)


@pytest.mark.parametrize(
    ("channels", "side", "rows"), [(64, 8, 64), (64, 9, 128), (32, 11, 128), (32, 12, 256), (16, 4, 256)]
)
def test_warps_share_columns_where_there_are_few_positions(channels: int, side: int, rows: int) -> None:
    """All of them multiply, then; tiles of fp32 outside of tensor cores are as narrow as it gets."""
    x = randn(1, 8, side, side)

    def build(schedule: Schedule, source: int) -> list[int]:
        output = schedule.value(channels, side, side)
        weight = randn(channels, 8, 3, 3, seed=1) / 9
        schedule.add(Kind.CONV2D, source, output, weight, kernel=3, padding=1)
        return [output]

    module = importlib.import_module("lasfast._emulated")
    for storage, name in (("bf16", "bf16"), ("fp32", "exact")):
        module.noted_tiles()
        same_bits(build, x, storage, isa_number("cuda"))
        tiles = {tile[1:4] for tile in module.noted_tiles() if tile[0] == "resident"}
        narrow = {16: 128, 32: 64, 64: 32}[channels]
        assert (name, rows if name == "bf16" else narrow, channels) in tiles
