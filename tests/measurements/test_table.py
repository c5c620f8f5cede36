import itertools
import zipfile

import numpy as np
import pytest

from lasfast.constraints import Constraint
from lasfast.measurements.schema import Schema
from lasfast.measurements.table import ArchitectureTable
from lasfast.measurements.tabular import TabularEvaluator
from lasfast.spaces import ChoiceSpace

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
        ({"accuracy": np.full(12, np.nan)}, "some row must have all of networks, accuracy, macs, got 12"),
        (
            {"accuracy": np.full(12, 101.0)},
            "accuracy must be shares from 0 to 1, or percent, got 101 of 0-0-0",
        ),
        (
            {"accuracy": np.full(12, -0.1)},
            "accuracy must be shares from 0 to 1, or percent, got -0.1 of 0-0-0",
        ),
        ({"accuracy": np.zeros(11)}, "accuracy must have a value for each of the 12 architectures"),
        ({"macs": np.zeros((12, 2))}, r"cost macs must have a number for each .*\(12, 2\)"),
        ({"networks": np.zeros((12, 3), int)}, "must be different, got 0-0-0 12 times; several trainings"),
        ({"networks": np.zeros((12, 3))}, r"architectures must be ints \[N, layers\], got float64"),
        ({"networks": np.array(["a-b"] * 12)}, r"must be different, got a-b 12 times; .* keep one row"),
        (
            {"networks": np.array(["0-1"] * 11 + ["0"])},
            r"as many decisions each, joined by '-', got '0-1' with 2 and '0' with 1; a name .* has no '-'",
        ),
        ({"networks": np.array(["0-1"] * 11 + ["0-"])}, r"must be options joined by '-', got '0-'"),
        ({"networks": np.array(["0"] * 11 + ["9" * 20])}, "must be numbers of up to 9 digits, got 9999"),
        ({"networks": np.array([["0-1", "1-1"]] * 12)}, r"architectures must be texts \[N\], got shape"),
        ({"macs": np.arange(12) - 2}, r"cost macs must be 0 or more, got -2 of 0-0-0; where it is not known"),
        ({"macs": np.full(12, "1,5")}, r"macs must be numbers, .* got '1,5' of 0-0-0; .* behind a point"),
        ({"macs": np.zeros(12, complex)}, "macs must be numbers, got complex128"),
        (
            {"accuracy": np.zeros((12, 3, 2))},
            r"must be \[N\] or .* write accuracy\[0\] to .*2\]",
        ),
        ({"networks": np.array([{}] * 12)}, "allow_pickle=False"),
        ({"networks": np.array("0-1")}, r"networks must be a column \[N, ...\], got a single value"),
        ({"networks": np.array([], str), "accuracy": [], "macs": []}, "must be a row for each architecture"),
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
        "networks,macs,accuracy\n0-1,3,0.5\n0-1-1,3,0.5\n",
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
    assert isinstance(small_table().space(), ChoiceSpace)


def test_the_space_of_an_incomplete_table_is_a_list():
    part = ArchitectureTable(ARCHITECTURES[1:], np.zeros(11), {})
    space = part.space()
    assert list(space.enumerate()) == ARCHITECTURES[1:]
    assert space.lacks(ARCHITECTURES[0])
    assert not space.lacks(ARCHITECTURES[1])
    from_one = ArchitectureTable([(1, 1), (2, 1)], np.zeros(2), {})
    assert from_one.space().options == (range(1, 3), range(1, 2))
    space = small_table().space()
    assert TabularEvaluator(part, space=space)(ARCHITECTURES[1:2])[0].top1 == 0


def test_layer_assignments_are_those_that_are_listed():
    table = ArchitectureTable([(1, 2), (2, 1), (3, 1)], np.zeros(3), {})
    space = table.assignments()
    assert (space.max_layers, space.max_depth) == ((3, 2), 4)
    assert space.lacks((2, 2))
    assert not space.lacks((3, 1))
    with pytest.raises(ValueError, match=r"must be layer assignments, with at least 1 layer .* got 0-0-0"):
        small_table().assignments()


