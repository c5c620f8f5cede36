import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import lasfast
from lasfast import supernets
from lasfast.engine.native_backend import why_missing
from lasfast.evaluation.scoring import evaluate_network
from lasfast.ir.prefix_tree import PrefixTree

MISSING = why_missing(torch.device("cpu"))
needs_native = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
ARCHITECTURES = [(1, 1, 2), (1, 2, 1), (2, 1, 1), (2, 2, 2), (1, 1, 1)]


def test_a_measurement_is_what_the_extracted_network_gives(
    supernet, calibration, validation, backend: str
) -> None:
    evaluator = lasfast.Evaluator(supernet, calibration, validation, backend, calibration_batch=8)
    images, labels = validation
    for architecture, measurement in zip(ARCHITECTURES, evaluator(ARCHITECTURES), strict=True):
        network = supernet.extract(architecture)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        with torch.no_grad():
            for batch in calibration.tensor_split(3):
                network.train()(batch)
            logits = network.eval()(images)
        right = logits.argmax(1) == labels
        top5 = (logits.topk(5).indices == labels[:, None]).any(1)
        assert measurement.architecture == architecture
        assert measurement.images == 41
        assert measurement.top1 == right.sum().item() / 41
        assert measurement.top5 == top5.sum().item() / 41
        assert measurement.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        np.testing.assert_array_equal(measurement.right(), right.numpy())


def test_loaders_give_what_tensors_give(supernet, calibration, validation, backend: str) -> None:
    tensors = lasfast.Evaluator(
        supernet, calibration[:20], validation, backend, calibration_batch=10, validation_batch=9
    )
    loaders = lasfast.Evaluator(
        supernet,
        DataLoader(TensorDataset(calibration[:20], torch.zeros(20)), batch_size=10),
        DataLoader(TensorDataset(*validation), batch_size=9),
        backend,
    )
    assert loaders(ARCHITECTURES) == tensors(ARCHITECTURES)
    assert loaders(ARCHITECTURES[:1]) == tensors(ARCHITECTURES[:1])  # a loader is read again


def test_extract_gives_the_measured_network(supernet, calibration, validation, backend: str) -> None:
    evaluator = lasfast.Evaluator(supernet, calibration, validation, backend)
    network = evaluator.extract((2, 1, 1))
    assert not network.training
    [expected] = evaluator([(2, 1, 1)])
    measured = evaluate_network(network, validation, (2, 1, 1))
    assert measured.correct == expected.correct
    assert measured.loss == pytest.approx(expected.loss, rel=1e-5 if backend == "native" else 0)


@needs_native
def test_a_supernet_that_moved_is_refused(calibration, validation) -> None:
    supernet = supernets.ResidualNet((1, 1, 1), 7)
    evaluator = lasfast.Evaluator(supernet, calibration, validation, "native")
    with pytest.raises(ValueError, match="images are on meta, but the supernet is on cpu"):
        evaluator.backend.calibrate(PrefixTree([supernet.path((1, 1, 1))]), [calibration.to("meta")], "ema")
    supernet.to("meta")
    with pytest.raises(ValueError, match="was on cpu when this was made and is on meta now; make a new one"):
        evaluator([(1, 1, 1)])


def test_nothing_asked_nothing_done(supernet, calibration, validation, backend: str) -> None:
    assert lasfast.Evaluator(supernet, calibration, validation, backend)([]) == []


def test_nan_is_never_right(calibration, validation, backend: str) -> None:
    supernet = supernets.ResidualNet((1, 1, 1), 7)
    with torch.no_grad():
        supernet.get_parameter("classifier.fc.bias").fill_(float("nan"))
    images = validation[0]
    labels = torch.zeros(41, dtype=torch.int64)
    [measurement] = lasfast.Evaluator(supernet, calibration, (images, labels), backend)([(1, 1, 1)])
    assert (measurement.top1, measurement.top5) == (0, 0)
    assert np.isnan(measurement.loss)


