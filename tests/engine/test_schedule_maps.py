"""Convolutions whose operands Hopper copies by tensor maps: the same bits as those that threads copy."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from lasfast import supernets
from lasfast.engine import NativeBackend
from lasfast.engine.conv_tiles import ConvTiles
from lasfast.engine.cuda_executor import MAPPED_LEVELS
from lasfast.engine.schedule import Kind
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime.kernels import has_tensor_maps
from tests.engine.schedule_helpers import (
    CUDA,
    RELU,
    CudaSchedule,
    Schedule,
    agrees,
    convolution_agrees,
    isa_number,
    randn,
)

TILES = {"128x64": 8, "128x128": 9, "256x128": 10}
"""The numbers with which an operation asks for the tiles of warpgroups."""
# images, in, out, height, width, kernel, stride, padding
CONVOLUTIONS = {
    "one step": (2, 64, 16, 5, 7, 1, 1, 0),
    "two times channels": (1, 128, 37, 3, 4, 2, 1, 1),
    "several tiles": (5, 64, 66, 6, 7, 2, 1, 0),
    "stride": (3, 64, 8, 9, 10, 3, 2, 1),
    "stride 3, not to the end": (4, 64, 8, 12, 13, 2, 3, 0),
    "wide padding": (1, 64, 8, 4, 5, 3, 2, 2),
}
CASES = [(case, "128x64") for case in CONVOLUTIONS]
CASES += [("two times channels", "128x128"), ("two times channels", "256x128")]


@pytest.fixture(params=CUDA)
def module(request: pytest.FixtureRequest) -> ModuleType:
    """The stand-in, with its threads in either order."""
    isa_number(request.param)
    return importlib.import_module("lasfast._emulated")


def convolution(tile: int, mapped: bool, case: str) -> tuple[CudaSchedule, int, torch.Tensor]:
    images, cin, cout, height, width, kernel, stride, padding = CONVOLUTIONS[case]
    x, weight = randn(images, cin, height, width), randn(cout, cin, kernel, kernel, seed=1)
    schedule = Schedule(CUDA["cuda"], "bf16")
    schedule.tile, schedule.mapped = tile, mapped
    shape = F.conv2d(x[:1], weight, None, stride, padding).shape[1:]
    source, output = schedule.images(x), schedule.value(*shape)
    fields = {"kernel": kernel, "stride": stride, "padding": padding, "activation": RELU}
    schedule.add(Kind.CONV2D, source, output, weight, bias=randn(cout, seed=2), **fields)
    return schedule, output, x


@pytest.mark.parametrize(("case", "tile"), CASES)
def test_the_bits_are_those_of_copying_threads(module: ModuleType, case: str, tile: str) -> None:
    outputs = []
    for mapped in (False, True):
        schedule, output, x = convolution(TILES[tile], mapped, case)
        module.noted_tiles()
        schedule.predict(x)
        [(_, product, rows, columns, _)] = [one for one in module.noted_tiles() if one[0] == "schedule"]
        assert product == ("tensor maps" if mapped else "warpgroups")
        assert f"{rows}x{columns}" == tile
        outputs.append(schedule.read(output, len(x)))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("fusion", ["plain", "epilogue"])
def test_it_is_the_convolution(monkeypatch: pytest.MonkeyPatch, fusion: str) -> None:
    monkeypatch.setattr(CudaSchedule, "mapped", True)
    monkeypatch.setattr(CudaSchedule, "tile", TILES["128x64"])
    x, weight = randn(2, 64, 5, 6), randn(43, 66, 3, 3, seed=1)[:40, :64] / 24
    convolution_agrees(x, weight, fusion, "bf16", isa_number("cuda"), 1, 1, 1)


def test_linear(module: ModuleType) -> None:
    """Of an image, its window is the whole of it."""
    x, weight = randn(70, 64, 1, 3), randn(21, 192, seed=1)[:, :, None, None]
    schedule = Schedule(CUDA["cuda"], "bf16")
    schedule.tile, schedule.mapped = TILES["128x64"], True
    source = schedule.images(x)
    schedule.add(Kind.LINEAR, source, -1, weight, leaf=0, out_channels=21)
    module.noted_tiles()
    logits = schedule.predict(x)[0]
    assert ("schedule", "tensor maps", 128, 64, True) in module.noted_tiles()
    flat = x.flatten(1)
    truth, theirs = (F.linear(flat.to(t), weight[:, :, 0, 0].to(t)) for t in (torch.float64, torch.bfloat16))
    agrees(logits, truth, theirs, "bf16")


def test_fewer_images_than_the_plan_is_for(module: ModuleType) -> None:
    """What lies behind the last image is copied, and never looked at."""
    schedule, output, x = convolution(TILES["128x64"], True, "several tiles")
    schedule.predict(x)
    expected = schedule.read(output, len(x))[:2]
    plan = schedule.plan(len(x), calibration=False)
    schedule.run(plan, x[:2], torch.zeros(1, 5, 1))
    assert torch.equal(schedule.read(output, len(x))[:2], expected)


def test_only_what_can_be_is_copied_by_maps(module: ModuleType) -> None:
    """In one level: warps; an activation of the input; channels that are no whole steps; and the rest."""
    x, schedule = randn(2, 64, 3, 3), Schedule(CUDA["cuda"], "bf16")
    schedule.mapped = True
    whole, part = schedule.images(x), schedule.value(40, 3, 3)
    schedule.add(Kind.ARRANGE, whole, part, groups=1)
    for tile, source, activation in ((4, whole, 0), (8, whole, RELU), (8, part, 0), (8, whole, 0)):
        schedule.tile = tile
        weight = randn(24, schedule.values[source]["channels"], 1, 1, seed=1)
        fields = {"kernel": 1, "level": 2, "input_activation": activation}
        schedule.add(Kind.CONV2D, source, schedule.value(24, 3, 3), weight, **fields)
    module.noted_launches()
    schedule.predict(x)
    assert sum(module.noted_launches().values()) == 2 + 3  # warps, warpgroups, and those by tensor maps
    assert {one[1] for one in module.noted_tiles()} == {"bf16", "warpgroups", "tensor maps"}
    outputs = [schedule.read(value, 2) for value in range(2, 6)]
    assert torch.equal(outputs[0], outputs[3])
    plan = schedule.plan(2, calibration=False)
    maps_of_one = 2 * 128
    assert module.schedule_needs_cuda(plan.data_ptr())[4] == maps_of_one


@pytest.mark.parametrize(
    ("without", "found"),
    [
        ("", "no error"),
        ("publish", "not been published"),
        ("see", "not been told to see"),
        ("release", "has not waited for"),
        ("bytes", "wait at a barrier"),
        ("wait", "has not waited for"),
        ("finish", "products under way"),
    ],
)
def test_the_stand_in_notices_what_is_left_out(module: ModuleType, without: str, found: str) -> None:
    assert found in module.try_copies(without)


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"maps": 0}, "tensor maps are missing"), ({"maps": 64 + 8}, "tensor maps are missing or not aligned")],
)
def test_passes_without_their_maps_are_refused(changes: dict[str, int], text: str) -> None:
    isa_number("cuda")
    schedule, _, x = convolution(TILES["128x64"], True, "one step")
    plan = schedule.plan(len(x), calibration=False)
    with pytest.raises(ValueError, match=text):
        schedule.run(plan, x, torch.zeros(1, 1, 1), **changes)


def test_maps_that_cannot_be_made_are_an_error() -> None:
    isa_number("cuda")
    module = importlib.import_module("lasfast._emulated")
    schedule, _, x = convolution(TILES["128x64"], True, "one step")
    module.set_maps(False)
    try:
        with pytest.raises(RuntimeError, match="tensor map cannot be made"):
            schedule.predict(x)
    finally:
        module.set_maps(True)


@pytest.fixture
def backend(emulated_cuda, monkeypatch: pytest.MonkeyPatch, tmp_path) -> NativeBackend:
    """One whose convolutions are all computed in a tile of warpgroups; tensor maps are asked for."""
    monkeypatch.setenv("LASFAST_TENSOR_MAPS", "1")
    monkeypatch.setenv("LASFAST_CHOICE", MAPPED_LEVELS)
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(ConvTiles, "fastest", lambda self, size, same_bits: TILES["128x64"] - 1)
    torch.manual_seed(0)
    return NativeBackend(supernets.ResidualNet((1, 1, 1), 7), "bf16")


def predictions(backend: NativeBackend) -> torch.Tensor:
    net = backend.target.module
    tree = PrefixTree([net.path(net.space.deepest)])
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    statistics = backend.calibrate(tree, [images], "cumulative")
    return backend.predict(tree, statistics, images)[tree.leaves[0]]


def test_a_backend_predicts_the_same_bits_where_it_is_asked_to(
    backend: NativeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("lasfast._emulated")
    monkeypatch.delenv("LASFAST_TENSOR_MAPS")
    expected = predictions(backend)
    assert not [one for one in module.noted_tiles() if one[1] == "tensor maps"]
    monkeypatch.setenv("LASFAST_TENSOR_MAPS", "1")
    assert torch.equal(predictions(backend), expected)
    assert [one for one in module.noted_tiles() if one[1] == "tensor maps"]


def test_a_backend_goes_on_without_maps(
    backend: NativeBackend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and with a warning: it does not ask again."""
    module = importlib.import_module("lasfast._emulated")
    module.noted_tiles()
    module.set_maps(False)
    try:
        predictions(backend)
    finally:
        module.set_maps(True)
    assert not [one for one in module.noted_tiles() if one[1] == "tensor maps"]
    assert caplog.text.count("without tensor maps") == 1


@pytest.mark.parametrize(("wanted", "expected"), [(None, False), ("0", False), ("1", True)])
def test_tensor_maps_are_for_who_asks_for_them(
    emulated_cuda, monkeypatch: pytest.MonkeyPatch, wanted: str | None, expected: bool
) -> None:
    monkeypatch.delenv("LASFAST_TENSOR_MAPS", raising=False)
    if wanted is not None:
        monkeypatch.setenv("LASFAST_TENSOR_MAPS", wanted)
    assert has_tensor_maps(torch.device("cpu")) is expected


def test_how_they_are_asked_for_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASFAST_TENSOR_MAPS", "yes")
    with pytest.raises(ValueError, match="LASFAST_TENSOR_MAPS must be 0 or 1, got 'yes'"):
        has_tensor_maps(torch.device("cpu"))
