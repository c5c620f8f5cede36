"""Kernels are checked once on each kind of GPU, in a process of their own, whatever happens there."""

import json
import logging
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import lasfast
from lasfast import supernets
from lasfast.core import entry_points
from lasfast.engine.native_backend import why_missing
from lasfast.runtime import autotune, compiled, gpu_check, kernels
from lasfast.runtime.gpu_check import CheckResult

PASSES = "print('all agree with PyTorch')"
FAILS = "print('checking a'); print('FAILED: ResidualNet, fp32 (levels: wrong results)'); raise SystemExit(1)"
CRASHES = "import os, signal; print('checking b', flush=True); os.kill(os.getpid(), signal.SIGSEGV)"
KILLED = "import os, signal; print('checking b', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
HANGS = "import time; print('checking c', flush=True); time.sleep(60)"
CANNOT = "print('error: cuda:0 has too little memory for the check now'); raise SystemExit(2)"
RAISES = "raise RuntimeError('no such driver')"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A directory of its own, and nothing known."""
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LASFAST_CHOICE", "measure")
    monkeypatch.setattr(gpu_check, "_results", {})
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """A GPU as far as a check asks; what it answers can be changed."""
    facts = SimpleNamespace(name="Some GPU", capability=(9, 0), driver=13000, digest="a", capturing=False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: facts.name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: facts.capability)
    monkeypatch.setattr(compiled, "load", lambda: SimpleNamespace(cuda_driver_version=lambda: facts.driver))
    monkeypatch.setattr(compiled, "digest", lambda: facts.digest)
    monkeypatch.setattr(autotune, "is_capturing", lambda device: facts.capturing)
    return facts


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Let a script be the check; what it gives counts how often it ran."""

    def become(script):
        counter = tmp_path / "runs"
        count = f"open({str(counter)!r}, 'a').write('x')\n"
        monkeypatch.setitem(entry_points._registered, entry_points.CHECK_COMMAND, ("-c", count + script))
        return lambda: len(counter.read_text()) if counter.exists() else 0

    return become


def forget(monkeypatch):
    """As a new process begins."""
    monkeypatch.setattr(gpu_check, "_results", {})


def test_a_gpu_that_passes_is_checked_once(check, cache, monkeypatch, caplog):
    runs = check(PASSES)
    assert gpu_check.known(0) is None
    with caplog.at_level(logging.INFO, "lasfast"):
        assert gpu_check.passed(0)
    assert caplog.messages == ["checking lasfast's kernels on Some GPU, once; it takes some seconds"]
    assert gpu_check.passed(0)
    forget(monkeypatch)
    assert gpu_check.passed(0)
    assert runs() == 1
    assert gpu_check.known(0) == CheckResult(True)
    assert str(gpu_check.known(0)) == "checked, agrees with PyTorch"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (FAILS, "ResidualNet, fp32 (levels: wrong results)"),
        (CRASHES, "ended by signal 11 (Segmentation fault), at: checking b"),
        (HANGS, "not done after 1 s, at: checking c"),
    ],
    ids=["fails", "crashes", "hangs"],
)
def test_a_gpu_that_fails_is_not_used_and_said_so_once(check, cache, monkeypatch, caplog, script, why):
    monkeypatch.setattr(gpu_check, "SECONDS", 1.0 if script == HANGS else 60.0)
    runs = check(script)
    for _ in range(2):
        assert not gpu_check.passed(0)
        assert not gpu_check.passed(0)
        [message] = caplog.messages
        log = gpu_check.log_file(0)
        assert message == (
            "lasfast runs on PyTorch's operators on GPU 0, Some GPU: its kernels' check failed: "
            f"{why} (see {log}); `lasfast check --device cuda:0` checks again"
        )
        assert "checking" in log.read_text()
        caplog.clear()
        forget(monkeypatch)
    assert runs() == 1
    assert gpu_check.known(0) == CheckResult(False, why, str(log))


@pytest.mark.parametrize("script", [CANNOT, KILLED, RAISES], ids=["no memory", "killed", "raises"])
def test_a_check_that_could_not_be_made_is_made_again(check, monkeypatch, caplog, script):
    runs = check(script)
    for number in (1, 2):
        assert not gpu_check.passed(0)
        assert not gpu_check.passed(0)
        assert runs() == number
        assert gpu_check.known(0) is None
        forget(monkeypatch)
    assert "check failed: it could not be made: " in caplog.text


def test_a_check_that_cannot_be_started_is_no_result(monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert not gpu_check.passed(0)
    assert "it could not be made: [Errno 2] No such file or directory: '/no/such/python'" in caplog.text
    assert gpu_check.known(0) is None


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Other"},
        {"capability": (8, 6)},
        {"driver": 12080},
        {"digest": "b"},
        "torch",
        "lasfast",
        "maps",
    ],
)
def test_what_is_new_is_checked_again(check, gpu, monkeypatch, change):
    runs = check(PASSES)
    assert gpu_check.passed(0)
    if change == "torch":
        monkeypatch.setattr(torch, "__version__", "99")
    elif change == "lasfast":
        monkeypatch.setattr(gpu_check, "__version__", "99")
    elif change == "maps":
        monkeypatch.setenv("LASFAST_TENSOR_MAPS", "1")
    else:
        vars(gpu).update(change)
    forget(monkeypatch)
    assert gpu_check.known(0) is None
    assert gpu_check.passed(0)
    assert runs() == 2


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"result": {"fails": 1}}', "\x00"])
def test_a_damaged_file_is_named_and_replaced(check, cache, monkeypatch, caplog, content):
    runs = check(PASSES)
    assert gpu_check.passed(0)
    [file] = cache.glob("*.json")
    file.write_text(content)
    forget(monkeypatch)
    assert gpu_check.passed(0)
    assert runs() == 2
    [message] = caplog.messages
    assert message.startswith(f"{file} cannot be read (")
    assert message.endswith("checking the kernels anew")
    assert json.loads(file.read_text())["result"]["passed"] is True