def test_options_have_names(tmp_path):
    text = "networks,macs,accuracy\n" + "".join(
        f"{a}-{b},{number},0.5\n" for number, (a, b) in enumerate(itertools.product(["skip", "3x3"], "xy"))
    )
    table = ArchitectureTable.load(write_csv(tmp_path / "t.csv", text), SCHEMA)
    space = table.space()
    assert isinstance(space, ChoiceSpace)
    assert space.parse("skip-y") == (1, 1)
    assert table.cost("macs")(space.parse("skip-y")) == 1
    part = ArchitectureTable(table.architectures[:3], np.zeros(3), {}, names=table.names).space()
    assert part.format(part.parse("skip-x")) == "skip-x"
    assert part.describe()["names"] == [["3x3", "skip"], ["x", "y"]]
    for refused in ("skip", "skip-z", "3x3-y"):
        with pytest.raises(ValueError, match="must be"):
            part.parse(refused)


COSTS = ("macs=MACs (M):M", "latency@edge=edge gpu [ms]:ms")
SETS = Schema("networks", "valid[cifar100]", COSTS, "test[1]", "hours:h", "key")


def write_sets(path, **change):
    """Two data sets with three runs each, of which the second was made of no network with an odd number."""
    runs = np.linspace(0.1, 0.9, 72).reshape(12, 2, 3)
    runs[1::2, :, 1] = np.nan
    columns = {
        "networks": np.array(ARCHITECTURES),
        "sets": np.array(["cifar10", "cifar100"]),
        "valid": runs,
        "test": np.arange(24.0).reshape(12, 2),
        "MACs (M)": np.arange(12),
        "edge gpu [ms]": np.full(12, 15.0),
        "hours": np.full(12, 0.5),
        "key": np.arange(12) // 2,
        **change,
    }
    np.savez(path, **columns)
    return path


def test_one_of_several_data_sets_is_read_with_units_and_keys(tmp_path):
    table = ArchitectureTable.load(write_sets(tmp_path / "t.npz"), SETS)
    valid = np.linspace(0.1, 0.9, 72).reshape(12, 2, 3)[:, 1]
    assert table.accuracies.shape == (12, 3)
    evaluator = TabularEvaluator(table, training_cost="seconds")
    first, second = evaluator(ARCHITECTURES[:2])
    assert first.top1 == pytest.approx(valid[0].mean())
    assert second.top1 == pytest.approx(valid[1, [0, 2]].mean())
    assert evaluator.test_top1(ARCHITECTURES[3]) == pytest.approx(0.07)
    assert table.cost("macs")(ARCHITECTURES[5]) == 5e6
    assert Constraint("latency<=15ms@edge", {"latency@edge": table.cost("latency@edge")})(ARCHITECTURES[0])
    assert evaluator.spent == 1800, "both are of one function, which is trained once"
    assert evaluator.trainings(ARCHITECTURES[:4]) == [1800, 0, 1800, 0]
    with pytest.raises(ValueError, match="run must be one of all architectures, got 1, made of 6 of 12"):
        TabularEvaluator(table, run=1)
    assert TabularEvaluator(table).test_top1(ARCHITECTURES[0]) == pytest.approx(0.01)
    assert TabularEvaluator(small_table()).test_top1(ARCHITECTURES[0]) is None


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (Schema("networks", "valid", ()), r"write valid\[SET\], where SET is one of cifar10, cifar100"),
        (Schema("networks", "valid[svhn]"), "the set must be one of cifar10, cifar100, got 'svhn'"),
        (Schema("networks", "test[2]"), "the set must be one of cifar10, cifar100, got '2'"),
        (Schema("networks", "hours[0]"), r"hours\[0\] must be a set of a column \[N, sets\], got shape"),
        (Schema("networks", "test[0]", ("valid[0]",)), r"cost valid\[0\] must have a number for each"),
        (Schema("networks", "test[0]", ("latency=hours:h",)), "the unit of latency must be one of s, ms, us"),
        (Schema("networks", "test[0]", ("a=hours", "a=key")), "a is there more than once"),
        (
            Schema("networks", "test[0]", ("loss=hours",)),
            "must have other names than .*, got loss; write NAME=loss",
        ),
        (Schema("networks", "test[0]", ("nothing",)), "there is no column nothing; it has networks, sets"),
        (Schema("networks", "test[0]", (), None, None, "test"), r"test must be \[N\]"),
    ],
)
def test_what_a_schema_has_wrong_is_named(tmp_path, schema, problem):
    with pytest.raises(ValueError, match=problem):
        ArchitectureTable.load(write_sets(tmp_path / "t.npz"), schema)


