from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lasfast.data import DataError
from lasfast.data.splits import (
    balanced_counts,
    balanced_subset,
    class_sizes,
    derive_seed,
    even_batches,
    hold_out,
    split_pool,
    stratified_counts,
)

sizes_lists = st.lists(st.integers(0, 40), min_size=1, max_size=8)


def as_array(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@given(sizes_lists, st.data())
def test_stratified_counts_are_in_proportion_and_leave_every_class_something(sizes, data):
    sizes = as_array(sizes)
    room = np.maximum(sizes - 1, 0)
    count = data.draw(st.integers(0, int(room.sum())))
    taken = stratified_counts(sizes, count)
    assert taken.sum() == count
    assert (taken >= 0).all()
    assert (taken <= room).all()
    share = sizes * (count / max(sizes.sum(), 1))
    if (np.ceil(share) <= room).all():  # no class is too small for its share
        assert (np.abs(taken - share) < 1 + 1e-9).all()


def test_stratified_counts_say_how_many_there_are():
    with pytest.raises(DataError, match=r"cannot hold 6 images out of 7 in 2 classes.*at most 5"):
        stratified_counts(as_array([3, 4]), 6)


@given(sizes_lists, st.integers(0, 400))
def test_balanced_counts_fill_up_evenly(sizes, count):
    sizes = as_array(sizes)
    taken = balanced_counts(sizes, count)
    assert taken.sum() == min(count, sizes.sum())
    assert (taken <= sizes).all()
    unfilled = taken[taken < sizes]
    if len(unfilled):  # whoever has images left got as many as anybody, but for the remainder
        assert unfilled.min() >= taken.max() - 1


def test_balanced_counts_example():
    assert balanced_counts(as_array([2, 9, 9]), 12).tolist() == [2, 5, 5]
    assert balanced_counts(as_array([2, 9, 9]), 13).tolist() == [2, 6, 5]


@given(st.lists(st.integers(3, 30), min_size=2, max_size=5), st.integers(0, 5), st.data())
def test_split_is_disjoint_stratified_and_repeatable(sizes, seed, data):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    classes = len(sizes)
    validation = data.draw(st.integers(1, sum(sizes) // 3))
    limit = data.draw(st.none() | st.integers(classes, sum(sizes)))
    calibration = data.draw(st.integers(1, sum(sizes)))

    def split(limit):
        return split_pool(
            labels, classes, validation=validation, limit=limit, calibration=calibration, seed=seed
        )

    first, again, unlimited = split(limit), split(limit), split(None)
    assert not set(first.train) & set(first.validation)
    assert set(first.calibration) <= set(first.train)
    assert len(first.validation) == validation
    assert len(first.calibration) == min(calibration, len(first.train))
    rest = len(labels) - validation
    assert len(first.train) == (rest if limit is None else min(limit, rest))
    held = class_sizes(labels[first.validation], classes)
    np.testing.assert_array_equal(held, stratified_counts(as_array(sizes), validation))
    kept = class_sizes(labels[unlimited.train], classes)
    np.testing.assert_array_equal(
        class_sizes(labels[first.train], classes), kept if limit is None else balanced_counts(kept, limit)
    )
    for part in ("train", "calibration", "validation"):
        np.testing.assert_array_equal(getattr(first, part), getattr(again, part))
        assert (np.diff(getattr(first, part)) > 0).all()
    np.testing.assert_array_equal(first.validation, unlimited.validation)  # whatever the limit


def test_seeds_choose_differently_and_smaller_subsets_are_nested():
    labels = np.repeat(np.arange(4), 50)
    assert set(hold_out(labels, 4, 20, 0)[1]) != set(hold_out(labels, 4, 20, 1)[1])
    assert set(balanced_subset(labels, 4, 40, 0)) < set(balanced_subset(labels, 4, 80, 0))


def test_derived_seeds_are_fixed_for_ever():
    # A changed value would silently give resumed trainings other batches.
    assert derive_seed("batch", 0, 1) == derive_seed("batch", 0, 1) == SEED_OF_BATCH_0_1
    assert len({derive_seed("batch", seed, k) for seed in range(-5, 5) for k in range(10)}) == 100
    assert derive_seed(1, 23) != derive_seed(12, 3)


SEED_OF_BATCH_0_1 = 7261781825409335539


@given(st.integers(1, 60), st.integers(1, 60))
def test_batches_are_nearly_equal_and_as_few_as_can_be(images, batch_size):
    batches = even_batches(images, batch_size)
    assert [position for batch in batches for position in range(images)[batch]] == list(range(images))
    sizes = [batch.stop - batch.start for batch in batches]
    assert len(batches) == -(-images // batch_size)
    assert batch_size >= sizes[0] >= sizes[-1] >= sizes[0] - 1
