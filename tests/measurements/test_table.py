import itertools

import numpy as np
import pytest

from lasfast.measurements.table import ArchitectureTable, Schema
from lasfast.measurements.tabular import TabularEvaluator

ARCHITECTURES = list(itertools.product(range(2), range(3), range(2)))
SCHEMA = Schema("networks", "accuracy", ("macs",))


def small_table(runs=3):
    rng = np.random.default_rng(0)
    accuracies = rng.uniform(0.5, 0.9, (len(ARCHITECTURES), runs))
    return ArchitectureTable(ARCHITECTURES, accuracies, {"macs": [10 * sum(a) for a in ARCHITECTURES]})


def write_npz(path, **change):
    columns = {
        "networks": np.array(ARCHITECTURES, np.uint8),
        "accuracy": np.linspace(50, 90, len(ARCHITECTURES), dtype=np.float32),
        "macs": np.arange(len(ARCHITECTURES)),
        **change,
    }
    np.savez(path, **{name: column for name, column in columns.items() if column is not None})
    return path


def write_csv(path, text):
    path.write_text(text)
    return path


def test_reads_npz(tmp_path):
    table = ArchitectureTable.load(write_npz(tmp_path / "t.npz"), SCHEMA)
    assert table.architectures == ARCHITECTURES
    assert len(table) == 12
    assert table.accuracies[:, 0] == pytest.approx(np.linspace(0.5, 0.9, 12), abs=1e-6)
    assert table.cost("macs")((1, 2, 1)) == 11
    assert table.best()[0] == (1, 2, 1)
    assert table.best(lambda one: one[0] == 0) == ((0, 2, 1), pytest.approx(table.accuracies[5, 0]))
    assert (1, 2, 1) in table
    assert (2, 2, 1) not in table


def test_reads_csv(tmp_path):
    text = "note,networks,macs,accuracy\n" + "".join(
        f"x,{'-'.join(map(str, a))},{number},{0.5 + number / 100}\n" for number, a in enumerate(ARCHITECTURES)
    )
    table = ArchitectureTable.load(write_csv(tmp_path / "t.csv", text), SCHEMA)
    assert table.architectures == ARCHITECTURES
    assert table.accuracies[:, 0].tolist() == [0.5 + number / 100 for number in range(12)]
    assert table.cost("macs")((0, 1, 0)) == 2


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_reads_csv_of_spreadsheets(tmp_path, separator):
    lines = [
        ("networks", "macs", "accuracy", ""),
        ("0-1", "3", "50", ""),
        ("", "", "", ""),
        ("1-1", "4", "60", ""),
    ]
    text = "\ufeff" + "\r\n".join(map(separator.join, lines)) + "\r\n\r\n"
    path = tmp_path / "T.CSV"
    path.write_bytes(text.encode())
    table = ArchitectureTable.load(path, SCHEMA)
    assert table.architectures == [(0, 1), (1, 1)]
    assert table.accuracies[:, 0].tolist() == [0.5, 0.6]
    assert table.cost("macs")((1, 1)) == 4


def test_reads_what_an_architecture_dataset_writes(tmp_path):
    text = "architecture,depth,top1,top5,loss,flops,params,epochs,seed\n1-2,3,0.5,1.0,1.5,100,20,3,7\n"
    table = ArchitectureTable.load(
        write_csv(tmp_path / "table.csv", text), Schema("architecture", "top1", ("flops", "params"))
    )
    assert table.architectures == [(1, 2)]
    assert table.cost("params")((1, 2)) == 20


def test_several_runs_are_read(tmp_path):
    accuracies = np.arange(36, dtype=np.float32).reshape(12, 3) + 50
    table = ArchitectureTable.load(write_npz(tmp_path / "t.npz", accuracy=accuracies), SCHEMA)
    assert table.accuracies.shape == (12, 3)
    assert [m.top1 for m in TabularEvaluator(table, run=2)(ARCHITECTURES[:2])] == [0.52, 0.55]
    assert [m.top1 for m in TabularEvaluator(table)(ARCHITECTURES[:2])] == [0.51, 0.54]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"macs": None}, "there is no column macs; it has networks, accuracy"),
        ({"accuracy": np.full(12, np.nan)}, "accuracies must be finite numbers"),
        ({"accuracy": np.full(12, 101.0)}, "accuracies must be shares from 0 to 1"),
        ({"accuracy": np.full(12, -0.1)}, "accuracies must be shares from 0 to 1"),
        ({"accuracy": np.zeros(11)}, "accuracies must have a number for each of the 12 architectures"),
        ({"macs": np.zeros((12, 2))}, r"cost macs must have a number for each .*\(12, 2\)"),
        ({"networks": np.zeros((12, 3), int)}, r"must be different, but \(0, 0, 0\) is there more than once"),
        ({"networks": np.zeros((12, 3))}, r"architectures must be ints \[N, layers\], got float64"),
        ({"networks": np.array(["0-1"] * 12)}, "architectures must be ints"),
        ({"networks": np.array([{}] * 12)}, "allow_pickle=False"),
    ],
)
def test_a_table_that_does_not_fit_is_named(tmp_path, change, problem):
    path = write_npz(tmp_path / "t.npz", **change)
    with pytest.raises(ValueError, match=rf"t\.npz is no table of architectures by .*{problem}"):
        ArchitectureTable.load(path, SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "networks,macs,accuracy\n0-1,3\n",
        "networks,macs,accuracy\n0-x,3,0.5\n",
        "networks,macs,accuracy\n0-1,3,?\n",
        "networks;macs;accuracy\n0-1;3;0,5\n",
        "networks,macs,macs,accuracy\n0-1,3,4,0.5\n",
        'networks,macs,accuracy\n0-1,3,"0.5\n',
    ],
)
def test_a_damaged_csv_is_named(tmp_path, text):
    with pytest.raises(ValueError, match=r"t\.csv is no table"):
        ArchitectureTable.load(write_csv(tmp_path / "t.csv", text), SCHEMA)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "t.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"t\.npz is no table"):
        ArchitectureTable.load(tmp_path / "t.npz")
    with pytest.raises(ValueError, match=r"suffix must be one of '.npz', '.csv', got '.txt'"):
        ArchitectureTable.load(tmp_path / "t.txt")
    with pytest.raises(FileNotFoundError):
        ArchitectureTable.load(tmp_path / "nothing.npz")


def test_the_space_is_that_of_all_combinations():
    assert list(small_table().space().enumerate()) == ARCHITECTURES
    part = ArchitectureTable(ARCHITECTURES[:11], np.zeros(11), {})
    with pytest.raises(ValueError, match=r"must hold every architecture of .*12 in all.*it holds 11"):
        part.space()
    from_one = ArchitectureTable([(1, 1), (2, 1)], np.zeros(2), {})
    with pytest.raises(ValueError, match="options numbered from 0"):
        from_one.space()
    space = small_table().space()
    assert TabularEvaluator(part, space=space)(ARCHITECTURES[:1])[0].top1 == 0
