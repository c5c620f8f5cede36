"""Plans on CUDA, run on the host, and on a GPU where there is one."""

import json
import random
import re

import pytest
import torch
from torch import Tensor, nn

import lasfast
from lasfast import supernets
from lasfast.data.normalization import Normalization
from lasfast.engine import NativeBackend, TorchBackend
from lasfast.engine.conv_tiles import ConvTiles
from lasfast.engine.cuda_executor import CudaExecutor
from lasfast.engine.lower import lower
from lasfast.engine.native_backend import why_missing
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime import autotune, compiled
from lasfast.runtime.cuda_graphs import Replays
from lasfast.runtime.precision import fp32_products_as
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import LayerBuilder, Supernet
from tests.engine.trials import Trial


class Wave(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sin()


class OpaqueNet(Supernet):
    """A block with an opaque module in it, of channels that are no multiple of eight."""

    def __init__(self) -> None:
        super().__init__(LayerAssignmentSpace(1, 2), num_classes=7, in_channels=3)
        for index in range(2):
            self.add_opaque(f"groups.0.{index}.wave", Wave())
        self.create_modules(self.path(self.space.deepest))

    def path(self, architecture):
        stem = LayerBuilder("stem", 3)
        stem.conv_bn_act("", stem.input, 12, 3, 2)
        blocks = []
        for index in range(architecture[0]):
            block = LayerBuilder(f"groups.0.{index}", 12)
            y = block.opaque("wave", block.conv_bn("1", block.input, 12, 3), 12)
            block.activation(block.add(block.conv_bn("2", y, 12, 3), block.input))
            blocks.append(block.build())
        head = LayerBuilder("classifier", 12)
        head.linear("fc", head.global_avg_pool(head.input), 7)
        return (stem.build(), *blocks, head.build())


NETS = {
    "residual": lambda: supernets.ResidualNet((2, 1, 1), 7),
    "depthwise": lambda: supernets.MobileNetV1((1, 1, 1, 1), 7, stem="cifar"),
    "opaque": OpaqueNet,
}


def batches(*counts: int, size: int = 8, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, 3, size, size, generator=generator).to(device) * 2 + 1 for count in counts]


def tree_of(supernet: Supernet) -> PrefixTree:
    space = supernet.space
    return PrefixTree([supernet.path(a) for a in ((1,) * space.groups, space.deepest)])


def run(backend, tree: PrefixTree, calibration: list[Tensor], images: list[Tensor]):
    """The statistics, and for each batch the logits of all leaves."""
    statistics = backend.calibrate(tree, calibration, "cumulative")
    outputs = backend.predict_batches(tree, statistics, images)
    return statistics, [torch.stack([one[leaf] for leaf in tree.leaves]) for one in outputs]


