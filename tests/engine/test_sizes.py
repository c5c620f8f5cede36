"""Asking how many bytes a tree takes: from its schedule alone, which is made once for each question."""

import random

import pytest
import torch

import lasfast
from lasfast import supernets
from lasfast.engine import NativeBackend, TorchBackend, lower
from lasfast.engine.conv_tiles import ConvTiles
from lasfast.engine.executor import Executor
from lasfast.engine.native_backend import why_missing
from lasfast.engine.schedule import ALIGNMENT
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.supernets import LayerBuilder, Supernet
from tests.engine.test_opaque import MixedNet

MISSING = why_missing(torch.device("cpu"))
pytestmark = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
SHAPE = (3, 16, 16)
IMAGES = 12


class NormFirstNet(Supernet):
    """Blocks that begin with a batch norm: what they are fused with depends on who else reads it."""

    def __init__(self) -> None:
        super().__init__(lasfast.spaces.LayerAssignmentSpace(2, 3), num_classes=7, in_channels=3)
        self.create_modules(self.path((3, 3)))

    def path(self, architecture):
        stem = LayerBuilder("stem", 3)
        stem.conv("conv", stem.input, 16, 3)
        path = [stem.build()]
        for group, count in enumerate(architecture):
            for index in range(count):
                block = LayerBuilder(f"groups.{group}.{index}", 16)
                y = block.conv("conv", block.activation(block.batch_norm("bn", block.input)), 16, 3)
                block.add(y, block.input)
                path.append(block.build())
        head = LayerBuilder("classifier", 16)
        head.linear("fc", head.global_avg_pool(head.input), 7)
        return (*path, head.build())


NETS = {
    "residual": lambda: supernets.ResidualNet((4, 4, 4), 7),
    "norms first": NormFirstNet,
    "opaque": MixedNet,
}


@pytest.fixture(params=["cpu", "cuda"])
def place(request) -> str:
    """Where sizes are of: CUDA's are told by the same code on the host."""
    if request.param == "cuda":
        request.getfixturevalue("emulated_cuda")
    return request.param


@pytest.fixture
def lowered(monkeypatch) -> list[tuple[int, bool]]:
    """How many paths have been lowered each time, and whether for calibration."""
    found: list[tuple[int, bool]] = []
    original = lower._Lowering.__init__

    def counted(self, graph, calibration):
        found.append((sum(entry.uses > 0 for entry in graph.entries), calibration))
        original(self, graph, calibration)

    monkeypatch.setattr(lower._Lowering, "__init__", counted)
    return found


@pytest.fixture
def no_executor(monkeypatch) -> None:
    def refused(*arguments):
        raise AssertionError("who asks for sizes builds nothing")

    monkeypatch.setattr(Executor, "__init__", refused)
    monkeypatch.setattr(ConvTiles, "fastest", refused)


def tree_of(supernet: Supernet, paths: int = 9) -> PrefixTree:
    chosen = list(supernet.space.enumerate())
    random.Random(0).shuffle(chosen)
    return PrefixTree([supernet.path(architecture) for architecture in chosen[:paths]])


@pytest.mark.parametrize("net", NETS)
def test_sizes_build_nothing(place, no_executor, lowered, net: str) -> None:
    """And one tree is lowered twice: for calibration and for prediction."""
    supernet = NETS[net]()
    backend, tree = NativeBackend(supernet), tree_of(supernet)
    whole = backend.peak_bytes(tree, SHAPE, IMAGES)
    assert backend.prediction_batch(tree, SHAPE, whole) >= 1
    assert [calibration for _, calibration in lowered] == [True, False]
    assert list(backend.chunks(tree, SHAPE, IMAGES, whole)) == [tree]
    assert len(lowered) == 2
    assert backend.held_bytes == 0


