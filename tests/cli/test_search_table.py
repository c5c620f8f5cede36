"""Searches in a table of trained networks, on the command line."""

import bz2
import itertools
import json
import pickle
import re

import numpy as np
import pytest

from lasfast.study.comparison import Comparison

SEARCHES = {
    "layernas": ["--buckets", 10, "--replicas", 2],
    "evolution": ["--population", 8, "--generations", 3],
    "predictor": ["--initial", 5, "--evaluations", 20],
    "local": ["--evaluations", 20],
    "auto": ["--evaluations", 20],
    "pareto": ["--initial", 5, "--evaluations", 60],
    "regularized": ["--population", 8, "--sample", 3, "--evaluations", 30],
    "random": ["--samples", 30],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """81 networks of four layers; every layer helps, and costs."""
    path = tmp_path_factory.mktemp("tables") / "chain.npz"
    architectures = np.array(list(itertools.product(range(3), repeat=4)))
    weights = np.array([4.0, 3.0, 2.0, 1.0])
    accuracies = 60 + (np.sqrt(architectures) * weights).sum(1)
    np.savez(
        path,
        arch=architectures,
        mean_acc=accuracies,
        flops=10**6 * (1 + architectures.sum(1)),
        params=10**5 * (1 + (architectures * [1, 1, 2, 2]).sum(1)),
    )
    return path


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_within_a_constraint(lasfast, table, tmp_path, name: str) -> None:
    arguments = ["search", name, "--table", table, *SEARCHES[name], "-o", tmp_path / "run"]
    arguments += ["--constraint", "flops<=5M,params<=800k"]
    status, out, err = lasfast(*arguments)
    assert status == 0, err
    assert (
        "the best there is, of 49 architectures within flops<=5M,params<=800k: 2-1-1-0  top-1 70.66 %; "
        in out
    )
    best = json.loads((tmp_path / "run" / "result.json").read_text())["best"]
    assert best["flops"] <= 5e6
    assert best["params"] <= 8e5
    assert f"best: {best['text']}  top-1 {100 * best['top1']:.2f} %  " in out
    assert "±" not in out, "nothing says on how many images accuracies were measured"
    assert "--table-images" in out
    assert (tmp_path / "run" / "search.png").read_bytes().startswith(b"\x89PNG")

    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    assert lasfast(*arguments)[0] == 2
    assert lasfast(*arguments, "--resume")[0] == 0
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before

    status, out, err = lasfast("verify", tmp_path / "run")
    assert status == 0, err
    text = f"{before.count(b'crc') - 1} measurements read; the search by them is the same, and finds "
    assert text + best["text"] in out
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before


def compared() -> dict:
    return Comparison("flops", "0-0-0-0", 1e6, 0.5, 0.1, 5, ()).to_json()


def test_a_result_that_the_journal_does_not_give_is_found(lasfast, table, tmp_path) -> None:
    run = tmp_path / "run"
    assert lasfast("search", "random", "--table", table, "--samples", 5, "-o", run)[0] == 0
    result = json.loads((run / "result.json").read_text())
    worst = min(itertools.chain(*result["steps"]), key=lambda one: one["top1"])
    (run / "result.json").write_text(json.dumps(result | {"best": worst}))
    status, _, err = lasfast("verify", run)
    assert status == 2
    assert "result.json must be what the search by journal.jsonl finds, got another best" in err
    for more, text in (
        (
            {"ended_early": "at depth 1"},
            "must be what the search by journal.jsonl finds, got another ended_early",
        ),
        ({"comparison": {"baselines": []}}, "result.json is damaged"),
        ({"comparison": compared()}, "must have no comparison, for which the command does not ask"),
    ):
        (run / "result.json").write_text(json.dumps(result | more))
        status, _, err = lasfast("verify", run)
        assert status == 2
        assert text in err
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"seed": 1}))
    status, _, err = lasfast("verify", run)
    assert status == 2
    assert f"{run / 'journal.jsonl'} belongs to a study with other settings: searcher.seed is 0 there" in err


