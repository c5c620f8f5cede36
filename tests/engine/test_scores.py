"""Scores of answers, by PyTorch and by the kernel that a CUDA graph may have."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.engine import NativeBackend, cuda_executor, scores
from lasfast.engine.scores import NEVER, Scores, Tally
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.runtime import compiled
from lasfast.runtime.cuda_graphs import Replays
from lasfast.supernets import ResidualNet


@pytest.fixture(params=["torch", "cuda", "cuda, reversed"])
def scored(request):
    """A function that gives class ranks and losses of logits [networks, N, classes], in some batches."""
    if request.param != "torch":
        request.getfixturevalue("emulated_cuda")
        compiled.load().set_reversed("reversed" in request.param)

    def by_torch(logits: Tensor, labels: Tensor, batch: int):
        gathered = Scores()
        for images in torch.arange(len(labels)).split(batch):
            gathered.add(logits[:, images], labels[images])
        return gathered.result()

    def by_kernel(logits: Tensor, labels: Tensor, batch: int):
        gathered = Tally(compiled.load(), len(logits), logits.device)
        for images in torch.arange(len(labels)).split(batch):
            gathered.expect(labels[images])
            for _ in range(2):  # once more does no harm
                gathered.score(logits[:, images].contiguous(), early=False)
        return gathered.result()

    yield by_torch if request.param == "torch" else by_kernel
    if request.param != "torch":
        compiled.load().set_reversed(False)


@pytest.mark.parametrize(("networks", "classes"), [(1, 1), (3, 2), (3, 10), (2, 17), (1, 1000)])
def test_scores_are_those_of_the_definition(scored, networks: int, classes: int) -> None:
    logits, labels = torch.randn(networks, 41, classes) * 9, torch.randint(classes, (41,))
    class_ranks, losses = scored(logits, labels, 9)
    assert (class_ranks.dtype, losses.dtype) == (torch.int64, torch.float64)
    for row, ranks, of_row in zip(logits, class_ranks, losses, strict=True):
        order = row.argsort(dim=1, descending=True, stable=True)
        assert torch.equal((order == labels[:, None]).int().argmax(1), ranks)
        expected = F.cross_entropy(row.double(), labels, reduction="none")
        torch.testing.assert_close(of_row, expected, rtol=1e-14, atol=1e-14)


def test_a_network_alone_and_among_others_has_the_same_bits(scored) -> None:
    logits, labels = torch.randn(7, 100, 10), torch.randint(0, 10, (100,))
    together = scored(logits, labels, 33)
    for number in range(7):
        for alone, among in zip(scored(logits[number : number + 1], labels, 100), together, strict=True):
            assert torch.equal(alone[0], among[number])


def test_equal_logits_are_ranked_in_order(scored) -> None:
    """A network that says the same of every class is right by chance alone."""
    labels = torch.arange(100) % 20
    assert torch.equal(scored(torch.zeros(1, 100, 20), labels, 100)[0][0], labels)


@pytest.mark.parametrize("classes", [3, 10])
def test_nan_is_never_right_and_infinity_may_be(scored, classes: int) -> None:
    logits = torch.zeros(1, 5, classes)
    logits[0, 0, 1] = logits[0, 1, 0] = torch.nan
    logits[0, 2, 0] = torch.inf
    logits[0, 3, 0] = -torch.inf
    logits[0, 4] = -torch.inf
    class_ranks, losses = scored(logits, torch.zeros(5, dtype=torch.int64), 5)
    assert class_ranks.tolist() == [[NEVER, NEVER, 0, classes - 1, 0]]
    assert losses.isnan().tolist() == [[True, True, True, False, True]]
    assert losses[0, 3] == torch.inf


@pytest.mark.parametrize("batch", [7, 100])
def test_many_scores_are_kept_in_parts(scored, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    logits, labels = torch.randn(3, 100, 10), torch.randint(0, 10, (100,))
    expected = scored(logits, labels, 100)
    monkeypatch.setattr(scores, "AT_ONCE", 20 * (3 * scores.SCORE_BYTES + 2 * scores.LABEL_BYTES))
    for found, right in zip(scored(logits, labels, batch), expected, strict=True):
        assert torch.equal(found, right)


def test_batches_are_scored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch takes many small kernels on a GPU, whatever the size of the batch."""
    logits, labels, sizes = torch.randn(3, 100, 10), torch.randint(0, 10, (100,)), []
    original = F.cross_entropy

    def cross_entropy(x: torch.Tensor, *more: torch.Tensor, **names: str) -> torch.Tensor:
        sizes.append(len(x))
        return original(x, *more, **names)

    monkeypatch.setattr(F, "cross_entropy", cross_entropy)
    for at_once, expected in ((scores.AT_ONCE, [300]), (3 * 14 * 10 * 4, [*[42] * 7, 6])):
        monkeypatch.setattr(scores, "AT_ONCE", at_once)
        gathered = Scores()
        for images in torch.arange(100).split(7):
            gathered.add(logits[:, images], labels[images])
        gathered.result()
        assert sizes == expected
        sizes.clear()


def test_a_label_that_is_no_class_is_never_right(emulated_cuda) -> None:
    tally = Tally(compiled.load(), 1, torch.device("cpu"))
    tally.expect(torch.tensor([-1, 3, 2]))
    tally.score(torch.zeros(1, 3, 3), early=False)
    class_ranks, losses = tally.result()
    assert class_ranks.tolist() == [[NEVER, NEVER, 2]]
    assert losses.isnan().tolist() == [[True, True, False]]


def test_what_cannot_be_scored_is_refused(emulated_cuda) -> None:
    tally = Tally(compiled.load(), 1, torch.device("cpu"))
    tally.expect(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="schedule_tally: networks, images and classes must be positive"):
        tally.score(torch.zeros(1, 2, 0), early=False)


@pytest.mark.parametrize("way", ["levels", "resident"])
def test_a_graph_scores_what_it_predicts(emulated_cuda, monkeypatch, way: str) -> None:
    """From the third batch on, nothing of ours is queued beside the graph."""
    monkeypatch.setenv("LASFAST_CHOICE", way)
    beside: list[int] = []
    native = compiled.load()

    def recorder():
        def record(work):
            def replay() -> None:
                beside.append(sum(native.noted_launches().values()))
                work()
                native.noted_launches()

            return replay, None

        return record

    monkeypatch.setattr(
        cuda_executor, "Replays", lambda device, enabled: Replays(device, enabled=True, recorder=recorder)
    )
    supernet = ResidualNet((2, 1, 1), 7)
    tree = PrefixTree([supernet.path((2, 1, 1)), supernet.path((1, 1, 1))])
    images = [torch.randn(count, 3, 4, 4) for count in (3, 2, 2, 2)]
    labels = [torch.randint(7, (len(one),)) for one in images]
    backend = NativeBackend(supernet)
    statistics = backend.calibrate(tree, images[:1], "cumulative")
    native.noted_launches()
    expected = Scores()
    for outputs, right in zip(backend.predict_batches(tree, statistics, images), labels, strict=True):
        expected.add(torch.stack([outputs[leaf] for leaf in tree.leaves]), right)
    native.noted_launches()
    beside.clear()
    found = backend.score_batches(tree, statistics, zip(images, labels, strict=True))
    beside.append(sum(native.noted_launches().values()))
    assert beside[1:] == [0, 0]
    assert torch.equal(found[0], expected.result()[0])
    torch.testing.assert_close(found[1], expected.result()[1], rtol=1e-14, atol=1e-14)
