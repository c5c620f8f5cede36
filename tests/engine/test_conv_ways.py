"""The way in which the CPU computes 3x3 convolutions: measured once for a size; all agree."""

import json

import pytest
import torch

from lasfast import supernets
from lasfast.engine import NativeBackend, TorchBackend, conv_ways
from lasfast.engine.conv_ways import DIRECT, Size
from lasfast.engine.cpu_layout import CpuLayout
from lasfast.engine.lower import lower
from lasfast.engine.native_backend import why_missing
from lasfast.engine.schedule import Kind
from lasfast.ir.precision import PRECISIONS
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime.winograd import TILES
from tests.conftest import shaken
from tests.engine.schedule_helpers import isa_number

CPU = torch.device("cpu")
WAYS = {DIRECT: 0, **TILES}
FP32, BF16 = (PRECISIONS[name].code for name in ("fp32", "bf16"))

pytestmark = pytest.mark.skipif(why_missing(CPU) is not None, reason="lasfast's compiled module is not built")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Measures on as little as there is, and remembers it in the directory that this gives."""
    monkeypatch.setattr(conv_ways, "POSITIONS", 1)
    monkeypatch.setattr(conv_ways, "PRODUCTS", 1)
    monkeypatch.setenv("LASFAST_CHOICE", "measure")
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def net() -> supernets.Supernet:
    torch.manual_seed(0)
    return shaken(supernets.ResidualNet((2, 2, 2), 7))


def layout_of(net: supernets.Supernet, precision: str = "fp32", *, calibration: bool = True) -> CpuLayout:
    tree = PrefixTree([net.path(net.space.deepest)])
    schedule = lower(tree, (3, 17, 17), calibration=calibration, width=8, cuda=False)
    return CpuLayout(NativeBackend(net, precision).target, schedule, calibration=calibration)


def test_sizes_are_rounded_up() -> None:
    assert Size.of(8, 16, 7, 9) == (8, 16, 7, 9)
    assert Size.of(33, 48, 32, 64) == (48, 48, 32, 64)
    assert Size.of(49, 65, 65, 224) == (64, 96, 64, 64)


def test_large_weights_are_not_transformed() -> None:
    assert list(Size.of(256, 256, 8, 8).ways(FP32)) == ["direct", "winograd 2x2", "winograd 4x4"]
    assert list(Size.of(512, 512, 8, 8).ways(FP32)) == ["direct", "winograd 2x2"]
    assert list(Size.of(1024, 512, 8, 8).ways(FP32)) == ["direct"]


@pytest.mark.parametrize(("way", "tile"), WAYS.items())
@pytest.mark.parametrize("calibration", [True, False])
def test_convolutions_that_fit_are_computed_so(
    way: str, tile: int, calibration: bool, net: supernets.Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stem has three channels, and the first layer of a group halves height and width."""
    monkeypatch.setenv("LASFAST_CHOICE", way)
    layout = layout_of(net, calibration=calibration)
    taken = []
    for operation in layout.operations:
        stem = layout.schedule.values["channels"][operation["input"]] == 3
        fits = operation["kind"] == Kind.CONV2D and operation["kernel"] == 3 and operation["stride"] == 1
        assert operation["tile"] == (tile if fits and not stem else 0)
        taken.append(fits and not stem)
    assert any(taken)


