"""Tiles of convolutions on CUDA: measured once for a size; none is taken that changes a bit."""

import json
from functools import cache

import pytest
import torch

from lasfast import supernets
from lasfast.engine import NativeBackend, conv_tiles
from lasfast.engine.conv_tiles import ConvTiles, Size
from lasfast.engine.cuda_executor import CudaExecutor
from lasfast.engine.cuda_layout import CudaLayout
from lasfast.engine.lower import lower
from lasfast.engine.schedule import Kind, operation_fields, records, value_fields
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime import autotune, compiled

USUAL = {16: "128x16", 32: "128x32", 64: "128x64", 128: "128x128"}


@pytest.fixture
def measured(emulated_cuda, monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Measures on as little as there is, and remembers it in the directory that this gives.

    A tile is run once, to see whether it fits; to a clock that stands still, all take the same time.
    """
    monkeypatch.setattr(conv_tiles, "POSITIONS", 256)
    monkeypatch.setattr(autotune, "_time", lambda run, device: 1.0)
    monkeypatch.setenv("LASFAST_CHOICE", "measure")
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path))
    return tmp_path


def supernet() -> supernets.Supernet:
    torch.manual_seed(0)
    return supernets.ResidualNet((2, 1, 1), 7)


def tiles_in(precision: str, device: str = "cpu", **options: int) -> ConvTiles:
    return ConvTiles(torch.device(device), precision, tf32=False, **options)


def tiles_of(backend: NativeBackend, *, calibration: bool = True) -> dict[Size, str]:
    net = backend.target.module
    tree = PrefixTree([net.path(net.space.deepest)])
    schedule = lower(tree, (3, 8, 8), calibration=calibration, width=8, cuda=True)
    layout = CudaLayout(backend.target, schedule, calibration=calibration)
    shapes, found = tiles_in(backend.precision), {}
    for operation in CudaExecutor(backend.target, backend.buffer, layout).operations:
        if operation["kind"] != Kind.CONV2D:
            assert operation["tile"] == 0
            continue
        channels = schedule.values["channels"][operation["input"]]
        size = Size.of(int(operation["kernel"]), int(channels), int(operation["out_channels"]))
        found[size] = shapes.name(int(operation["tile"]) - 1)
    return found


def test_sizes_are_rounded_up() -> None:
    assert Size.of(3, 3, 7) == (3, 8, 16)
    assert Size.of(3, 8, 16) == (3, 8, 16)
    assert Size.of(1, 9, 17) == (1, 16, 32)
    assert Size.of(5, 65, 128) == (5, 128, 128)
    assert Size.of(3, 129, 130) == (3, 256, 192)


def test_tiles_are_measured_once_and_remembered(measured) -> None:
    backend = NativeBackend(supernet(), "bf16")
    first = tiles_of(backend)
    (file,) = measured.iterdir()
    kept = json.loads(file.read_text())
    assert set(kept) == {
        "tile for bf16, 3x3, 8 to 16 channels",
        "tile for bf16, 3x3, 16 to 16 channels",
        "tile for bf16, 3x3, 16 to 32 channels",
        "tile for bf16, 3x3, 32 to 32 channels",
        "tile for bf16, 3x3, 32 to 64 channels",
        "tile for bf16, 3x3, 64 to 64 channels",
    }
    assert {f"tile for bf16, 3x3, {a} to {b} channels": name for (_, a, b), name in first.items()} == kept
    # Another file is another decision, which executors of any kind heed.
    kept["tile for bf16, 3x3, 64 to 64 channels"] = "256x128 by warpgroups"
    file.write_text(json.dumps(kept))
    autotune._known.cache_clear()
    assert tiles_of(backend, calibration=False)[Size(3, 64, 64)] == "256x128 by warpgroups"


def test_without_measuring_tiles_are_the_usual_ones(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASFAST_CHOICE", "native")
    for size, name in tiles_of(NativeBackend(supernet(), "bf16")).items():
        assert name == USUAL[size.out_channels]
    assert not list(measured.iterdir())


IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def two_paths(precision: str) -> tuple[NativeBackend, PrefixTree]:
    net = supernet()
    return NativeBackend(net, precision), PrefixTree([net.path((2, 1, 1)), net.path((1, 1, 1))])


@cache
def by_usual_tiles(precision: str):
    """Statistics and logits, to be asked for with CUDA's kernels in place."""
    backend, tree = two_paths(precision)
    statistics = backend.calibrate(tree, [IMAGES], "cumulative")
    return statistics, backend.predict(tree, statistics, IMAGES)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tile", range(10))
def test_no_tile_changes_a_bit(emulated_cuda, monkeypatch, precision: str, tile: int) -> None:
    """Of predictions; and calibration agrees to rounding, since partial statistics are of other positions."""
    module = compiled.load()
    if precision == "fp32" and module.schedule_conv_tiles_cuda()[tile][2]:
        pytest.skip("warpgroups multiply bf16 alone")
    statistics, expected = by_usual_tiles(precision)
    backend, tree = two_paths(precision)
    monkeypatch.setattr(ConvTiles, "fastest", lambda self, size, same_bits: tile)
    monkeypatch.setenv("LASFAST_CHOICE", "levels")
    logits = backend.predict(tree, statistics, IMAGES)
    assert all(torch.equal(logits[leaf], expected[leaf]) for leaf in tree.leaves)
    bound = 1e-5 if precision == "fp32" else 1e-2
    for node, right in zip(backend.calibrate(tree, [IMAGES], "cumulative"), statistics, strict=True):
        for name in node:
            for a, b in zip(node[name], right[name], strict=True):
                torch.testing.assert_close(a, b, rtol=bound, atol=bound)


def test_a_tile_that_changes_a_bit_is_not_taken(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it is: by this clock, faster than the usual one and than the other that keeps the bits."""
    original, sizes = conv_tiles.Trial._launch, []

    def launch(self, tile: int) -> None:
        rows, columns, _ = self.module.schedule_conv_tiles_cuda()[tile]
        sizes.append((rows, columns))
        if (rows, columns) == (128, 32) or tile == self.module.schedule_usual_tile_cuda(64):
            original(self, tile)
            return
        if tile not in self.plans:
            original(self, tile)
            self.output.view(torch.int16)[-1] ^= 1

    monkeypatch.setattr(conv_tiles.Trial, "_launch", launch)
    tiles = tiles_in("bf16")
    seconds = {"128x64": 2.0, "128x32": 1.0}
    monkeypatch.setattr(autotune, "_time", lambda run, device: seconds.get(tiles.name(*run.args), 0.0))
    assert tiles.name(tiles.fastest(Size(3, 16, 64))) == "128x32"
    assert {rows for rows, _ in sizes} == {64, 128, 256}


@pytest.mark.parametrize("same_bits", [False, True])
@pytest.mark.parametrize(("steps", "near"), [(0, True), (1, True), (3, False)])
def test_warpgroups_may_round_otherwise_where_images_are_large(
    measured, monkeypatch: pytest.MonkeyPatch, steps: int, near: bool, same_bits: bool
) -> None:
    """By a step of bf16: those images are never predicted in another way, whose bits would have to agree."""
    original = conv_tiles.Trial._launch

    def launch(self, tile: int) -> None:
        original(self, tile)
        if self.module.schedule_conv_tiles_cuda()[tile][2]:
            self.output.view(torch.int16)[-1] += steps

    monkeypatch.setattr(conv_tiles.Trial, "_launch", launch)
    tiles = tiles_in("bf16")
    monkeypatch.setattr(autotune, "_time", quickest_if(tiles, "warpgroups"))
    name = tiles.name(tiles.fastest(Size(3, 16, 64), same_bits))
    assert ("warpgroups" in name) == (steps == 0 or (near and not same_bits))
    (file,) = measured.iterdir()
    (key,) = json.loads(file.read_text())
    assert key == "tile for bf16, 3x3, 16 to 64 channels" + ("" if same_bits else ", large images")


def quickest_if(tiles: ConvTiles, name: str):
    """A clock by which tiles take no time where a name is theirs, and else some."""

    def time(run, device: torch.device) -> float:
        (tile,) = run.args
        return 0.0 if name in tiles.name(tile) else 1.0

    return time


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_large_images_are_those_that_no_multiprocessor_holds(
    measured, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """One image's input and output, 64 channels each; the stand-in's block has 99 KiB."""
    asked: list[bool] = []
    monkeypatch.setattr(ConvTiles, "fastest", lambda self, size, same_bits: asked.append(same_bits) or 0)
    fields = {"input": 0, "output": 1, "weight": 0, "kernel": 3, "padding": 1, "out_channels": 61}
    operations = records("Operation", [operation_fields(Kind.CONV2D, **fields)])
    for side in (8, 19, 20, 27, 28, 64):
        sides = side, side
        values = [value_fields(61, *sides, offset=0), value_fields(61, *sides, offset=64 * side**2)]
        tiles_in(precision).take(records("Value", values), operations)
    most = 99 * 1024 / (2 * 64 * (2 if precision == "bf16" else 4))
    assert asked == [side**2 < most for side in (8, 19, 20, 27, 28, 64)]
    assert True in asked
    assert False in asked


def test_what_is_measured_fits_the_memory(measured) -> None:
    size = Size(3, 16, 16)
    assert conv_tiles.Trial(tiles_in("fp32", memory_budget=1), size, 0).images == 1
    assert conv_tiles.Trial(tiles_in("fp32"), size, 0).images > 1


def test_inputs_of_very_many_channels_take_the_usual_tile(measured) -> None:
    tiles = tiles_in("bf16")
    assert tiles.name(tiles.fastest(Size(1, 4096, 64))) == "128x64"
    assert not list(measured.iterdir())


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [(3, 64, 64), (1, 32, 48), (3, 256, 256), (5, 16, 24)])
def test_tiles_agree_on_a_gpu(precision: str, size: tuple[int, int, int]) -> None:
    """Those of warps to the bit; those of warpgroups, whose sums may be rounded otherwise, nearly."""
    tiles = tiles_in(precision, "cuda")
    usual = tiles.module.schedule_usual_tile_cuda(size[2])
    trial = conv_tiles.Trial(tiles, Size(*size), usual)
    for tile in tiles.others(usual):
        try:
            trial.run(tile)
        except autotune.UnfitError:
            assert tiles.shapes[tile][2], tiles.name(tile)
            torch.testing.assert_close(trial.output, trial.right, rtol=2e-2, atol=2e-2)
