"""Images of an evaluator: where they are, and in what batches they come."""

import pytest
import torch
from torch import Tensor

import lasfast
from lasfast.evaluation.images import Images, random_order, watch_sizes

ELSEWHERE = torch.device("meta")


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(11, 2, 3, 3, generator=generator), torch.arange(11) % 4
    return Images(torch.randn(7, 2, 3, 3, generator=generator), pair, 2, 4, None)


def test_batches_have_every_image_once(images: Images) -> None:
    batches = list(images.calibration_batches(3, torch.device("cpu")))
    assert [len(batch) for batch in batches] == [3, 2, 2]
    assert torch.equal(torch.cat(batches), images.calibration)
    pairs = list(images.validation_batches(4, torch.device("cpu"), 1, 10))
    assert [len(labels) for _, labels in pairs] == [4, 4, 1]
    order = random_order(11)[1:10]
    for seen, whole in zip(map(torch.cat, zip(*pairs, strict=True)), images.validation, strict=True):
        assert torch.equal(seen, whole[order])


def test_tensors_are_copied_to_another_device_once(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    original = Tensor.to

    def to(self: Tensor, device: torch.device, **options: bool) -> Tensor:
        if self.device != device:
            copied.append(self.shape)
        return original(self, device, **options)

    monkeypatch.setattr(Tensor, "to", to)
    for _ in range(3):
        for batch in images.calibration_batches(3, ELSEWHERE):
            assert batch.device == ELSEWHERE
        for batch, labels in images.validation_batches(4, ELSEWHERE):
            assert batch.device == labels.device == ELSEWHERE
    assert sorted(copied) == sorted([(7, 2, 3, 3), (11, 2, 3, 3), (11,), (11,)])


def test_batches_are_copied_where_all_do_not_fit(
    images: Images, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = Tensor.to

    def to(self: Tensor, device: torch.device, **options: bool) -> Tensor:
        if self.device != device and self.dim() == 4 and len(self) > 4:
            raise torch.OutOfMemoryError("as of a GPU")
        return original(self, device, **options)

    monkeypatch.setattr(Tensor, "to", to)
    for _ in range(2):
        assert [len(batch) for batch in images.calibration_batches(3, ELSEWHERE)] == [3, 2, 2]
        pairs = list(images.validation_batches(4, ELSEWHERE))
        assert [batch.device for pair in pairs for batch in pair] == [ELSEWHERE] * 6
    assert caplog.messages == [
        "not enough memory for the calibration on meta: copying each batch",
        "not enough memory for the validation images on meta: copying each batch",
    ]


@pytest.mark.parametrize("sizes", [(9, 9, 4), (1, 9), (9, 1, 9)])
def test_a_small_batch_of_a_loader_is_warned_about(supernet, validation, backend: str, sizes) -> None:
    loader = [torch.randn(size, 3, 12, 12) for size in sizes]
    evaluator = lasfast.Evaluator(supernet, loader, validation, backend)
    message = rf"sizes, got {min(sizes)} to 9 images: with statistics='cumulative' .*drop_last=True"
    with pytest.warns(UserWarning, match=message):
        evaluator([(1, 1, 1)])


@pytest.mark.parametrize(
    ("sizes", "statistics"), [((9, 9, 5), "cumulative"), ((9, 1), "batch_mean"), ((1,), "ema"), ((), "ema")]
)
def test_other_batches_are_not_warned_about(sizes, statistics: str) -> None:
    batches = [torch.zeros(size, 1) for size in sizes]
    assert list(map(len, watch_sizes(batches, statistics))) == list(sizes)