@pytest.mark.parametrize(
    ("isa", "ways"),
    [
        ("generic", ["direct", "winograd 2x2", "winograd 4x4"]),
        ("avx2", ["direct", "winograd 2x2", "winograd 4x4"]),
        ("avx512_bf16", ["direct", "winograd 2x2"]),
        ("amx", ["direct"]),
    ],
)
def test_the_ways_of_bf16_are_those_of_its_products(
    isa: str, ways: list[str], net: supernets.Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    isa_number(isa)  # skips where it is missing
    monkeypatch.setenv("LASFAST_ISA", isa)
    assert list(Size.of(64, 64, 8, 8).ways(BF16)) == ways
    monkeypatch.setenv("LASFAST_CHOICE", "winograd 2x2")
    tiles = layout_of(net, "bf16").operations["tile"]
    assert set(tiles.tolist()) == ({0, 2} if len(ways) > 1 else {0})


def test_transformed_weights_count(net: supernets.Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for way in WAYS:
        monkeypatch.setenv("LASFAST_CHOICE", way)
        sizes.append(layout_of(net).weight_bytes)
    assert sizes == sorted(sizes)
    assert sizes[2] > 3 * sizes[0]


@pytest.mark.parametrize("way", TILES)
def test_backends_agree(way: str, net: supernets.Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASFAST_CHOICE", way)
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(count, 3, 17, 15, generator=generator) for count in (5, 7)]
    tree = PrefixTree([net.path(architecture) for architecture in net.space.enumerate()])
    backends = NativeBackend(net), TorchBackend(net)
    statistics = [backend.calibrate(tree, batches, "cumulative") for backend in backends]
    ours, theirs = (
        backend.predict(tree, one, batches[0]) for backend, one in zip(backends, statistics, strict=True)
    )
    for leaf, truth in theirs.items():
        assert (ours[leaf] - truth).norm() <= 1e-5 * truth.norm()  # the contract allows ten times as much


@pytest.mark.parametrize("way", TILES)
def test_the_same_bits_alone_and_together(
    way: str, net: supernets.Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASFAST_CHOICE", way)
    images = torch.randn(9, 3, 17, 15, generator=torch.Generator().manual_seed(1))
    paths = [net.path(architecture) for architecture in net.space.enumerate()]

    def logits(*some: tuple) -> list[torch.Tensor]:
        backend, tree = NativeBackend(net), PrefixTree(some)
        found = backend.predict(tree, backend.calibrate(tree, [images], "cumulative"), images)
        return [found[leaf] for leaf in tree.leaves]

    for path, together in zip(paths, logits(*paths), strict=True):
        assert torch.equal(*logits(path), together)


def measures_again(*_: object) -> None:
    raise AssertionError("measured again")


def test_what_was_measured_is_remembered(
    measured, net: supernets.Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiles = layout_of(net).operations["tile"]
    (file,) = measured.glob("choices-*.json")
    known = json.loads(file.read_text(encoding="utf-8"))
    assert "convolution in fp32, 3x3, 16 to 16 channels, 17x17" in known
    assert set(known.values()) <= set(WAYS)

    monkeypatch.setattr(conv_ways, "Trial", measures_again)
    assert layout_of(net).operations["tile"].tolist() == tiles.tolist()


def test_processes_that_share_candidates_out_agree(
    measured, net: supernets.Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process takes what rank 0 took, and measures nothing."""
    monkeypatch.setattr(conv_ways, "Trial", measures_again)
    tree = PrefixTree([net.path(architecture) for architecture in net.space.enumerate()])
    NativeBackend(net).agree(tree, (3, 17, 17), lambda work: "winograd 2x2")
    for calibration in (True, False):
        assert set(layout_of(net, calibration=calibration).operations["tile"].tolist()) == {0, 2}


def test_the_fastest_way_is_taken(measured, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {0: 3.0, 2: 2.0, 4: 1.0}
    ran: list[int] = []
    monkeypatch.setattr(conv_ways.Trial, "run", lambda _, side: ran.append(side))
    monkeypatch.setattr("lasfast.runtime.autotune._time", lambda way, _: (way(), seconds[ran[-1]])[1])
    assert conv_ways.fastest(Size.of(16, 16, 8, 8), FP32) == 4
    seconds[0] = 0.5
    assert conv_ways.fastest(Size.of(16, 16, 8, 8), FP32) == 4  # as before
    assert conv_ways.fastest(Size.of(16, 24, 8, 8), FP32) == 0


def test_a_trial_computes_the_same_in_each_way() -> None:
    trial, results = conv_ways.Trial(Size.of(16, 24, 9, 7), FP32), []
    inputs = 16 * 63 * trial.images
    source = trial.arena[:inputs].clone()
    for side in WAYS.values():
        for _ in range(2):
            trial.run(side)
        results.append(trial.arena[-24 * 64 * trial.images :].clone())
        assert torch.equal(trial.arena[:inputs], source)
    for result in results[1:]:
        assert (result - results[0]).norm() <= 1e-5 * results[0].norm()
        assert not torch.equal(result, results[0])