def error(ours: Tensor, truth: Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


def agree(supernet: Supernet, precision: str, device: str = "cpu") -> None:
    tree = tree_of(supernet)
    calibration, images = batches(5, 4, 5, device=device), batches(3, 3, 2, 3, device=device)
    statistics, ours = run(NativeBackend(supernet, precision), tree, calibration, images)
    expected, truth = run(TorchBackend(supernet), tree, calibration, images)
    _, theirs = run(TorchBackend(supernet, precision), tree, calibration, images)
    for one, right, torchs in zip(ours, truth, theirs, strict=True):
        assert one.dtype == torch.float32
        bound = 1e-4 if precision == "fp32" else 2 * error(torchs, right) + 0.005
        assert error(one, right) <= bound
    for node, right in zip(statistics, expected, strict=True):
        assert node.keys() == right.keys()
        for name in node if precision == "fp32" else ():
            for a, b in zip(node[name], right[name], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETS)
def test_emulated_agrees_with_torch(emulated_cuda, name: str, precision: str) -> None:
    torch.manual_seed(0)
    agree(NETS[name](), precision)


def both_ways(monkeypatch: pytest.MonkeyPatch, supernet: Supernet, tree: PrefixTree, precision: str, images):
    """The logits by levels, and resident in shared memory, and which way was taken each time."""
    backend, taken = NativeBackend(supernet, precision), []
    statistics = backend.calibrate(tree, [images], "cumulative")
    results = []
    for way in ("levels", "resident"):
        monkeypatch.setenv("LASFAST_CHOICE", way)
        logits = backend.predict(tree, statistics, images)
        taken.append(backend.way)
        results.append(torch.stack([logits[leaf] for leaf in tree.leaves]))
    return *results, taken


@pytest.mark.parametrize(
    ("supernet", "precision"),
    [
        ("plain", "bf16"),
        ("residual", "bf16"),
        ("residual-projection", "fp32"),
        ("mobilenet-v1", "fp32"),
        ("squeezed", "fp32"),
        ("squeezed", "bf16"),
        ("shuffled", "bf16"),
    ],
    indirect=["supernet"],
)
def test_both_ways_give_the_same_bits(emulated_cuda, supernet, monkeypatch, precision: str) -> None:
    images = batches(3, size=16 if isinstance(supernet, supernets.PlainNet) else 8)[0]
    levels, resident, taken = both_ways(monkeypatch, supernet, tree_of(supernet), precision, images)
    assert taken == ["levels", "resident"]
    assert levels.isfinite().all()
    assert torch.equal(levels, resident)


@pytest.mark.parametrize("choice_supernet", ["shufflenet-both", "mobilenet-squeezed"], indirect=True)
def test_both_ways_give_the_same_bits_for_choices(emulated_cuda, choice_net, monkeypatch) -> None:
    rng = random.Random(0)
    tree = PrefixTree([choice_net.path(choice_net.space.sample(rng)) for _ in range(2)])
    levels, resident, taken = both_ways(monkeypatch, choice_net, tree, "bf16", batches(3)[0])
    assert taken == ["levels", "resident"]
    assert torch.equal(levels, resident)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_both_ways_give_the_same_bits_for_random_networks(
    emulated_cuda, monkeypatch, seed: int, reverse: bool
) -> None:
    trial = Trial.of(seed)
    compiled.load().set_reversed(reverse)
    try:
        levels, resident, taken = both_ways(monkeypatch, trial.net, trial.tree, "fp32", trial.calibration[0])
    finally:
        compiled.load().set_reversed(False)
    opaque = bool(lower(trial.tree, trial.net.image_shape, calibration=False).calls)
    assert taken == ["levels", "levels" if opaque else "resident"]
    assert torch.equal(levels, resident)


def test_one_block_of_threads_takes_more_images_than_two(emulated_cuda, monkeypatch) -> None:
    """To the same bits; where there are few images, each block has one either way."""
    supernet, images = NETS["residual"](), batches(13, size=6)[0]
    tree, results = tree_of(supernet), {}
    backend = NativeBackend(supernet, "bf16")
    statistics = backend.calibrate(tree, [images], "cumulative")
    for way in ("levels", "resident", "resident alone"):
        monkeypatch.setenv("LASFAST_CHOICE", way)
        logits = backend.predict(tree, statistics, images)
        assert backend.way == way
        results[way] = torch.stack([logits[leaf] for leaf in tree.leaves])
    assert torch.equal(results["resident"], results["levels"])
    assert torch.equal(results["resident alone"], results["levels"])
    backend.predict(tree, statistics, images[:2])
    assert backend.way == "levels"


def test_images_too_large_for_a_multiprocessor_go_by_levels(emulated_cuda, monkeypatch) -> None:
    supernet = NETS["residual"]()
    images = batches(1, size=48)[0]
    *_, taken = both_ways(monkeypatch, supernet, tree_of(supernet), "bf16", images)
    assert taken == ["levels", "levels"]


def test_what_is_faster_is_measured_once(emulated_cuda, monkeypatch, tmp_path) -> None:
    """And kept for plans of about the same size."""
    monkeypatch.setenv("LASFAST_CHOICE", "measure")
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path))
    monkeypatch.setattr(ConvTiles, "take", lambda *arguments: None)
    supernet, images, runs = NETS["residual"](), batches(2, size=4)[0], []
    original = CudaExecutor._predict_resident
    monkeypatch.setattr(
        CudaExecutor, "_predict_resident", lambda *arguments: runs.append(1) or original(*arguments)
    )
    for tree in (tree_of(supernet), PrefixTree([supernet.path((2, 1, 1)), supernet.path((1, 1, 1))])):
        backend = NativeBackend(supernet)
        backend.predict(tree, backend.calibrate(tree, [images], "cumulative"), images)
    (file,) = tmp_path.iterdir()
    ((key, way),) = json.loads(file.read_text()).items()
    assert key.startswith("predict torch.float32 False 2x3x4x4 by 1, 2^")
    assert len(runs) == autotune.RUNS + 1 + 2 * (way == "resident")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "way"), [("opaque", "levels"), ("residual", "resident")])
def test_bytes_are_normalized_to_the_same_bits(
    emulated_cuda, monkeypatch, name: str, way: str, precision: str
) -> None:
    monkeypatch.setenv("LASFAST_CHOICE", way)
    supernet = NETS[name]()
    tree, normalization = tree_of(supernet), Normalization((0.4, 0.5, 0.1), (0.2, 0.25, 0.3))
    generator = torch.Generator().manual_seed(1)
    raw = [torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator) for n in (4, 5, 3)]
    floats = [normalization(images) for images in raw]
    backend = NativeBackend(supernet, precision, None, normalization)
    ours = run(backend, tree, raw[:1], raw[1:])
    assert backend.way == way
    expected = run(NativeBackend(supernet, precision), tree, floats[:1], floats[1:])
    assert all(map(torch.equal, ours[1], expected[1]))
    with pytest.raises(TypeError, match=r"images must be floating point, got torch\.uint8"):
        run(NativeBackend(supernet), tree, raw[:1], raw[1:])
    with pytest.raises(TypeError, match=r"images must be uint8, which is normalized, got torch\.float32"):
        run(NativeBackend(supernet, normalization=normalization), tree, floats[:1], floats[1:])


