"""CUDA's convolutions in each of their tiles: all give the same results, at different speeds.

The tile that is used by default is also tested in test_schedule_convolution.py.
"""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F

from lasfast.engine.schedule import Kind
from tests.engine.schedule_helpers import (
    CUDA,
    RELU,
    STORAGES,
    CudaSchedule,
    Schedule,
    agrees,
    convolution_agrees,
    isa_number,
    randn,
    relative,
)

# images, in, out, height, width, kernel, stride, padding
CONVOLUTIONS = {
    "few": (3, 8, 16, 5, 6, 1, 1, 0),  # one step
    "odd": (3, 19, 37, 9, 7, 3, 1, 1),  # less than a tile; more steps than stages
    "several tiles": (5, 40, 130, 8, 9, 3, 1, 1),
    "stride": (3, 33, 70, 17, 14, 3, 2, 1),
}


def tiles() -> list[tuple[int, int, bool]]:
    try:
        return importlib.import_module("lasfast._emulated").schedule_conv_tiles_cuda()
    except ImportError:
        return []


def name_of(tile: tuple[int, int, bool]) -> str:
    rows, columns, warpgroups = tile
    return f"{rows}x{columns}" + " by warpgroups" * warpgroups


@pytest.fixture(params=CUDA)
def isa(request: pytest.FixtureRequest) -> int:
    return isa_number(request.param)


@pytest.fixture(params=range(len(tiles())), ids=[name_of(tile) for tile in tiles()])
def tile(request: pytest.FixtureRequest, storage: str) -> int:
    """The number with which an operation asks for the tile."""
    if tiles()[request.param][2] and storage == "fp32":
        pytest.skip("warpgroups multiply bf16 alone")
    return request.param + 1


def test_there_are_tiles() -> None:
    isa_number("cuda")
    assert len(tiles()) == 10
    assert sum(warpgroups for *_, warpgroups in tiles()) == 3
    assert importlib.import_module("lasfast._emulated").schedule_has_warpgroups_cuda(0)
    assert not importlib.import_module("lasfast._emulated").schedule_has_warpgroups_cuda(1)


