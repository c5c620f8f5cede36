"""`lasfast resume RUN --evaluations N`: a finished search goes on as if N had been asked for at first."""

import itertools
import json

import numpy as np
import pytest

from lasfast import cli

NUMBERED = {
    "auto": [],
    "layernas": ["--buckets", 10, "--replicas", 2],
    "local": ["--children", 4],
    "pareto": ["--initial", 5, "--children", 4],
    "predictor": ["--initial", 5, "--children", 4],
    "random": [],
    "regularized": ["--population", 8, "--sample", 3, "--children", 4],
    "evolution": ["--population", 8],
}
"""The searches that --evaluations ends. With the numbers below, it ends them in the middle of a step."""
FEWER, MORE = 11, 26
TRAINED = ["random", "--supernet", "mobilenet-60m", "--width", 0.25, "--limit", 100, "--validation", 60]
TRAINED += ["--calibration", 40, "--epochs", 1, "--threads", 1, "--baselines", 0]
FILES = ("journal.jsonl", "result.json", "candidates.csv")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """81 networks of four layers."""
    path = tmp_path_factory.mktemp("tables") / "chain.npz"
    architectures = np.array(list(itertools.product(range(3), repeat=4)))
    accuracies = 60 + np.random.default_rng(0).uniform(0, 20, len(architectures))
    np.savez(path, arch=architectures, mean_acc=accuracies, flops=10**6 * (1 + architectures.sum(1)))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A search whose supernet is trained."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    words = ["search", *TRAINED, "--samples", 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lasfast.deploy.save", lambda network, card, path, images: path.touch())
        patch.setattr("sys.argv", ["lasfast", *map(str, [*words, "-o", run])])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert not end.value.code
    return run


def assert_equal(run, other, *files):
    for file in files:
        assert (run / file).read_bytes() == (other / file).read_bytes(), file


def evaluations(run):
    return len((run / "journal.jsonl").read_text().splitlines()) - 1