def test_data_sets_are_not_averaged_as_runs(tmp_path):
    path = write_sets(tmp_path / "t.npz")
    for schema in (Schema("networks", "test", ()), Schema("networks", "valid[0]", (), "test")):
        with pytest.raises(ValueError, match=r"of cifar10, cifar100; write test\[cifar10\]"):
            ArchitectureTable.load(path, schema)
    runs = ArchitectureTable.load(write_sets(path, sets=np.arange(2)), Schema("networks", "test", ()))
    assert runs.accuracies.shape == (12, 2), "nothing says that they are of two sets"


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "t.npz").touch()
    for schema in (None, Schema()):
        with pytest.raises(ValueError, match=r"t\.npz is no table of architectures"):
            ArchitectureTable.load(tmp_path / "t.npz", schema)


def test_what_is_no_number_is_named(tmp_path):
    text = "arch,mean_acc,flops\n0-0,50,3\n0-1,51,n/a\n"
    with pytest.raises(ValueError, match="flops must be numbers, or empty where unknown, got 'n/a'"):
        ArchitectureTable.load(write_csv(tmp_path / "t.csv", text))


def test_rows_that_lack_a_number_are_left_out(tmp_path, caplog):
    text = "arch,mean_acc,flops\n0-0,50,3\n0-1,,4\n1-0,52,\n1-1,53,6\n"
    table = ArchitectureTable.load(write_csv(tmp_path / "t.csv", text))
    assert table.architectures == [(0, 0), (1, 1)]
    assert table.costs.keys() == {"flops"}
    assert "2 of 4 rows lack a number and are left out" in caplog.text


def test_columns_are_named_by_commas_and_quotes():
    assert Schema.split('flops, "a,b" ,latency=t:ms,') == ("flops", "a,b", "latency=t:ms")
    assert Schema.split("") == ()


def test_default_columns_are_found_by_any_separator(tmp_path):
    text = "arch;mean_acc;flops\n0-0;50;3\n0-1;51;4\n"
    assert ArchitectureTable.load(write_csv(tmp_path / "t.csv", text)).costs.keys() == {"flops"}
    commas = write_csv(tmp_path / "t.csv", text.replace("50", "50,3"))
    with pytest.raises(ValueError, match=r"mean_acc must be numbers, .* got '50,3' of 0-0; write .* a point"):
        ArchitectureTable.load(commas)
    fields = write_csv(tmp_path / "t.csv", "arch,mean_acc\n0-0,50,3\n")
    with pytest.raises(ValueError, match="line 2 has 3 fields, but the first 2: a field with a comma"):
        ArchitectureTable.load(fields)


def test_architectures_without_a_key_share_it_with_none(tmp_path):
    schema = Schema("arch", "mean_acc", (), key="key")
    text = "arch,mean_acc,key\n0-0,50,\n0-1,51,\n1-0,52,a\n1-1,53,a\n"
    space = ArchitectureTable.load(write_csv(tmp_path / "t.csv", text), schema).space()
    assert len({space.key(one) for one in space.enumerate()}) == 3


def test_texts_may_be_bytes_and_other_files_beside_the_columns(tmp_path):
    path = write_npz(
        tmp_path / "t.npz", networks=np.array([b"a-b", b"a-c"]), accuracy=[0.5, 0.6], macs=[1, 2]
    )
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("readme.txt", "networks")
    assert ArchitectureTable.load(path, SCHEMA).names == (("a",), ("b", "c"))


def test_large_numbers_of_options_take_no_memory(tmp_path):
    text = "arch,mean_acc\n999999999-0,50\n0-0,51\n"
    space = ArchitectureTable.load(write_csv(tmp_path / "t.csv", text)).space()
    assert space.options == ((0, 999_999_999), range(1))
