import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

import lasfast
from lasfast import supernets
from lasfast.engine import NativeBackend, TorchBackend
from lasfast.engine.native_backend import why_missing
from lasfast.evaluation.scoring import evaluate_network
from lasfast.execution.interpret import run_op
from lasfast.ir import layers
from lasfast.ir.prefix_tree import PrefixTree

MISSING = why_missing(torch.device("cpu"))
needs_native = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
ARCHITECTURES = [(1, 1, 2), (1, 2, 1), (2, 1, 1), (2, 2, 2), (1, 1, 1)]


@pytest.fixture(params=["torch", pytest.param("native", marks=needs_native)])
def backend(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def supernet() -> supernets.ResidualNet:
    torch.manual_seed(0)
    return supernets.ResidualNet((2, 2, 2), 7)


@pytest.fixture(scope="module")
def calibration() -> torch.Tensor:
    return torch.randn(23, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def validation() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(41, 3, 12, 12, generator=generator), torch.randint(0, 7, (41,), generator=generator)


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


@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(
    chosen=st.lists(st.sampled_from(ARCHITECTURES), min_size=1, max_size=6),
    budget=st.sampled_from([None, 1, 100_000, 1_000_000, 3_000_000]),
    batch=st.sampled_from([3, 7, 50]),
)
def test_neither_company_nor_budget_changes_a_result(
    supernet, calibration, validation, backend, chosen: list[tuple[int, ...]], budget: int | None, batch: int
) -> None:
    options = {"calibration_batch": 6, "validation_batch": batch, "backend": backend}
    together = lasfast.Evaluator(supernet, calibration, validation, memory_budget=budget, **options)(chosen)
    alone = lasfast.Evaluator(supernet, calibration, validation, **options)
    for architecture, measurement in zip(chosen, together, strict=True):
        [expected] = alone([architecture])
        assert measurement.architecture == architecture
        assert measurement.correct == expected.correct
        assert measurement.loss == pytest.approx(expected.loss, rel=1e-6)
        if budget is None:
            assert measurement == expected


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


def test_too_little_memory_halves_what_is_asked_at_once(
    supernet, calibration, validation, backend: str, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    evaluator = lasfast.Evaluator(supernet, calibration, validation, backend)
    expected = evaluator(ARCHITECTURES)
    original, asked = evaluator.backend.calibrate, []

    def calibrate(plan, batches, convention):
        asked.append(len(plan.paths))
        if len(plan.paths) > 1:
            raise torch.OutOfMemoryError("as of a GPU")
        return original(plan, batches, convention)

    monkeypatch.setattr(evaluator.backend, "calibrate", calibrate)
    assert evaluator(ARCHITECTURES) == expected
    assert asked[:2] == [len(ARCHITECTURES), len(ARCHITECTURES) // 2]
    assert "not enough memory" in caplog.text
    monkeypatch.setattr(
        evaluator.backend, "calibrate", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError)
    )
    with pytest.raises(torch.OutOfMemoryError, match=r"cpu has too little.* batches of 23 images; make them"):
        evaluator(ARCHITECTURES[:1])


@needs_native
def test_a_supernet_that_moved_is_refused(calibration, validation) -> None:
    supernet = supernets.ResidualNet((1, 1, 1), 7)
    evaluator = lasfast.Evaluator(supernet, calibration, validation, "native")
    with pytest.raises(ValueError, match="images are on meta, but the supernet is on cpu"):
        evaluator.backend.calibrate(PrefixTree([supernet.path((1, 1, 1))]), [calibration.to("meta")], "ema")
    supernet.to("meta")
    with pytest.raises(ValueError, match="was on cpu when this was made and is on meta now; make a new one"):
        evaluator([(1, 1, 1)])


def test_auto_says_why_it_takes_torch(supernet, calibration, validation, monkeypatch, caplog) -> None:
    reason = "this build of lasfast has no CUDA kernels"
    monkeypatch.setattr("lasfast.evaluation.backends.why_missing", lambda device: reason)
    evaluator = lasfast.Evaluator(supernet, calibration, validation)
    assert isinstance(evaluator.backend, TorchBackend)
    assert caplog.messages == [f"lasfast evaluates with PyTorch's operators: {reason}"]
    with pytest.raises(ValueError, match=f"backend 'native' cannot run this supernet: {reason}"):
        lasfast.Evaluator(supernet, calibration, validation, "native")


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
        parts = [(part.split(7), DataLoader(TensorDataset(*pair), 9)) for part, pair in parts]
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


class Columns(layers.Op):
    """Images to [N, C * H, W], which is neither an image nor features; `Rows` makes images of it again."""

    def output_shape(self, *shapes: layers.Shape) -> layers.Shape:
        channels, height, width = shapes[0]
        return (channels * height, width)


class Rows(layers.Op):
    def output_shape(self, *shapes: layers.Shape) -> layers.Shape:
        return (64, shapes[0][0] // 64, shapes[0][1])


@run_op.register
def _(op: Columns, modules, x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1, 2)


@run_op.register
def _(op: Rows, modules, x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(1, (64, -1))


class Gated(supernets.ResidualNet):
    """Has ops of its own in its third group, between which nothing native has a place."""

    def __init__(self, *, everywhere: bool = True) -> None:
        self.everywhere = everywhere
        super().__init__((2, 2, 2), 7)

    def group_end(self, group: int) -> supernets.Path:
        return () if group < 2 else (supernets.Layer("gate", (Columns(), Rows())),)

    def path(self, architecture) -> supernets.Path:
        path = super().path(architecture)
        deep = self.everywhere or tuple(architecture) == (1, 1, 1)
        return path if deep else tuple(layer for layer in path if layer.name != "gate")


@needs_native
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_auto_takes_native_where_it_can(supernet, calibration, validation, precision: str) -> None:
    assert isinstance(
        lasfast.Evaluator(supernet, calibration, validation, precision=precision).backend, NativeBackend
    )
    evaluator = lasfast.Evaluator(Gated(), calibration, validation, precision=precision)
    assert isinstance(evaluator.backend, TorchBackend)
    assert evaluator.describe()["backend"] == "torch"
    assert len(evaluator(ARCHITECTURES)) == len(ARCHITECTURES)


@needs_native
def test_auto_changes_to_torch_when_it_meets_what_native_cannot_run(calibration, validation, caplog) -> None:
    supernet = Gated(everywhere=False)
    evaluator = lasfast.Evaluator(supernet, calibration, validation)
    assert isinstance(evaluator.backend, NativeBackend)
    expected = lasfast.Evaluator(supernet, calibration, validation, "torch")(ARCHITECTURES)
    assert evaluator(ARCHITECTURES) == expected
    assert isinstance(evaluator.backend, TorchBackend)
    assert "layer 'gate': Columns" in caplog.text


@needs_native
def test_native_says_what_it_cannot_run(calibration, validation) -> None:
    with pytest.raises(ValueError, match=r"backend 'native' cannot run this.*layer 'gate': Columns: makes"):
        lasfast.Evaluator(Gated(), calibration, validation, "native")
    evaluator = lasfast.Evaluator(Gated(everywhere=False), calibration, validation, "native")
    assert len(evaluator([(2, 2, 2)])) == 1
    with pytest.raises(ValueError, match=r"backend 'native' cannot run this.*layer 'gate': Columns: makes"):
        evaluator(ARCHITECTURES)


def test_without_the_compiled_module_auto_is_torch(supernet, calibration, validation, monkeypatch) -> None:
    monkeypatch.setattr("lasfast.runtime.compiled._C", None)
    assert isinstance(lasfast.Evaluator(supernet, calibration, validation).backend, TorchBackend)
    with pytest.raises(ValueError, match="compiled module is missing"):
        lasfast.Evaluator(supernet, calibration, validation, "native")


@needs_native
def test_the_workspace_stays_within_the_budget(supernet, calibration, validation) -> None:
    budget = 2_000_000
    options = {"calibration_batch": 6, "memory_budget": budget}
    evaluator = lasfast.Evaluator(supernet, calibration, validation, "native", **options)
    evaluator(list(supernet.space.enumerate()))
    assert isinstance(evaluator.backend, NativeBackend)
    assert 0 < evaluator.backend.held_bytes <= budget


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
        ({"calibration": []}, ValueError, "calibration gave no batch"),
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


@pytest.mark.parametrize("error", [0.0, 0.2])
def test_a_race_keeps_what_is_best_and_measures_it_in_full(
    supernet, calibration, validation, backend: str, error: float
) -> None:
    evaluator = lasfast.Evaluator(
        supernet, calibration, validation, backend, calibration_batch=8, validation_batch=6
    )
    result = evaluator.race([*ARCHITECTURES, ARCHITECTURES[0]], keep=2, error=error)
    everything = evaluator(ARCHITECTURES)
    assert result.kept == sorted(everything, key=lambda one: -one.top1)[:2]
    kept = {one.architecture for one in result.kept}
    assert [one.architecture for one in result.dropped] == [one for one in ARCHITECTURES if one not in kept]
    assert result.full == 41 * 5
    assert result.predicted == 2 * 41 + sum(one.images for one in result.dropped)
    assert result.saved == 1 - result.predicted / result.full
    for one in result.dropped:
        assert one in everything or (one.images < 41 and one.correct == b"")


def test_a_race_drops_who_is_far_behind(supernet, calibration, validation, backend: str) -> None:
    """Labels that one architecture gives: all others are behind, and see less."""
    images, _ = validation
    supernet = copy.deepcopy(supernet)
    logits = lasfast.Evaluator(supernet, calibration, validation, "torch").extract((2, 1, 1))(images).detach()
    with torch.no_grad():  # untrained networks say the same of all images, but for this
        supernet.get_parameter("classifier.fc.bias").sub_(logits.mean(0))
    labelled = (images, (logits - logits.mean(0)).argmax(1))
    for options in ({}, {"memory_budget": 300_000}):
        evaluator = lasfast.Evaluator(supernet, calibration, labelled, backend, validation_batch=4, **options)
        result = evaluator.race(ARCHITECTURES, keep=1, error=0.0)
        [winner] = result.kept
        assert (winner.architecture, winner.top1, winner.images) == ((2, 1, 1), 1.0, 41)
        assert result.saved > 0
        assert [winner.correct] == [one.correct for one in evaluator([(2, 1, 1)])]


def test_a_race_of_unsorted_images_is_fair(supernet, calibration, validation, backend: str) -> None:
    """Images sorted by class are seen in random order."""
    images, labels = validation
    order = labels.argsort(stable=True)
    evaluator = lasfast.Evaluator(
        supernet, calibration, (images[order], labels[order]), backend, validation_batch=10
    )
    seen = []
    original = evaluator.backend.predict_batches

    def predict_batches(plan, statistics, batches):
        return original(plan, statistics, (seen.append(batch.clone()) or batch for batch in batches))

    evaluator.backend.predict_batches = predict_batches
    evaluator.race(ARCHITECTURES[:2], keep=1)
    classes = [labels[(images == image).flatten(1).all(1)].item() for image in seen[0]]
    assert len(set(classes)) > 2


def test_a_race_refuses_what_it_cannot_run(supernet, calibration, validation, backend: str) -> None:
    evaluator = lasfast.Evaluator(supernet, calibration, validation, backend)
    with pytest.raises(ValueError, match="keep must be at most the 5 candidates, got 6"):
        evaluator.race(ARCHITECTURES, keep=6)
    with pytest.raises(ValueError, match="architecture"):
        evaluator.race([(9, 1, 1)], keep=1)
    loader = DataLoader(TensorDataset(*validation), batch_size=9)
    evaluator = lasfast.Evaluator(supernet, calibration, loader, backend)
    with pytest.raises(TypeError, match=r"race needs validation images as tensors.*got a DataLoader"):
        evaluator.race(ARCHITECTURES, keep=1)
