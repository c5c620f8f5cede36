"""`torchrun -m lasfast search ...` on two processes, by gloo on the CPU.

What is not slow forks its processes from one that has imported all, in place of torchrun.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lasfast as package
from lasfast.deploy.formats import load_program

# Next to no learning: sums over ranks are in another order, and what a ReLU makes of it grows batch by batch.
QUICK = [
    "--learning-rate",
    "1e-5",
    "--no-channels-last",
    "--limit",
    "200",
    "--threads",
    "1",
    "--device",
    "cpu",
]
NIR = ["nir", "--depth", "5", "--warm-up-epochs", "1", "--epochs-per-step", "1", *QUICK]
EVOLUTION = ["evolution", "--supernet", "shufflenet-v2", "--width", "0.25", "--supernet-epochs", "1", *QUICK]
# Layers of a single pixel let differences grow a hundredfold more than ResidualNet's do.
EVOLUTION += ["--learning-rate", "1e-7"]
EVOLUTION += ["--population", "6", "--generations", "1", "--top", "2", "--calibration", "100"]

NIR_RETRAINED = [*NIR, "--retrain", "--standalone-epochs", "1"]
ITNAS = ["itnas", "--cells", "3", "--cell-channels", "4", "--supernet-epochs", "1", "--batch-size", "32"]
ITNAS += ["--retrain", "--standalone-epochs", "1", *QUICK, "--learning-rate", "1e-3"]
# Adam makes much of small gradients' rounding; next to no learning here, too.
ITNAS += ["--architecture-learning-rate", "1e-6"]
TUNED = ["random", "--model", "timm:test_resnet", "--constraint", "flops<=60%", "--samples", "6"]
TUNED += ["--baselines", "2", "--adapt-epochs", "1", "--tune-epochs", "1", *QUICK]


FORKED = """
import os, socket, sys
from pathlib import Path

import sklearn.datasets
import torch.distributed
import lasfast.deploy
import lasfast.cli.search_supernet
from lasfast import cli

lasfast.deploy.save = lambda network, card, path, images: Path(path).touch()
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
sys.argv[0] = "lasfast"
children = []
for rank in ("0", "1"):
    child = os.fork()
    if not child:
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        cli.main()
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def forked(*arguments):
    """Start the program on two processes, which write no networks."""
    return start([sys.executable, "-c", FORKED, *map(str, arguments)])


def torchrun(*arguments, processes=2):
    """Start the program on so many processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return start([sys.executable, *launch, "-m", "lasfast", *map(str, arguments)])


def start(command):
    """Start a command that starts the processes."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(package.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite in the background of a shell has Ctrl-C ignored, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(process):
    """(exit status, standard output, standard error)."""
    out, err = process.communicate(timeout=1000)
    return process.returncode, out, err


def lines(directory):
    return [json.loads(line) for line in (directory / "journal.jsonl").read_text().splitlines()]


def assert_same_journals(one, other, least=6, tolerance=1e-4):
    """The same header, candidates and order, and measurements that differ by rounding."""
    (header, *measured), (expected_header, *expected) = lines(one), lines(other)
    assert header == expected_header
    assert [(line["step"], line["architecture"]) for line in measured] == [
        (line["step"], line["architecture"]) for line in expected
    ]
    assert len(measured) >= least
    for name, difference in (("loss", tolerance), ("top1", 0.01), ("top5", 0.01)):
        assert [line[name] for line in measured] == pytest.approx(
            [line[name] for line in expected], abs=difference
        )


