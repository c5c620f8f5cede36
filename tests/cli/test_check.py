"""`lasfast check`: a table, and an exit status that a script can ask."""

import pytest
import torch

from lasfast import selfcheck
from lasfast.runtime import compiled, gpu_check


def results(*problems):
    """A check that finds these."""

    def run(device, begin):
        for number, problem in enumerate(problems):
            begin(f"case {number}")
            yield selfcheck.Result(f"case {number}", ("one way", "another"), 0.25, 0.5, problem)

    return run


@pytest.fixture(autouse=True)
def built(monkeypatch):
    if not compiled.available():
        pytest.skip("the compiled module is missing")


def test_a_check_that_passes(lasfast, monkeypatch):
    monkeypatch.setattr(selfcheck, "run", results(None, None))
    status, out, _ = lasfast("check", "--device", "cpu")
    assert status == 0
    assert f"cpu, which uses {compiled.isa()}" in out
    for text in ("checking case 0", "case 1", "one way, another", "2.5e-01", "5.0e-01", "ok"):
        assert text in out
    assert "[green]" not in out
    assert out.splitlines()[-1] == "all agree with PyTorch"


def test_a_check_that_fails(lasfast, monkeypatch):
    monkeypatch.setattr(selfcheck, "run", results(None, "avx2: wrong results", None, "avx2: wrong"))
    status, out, _ = lasfast("check", "--device", "cpu")
    assert status == 1
    assert out.count("ok") == out.count("FAILED") - 1 == 2
    assert out.splitlines()[-1] == "FAILED: case 1 (avx2: wrong results); case 3 (avx2: wrong)"


def test_too_little_memory_is_not_a_failure(lasfast, monkeypatch):
    def run(device, begin):
        raise torch.OutOfMemoryError("as of a GPU")
        yield

    monkeypatch.setattr(selfcheck, "run", run)
    status, _, err = lasfast("check", "--device", "cpu")
    assert status == 2
    assert "error: cpu has too little memory for the check now: as of a GPU" in err


@pytest.mark.parametrize(
    ("device", "text"),
    [
        ("gpu", "--device must be auto, cpu, cuda, or a GPU as cuda:1, got 'gpu'"),
        ("cuda:x", "--device must be auto, cpu, cuda, or a GPU as cuda:1, got 'cuda:x'"),
        ("cuda:1", "--device cuda:1: torch finds 1 usable NVIDIA GPU(s) here"),
        ("cuda", "--device cuda: some reason"),
    ],
)
def test_devices_that_are_not_there_are_named(lasfast, monkeypatch, device, text):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(compiled, "why_no_cuda", lambda index: "some reason")
    status, _, err = lasfast("check", "--device", device)
    assert status == 2
    assert text in err


@pytest.mark.parametrize("problem", [None, "levels: wrong results"])
def test_what_comes_of_a_gpu_is_kept(lasfast, monkeypatch, problem):
    kept = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(compiled, "why_no_cuda", lambda index: None if index else "some reason")
    monkeypatch.setattr(gpu_check, "keep", lambda *arguments: kept.append(arguments))
    monkeypatch.setattr(selfcheck, "run", results(problem))
    status, out, _ = lasfast("check")
    assert status == (0 if problem is None else 1)
    assert "cuda:1, Some GPU" in out
    assert "cpu, which uses" in out
    assert "cuda:0" not in out  # for which there are no kernels
    why = "" if problem is None else "case 0 (levels: wrong results)"
    assert kept == [(1, gpu_check.CheckResult(problem is None, why))]


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (None, "Some GPU (9.0, not checked yet)"),
        (gpu_check.CheckResult(True), "Some GPU (9.0, checked, agrees with PyTorch)"),
        (gpu_check.CheckResult(False, "case 0", "a.log"), "Some GPU (9.0, check failed: case 0 (see a.log))"),
    ],
)
def test_info_says_what_is_known(lasfast, monkeypatch, known, text):
    info = compiled.build_info()
    info["cuda"]["devices"] = [
        {"name": "Some GPU", "capability": "9.0", "supported": True},
        {"name": "Old GPU", "capability": "6.0", "supported": False},
    ]
    monkeypatch.setattr(compiled, "build_info", lambda: info)
    monkeypatch.setattr(gpu_check, "known", lambda index: known)
    status, out, _ = lasfast("info")
    assert status == 0
    assert f"{text}, Old GPU (6.0, no kernels for it)" in out


@pytest.mark.cuda
def test_gpus_pass(lasfast, monkeypatch, tmp_path):
    monkeypatch.setenv("LASFAST_CACHE", str(tmp_path))
    status, out, err = lasfast("check", "--device", "cuda")
    assert status == 0, out + err
    assert gpu_check.known(0) == gpu_check.CheckResult(True)