def test_whole_layers_is_dynamic_programming(lasfast, table, tmp_path) -> None:
    arguments = ["--whole-layers", "--replicas", 1, "--constraint", "flops<=5M", "-o", tmp_path]
    status, out, err = lasfast("search", "layernas", "--table", table, *arguments)
    assert status == 0, err
    assert "best: 2-1-1-0" in out
    header = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    assert header["searcher"]["parents"] is header["searcher"]["children"] is None
    assert header["searcher"]["cost"] == "flops"
    assert (
        1
        + max(json.loads(line)["step"] for line in (tmp_path / "journal.jsonl").read_text().splitlines()[1:])
        == 5
    )


def test_quiet_prints_the_result_only(lasfast, table, tmp_path) -> None:
    status, out, err = lasfast("search", "random", "--table", table, "--samples", 5, "-q", "-o", tmp_path)
    assert (status, err) == (0, "")
    assert re.fullmatch(r"best: \d-\d-\d-\d  top-1 \d+\.\d\d %  \d\.0 MFLOPs  \d+\.\d+ [kM] params\n", out)


def test_reads_csv_with_other_columns(lasfast, tmp_path) -> None:
    rows = [f"{a}-{b},{0.5 + a / 10 + b / 20},{a + b}" for a in range(3) for b in range(2)]
    (tmp_path / "t.csv").write_text("\n".join(["networks,top1,macs", *rows]) + "\n")
    columns = ["--architecture-column", "networks", "--accuracy-column", "top1", "--cost-columns", "macs"]
    arguments = ["--table", tmp_path / "t.csv", *columns, "--constraint", "macs<=2", "-o", tmp_path / "run"]
    status, out, err = lasfast("search", "evolution", *arguments)
    assert status == 0, err
    assert "best: 2-0  top-1 70.00 %" in out
    assert "\n 0-0  " in out, "what costs nothing is on the front"