def test_a_search_leaves_the_journal_of_one_process(lasfast, without_exports, tmp_path):
    without_exports()
    status, out, err = finish(forked("search", *NIR, "-o", tmp_path / "two"))
    assert status == 0, err
    assert out.count("\nbest: ") == 1  # the other process is silent
    assert "2 processes" in out
    assert lasfast("search", *NIR, "-o", tmp_path / "one", "-q")[0] == 0
    assert_same_journals(tmp_path / "two", tmp_path / "one")
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert names[0] == names[1]
    before = (tmp_path / "two" / "journal.jsonl").read_bytes()
    status, out, err = lasfast("search", *NIR, "-o", tmp_path / "two", "--resume")
    assert status == 0, err
    assert "images/s" not in out  # nothing was trained again
    assert (tmp_path / "two" / "journal.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_mistake_is_named_once(tmp_path):
    status, out, err = finish(torchrun("search", *NIR, "--batch-size", "1", "-o", tmp_path / "run"))
    assert status
    assert err.count("error: --batch-size must be at least 2, an image for each process, got 1") == 1
    assert "loss" not in out  # nothing was trained
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_other_commands_run_in_one_process(tmp_path):
    status, _, err = finish(torchrun("report", tmp_path))
    assert status
    assert "error: lasfast report runs in one process" in err


@pytest.mark.slow
def test_training_from_scratch_leaves_the_row_of_one_process(lasfast, tmp_path):
    scratch = ["train", "2-1-1", "--standalone-epochs", "2", "--test", *QUICK]
    status, out, err = finish(torchrun(*scratch, "-o", tmp_path / "two"))
    assert status == 0, err
    assert "2 processes" in " ".join(out.split())
    assert out.count("\nnetwork: ") == out.count("\ntest: top-1") == 1
    assert lasfast(*scratch, "-o", tmp_path / "one", "-q")[0] == 0
    cards = [load_program(tmp_path / name / "2-1-1.pt2")[1] for name in ("one", "two")]
    assert cards[0].accuracy["test_top1"] == pytest.approx(cards[1].accuracy["test_top1"], abs=0.01)
    assert cards[0].accuracy["test_images"] == cards[1].accuracy["test_images"]
    assert_same_journals(tmp_path / "two", tmp_path / "one", least=1)
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert names[0] == names[1] >= {"2-1-1.pt2", "weights", "table.csv"}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_a_table_has_the_bytes_of_one_process(lasfast, tmp_path, processes):
    table = ["dataset", "--depths", "4", "--standalone-epochs", "1", "--operators", "native", *QUICK]
    status, out, err = finish(torchrun(*table, "-o", tmp_path / "many", processes=processes))
    assert status == 0, err
    assert out.count("\ntable: ") == 1
    for part in ("1/2", "2/2"):
        assert lasfast(*table, "-o", tmp_path / "jobs", "--shard", part, "-q")[0] == 0
    assert lasfast(*table, "-o", tmp_path / "jobs", "-q")[0] == 0
    assert lasfast(*table, "-o", tmp_path / "one", "-q")[0] == 0
    for name in ("journal.jsonl", "table.csv"):
        expected = (tmp_path / "one" / name).read_bytes()
        assert (tmp_path / "many" / name).read_bytes() == expected
        assert (tmp_path / "jobs" / name).read_bytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize("search", [NIR_RETRAINED, ITNAS, TUNED], ids=["retrained", "itnas", "tuned"])
def test_all_processes_train_the_winner(lasfast, without_exports, tmp_path, search):
    without_exports()
    status, out, err = finish(torchrun("search", *search, "-o", tmp_path / "two"))
    assert status == 0, err
    assert out.count("\nbest: ") == 1
    assert lasfast("search", *search, "-o", tmp_path / "one", "-q")[0] == 0
    assert_same_journals(tmp_path / "two", tmp_path / "one", least=1, tolerance=1e-3)
    if "--retrain" in search:
        assert_same_journals(tmp_path / "two" / "scratch", tmp_path / "one" / "scratch", least=1)


@pytest.mark.slow
def test_evolution_leaves_the_journal_of_one_process(lasfast, without_exports, tmp_path):
    without_exports()
    status, _, err = finish(torchrun("search", *EVOLUTION, "-o", tmp_path / "two"))
    assert status == 0, err
    assert lasfast("search", *EVOLUTION, "-o", tmp_path / "one", "-q")[0] == 0
    assert_same_journals(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("by", [1, 2])
def test_ctrl_c_and_resume(lasfast, tmp_path, by):
    longer = [*NIR, "--warm-up-epochs", "20", "-o", tmp_path / "two"]
    process = torchrun("search", *longer)
    log = tmp_path / "two" / "log.jsonl"
    while not log.exists() or "epoch" not in log.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status
    assert err.count(f"{tmp_path / 'two'} holds everything up to here: resume it to go on") == 1
    if by == 1:
        assert lasfast("search", *longer, "--resume", "-q")[0] == 0
    else:
        status, _, err = finish(torchrun("search", *longer, "--resume"))
        assert status == 0, err
    assert lasfast("search", *NIR, "--warm-up-epochs", "20", "-o", tmp_path / "one", "-q")[0] == 0
    assert_same_journals(tmp_path / "two", tmp_path / "one")
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events.count("resume") == 1
    assert events.count("epoch") in (22, 23)  # an epoch that was cut is noted when it ends


WEIGHTS = ["random", "--constraint", "flops<=400k", "--samples", "4", "--baselines", "2", "--seed", "9"]
STANDALONE = ["layernas", "--supernet", "mobilenet-60m", "--width", "0.25", "--constraint", "flops<=600k"]
STANDALONE += ["--buckets", "4", "--replicas", "1", "--standalone", "--standalone-epochs", "1"]
STANDALONE += ["--evaluations", "3", "--operators", "torch", "--limit", "60", "--validation", "60"]
STANDALONE += ["--calibration", "30", "--threads", "1", "--device", "cpu"]


@pytest.mark.slow
def test_a_search_by_earlier_weights_has_the_bytes_of_one_process(lasfast, without_exports, tmp_path):
    """Nothing is trained, so nothing rounds otherwise."""
    without_exports()
    trained = ["random", "--supernet", "mobilenet-60m", "--width", "0.25", "--supernet-epochs", "1", *QUICK]
    trained += ["--samples", "2", "--baselines", "0", "--calibration", "60"]
    assert lasfast("search", *trained, "-o", tmp_path / "trained", "-q")[0] == 0
    again = [*WEIGHTS, "--weights", str(tmp_path / "trained"), "--threads", "1", "--device", "cpu"]
    status, out, err = finish(torchrun("search", *again, "-o", tmp_path / "two"))
    assert status == 0, err
    assert out.count("\nbest: ") == 1
    assert lasfast("search", *again, "-o", tmp_path / "one", "-q")[0] == 0
    for name in ("journal.jsonl", "result.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.slow
def test_candidates_from_scratch_have_the_bytes_of_one_process(lasfast, without_exports, tmp_path):
    """Each process trains some of them alone, and the best again."""
    without_exports()
    status, out, err = finish(torchrun("search", *STANDALONE, "-o", tmp_path / "two"))
    assert status == 0, err
    assert out.count("\nbest: ") == 1
    assert lasfast("search", *STANDALONE, "-o", tmp_path / "one", "-q")[0] == 0
    for name in ("journal.jsonl", "result.json", "scratch/journal.jsonl", "scratch/table.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