def test_the_supernets_buffers_stay(supernet, calibration, validation, backend: str) -> None:
    before = copy.deepcopy(supernet.state_dict())
    lasfast.Evaluator(supernet, calibration, validation, backend)(ARCHITECTURES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_describe_tells_settings_and_images_apart(supernet, calibration, validation) -> None:
    describe = lasfast.Evaluator(supernet, calibration, validation).describe()
    assert describe == lasfast.Evaluator(supernet, calibration.clone(), validation).describe()
    assert describe != lasfast.Evaluator(supernet, calibration + 1, validation).describe()
    assert describe != lasfast.Evaluator(supernet, calibration, validation, statistics="ema").describe()


NORMALIZE = ((0.4, 0.5, 0.1), (0.2, 0.25, 0.3))


def as_bytes(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["tensors", "loaders"])
def test_bytes_give_what_normalized_images_give(
    supernet, validation, backend: str, kind: str, precision: str
) -> None:
    """To the bit; and a study of the one is a study of the other."""
    calibration, (images, labels) = as_bytes(23, 3, 12, 12), (as_bytes(41, 3, 12, 12), validation[1])
    mean, std = torch.tensor(NORMALIZE, dtype=torch.float64)[..., None, None]
    floats = [raw * (1 / (255 * std)).float() + (-mean / std).float() for raw in (calibration, images)]
    parts = [(calibration, (images, labels)), (floats[0], (floats[1], labels))]
    if kind == "loaders":
        parts = [(part.split(6), DataLoader(TensorDataset(*pair), 9)) for part, pair in parts]
    evaluators = [
        lasfast.Evaluator(supernet, part, pair, backend, precision, normalize=normalize, calibration_batch=9)
        for (part, pair), normalize in zip(parts, (NORMALIZE, None), strict=True)
    ]
    ours, expected = (evaluator(ARCHITECTURES) for evaluator in evaluators)
    assert ours == expected
    assert evaluators[0].describe() == evaluators[1].describe()
    if kind == "tensors":
        ours, expected = (evaluator.race(ARCHITECTURES, keep=2) for evaluator in evaluators)
        assert ours == expected


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"supernet": torch.nn.Linear(1, 1)}, TypeError, "supernet must be a lasfast Supernet, got Linear"),
        ({"backend": "fast"}, ValueError, "backend must be one of 'auto', 'torch', 'native', got 'fast'"),
        ({"precision": "fp16"}, ValueError, "precision must be one of 'fp32', 'bf16', got 'fp16'"),
        ({"statistics": "mean"}, ValueError, "statistics must be one of 'cumulative', 'ema', 'batch_mean'"),
        ({"memory_budget": 0}, ValueError, "memory_budget must be a positive int, got 0"),
        ({"calibration": torch.zeros(0, 3, 8, 8)}, ValueError, "calibration must be images"),
        ({"calibration": torch.zeros(4, 1, 8, 8)}, ValueError, r"\[N, 3, H, W\].*got shape \(4, 1, 8, 8\)"),
        (
            {"calibration": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)},
            TypeError,
            r"uint8 ones together with normalize=\(mean, std\), got torch.uint8",
        ),
        (
            {"normalize": NORMALIZE},
            TypeError,
            "calibration must be uint8 images where normalize is given, got",
        ),
        (
            {"normalize": NORMALIZE, "calibration": as_bytes(4, 3, 8, 8)},
            TypeError,
            "validation images must be uint8 images where normalize is given, got torch.float32",
        ),
        ({"normalize": 0.5}, TypeError, r"normalize must be a pair \(mean, std\).*got 0.5"),
        ({"normalize": (0.5, 0.5)}, TypeError, r"\(mean, std\), numbers for each channel, got \(0.5, 0.5\)"),
        ({"normalize": ((0.5,), (0.5,))}, ValueError, r"a mean and a std for 3 channel\(s\), got 1"),
        ({"normalize": ((0, 0, 0), (1, 1))}, ValueError, "as many means as stds"),
        ({"normalize": ((0, 0, 0), (1, 0, 1))}, ValueError, r"positive stds, got .*\(1.0, 0.0, 1.0\)"),
        ({"normalize": ((0, np.nan, 0), (1, 1, 1))}, ValueError, "finite means"),
        ({"calibration": []}, ValueError, "calibration must have at least one batch"),
        ({"validation": (torch.zeros(4, 3, 8, 8),)}, ValueError, "a pair"),
        (
            {"validation": (torch.zeros(4, 3, 8, 8), torch.zeros(4))},
            TypeError,
            "int64 tensor, got torch.float32",
        ),
        (
            {"validation": (torch.zeros(4, 3, 8, 8), torch.zeros(5).long())},
            ValueError,
            r"shape \(4,\), got \(5,\)",
        ),
        ({"validation": (torch.zeros(4, 3, 8, 8), torch.full((4,), 7))}, ValueError, "0 to 6, got 7 to 7"),
        ({"validation": 3}, TypeError, "got int"),
    ],
)
def test_bad_arguments_are_named(supernet, calibration, validation, change, error, message: str) -> None:
    arguments = {"supernet": supernet, "calibration": calibration, "validation": validation, **change}
    with pytest.raises(error, match=message):
        lasfast.Evaluator(**arguments)


def test_an_invalid_architecture_is_refused_before_work(supernet, calibration, validation) -> None:
    with pytest.raises(ValueError, match="architecture"):
        lasfast.Evaluator(supernet, calibration, validation)([(1, 1, 1), (9, 1, 1)])


def test_as_many_images_are_predicted_at_once_as_are_usual_for_the_backend(
    supernet, calibration, validation, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what identifies measurements nor the parts of a race depend on that."""
    evaluator = lasfast.Evaluator(supernet, calibration, validation, backend)
    [expected], before = evaluator([(1, 1, 1)]), evaluator.describe()
    asked: list[int] = []
    original = evaluator.backend.score_batches

    def score_batches(tree, statistics, batches):
        return original(tree, statistics, (asked.append(len(one[1])) or one for one in batches))

    monkeypatch.setattr(evaluator.backend, "score_batches", score_batches)
    monkeypatch.setattr(evaluator.backend, "usual_batch", lambda shape: 30 if shape == (3, 12, 12) else 0)
    [measurement] = evaluator([(1, 1, 1)])
    assert measurement.correct == expected.correct
    assert measurement.loss == pytest.approx(expected.loss, rel=1e-6)
    assert asked == [30, 11]
    assert evaluator.describe() == before
    assert before["validation_batch"] == evaluator.validation_batch == 250