def write_assignments(path):
    """Return what `lasfast dataset` writes for the depths 3 to 6 of two groups."""
    rows = [
        f"{a}-{b},{a + b},{0.5 + (2 * a + b) / 50},0.9,1.5,{10**6 * (a + b)},{10**5 * a},30,7"
        for a, b in itertools.product(range(1, 6), repeat=2)
        if 3 <= a + b <= 6
    ]
    path.write_text("\n".join(["architecture,depth,top1,top5,loss,flops,params,epochs,seed", *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "best"),
    [("nir", "5-1"), ("evolution", "5-1"), ("predictor", "5-1"), ("local", "5-1"), ("layernas", "4-1")],
)
def test_searches_what_dataset_writes(lasfast, tmp_path, name: str, best: str) -> None:
    """The table is incomplete: of two groups of up to 5 layers, it has those of 3 to 6 layers in all."""
    arguments = ["--table", write_assignments(tmp_path / "table.csv"), "-o", tmp_path / "run"]
    if name == "layernas":
        arguments += ["--constraint", "flops<=5M"]
    status, out, err = lasfast("search", name, *arguments)
    assert status == 0, err
    assert f"best: {best}  top-1" in out
    if name == "nir":
        header = json.loads((tmp_path / "run" / "journal.jsonl").read_text().splitlines()[0])
        assert header["searcher"]["depth"] == 9
        assert "and there are 14 architectures;" in out
        assert "8 of 14 architectures measured" in out
        best = "of 14 architectures of 3 to 6 layers: 5-1  top-1 72.00 %; the winner is this one"
        assert f"the best there is, {best}" in out


def test_a_published_table_becomes_one_to_search(lasfast, tmp_path) -> None:
    """The formats are tested in tests/study/test_published.py."""
    texts = [f"{a}:{b}:8:8:8" for a, b in itertools.product((8, 16), repeat=2)]
    run = {"epochs": 1, "flop": 3.0, "params": 0.2, "latency": [0.01], "train_times": {0: 60.0}}
    trained_on = ("cifar10-valid", "cifar10", "cifar100", "ImageNet16-120")
    results = [
        {(one, 7): run | {"eval_acc1es": {"x-valid@0": 50.0 + index, "x-test@0": 40.0}} for one in trained_on}
        for index in range(4)
    ]
    seeds = {one: [7] for one in trained_on}
    infos = {index: {"90": {"all_results": one, "dataset_seed": seeds}} for index, one in enumerate(results)}
    source = tmp_path / "sizes.pickle.pbz2"
    source.write_bytes(bz2.compress(pickle.dumps({"meta_archs": texts, "arch2infos": infos})))
    status, out, err = lasfast("table", source, tmp_path / "sizes.npz")
    assert status == 0, err
    assert "sizes.npz: 4 networks; arch [4], sets [3], valid [4, 3, 1], test [4, 3, 1]" in out
    columns = ["--accuracy-column", "valid[cifar100]", "--test-column", "test[cifar100]"]
    columns += ["--time-column", "seconds[cifar100]", "--cost-columns", "latency=latency[cifar100]"]
    arguments = ["--table", tmp_path / "sizes.npz", *columns, "--evaluations", 3, "-o", tmp_path / "run"]
    status, out, err = lasfast("search", "auto", *arguments)
    assert status == 0, err
    assert re.search(r"best: \d+-\d+-8-8-8  top-1 5\d\.00 % .* test 40\.00 %", out)
    assert "training them takes 3:00" in out
    assert lasfast("table", source, tmp_path / "sizes.csv")[0] == 2


def test_nir_needs_assignments(lasfast, table, tmp_path) -> None:
    status, _, err = lasfast("search", "nir", "--table", table, "-o", tmp_path / "run")
    assert status == 2
    assert "architectures must be layer assignments, with at least 1 layer in each group, got 0-0-0-0" in err
    status, _, err = lasfast("search", "nir", "--table", table, "--update", "joint", "-o", tmp_path / "run")
    assert "--update joint is for supernets of layer assignments, not for a --table" in err


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Twenty-seven networks on two data sets; each is there three times, as the first layer does nothing."""
    path = tmp_path_factory.mktemp("tables") / "sets.npz"
    networks = np.array(list(itertools.product(range(3), repeat=3)))
    quality = networks[:, 1] + networks[:, 2] / 10
    np.savez(
        path,
        cell=np.array(["-".join(f"op{option}" for option in one) for one in networks]),
        sets=np.array(["mnist", "cifar"]),
        valid=np.stack([50 - quality, 50 + quality], axis=1),
        test=np.stack([40 - quality, 40 + quality], axis=1),
        lat_ms=2.0 + networks[:, 1:].sum(1),
        hours=np.full(27, 0.5),
        twin=networks[:, 1] * 3 + networks[:, 2],
    )
    return [
        *["--table", path, "--architecture-column", "cell", "--accuracy-column", "valid[cifar]"],
        *["--test-column", "test[cifar]", "--cost-columns", "latency@phone=lat_ms:ms"],
        *["--time-column", "hours:h", "--key-column", "twin"],
    ]


def test_a_table_of_several_data_sets_with_units_and_twins(lasfast, sets, tmp_path) -> None:
    arguments = [*sets, "--constraint", "latency<=5ms@phone", "-o", tmp_path / "run"]
    status, out, err = lasfast("search", "random", *arguments, "--evaluations", 27)
    assert status == 0, err
    assert "8 of 27 architectures measured" in out, "one of each function"
    assert "training them takes 4:00:00" in out
    assert re.search(
        r"the best there is, of 8 functions in 24 architectures within latency<=5ms@phone: op\d-op2-op1  "
        r"top-1 52\.10 %, test 42\.10 %; the winner (is this one|computes the same function)\n"
        r"the highest test accuracy of these: op\d-op2-op1  top-1 52\.10 %, test 42\.10 %\n",
        out,
    )
    assert re.search(r"best: op\d-op2-op1  top-1 52\.10 %  5\.00 ms \(latency@phone\)  test 42\.10 %", out)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["best"]["test_top1"] == pytest.approx(0.421)
    assert all("test_top1" not in one for step in result["steps"] for one in step)


@pytest.mark.parametrize("name", ["evolution", "random", "predictor", "regularized"])
def test_a_budget_of_training_time_ends_a_search(lasfast, sets, tmp_path, name: str) -> None:
    arguments = [*sets, *SEARCHES[name], "--seconds", 3 * 1800 + 100, "-o", tmp_path / "run"]
    status, out, err = lasfast("search", name, *arguments)
    assert status == 0, err
    assert "3 of 27 architectures measured" in out
    before = (tmp_path / "run" / "result.json").read_bytes()
    assert lasfast("search", name, *arguments, "--resume")[0] == 0
    assert (tmp_path / "run" / "result.json").read_bytes() == before


@pytest.mark.parametrize(("evaluations", "population"), [(13, 20), (250, 50)])
def test_evolution_makes_as_many_generations_as_evaluations_take(
    lasfast, tmp_path, evaluations: int, population: int
) -> None:
    networks = [*itertools.product(range(3), repeat=6)]
    rows = [f"{'-'.join(map(str, one))},{0.5 + sum(one) / 40}" for one in networks]
    (tmp_path / "t.csv").write_text("\n".join(["arch,mean_acc", *rows]) + "\n")
    arguments = ["--table", tmp_path / "t.csv", "--evaluations", evaluations, "-o", tmp_path / "run"]
    status, out, err = lasfast("search", "evolution", *arguments)
    assert status == 0, err
    assert f"{evaluations} of 729 architectures measured" in out
    header = json.loads((tmp_path / "run" / "journal.jsonl").read_text().splitlines()[0])
    assert header["searcher"]["population"] == population
    assert header.get("budget") == ({"evaluations": 13} if evaluations == 13 else None)


def test_layernas_begins_with_the_architecture_that_it_is_told(lasfast, table, tmp_path) -> None:
    arguments = ["--table", table, "--constraint", "flops<=5M", "--default", "1-1-1-1", "-o", tmp_path]
    status, out, err = lasfast("search", "layernas", *arguments)
    assert status == 0, err
    assert "a range finds more with fewer evaluations: --constraint '4.5M<=flops<=5M'" in out
    header = json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[0])
    assert header["searcher"]["default"] == [1, 1, 1, 1]
    assert header["searcher"]["select"] == "best"


@pytest.mark.parametrize("name", SEARCHES)
def test_measured_latencies_are_no_sums_over_layers(lasfast, tmp_path, name: str) -> None:
    """Neighbouring layers that fit together are fast, so that no layer has a cheapest option."""
    networks = [*itertools.product(range(3), repeat=4)]
    latencies = {one: 5 - sum(a == b for a, b in itertools.pairwise(one)) + one[0] / 9 for one in networks}
    rows = [
        f"{'-'.join(map(str, one))},{0.5 + sum(one) / 40},{latency / 1000}"
        for one, latency in latencies.items()
    ]
    (tmp_path / "t.csv").write_text("\n".join(["arch,mean_acc,latency", *rows]) + "\n")
    table = ["--table", tmp_path / "t.csv", "--cost-columns", "latency", "-q", "-o", tmp_path / "run"]
    status, out, err = lasfast("search", name, *SEARCHES[name], *table, "--constraint", "2.1ms<=latency<=3ms")
    assert status == 0, err
    best = tuple(map(int, re.search(r"best: ([\d-]+)", out)[1].split("-")))
    assert 2.1 <= latencies[best] <= 3
    refused = lasfast(
        "search", name, *SEARCHES[name], *table[:-1], tmp_path / "no", "--constraint", "latency<=1ms"
    )
    assert refused[0] == 2
    assert "which have 2ms to 5.22222ms latency; got latency<=1ms: none that meets it was found" in refused[2]
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(("cost", "shown"), [("latency=t:ms", "2ms"), ("energy=t", "2")])
def test_the_front_is_of_the_cost_that_is_bounded(lasfast, tmp_path, cost: str, shown: str) -> None:
    rows = [f"{a}-{b},{50 + 3 * a + b},{1000 - a},{1 + a + b}" for a in range(3) for b in range(2)]
    (tmp_path / "t.csv").write_text("\n".join(["arch,mean_acc,flops,t", *rows]) + "\n")
    name, run = cost.partition("=")[0], tmp_path / "run"
    arguments = ["--table", tmp_path / "t.csv", "--cost-columns", f"{cost},flops", "--evaluations", 20]
    status, out, err = lasfast("search", "pareto", *arguments, "--constraint", f"{name}>=0", "-o", run)
    assert status == 0, err
    front = [line.split() for line in out.splitlines() if re.match(r" \d-\d ", line)]
    assert [one[0] for one in front] == ["0-0", "1-0", "2-0", "2-1"]
    assert front[1][-1] == shown
    status, out, _ = lasfast("report", run, "--plot", tmp_path / "plot.svg")
    assert status == 0
    assert out.count("\n 2-1 ") == 1
    assert f"<!-- {name}" in (tmp_path / "plot.svg").read_text()


def test_a_journal_that_lost_its_end_is_found(lasfast, table, tmp_path) -> None:
    run = tmp_path / "run"
    assert lasfast("search", "random", "--table", table, "--samples", 5, "-o", run)[0] == 0
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    for kept in (5, 1):  # the header, and four measurements or none
        (run / "journal.jsonl").write_text("".join(lines[:kept]))
        status, _, err = lasfast("verify", run)
        assert status == 2
        assert "journal.jsonl must hold the" in err


def test_a_search_that_ends_before_anything_fits_says_so(lasfast, table, tmp_path) -> None:
    """LayerNAS begins with what costs most."""
    run = tmp_path / "run"
    arguments = ["--table", table, "--constraint", "flops<=4M", "--evaluations", 1, "-o", run]
    status, _, err = lasfast("search", "layernas", *arguments)
    assert status == 2
    assert "error: none of the 1 architectures that were measured may be the best" in err
    assert "give it more evaluations, or a looser bound" in err
    assert (run / "journal.jsonl").exists()


@pytest.mark.parametrize("keep", [30, None])
def test_report_shows_the_front_also_while_it_runs(lasfast, table, tmp_path, keep: int | None) -> None:
    arguments = [*SEARCHES["layernas"], "--constraint", "flops<=5M", "-o", tmp_path / "run"]
    assert lasfast("search", "layernas", "--table", table, *arguments)[0] == 0
    if keep is not None:
        journal = tmp_path / "run" / "journal.jsonl"
        journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:keep]))
        (tmp_path / "run" / "result.json").unlink()
    status, out, err = lasfast("report", tmp_path / "run", "--plot", tmp_path / "plot.svg")
    assert status == 0, err
    shown = " ".join(out.split())
    assert (
        "the ten best so far (not finished)" if keep else "LayerNAS search of a table: the Pareto front"
    ) in shown
    svg = (tmp_path / "plot.svg").read_text()
    for text in ("best so far",) if keep is not None else ("front", "layer searched", "2-1-1-0"):
        assert f"<!-- {text} -->" in svg


@pytest.mark.parametrize("name", SEARCHES)
def test_every_help_page_explains_itself(lasfast, name: str) -> None:
    status, out, _ = lasfast("search", name, "--help")
    assert status == 0
    assert f"lasfast search {name} --table" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layernas"], "--constraint must be given"),
        (["layernas", "--table", "TABLE"], "--constraint must be given"),
        (["layernas", "--table", "TABLE", "--constraint", "flops<=1k"], "--constraint must leave"),
        (
            ["evolution", "--table", "TABLE", "--constraint", "flops<=1k"],
            "constraint must leave architectures",
        ),
        (["evolution", "--table", "TABLE", "--constraint", "latency<=1ms"], "must be one of flops, params"),
        (["evolution", "--table", "TABLE", "--constraint", "flops<1k"], "constraint must be bounds such as"),
        (["evolution", "--table", "TABLE", "--accuracy-column", "x"], "there is no column x"),
        (["evolution", "--table", "TABLE", "--table-run", "1"], "run must be below 1"),
        (["evolution", "--table", "nothing.npz"], "nothing.npz"),
        (["pareto", "--table", "TABLE"], "--constraint must be given: it names the cost of the front"),
        (["evolution", "--table", "TABLE", "--seconds", "9"], "--seconds must be None for a table without"),
        (
            ["layernas", "--table", "TABLE", "--constraint", "flops>=0", "--default", "9-9"],
            "error: --default 9-9: text",
        ),
        (["random", "--samples", "5", "--depth", "5", "--constraint", "flops<=1k"], "constraint must leave"),
        (
            ["random", "--table", "TABLE", "--table-images", "0"],
            "error: --table-images must be at least 1, got 0",
        ),
        (
            ["nir", "--table", "TABLE", "--key-column", "flops"],
            "--key-column flops is not for layer assignments, which compute different functions",
        ),
    ],
)
def test_mistakes_are_named_in_a_line(lasfast, table, tmp_path, monkeypatch, arguments, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = lasfast("search", *(table if one == "TABLE" else one for one in arguments))
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_search_that_cannot_reach_its_depth_says_so_everywhere(lasfast, tmp_path) -> None:
    table, run = write_assignments(tmp_path / "table.csv"), tmp_path / "run"
    arguments = [
        "--table",
        table,
        "--depth",
        6,
        "--constraint",
        "flops<=4M",
        "--table-images",
        2500,
        "-o",
        run,
    ]
    status, out, err = lasfast("search", "nir", *arguments)
    assert status == 0, err
    said = "The search ended at depth 4 of 6: no assignment in the space with one layer more than 3-1 meets "
    said += "flops<=4M (they have 5M flops)."
    assert said in out
    assert "best: 3-1  top-1 64.0 ± 1.0 %" in out
    assert json.loads((run / "result.json").read_text())["ended_early"] == said
    status, out, err = lasfast("report", run, "--html", "--candidates")
    assert status == 0, err
    assert said in out
    assert "nan" not in out
    assert said.replace("<=", "&lt;=") in (run / "report.html").read_text()
    status, out, err = lasfast("verify", run)
    assert status == 0, err


@pytest.mark.parametrize(("name", "evaluations"), [("random", 9), ("layernas", 9)])
def test_evaluations_that_a_table_does_not_have_are_explained(
    lasfast, sets, tmp_path, name, evaluations
) -> None:
    """The nine functions of the table are fewer than what may be measured."""
    arguments = [*sets, "--constraint", "latency<=6ms@phone", "--evaluations", 50, "-o", tmp_path]
    status, out, err = lasfast("search", name, *arguments)
    assert status == 0, err
    assert re.search(
        rf"The search measured {evaluations} of the 50 architectures that it .* latency<=6ms@phone", out
    )


def test_the_accuracies_of_one_run_are_compared_with_those_of_that_run(lasfast, tmp_path) -> None:
    accuracies = np.array([[50.0, 90.0], [60.0, 40.0], [70.0, 30.0], [65.0, 35.0]])
    np.savez(tmp_path / "t.npz", arch=np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), mean_acc=accuracies)
    random = ["search", "random", "--table", tmp_path / "t.npz"]
    status, out, err = lasfast(*random, "--table-run", 0, "-o", tmp_path / "run")
    assert status == 0, err
    assert (
        "the best there is, of 4 architectures, by run 0: 1-0  top-1 70.00 %; the winner is this one\n" in out
    )
    assert "±" not in out
    status, out, err = lasfast(*random, "-o", tmp_path / "mean")
    assert status == 0, err
    assert "the best there is, of 4 architectures: 0-0  top-1 70.00 %; the winner is this one\n" in out
    assert "best: 0-0  top-1 70.0 ± 20.0 %" in out, "the standard error of the mean of both runs"


@pytest.mark.parametrize("rows", [6, 5])
def test_options_may_have_any_names(lasfast, tmp_path, rows: int) -> None:
    names = [f"{a}-{b}" for a in ("3x3 conv", "<skip>") for b in ("ü", "a,b", "[x]")][:rows]
    np.savez(tmp_path / "t.npz", arch=np.array(names), mean_acc=50.0 + np.arange(rows))
    status, out, err = lasfast("search", "auto", "--table", tmp_path / "t.npz", "-o", tmp_path / "run")
    assert status == 0, err
    assert f"best: {names[-1]}  top-1 5{rows - 1}.00 %" in out
    status, out, err = lasfast("report", tmp_path / "run", "--html")
    assert status == 0, err


def test_a_table_without_costs_is_named_where_one_is_bounded(lasfast, tmp_path) -> None:
    (tmp_path / "t.csv").write_text("arch,mean_acc,t\n0-0,50,1\n0-1,51,2\n")
    arguments = ["--table", tmp_path / "t.csv", "--constraint", "t<=1", "-o", tmp_path / "run"]
    status, _, err = lasfast("search", "random", *arguments)
    assert status == 2
    assert "t.csv has none of flops, params; --cost-columns names columns of costs" in err