@pytest.mark.parametrize("net", NETS)
def test_chunks_are_within_the_budget_and_lowered_when_their_turn_comes(
    place, no_executor, lowered, net: str
) -> None:
    supernet = NETS[net]()
    backend, tree = NativeBackend(supernet), tree_of(supernet)
    single = backend.peak_bytes(PrefixTree(tree.paths[:1]), SHAPE, IMAGES)
    whole = backend.peak_bytes(tree, SHAPE, IMAGES)
    for budget in (single - 1, (3 * single + whole) // 4, (single + whole) // 2, whole - 1):
        lowered.clear()
        lower._lower.cache_clear()
        chunks = backend.chunks(tree, SHAPE, IMAGES, budget)
        assert not lowered
        found = [next(chunks)]
        assert len(lowered) <= 4  # the whole and the chunk, twice at most; bisecting lowers nothing
        found += chunks
        paths = [path for chunk in found for path in chunk.paths]
        assert sorted(map(str, paths)) == sorted(map(str, tree.paths))
        for chunk in found:
            assert len(chunk.paths) == 1 or backend.peak_bytes(chunk, SHAPE, IMAGES) <= budget


@pytest.mark.parametrize("net", NETS)
def test_chunks_are_those_of_exact_sizes(place, net: str) -> None:
    """Cutting by the sizes of parts gives as few chunks as lowering every part would."""
    supernet = NETS[net]()
    backend, tree = NativeBackend(supernet), tree_of(supernet)
    single = max(backend.peak_bytes(PrefixTree([path]), SHAPE, IMAGES) for path in tree.paths)
    whole = backend.peak_bytes(tree, SHAPE, IMAGES)
    for budget in (single, (single + whole) // 2, whole - 1):
        exact = tree.chunks(budget, lambda part: backend.peak_bytes(part, SHAPE, IMAGES))
        assert len(list(backend.chunks(tree, SHAPE, IMAGES, budget))) == len(exact)


def test_what_runs_takes_no_more_than_was_said(place) -> None:
    supernet = NETS["residual"]()
    backend, tree = NativeBackend(supernet, "bf16"), tree_of(supernet, 3)
    said = backend.peak_bytes(tree, SHAPE, IMAGES)
    wide = NativeBackend(supernet, "bf16", memory_budget=said)
    wide.calibrate(tree, [torch.randn(IMAGES, *SHAPE)], "cumulative")
    assert 0 < wide.held_bytes <= said


def test_a_call_of_the_evaluator_lowers_each_tree_twice(lowered) -> None:
    """With a budget or without: sizes and passes are of the same schedules."""
    supernet = NETS["residual"]()
    images, labels = torch.randn(IMAGES, *SHAPE), torch.zeros(IMAGES, dtype=torch.int64)
    architectures = list(supernet.space.enumerate(depth=7))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for budget in (None, 100_000_000):
            evaluator = lasfast.Evaluator(supernet, images, (images, labels), "native", memory_budget=budget)
            lowered.clear()
            evaluator(architectures)
            assert [calibration for _, calibration in lowered] == [True, False]
    finally:
        torch.set_num_threads(threads)


def test_a_schedule_is_remembered_for_its_tree(lowered) -> None:
    supernet = NETS["residual"]()
    tree, again = tree_of(supernet), tree_of(supernet)
    first = lower.lower(tree, SHAPE, calibration=True)
    assert lower.lower(tree, SHAPE, calibration=True, width=1, cuda=False) is first
    assert lower.lower(tree, (3, 8, 8), calibration=True) is not first
    assert lower.lower(tree, SHAPE, calibration=True, width=2) is not first
    assert lower.lower(again, SHAPE, calibration=True) is not first
    assert all(value["offset"] % ALIGNMENT == 0 for value in first.values)
    with pytest.raises(ValueError, match="read-only"):
        first.operations["kind"] = 0


def test_torchs_chunks_are_within_the_budget() -> None:
    supernet = NETS["residual"]()
    backend, tree = TorchBackend(supernet), tree_of(supernet)
    budget = backend.peak_bytes(tree, SHAPE, IMAGES) - 1
    chunks = list(backend.chunks(tree, SHAPE, IMAGES, budget))
    assert len(chunks) > 1
    assert all(len(one.paths) == 1 or backend.peak_bytes(one, SHAPE, IMAGES) <= budget for one in chunks)
    assert list(backend.chunks(tree, SHAPE, IMAGES, None)) == [tree]
