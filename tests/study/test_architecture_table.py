import dataclasses
import math

import pytest

from lasfast.measurements.measurement import Measurement
from lasfast.study.architecture_table import Row, compare, load_table, save_table

ROWS = [
    Row((2, 1), 3, 0.1, 0.3, 2.5, 123456, 789, 20, 5),
    Row((1, 2), 3, 1 / 3, 1.0, float("inf"), 1, 2, 3, 4),
]


def test_numbers_come_back_exactly(tmp_path):
    save_table(tmp_path / "table.csv", ROWS)
    assert load_table(tmp_path / "table.csv") == ROWS


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [("789", "many", 2), ("2-1,3,", "2-1,0,", 2), ("0.1", "1.5", 2), (",4\n", "\n", 3), ("2-1", "2.1", 2)],
)
def test_a_damaged_table_is_named(tmp_path, old, new, line):
    path = tmp_path / "table.csv"
    save_table(path, ROWS)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"table\.csv is damaged at line {line}: "):
        load_table(path)
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="is no table of architectures: its first line"):
        load_table(path)


def measurement(architecture, top1):
    return Measurement(architecture, top1, 1.0, 1.0, 100)


def test_comparison_with_one_shot_accuracies():
    accuracies = {(1, 2): 0.5, (2, 1): 0.6, (3, 1): 0.7, (2, 2): 0.8, (1, 3): 0.9, (4, 1): 0.95}
    table = [
        dataclasses.replace(ROWS[0], architecture=architecture, depth=sum(architecture), top1=top1)
        for architecture, top1 in accuracies.items()
    ]
    one_shot = [
        measurement((1, 2), 0.3),
        measurement((2, 1), 0.3),
        measurement((3, 1), 0.4),
        measurement((2, 2), 0.6),
        measurement((1, 3), 0.5),
        measurement((9, 9), 0.1),  # not in the table
    ]
    overall, by_depth = compare(table, one_shot)
    assert overall.count == 5
    assert overall.gap == pytest.approx((0.2 + 0.3 + 0.3 + 0.2 + 0.4) / 5)
    assert sorted(by_depth) == [3, 4]
    assert math.isnan(by_depth[3].tau)  # both are equally good with inherited weights
    assert by_depth[4].count == 3
    assert by_depth[4].gap == pytest.approx(0.3)
    assert by_depth[4].tau == pytest.approx(1 / 3)  # of three pairs, one is the other way round
    assert by_depth[4].rho == pytest.approx(0.5)
    single, _ = compare(table, one_shot[:1])
    assert (single.count, single.gap) == (1, pytest.approx(0.2))
    assert math.isnan(single.tau)
    with pytest.raises(ValueError, match="no architecture in common"):
        compare(table, one_shot[-1:])