@pytest.mark.parametrize("name", ["residual", "opaque"])
def test_memory_changes_no_bit(emulated_cuda, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Neither a budget, which has fewer operations run together and fewer images, nor a GPU that is full."""
    torch.manual_seed(0)
    supernet = NETS[name]()
    tree, calibration, images = tree_of(supernet), batches(4), batches(5)
    free, tight = NativeBackend(supernet), NativeBackend(supernet, memory_budget=1)
    statistics, [expected] = run(free, tree, calibration, images)
    assert torch.equal(run(tight, tree, calibration, images)[1][0], expected)
    assert tight.held_bytes < free.held_bytes

    full, asked = NativeBackend(supernet), []
    original = full.buffer.reserve

    def reserve(size: int) -> Tensor:
        asked.append(size)
        if size >= asked[0]:
            raise torch.OutOfMemoryError("as of a GPU")
        return original(size)

    monkeypatch.setattr(full.buffer, "reserve", reserve)
    [[logits]] = [list(full.predict_batches(tree, statistics, images))]
    assert torch.equal(torch.stack([logits[leaf] for leaf in tree.leaves]), expected)
    assert len(asked) > 1


def test_tf32_is_by_choice(emulated_cuda) -> None:
    supernet = NETS["residual"]()
    tree, calibration, images = tree_of(supernet), batches(4), batches(5)
    results = {}
    for products in ("exact", "tf32"):
        with fp32_products_as(products):
            results[products] = run(NativeBackend(supernet), tree, calibration, images)[1][0]
    truth = run(TorchBackend(supernet), tree, calibration, images)[1][0]
    assert error(results["exact"], truth) < 1e-5 < error(results["tf32"], truth) < 1e-2


def test_torchs_newer_settings_are_read(emulated_cuda) -> None:
    """After one is set, torch refuses to read the older ones."""
    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("torch has no newer settings")
    supernet = NETS["residual"]()
    tree, calibration, images = tree_of(supernet), batches(4), batches(5)
    with fp32_products_as("exact"):
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        exact = run(NativeBackend(supernet), tree, calibration, images)[1][0]
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        rounded = run(NativeBackend(supernet), tree, calibration, images)[1][0]
    truth = run(TorchBackend(supernet), tree, calibration, images)[1][0]
    assert error(exact, truth) < 1e-5 < error(rounded, truth) < 1e-2


def test_work_is_recorded_the_second_time() -> None:
    done = []

    def record(work):
        done.append("recorded")
        return lambda: done.append("replayed"), "result"

    replays = Replays(torch.device("cpu"), enabled=True, recorder=lambda: record)
    for key, result in (("a", None), ("b", None), ("a", "result"), ("a", "result"), ("b", "result")):
        assert replays.run(key, lambda: done.append("run")) == result
    assert done == ["run", "run", "recorded", "replayed", "replayed", "recorded", "replayed"]
    done.clear()
    for _ in range(3):
        Replays(torch.device("cpu"), enabled=False).run("a", lambda: done.append("run"))
    assert done == ["run"] * 3


def test_work_that_cannot_be_recorded_is_run(caplog: pytest.LogCaptureFixture) -> None:
    done = []

    def record(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    replays = Replays(torch.device("cpu"), enabled=True, recorder=lambda: record)
    for key in ("a", "b", "a", "a", "b"):
        replays.run(key, lambda: done.append("run"))
    assert done == ["run"] * 5
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "a CUDA graph could not be recorded; going on without: operation not"
    )


@pytest.mark.parametrize(
    ("module", "capability", "text"),
    [
        ({"cuda": False}, (9, 0), "no CUDA kernels: build it again with `LASFAST_CUDA=ON pip install .`"),
        (
            {"cuda_device_count": lambda: 0},
            (9, 0),
            "runtime 13.0 does not see GPU 0: the driver, for CUDA 12.2",
        ),
        ({"cuda_archs": lambda: ["90a"]}, (8, 6), "built for 90a, not for Some GPU.*LASFAST_CUDA_ARCHS=86 "),
        ({"cuda_archs": lambda: ["80"]}, (9, 0), "built for 80, not for Some GPU.*LASFAST_CUDA_ARCHS=90a "),
        ({}, (7, 5), "not for Some GPU of compute capability 7.5: its kernels need 8.0 or newer"),
        ({}, (8, 6), None),
    ],
)
def test_what_a_gpu_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, module: dict, capability: tuple[int, int], text: str | None
) -> None:
    class Module:
        records, kinds = compiled.load().records, compiled.load().kinds
        cuda = True
        cuda_device_count = staticmethod(lambda: 1)
        cuda_archs = staticmethod(lambda: ["80", "90a"])
        cuda_runtime_version = staticmethod(lambda: 13000)
        cuda_driver_version = staticmethod(lambda: 12020)

    changed = type(
        "Changed", (Module,), {k: staticmethod(v) if callable(v) else v for k, v in module.items()}
    )
    monkeypatch.setattr(compiled, "_C", changed())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    why = why_missing(torch.device("cuda", 0))
    if text is None:
        assert why is None
    else:
        assert why is not None
        assert re.search(text, why)


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="supernet is on meta, and there are no native kernels for meta"):
        NativeBackend(supernets.ResidualNet((1, 1, 1), 7).to("meta"))


@pytest.mark.cuda
def test_another_gpu_than_the_current_one() -> None:
    """Where graphs are recorded, and replayed, too."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    supernet = NETS["residual"]().to("cuda:1")
    tree, images = tree_of(supernet), batches(4, 4, 4, device="cuda:1")
    _, ours = run(NativeBackend(supernet), tree, images[:1], images)
    _, truth = run(TorchBackend(supernet), tree, images[:1], images)
    for one, right in zip(ours, truth, strict=True):
        assert error(one, right) <= 1e-4


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETS)
def test_gpu_agrees_with_torch(name: str, precision: str) -> None:
    """Batches of one size are run three times: as they are, recorded as a graph, and replayed."""
    torch.manual_seed(0)
    agree(NETS[name]().cuda(), precision, "cuda")


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_gpu_gives_the_same_bits_either_way(monkeypatch, name: str, precision: str) -> None:
    supernet = NETS[name]().cuda()
    images = batches(500, size=16, device="cuda")[0]
    levels, resident, taken = both_ways(monkeypatch, supernet, tree_of(supernet), precision, images)
    assert taken == ["levels", "resident"]
    assert torch.equal(levels, resident)


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gpu_gives_the_same_bits_twice_and_within_a_budget(precision: str) -> None:
    supernet = NETS["residual"]().cuda()
    tree, calibration = tree_of(supernet), batches(40, 40, 40, size=16, device="cuda")
    images = batches(50, 50, 50, size=16, device="cuda")
    results = [
        run(NativeBackend(supernet, precision, budget), tree, calibration, images)
        for budget in (None, None, 10_000_000)
    ]
    for _, logits in results[1:]:
        for one, expected in zip(logits, results[0][1], strict=True):
            assert torch.equal(one, expected)