@pytest.mark.parametrize("script", [PASSES, FAILS])
def test_without_a_place_for_files_every_process_checks(check, cache, monkeypatch, caplog, script):
    cache.write_text("a file where the directory would be")
    runs = check(script)
    for number in (1, 2):
        assert gpu_check.passed(0) == (script == PASSES)
        assert gpu_check.passed(0) == (script == PASSES)
        assert runs() == number
        forget(monkeypatch)
    assert "cannot be written" in caplog.text


def test_processes_that_come_together_check_once(check):
    """Threads here, each of which opens the lock's file for itself, as processes do."""
    runs = check("import time; time.sleep(0.3)\n" + FAILS)
    found = []
    threads = [threading.Thread(target=lambda: found.append(gpu_check._check_once(0))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs() == 1
    assert len(found) == 3
    assert len(set(found)) == 1
    assert not found[0].passed


@pytest.mark.parametrize("wanted", ["native", "torch", "levels", "resident"])
def test_who_decides_by_name_needs_no_check(check, monkeypatch, wanted):
    runs = check(FAILS)
    monkeypatch.setenv("LASFAST_CHOICE", wanted)
    assert gpu_check.passed(0)
    assert runs() == 0


def test_no_check_begins_while_a_graph_is_recorded(check, gpu, caplog):
    runs = check(PASSES)
    gpu.capturing = True
    assert not gpu_check.passed(0)
    gpu.capturing = False
    assert gpu_check.passed(0)
    gpu.capturing = True
    assert gpu_check.passed(0)
    assert runs() == 1
    assert not caplog.messages


def test_no_check_begins_in_a_data_loaders_worker(check, monkeypatch):
    runs = check(PASSES)
    monkeypatch.setattr(gpu_check, "get_worker_info", lambda: "a worker")
    assert not gpu_check.passed(0)
    gpu_check.keep(0, CheckResult(True))
    assert gpu_check.passed(0)
    assert runs() == 0


def test_the_check_runs_this_package_alone_and_does_not_check_again(check, cache, monkeypatch):
    """Whatever the directory, torchrun's variables and LASFAST_CHOICE."""
    script = f"""
    import os, sys
    import lasfast
    assert lasfast.__file__ == {lasfast.__file__!r}, lasfast.__file__
    assert os.environ["LASFAST_CHOICE"] == "native"
    assert os.environ["LASFAST_CACHE"] == {str(cache)!r}
    assert not {{"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}} & set(os.environ)
    assert sys.argv[1:] == ["cuda:3"], sys.argv
    """
    check(textwrap.dedent(script))
    monkeypatch.chdir(cache.parent)
    (cache.parent / "lasfast").mkdir()
    (cache.parent / "lasfast" / "__init__.py").touch()
    monkeypatch.setenv("LASFAST_CACHE", "cache")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert gpu_check.passed(3), gpu_check.log_file(3).read_text()


def test_the_command_is_there():
    """Without a GPU it says so, which is no result."""
    done = subprocess.run(
        [sys.executable, *entry_points.names(entry_points.CHECK_COMMAND), "cuda:7"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "--device cuda:7" in done.stderr or "does not load" in done.stderr


@pytest.fixture
def built(monkeypatch):
    """A build with kernels for the GPU, whose check fails."""
    monkeypatch.setattr(compiled, "available", lambda: True)
    monkeypatch.setattr(kernels, "_are_built_for", lambda device: True)
    monkeypatch.setattr(gpu_check, "_results", {0: CheckResult(False, "case 0")})
    return torch.device("cuda", 0)


def test_operators_are_pytorchs_where_the_check_failed(built, monkeypatch):
    assert not kernels.usable(built)
    assert kernels.usable(torch.device("cpu"))
    assert not kernels.usable(torch.device("meta"))
    x = SimpleNamespace(device=built, dtype=torch.float32, layout=torch.strided)
    assert not kernels.usable_for(x)
    monkeypatch.setenv("LASFAST_CHOICE", "native")
    assert kernels.usable(built)
    assert kernels.usable_for(x)


@pytest.mark.parametrize(("wanted", "used"), [("auto", "torch"), ("native", "native"), ("torch", "torch")])
def test_trainers_are_pytorchs_where_the_check_failed(built, wanted, used):
    from lasfast.train import TrainSettings, forward

    assert forward.first_operators(TrainSettings(operators=wanted), built) == used


@pytest.mark.parametrize(("passed", "backend"), [(False, "torch"), (True, "native")])
def test_evaluation_is_pytorchs_where_the_check_failed(monkeypatch, caplog, passed, backend):
    """On the CPU, as if it were a GPU."""
    monkeypatch.undo()
    if why_missing(torch.device("cpu")):
        pytest.skip("the compiled module is missing")
    monkeypatch.setattr(kernels, "usable", lambda device: passed)
    net, images = supernets.ResidualNet((1, 1, 1), 3), torch.randn(8, 3, 8, 8)
    pair = images, torch.arange(8) % 3
    assert lasfast.Evaluator(net, images, pair).backend.name == backend
    assert lasfast.Evaluator(net, images, pair, "native").backend.name == "native"
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    assert lasfast.calibrate(network, [images]) == backend
    assert lasfast.calibrate(network, [images], backend="native") == "native"
    assert not caplog.messages