@pytest.mark.parametrize("name", NUMBERED)
def test_goes_on_in_a_table(lasfast, table, tmp_path, name: str) -> None:
    words = ["search", name, "--table", table, *NUMBERED[name], "--constraint", "flops<=7M"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    for count, directory in ((FEWER, run), (MORE, whole)):
        status, _, err = lasfast(*words, "--evaluations", count, "-o", directory)
        assert status == 0, err
    assert evaluations(run) == FEWER
    status, _, err = lasfast("resume", run, "--evaluations", FEWER)
    assert status == 2
    assert f"--evaluations must be more than the run's, {FEWER}, got {FEWER}" in err
    for count in (19, MORE):
        status, _, err = lasfast("resume", run, "--evaluations", count)
        assert status == 0, err
        assert evaluations(run) == count
    assert_equal(run, whole, *FILES[:2])
    assert json.loads((run / "config.json").read_text())["evaluations"] == MORE
    assert lasfast("resume", run)[0] == 0
    assert_equal(run, whole, *FILES[:2])


@pytest.mark.slow  # together, they take a minute
@pytest.mark.parametrize("name", NUMBERED)
def test_goes_on_in_a_supernet(lasfast, without_exports, trained, tmp_path, name: str) -> None:
    without_exports()
    words = ["search", name, "--weights", trained, *NUMBERED[name], "--constraint", "flops<=600k"]
    words += ["--threads", 1, "--baselines", 2]
    run, whole = tmp_path / "run", tmp_path / "whole"
    for count, directory in ((11, run), (14, whole)):
        status, _, err = lasfast(*words, "--evaluations", count, "-o", directory)
        assert status == 0, err
    status, _, err = lasfast("resume", run, "--evaluations", 14)
    assert status == 0, err
    assert evaluations(run) == 14
    assert_equal(run, whole, *FILES)


def test_goes_on_in_a_supernet_of_its_own(lasfast, without_exports, trained, tmp_path) -> None:
    """With the weights of the checkpoint, and without --evaluations, where --samples said how many."""
    without_exports()
    assert json.loads((trained / "config.json").read_text())["supernet_epochs"] == 1
    words = ["search", *TRAINED]
    run, whole = tmp_path / "run", tmp_path / "whole"
    for count, directory in ((3, run), (6, whole)):
        assert lasfast(*words, "--samples", count, "-o", directory)[0] == 0
    assert "the run's, 3, got 3" in lasfast("resume", run, "--evaluations", 3)[2]
    status, _, err = lasfast("resume", run, "--evaluations", 6)
    assert status == 0, err
    assert_equal(run, whole, "journal.jsonl", "result.json", "checkpoint.safetensors")


def test_does_not_go_on_where_more_would_have_been_another_search(
    lasfast, without_exports, table, tmp_path
) -> None:
    without_exports()
    # The supernet was trained for those that were measured.
    words = ["search", "random", "--depth", 4, "--limit", 60, "--validation", 60, "--calibration", 30]
    words += [
        "--warm-up-epochs",
        1,
        "--epochs",
        1,
        "--threads",
        1,
        "--samples",
        2,
        "-o",
        tmp_path / "trained",
    ]
    assert lasfast(*words)[0] == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "trained").iterdir() if file.is_file()}
    status, _, err = lasfast("resume", tmp_path / "trained", "--evaluations", 3)
    assert status == 2
    assert "cannot go on to more architectures: its supernet was trained for those of each step" in err
    assert before == {name: (tmp_path / "trained" / name).read_bytes() for name in before}
    # So many ask for larger steps.
    assert lasfast("search", "auto", "--table", table, "--evaluations", 12, "-o", tmp_path / "auto")[0] == 0
    status, _, err = lasfast("resume", tmp_path / "auto", "--evaluations", 400)
    assert status == 2
    assert "--evaluations 400: with so many, auto would have searched otherwise from the first" in err
    # A population that was chosen for few stays as it is.
    few = ["search", "regularized", "--table", table, "--evaluations", 21, "-o", tmp_path / "few"]
    assert lasfast(*few)[0] == 0
    assert lasfast("resume", tmp_path / "few", "--evaluations", 70)[0] == 0
    assert lasfast("resume", tmp_path / "few")[0] == 0
    assert evaluations(tmp_path / "few") == 70
    assert json.loads((tmp_path / "few" / "config.json").read_text())["population"] == 20


@pytest.mark.parametrize(
    ("words", "more", "problem"),
    [
        (
            ["layernas", "--constraint", "flops<=4M"],
            ["--evaluations", 9],
            "would add nothing: the run had no",
        ),
        (["layernas", "--constraint", "flops<=4M"], ["--depth", 9], "; give --evaluations instead"),
        (["evolution", "--generations", 1], ["--evaluations", 90], "; give --generations instead"),
        (["evolution", "--evaluations", 20], ["--generations", 9], "; give --evaluations instead"),
        (["evolution", "--population", 4], ["--evaluations", 84], "must be more than the run's, 84, got 84"),
        (["nir", "--depth", 6], ["--evaluations", 9], "; give --depth instead"),
        (["nir", "--evaluations", 4], ["--evaluations", 4], "must be more than the run's, 4, got 4"),
    ],
)
def test_an_option_that_would_not_go_on_is_refused(
    lasfast, table, tmp_path, words: list, more: list, problem: str
) -> None:
    if words[0] == "nir":
        rows = ["architecture,top1", *(f"{a}-{b},{0.5 + (a + b) / 20}" for a in (1, 2, 3) for b in (1, 2, 3))]
        table = tmp_path / "assignments.csv"
        table.write_text("\n".join(rows) + "\n")
        words = [*words, "--architecture-column", "architecture", "--accuracy-column", "top1"]
    status, _, err = lasfast("search", *words, "--table", table, "-o", tmp_path / "run")
    assert status == 0, err
    before = (tmp_path / "run" / "config.json").read_bytes()
    status, _, err = lasfast("resume", tmp_path / "run", *more)
    assert status == 2
    assert problem in err
    assert (tmp_path / "run" / "config.json").read_bytes() == before