@pytest.mark.parametrize("fusion", ["plain", "everything"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(
    monkeypatch: pytest.MonkeyPatch, case: str, fusion: str, storage: str, tile: int, isa: int
) -> None:
    monkeypatch.setattr(CudaSchedule, "tile", tile)
    images, cin, cout, height, width, kernel, stride, padding = CONVOLUTIONS[case]
    x = randn(images, cin, height, width)
    weight = randn(cout + 3, cin + 2, kernel, kernel, seed=1)[:cout, :cin] / (cin * kernel**2) ** 0.5
    convolution_agrees(x, weight, fusion, storage, isa, stride, padding, 1)


@pytest.mark.parametrize(("number", "storage"), [(1, "fp32"), (5, "bf16"), (8, "bf16")])
def test_convolution_of_several_spans(monkeypatch: pytest.MonkeyPatch, number: int, storage: str) -> None:
    """k has more pieces than the table of taps has entries: 234 channels are no whole steps."""
    monkeypatch.setattr(CudaSchedule, "tile", number)
    x, weight = randn(2, 234, 3, 3), randn(11, 234, 3, 3, seed=1) / 46
    convolution_agrees(x, weight, "everything", storage, isa_number("cuda"), 2, 1, 1)


@pytest.mark.parametrize(("channels", "side"), [(32, 17), (20, 11)])
def test_linear_of_several_spans(channels: int, side: int) -> None:
    """Of whole steps, more than 256; and of more pieces. Its window is wider than any convolution's."""
    x, weight = randn(3, channels, side, side), randn(7, channels * side**2, seed=1)[:, :, None, None] / 99
    schedule = Schedule(isa_number("cuda"), "bf16")
    source = schedule.images(x)
    schedule.add(Kind.LINEAR, source, -1, weight, leaf=0, out_channels=7)
    logits, flat = schedule.predict(x)[0], x.flatten(1)
    truth, theirs = (F.linear(flat.to(t), weight[:, :, 0, 0].to(t)) for t in (torch.float64, torch.bfloat16))
    agrees(logits, truth, theirs, "bf16")


def test_linear(monkeypatch: pytest.MonkeyPatch, storage: str, tile: int) -> None:
    monkeypatch.setattr(CudaSchedule, "tile", tile)
    x, weight = randn(70, 11, 2, 3), randn(21, 66, seed=1)[:, :, None, None]
    schedule = Schedule(isa_number("cuda"), storage)
    source = schedule.images(x)
    schedule.add(Kind.LINEAR, source, -1, weight, leaf=0, out_channels=21)
    logits = schedule.predict(x)[0]
    flat = x.flatten(1)
    truth, theirs = (F.linear(flat.to(t), weight[:, :, 0, 0].to(t)) for t in (torch.float64, torch.bfloat16))
    agrees(logits, truth, theirs, storage)


def test_statistics(monkeypatch: pytest.MonkeyPatch, storage: str, tile: int, isa: int) -> None:
    """Statistics span tiles, and are right for a mean far larger than its deviation."""
    monkeypatch.setattr(CudaSchedule, "tile", tile)
    x, weight = randn(7, 6, 9, 7), randn(35, 6, 3, 3, seed=1)
    schedule, generator = Schedule(isa, storage), torch.Generator().manual_seed(2)
    x, weight = x.to(STORAGES[storage]).float(), weight.to(STORAGES[storage]).float()
    source, output = schedule.images(x), schedule.value(35, 9, 7)
    norm = schedule.norm(35, generator)
    bias = torch.zeros(35)
    bias[3] = 1000.0
    schedule.add(Kind.CONV2D, source, output, weight, kernel=3, padding=1, bias=bias, statistics=norm)
    schedule.calibrate(x)
    y = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert relative(schedule.tables[4], y.mean((0, 2, 3))) < 1e-6
    assert relative(schedule.tables[5], y.var((0, 2, 3), unbiased=False)) < 1e-5


def test_operations_of_a_level_may_differ(storage: str, isa: int) -> None:
    """Operations of one level with different tiles are several launches."""
    x = randn(9, 5, 6, 7)
    outputs = []
    for numbers in ((0, 0, 0, 0), (1, 5, 4, 5), (7, 1, 7, 2)):
        schedule = Schedule(isa, storage)
        source = schedule.images(x)
        values = []
        for channels, number in zip((16, 40, 65, 130), numbers, strict=True):
            schedule.tile = number
            values.append(schedule.value(channels, 6, 7))
            schedule.add(
                Kind.CONV2D, source, values[-1], randn(channels, 5, 3, 3), kernel=3, padding=1, level=1
            )
        schedule.predict(x)
        outputs.append([schedule.read(value, 9) for value in values])
    for others in outputs[1:]:
        assert all(map(torch.equal, others, outputs[0]))


def test_warpgroups_add_as_warps_do(isa: int) -> None:
    """The host's stand-in for warpgroups, with exact products, gives the same bits in many steps."""
    x, weight = randn(3, 70, 9, 9), randn(128, 70, 3, 3, seed=1)
    outputs = []
    for tile in range(len(tiles()) + 1):
        schedule = Schedule(isa, "bf16")
        schedule.tile = tile
        source, output = schedule.images(x), schedule.value(128, 9, 9)
        schedule.add(Kind.CONV2D, source, output, weight, kernel=3, padding=1, activation=RELU)
        schedule.predict(x)
        outputs.append(schedule.read(output, 3))
    assert all(torch.equal(one, outputs[0]) for one in outputs)


@pytest.mark.parametrize(
    ("address", "eight_rows", "base", "layout", "known"),
    [
        (1024, 1024, 0, 1, True),
        (1024 + 96, 1024, 0, 1, True),  # the last 32 bytes of its first row
        (65536, 2048, 0, 1, True),
        (1024, 1024, 0, 2, False),  # rows of 64 bytes
        (1024, 1024, 0, 0, False),  # no permutation
        (1024, 512, 0, 1, False),
        (1024 + 512, 1024, 0, 1, False),
        (1024 + 128, 1024, 0, 1, False),
        (1024 + 16, 1024, 0, 1, False),
        (1024, 1024, 1, 1, False),
    ],
)
def test_the_stand_in_knows_how_warpgroups_want_a_tile(
    address: int, eight_rows: int, base: int, layout: int, known: bool
) -> None:
    """The fields are those of PTX's matrix descriptors."""
    isa_number("cuda")
    descriptor = address >> 4 | 1 << 16 | eight_rows >> 4 << 32 | base << 49 | layout << 62
    assert importlib.import_module("lasfast._emulated").is_warpgroup_tile(descriptor, False) == known


@pytest.mark.parametrize(
    ("address", "leading", "eight_rows", "layout", "known"),
    [
        (1024, 8192, 1024, 1, True),
        (65536, 1024, 2048, 1, True),
        (1024, 8192, 1024, 0, False),
        (1024 + 32, 8192, 1024, 1, False),  # elements of k lie in rows of their own
        (1024, 8192 + 512, 1024, 1, False),
        (1024, 8192, 512, 1, False),
    ],
)
def test_the_stand_in_knows_how_warpgroups_want_a_transposed_tile(
    address: int, leading: int, eight_rows: int, layout: int, known: bool
) -> None:
    isa_number("cuda")
    descriptor = address >> 4 | leading >> 4 << 16 | eight_rows >> 4 << 32 | layout << 62
    assert importlib.import_module("lasfast._emulated").is_warpgroup_tile(descriptor, True) == known


@pytest.mark.parametrize(
    ("kind", "storage", "tile", "text"),
    [
        ("dense", "fp32", -1, "tile is none"),
        ("dense", "fp32", 11, "tile is none"),
        ("dense", "fp32", 8, "bfloat16 alone"),
        ("depthwise", "bf16", 1, "tile is none"),
        ("pool", "bf16", 1, "tile is none"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(kind: str, storage: str, tile: int, text: str) -> None:
    schedule = Schedule(isa_number("cuda"), storage)
    x = randn(2, 8, 5, 5)
    source, output = schedule.images(x), schedule.value(8, 5, 5)
    if kind == "pool":
        schedule.add(Kind.MAX_POOL, source, output, kernel=3, padding=1)
    else:
        groups = 8 if kind == "depthwise" else 1
        weight = randn(8, 8 // groups, 3, 3)
        schedule.add(Kind.CONV2D, source, output, weight, kernel=3, padding=1, groups=groups)
    schedule.operations[-1]["tile"] = tile
    with pytest.raises(ValueError, match=text):
        schedule.predict(x)
