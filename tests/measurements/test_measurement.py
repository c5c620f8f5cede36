import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lasfast.measurements.measurement import Measurement, as_value, paired_difference


def measured(right, architecture=(1, 2), loss=0.5):
    right = np.asarray(right, dtype=bool)
    return Measurement(architecture, right.mean(), 1.0, loss, len(right), np.packbits(right).tobytes())


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_keeps_which_images_were_right(right):
    assert measured(right).right().tolist() == right


@given(
    st.lists(st.booleans(), min_size=1, max_size=20),
    st.floats(allow_nan=False) | st.just(math.inf),
)
def test_survives_json_bit_for_bit(right, loss):
    measurement = measured(right, loss=loss)
    text = json.dumps(measurement.to_json(), allow_nan=False)
    assert Measurement.from_json(json.loads(text)) == measurement


def test_a_diverged_loss_survives_json():
    text = json.dumps(measured([True], loss=math.nan).to_json(), allow_nan=False)
    assert math.isnan(Measurement.from_json(json.loads(text)).loss)


def test_a_table_need_not_know_top5_nor_loss():
    measurement = Measurement((1, 2), 0.5, math.nan, math.nan, 100)
    again = Measurement.from_json(json.loads(json.dumps(measurement.to_json(), allow_nan=False)))
    assert math.isnan(again.top5)
    assert math.isnan(again.loss)


def test_numpy_numbers_become_plain_ones():
    measurement = Measurement(np.array([1, 2]), np.float32(0.5), np.float64(1), np.float32(2), np.int64(4))
    assert measurement == Measurement((1, 2), 0.5, 1.0, 2.0, 4)
    assert {type(value) for value in (measurement.top1, measurement.top5, measurement.loss)} == {float}
    assert type(measurement.images) is int
    json.dumps(measurement.to_json())


def test_is_immutable():
    with pytest.raises(AttributeError):
        measured([True]).top1 = 1.0


def test_unknown_images_cannot_be_asked_for():
    with pytest.raises(ValueError, match="does not say which images"):
        Measurement((1,), 0.5, 1.0, 0.1, 2).right()


def test_standard_error_is_the_binomial_one():
    assert Measurement((1,), 0.8, 1.0, 0.1, 400).standard_error == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"top1": 93.1}, ValueError, "top1 must be a share from 0 to 1, got 93.1"),
        ({"top1": math.nan}, ValueError, "top1 must be a share"),
        ({"top5": math.inf}, ValueError, "top5 must be a share"),
        ({"top1": "0.5"}, TypeError, "top1 must be a real number, got '0.5'"),
        ({"top1": True}, TypeError, "top1 must be a real number"),
        ({"images": 0}, ValueError, "images must be at least 1, got 0"),
        ({"images": 2.0}, TypeError, "images must be an int"),
        ({"architecture": "1-2"}, TypeError, "architecture must be a sequence of ints"),
        ({"architecture": (1, 2.5)}, TypeError, "architecture must hold only ints"),
        ({"correct": b"\x80\x00"}, ValueError, "correct must hold 1 bytes for 2 images, got 2"),
        ({"correct": b"\x81"}, ValueError, "zero bits after the 2 images"),
        ({"correct": b"\xc0"}, ValueError, "has 2 of 2 images right, but top1 is 0.5"),
        ({"correct": "gA=="}, TypeError, "correct must be bytes"),
    ],
)
def test_wrong_fields_are_named(change, error, text):
    good = {"architecture": (1, 2), "top1": 0.5, "top5": 1.0, "loss": 0.1, "images": 2, "correct": b"\x80"}
    Measurement(**good)
    with pytest.raises(error, match=text):
        Measurement(**{**good, **change})


@pytest.mark.parametrize(
    "change",
    [{"loss": None}, {"correct": "?"}, {"correct": None}, {"more": 1}, {"top1": "0.5"}, {"loss": "x"}],
)
def test_wrong_json_is_refused(change):
    record = {**measured([True, False]).to_json(), **change}
    with pytest.raises((TypeError, ValueError)):
        Measurement.from_json(record)


def test_json_without_a_field_is_refused():
    record = measured([True, False]).to_json()
    del record["images"]
    with pytest.raises(ValueError, match="must have exactly"):
        Measurement.from_json(record)


def test_paired_difference_counts_only_the_images_that_differ():
    a = measured([1] * 90 + [1] * 6 + [0] * 2 + [0] * 2)
    b = measured([1] * 90 + [0] * 6 + [1] * 2 + [0] * 2)
    difference, error = paired_difference(a, b)
    assert difference == pytest.approx(0.04)
    assert error == pytest.approx(math.sqrt((0.08 - 0.04**2) / 100))
    assert error < math.hypot(a.standard_error, b.standard_error)
    assert paired_difference(a, a) == (0.0, 0.0)


def test_paired_difference_needs_the_same_images():
    with pytest.raises(ValueError, match="got 2 and 3 images"):
        paired_difference(measured([1, 0]), measured([1, 0, 0]))


def test_value_of_a_measurement_or_number():
    assert as_value(measured([1, 0])) == 0.5
    assert as_value(np.float32(0.25)) == 0.25
    with pytest.raises(ValueError, match="accuracy must be a finite number, got inf"):
        as_value(math.inf, "accuracy")
    with pytest.raises(TypeError, match="value must be a real number, got None"):
        as_value(None)


def test_errors_are_those_of_the_runs_or_of_the_images_or_not_known():
    unknown = Measurement((1,), 0.5, math.nan, math.nan, None)
    assert math.isnan(unknown.standard_error)
    assert Measurement((1,), 0.5, math.nan, math.nan, 100).standard_error == 0.05
    runs = Measurement((1,), 0.5, math.nan, math.nan, 100, error_of_runs=0.01)
    assert runs.standard_error == 0.01
    for one in (unknown, runs):
        again = Measurement.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False)))
        assert (again.images, again.error_of_runs) == (one.images, one.error_of_runs)
    assert "error_of_runs" not in unknown.to_json(), "journals of earlier versions have none"
    with pytest.raises(ValueError, match=r"error_of_runs must be at least 0, got -0\.1"):
        Measurement((1,), 0.5, 1.0, 0.1, None, error_of_runs=-0.1)
    with pytest.raises(TypeError, match="images must be an int, got None"):
        Measurement((1,), 0.5, 1.0, 0.1, None, b"\x80")
