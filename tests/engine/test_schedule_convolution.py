"""A schedule's convolutions, dense and depthwise."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F

from lasfast.engine.schedule import Kind, operation_fields, records, value_fields
from tests.engine.schedule_helpers import (
    CONVOLUTIONS,
    RELU,
    STORAGES,
    CudaSchedule,
    Schedule,
    aligned,
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
    ("channels", "size", "kernel", "stride", "padding"),
    [
        (16, (8, 8), 3, 1, 1),
        (37, (9, 12), 3, 2, 1),
        (96, (14, 14), 5, 1, 2),
        (24, (15, 13), 7, 2, 3),
        (5, (4, 1), 1, 1, 0),
        (64, (70, 40), 3, 1, 1),
        # On CPUs, tiles of two rows and of four; rows and columns that overlap; none at all.
        (16, (7, 7), 7, 1, 3),
        (17, (5, 4), 5, 1, 2),
        (16, (3, 6), 3, 1, 1),
        (16, (2, 2), 5, 2, 2),
        # Padding that is less or more than half a kernel, whose columns are not skipped.
        (16, (9, 10), 5, 1, 0),
        (16, (4, 9), 3, 1, 2),
        (16, (9, 8), 7, 1, 6),
        (16, (11, 17), 4, 1, 1),
        (16, (10, 9), 3, 3, 1),
        # Bands, of which the last has one row.
        (16, (57, 400), 3, 1, 1),
        (16, (131, 110), 5, 2, 2),
    ],
)
def test_depthwise(
    channels: int,
    size: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    fusion: str,
    storage: str,
    isa: int,
) -> None:
    images = 3 if size[0] < 100 else 1
    x, weight = randn(images, channels, *size), randn(channels, 1, kernel, kernel, seed=1) / kernel
    convolution_agrees(x, weight, fusion, storage, isa, stride, padding, channels)


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


def test_many_weights_are_packed_in_few_launches(storage: str) -> None:
    """As they are one by one, of all kinds; a launch takes forty."""
    isa_number("cuda")
    module = importlib.import_module("lasfast._emulated")
    code, generator = list(STORAGES).index(storage), torch.Generator().manual_seed(0)
    kinds = [(Kind.CONV2D, 1, 3), (Kind.CONV2D, 9, 5), (Kind.LINEAR, 1, 1)]
    rows = []
    for number in range(85):
        kind, groups, kernel = kinds[number % 3]
        out = 9 if groups > 1 else 1 + number % 23
        value = records("Value", [value_fields(9, 2, 3)])
        fields = {"out_channels": out, "groups": groups, "kernel": kernel, "padding": kernel // 2}
        fields |= {"input": 0, "output": 0}
        operation = records("Operation", [operation_fields(kind, **fields)])
        shape = (out, 9 * 2 * 3, 1, 1) if kind == Kind.LINEAR else (out, 9 // groups, kernel, kernel)
        weight = torch.randn(shape, generator=generator)
        size = module.schedule_packed_bytes_cuda(operation.ctypes.data, value.ctypes.data, code)
        rows.append(
            (operation, value, weight, torch.zeros(size, dtype=torch.uint8), aligned(size, torch.uint8, 0))
        )

    def packed_to(which: int) -> list[tuple]:
        return [
            (
                operation.ctypes.data,
                value.ctypes.data,
                weight.data_ptr(),
                weight.stride(),
                to[which].data_ptr(),
            )
            for operation, value, weight, *to in rows
        ]

    for one in packed_to(0):
        module.schedule_pack_cuda([one], code, False, 0, 0)
    module.noted_launches()
    module.schedule_pack_cuda(packed_to(1), code, False, 0, 0)
    assert sum(module.noted_launches().values()) == 3
    module.schedule_pack_cuda([], code, False, 0, 0)
    assert not module.noted_launches()
    assert all(torch.equal(alone, together) and alone.any() for *_, alone, together in rows)


@pytest.mark.parametrize("kind", ["dense", "depthwise", "linear"])
def test_weights_are_rounded_to_tf32_as_they_are_packed(kind: str) -> None:
    """Those of products on tensor cores, which depthwise ones are not. The stand-in sees if they are not."""
    isa = isa_number("cuda")
    module = importlib.import_module("lasfast._emulated")
    fields = {"out_channels": 9, "groups": 9 if kind == "depthwise" else 1, "input": 0, "output": 0}
    fields |= {"kernel": 1} if kind == "linear" else {"kernel": 3, "padding": 1}
    value = records("Value", [value_fields(9, 2, 3)])
    operation = records(
        "Operation", [operation_fields(Kind.LINEAR if kind == "linear" else Kind.CONV2D, **fields)]
    )
    shape = {"dense": (9, 9, 3, 3), "depthwise": (9, 1, 3, 3), "linear": (9, 54, 1, 1)}[kind]
    weight = randn(*shape, seed=1)
    size = module.schedule_packed_bytes_cuda(operation.ctypes.data, value.ctypes.data, 0)
    packed = [aligned(size, torch.uint8, 0) for _ in range(2)]
    for tf32, to in enumerate(packed):
        one = (
            operation.ctypes.data,
            value.ctypes.data,
            weight.data_ptr(),
            weight.stride(),
            to.data_ptr(),
        )
        module.schedule_pack_cuda([one], 0, bool(tf32), 0, 0)
    exact, rounded = (one.view(torch.int32) for one in packed)
    assert exact.any()
    assert torch.equal(rounded, exact if kind == "depthwise" else exact + 0x1000 & ~0x1FFF)

    x = randn(2, 9, 2, 3)
    schedule = CudaSchedule(isa)
    schedule.add(
        Kind.LINEAR if kind == "linear" else Kind.CONV2D,
        schedule.images(x),
        schedule.value(9, *((1, 1) if kind == "linear" else (2, 3))),
        weight,
        **{name: fields[name] for name in ("kernel", "padding", "groups") if name in fields},
    )
    schedule.tf32 = True  # of the plan alone
    if kind == "depthwise":
        schedule.predict(x)
    else:
        with pytest.raises(RuntimeError, match="has not been rounded"):
            schedule.predict(x)


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
