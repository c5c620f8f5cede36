"""Loaders that shuffle, augment or can be read once: all architectures are measured on the same images."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import lasfast
from lasfast.evaluation.loaders import Repeatable, repeatable

ARCHITECTURES = [(1, 1, 1), (2, 1, 2), (1, 2, 1)]


def in_batches(whole, size: int = 9):
    """A generator of batches, which can be read once."""
    parts = whole if isinstance(whole, tuple) else (whole,)
    for batch in zip(*(part.split(size) for part in parts), strict=True):
        yield batch if len(batch) > 1 else batch[0]


class Reused:
    """Gives batches in the same memory, filled again each time."""

    def __init__(self, images: torch.Tensor, size: int) -> None:
        self.images, self.memory = images, torch.empty_like(images[:size])

    def __iter__(self):
        for part in self.images.split(len(self.memory)):
            yield self.memory[: len(part)].copy_(part)


class Noisy:
    """Gives other images each time, as augmentation does."""

    def __init__(self, *parts: torch.Tensor) -> None:
        self.parts = parts

    def __iter__(self):
        for images, *labels in in_batches(self.parts):
            yield (images + torch.randn(images.shape), *labels)


class Shared:
    """Looks as if it could be read again, but goes on where the last reader stopped."""

    def __init__(self, *parts: torch.Tensor) -> None:
        self.batches = in_batches(parts)

    def __iter__(self):
        yield from self.batches


class Shrinking:
    """Has a batch fewer each time."""

    def __init__(self, *parts: torch.Tensor) -> None:
        self.batches = [*in_batches(parts)]

    def __iter__(self):
        yield from self.batches
        self.batches = self.batches[:-1]


@pytest.mark.parametrize(
    "loader",
    [
        lambda images: in_batches(images),
        lambda images: iter(images.split(9)),
        lambda images: map(torch.clone, images.split(9)),
        lambda images: images.split(9),
        lambda images: list(images.split(9)),
        lambda images: Reused(images, 9),
        lambda images: Shared(images, torch.zeros(len(images))),
        lambda images: DataLoader(TensorDataset(images, torch.zeros(len(images))), 9),
    ],
)
def test_calibration_batches_are_read_wholly(supernet, calibration, validation, loader) -> None:
    [expected] = lasfast.Evaluator(supernet, list(calibration.split(9)), validation, "torch")([(2, 1, 2)])
    evaluator = lasfast.Evaluator(supernet, loader(calibration), validation, "torch")
    assert evaluator([(2, 1, 2)]) == evaluator([(2, 1, 2)]) == [expected]


@pytest.mark.parametrize("augmented", [False, True])
def test_all_architectures_see_the_same_calibration_batches(
    supernet, calibration, validation, augmented: bool
) -> None:
    labels = torch.zeros(len(calibration))
    shuffled = DataLoader(TensorDataset(calibration, labels), 9, shuffle=True)
    loader = Noisy(calibration, labels) if augmented else shuffled
    evaluator = lasfast.Evaluator(supernet, loader, validation, "torch")
    together = evaluator(ARCHITECTURES)
    assert [evaluator([one])[0] for one in ARCHITECTURES] == together
    assert evaluator(ARCHITECTURES) == together


def test_validation_batches_of_an_iterator_are_kept(supernet, calibration, validation) -> None:
    expected = lasfast.Evaluator(supernet, calibration, validation, "torch", validation_batch=9)
    listed = lasfast.Evaluator(supernet, calibration, list(in_batches(validation)), "torch")
    evaluator = lasfast.Evaluator(supernet, calibration, in_batches(validation), "torch")
    measured = evaluator(ARCHITECTURES)
    assert measured == evaluator(ARCHITECTURES) == listed(ARCHITECTURES)
    assert [one.images for one in measured] == [41] * 3
    for one, other in zip(measured, expected(ARCHITECTURES), strict=True):
        assert one.top1 == other.top1
        assert one.correct == other.correct


@pytest.mark.parametrize(
    ("part", "loader", "error", "message"),
    [
        ("calibration", iter([]), ValueError, "calibration must have at least one batch of images, got none"),
        ("calibration", [], ValueError, "calibration must have at least one batch of images, got none"),
        (
            "calibration",
            iter([torch.zeros(4, 3, 8, 8), torch.zeros(4, 1, 8, 8)]),
            ValueError,
            "calibration must",
        ),
        ("calibration", iter([torch.zeros(4, 3, 8, 8), "images"]), TypeError, "calibration must be a tensor"),
        ("validation", iter([]), ValueError, "validation must have at least one batch.*got none"),
        ("validation", [], ValueError, "validation must have at least one batch.*got none"),
        ("validation", DataLoader([]), ValueError, "validation must have at least one batch.*got none"),
        ("validation", [torch.zeros(4, 3, 8, 8)], ValueError, "validation must be a pair"),
        ("validation", iter([torch.zeros(4, 3, 8, 8)]), TypeError, r"pairs \(images, labels\), got Tensor"),
        ("validation", {"images": 3}, TypeError, r"pairs \(images, labels\), got str"),
        ("validation", iter([(torch.zeros(4, 3, 8, 8), torch.zeros(4))]), TypeError, "int64 tensor"),
        (
            "validation",
            iter([(torch.zeros(4, 1, 8, 8), torch.zeros(4).long())]),
            ValueError,
            "validation images",
        ),
    ],
)
def test_what_has_no_images_of_the_networks_is_refused(
    supernet, calibration, validation, part: str, loader, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        lasfast.Evaluator(supernet, **{"calibration": calibration, "validation": validation, part: loader})


@pytest.mark.parametrize(
    "loader",
    [
        lambda *pair: DataLoader(TensorDataset(*pair), 9, shuffle=True),
        lambda *pair: Noisy(*pair),
        lambda *pair: Shared(*pair),
    ],
)
def test_validation_batches_that_change_are_refused(supernet, calibration, validation, loader) -> None:
    with pytest.raises(ValueError, match=r"validation must give the same batches each time.*shuffling"):
        lasfast.Evaluator(supernet, calibration, loader(*validation))
    standalone = {"train": validation, "standalone_epochs": 1}
    with pytest.raises(ValueError, match=r"validation must give the same batches each time.*shuffling"):
        lasfast.StandaloneEvaluator(supernet, validation=loader(*validation), **standalone)


def test_validation_batches_that_change_later_are_named(supernet, calibration, validation) -> None:
    evaluator = lasfast.Evaluator(supernet, calibration, Shrinking(*validation), "torch")
    evaluator(ARCHITECTURES[:1])
    with pytest.raises(ValueError, match="got 4 batches after 5: turn shuffling and augmentation off"):
        evaluator(ARCHITECTURES[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pairs: pairs[:4], "got 4 batches after 5"),
        (lambda pairs: [*pairs, pairs[0]], "got other images or labels in batch 5"),
        (lambda pairs: [*pairs[:3], (pairs[3][0], pairs[3][1].flip(0)), pairs[4]], "labels in batch 3"),
        (
            lambda pairs: [*pairs[:3], (pairs[3][0].flip(0), pairs[3][1]), pairs[4]],
            "images or labels in batch 3",
        ),
        (lambda pairs: [*pairs[:4], (pairs[4][0][:2], pairs[4][1][:2])], "images or labels in batch 4"),
    ],
)
def test_batches_are_compared_with_those_of_earlier_times(validation, change, message: str) -> None:
    pairs = [*in_batches(validation)]
    batches = list(pairs)
    loader = Repeatable(batches)
    assert next(iter(loader)) is not None  # a part is read, then all, twice
    assert [len(labels) for _, labels in loader] == [len(labels) for _, labels in loader] == [9, 9, 9, 9, 5]
    batches[:] = change(pairs)
    with pytest.raises(ValueError, match=message):
        list(loader)


def test_a_study_of_networks_from_scratch_reads_an_iterator_again(supernet, validation) -> None:
    evaluator = lasfast.StandaloneEvaluator(
        supernet, train=validation, validation=in_batches(validation), standalone_epochs=1, batch_size=16
    )
    assert [one.images for one in evaluator(ARCHITECTURES[:2])] == [41, 41]


def test_fixed_validation_batches_are_read_as_they_are(validation) -> None:
    pairs = [*in_batches(validation)]
    assert repeatable(pairs, lambda images, labels: None) is pairs