@pytest.mark.cuda
def test_gpu_evaluates_as_the_reference_does() -> None:
    supernet = NETS["residual"]().cuda()
    images, labels = batches(64, size=16, device="cuda")[0], torch.randint(0, 7, (64,), device="cuda")
    measured = {
        backend: lasfast.Evaluator(supernet, images, (images, labels), backend)([(1, 1, 1), (2, 1, 1)])
        for backend in ("native", "torch")
    }
    for ours, theirs in zip(measured["native"], measured["torch"], strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_gpu_takes_images_from_anywhere(backend: str) -> None:
    """As bytes or floats, on the host or on the GPU: the same, natively to the bit."""
    supernet, normalize = NETS["residual"]().cuda(), ((0.4, 0.5, 0.1), (0.2, 0.25, 0.3))
    generator = torch.Generator().manual_seed(1)
    raw = torch.randint(256, (64, 3, 16, 16), dtype=torch.uint8, generator=generator)
    labels, measured = torch.arange(64) % 7, []
    for device in ("cpu", "cuda"):
        for images, given in ((raw, normalize), (Normalization(*normalize)(raw), None)):
            pair = images.to(device), labels.to(device)
            evaluator = lasfast.Evaluator(supernet, pair[0], pair, backend, normalize=given)
            measured += [evaluator([(1, 1, 1), (2, 1, 1)]) for _ in range(2)]
    if backend == "native":
        assert all(one == measured[0] for one in measured)
    losses = torch.tensor([[one.loss for one in two] for two in measured])
    torch.testing.assert_close(losses, losses[:1].expand_as(losses), rtol=1e-4, atol=0)
    on_host = lasfast.Evaluator(supernet.cpu(), raw.cuda(), (raw.cuda(), labels.cuda()), normalize=normalize)
    assert on_host([(1, 1, 1)])[0].loss == pytest.approx(measured[0][0].loss, rel=1e-3)
