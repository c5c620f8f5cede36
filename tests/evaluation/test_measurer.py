"""Measuring many architectures at once: in chunks that fit in memory, and in races."""

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

import lasfast
from lasfast.engine import NativeBackend
from lasfast.engine.native_backend import why_missing

MISSING = why_missing(torch.device("cpu"))
needs_native = pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
ARCHITECTURES = [(1, 1, 2), (1, 2, 1), (2, 1, 1), (2, 2, 2), (1, 1, 1)]


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
def test_the_workspace_stays_within_the_budget(supernet, calibration, validation) -> None:
    budget = 2_000_000
    options = {"calibration_batch": 6, "memory_budget": budget}
    evaluator = lasfast.Evaluator(supernet, calibration, validation, "native", **options)
    evaluator(list(supernet.space.enumerate()))
    assert isinstance(evaluator.backend, NativeBackend)
    assert 0 < evaluator.backend.held_bytes <= budget


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
    original = evaluator.backend.score_batches

    def score_batches(plan, statistics, batches):
        return original(plan, statistics, (seen.append(batch[0].clone()) or batch for batch in batches))

    evaluator.backend.score_batches = score_batches
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
