"""benchmarks/gpu.sh, with a script in the place of Python: whatever happens, one archive says what."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"
PYTHON = """#!/usr/bin/env bash
echo "$* LASFAST_CHOICE=${LASFAST_CHOICE:-}" >>"$CALLS"
case "$*" in
*arch_for*) echo 90a ;;
*"pip install"*) echo "for $LASFAST_CUDA_ARCHS" ;;
*"lasfast check"*) echo checking a; eval "${CHECK:-}" ;;
*report_gpu*) echo "# figures" ;;
esac
"""
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("bash", "timeout", "tar", "realpath")),
    reason="needs bash and GNU coreutils",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with what the script takes along, and the stand-in for Python."""
    root = tmp_path / "checkout"
    for name in ("tests", "benchmarks"):
        (root / name).mkdir(parents=True)
    (root / "pyproject.toml").touch()
    shutil.copy(SCRIPT, root / "benchmarks")
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return root


def start(checkout: Path, check: str = "") -> subprocess.Popen[str]:
    around = checkout.parent
    environment = os.environ | {
        "PYTHON": str(around / "python"),
        "CALLS": str(around / "calls"),
        "CHECK": check,
    }
    environment.pop("LASFAST_CHOICE", None)
    command = ["bash", str(checkout / "benchmarks" / "gpu.sh"), str(around / "out" / "gpu.tar.gz")]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def archived(checkout: Path) -> dict[str, str]:
    """The files of the archive, which is all that the script has left."""
    out = checkout.parent / "out"
    assert [file.name for file in out.iterdir()] == ["gpu.tar.gz"]
    assert {file.name for file in checkout.iterdir()} == {"tests", "benchmarks", "pyproject.toml"}
    assert [file.name for file in (checkout / "benchmarks").iterdir()] == ["gpu.sh"]
    files = {}
    with tarfile.open(out / "gpu.tar.gz") as archive:
        for member in archive.getmembers():
            if (file := archive.extractfile(member)) is not None:
                files[member.name] = file.read().decode()
    return files


def calls(checkout: Path, what: str) -> list[str]:
    lines = (checkout.parent / "calls").read_text().splitlines()
    return [line for line in lines if what in line]


def test_all_that_it_leaves_is_one_archive(checkout: Path) -> None:
    process = start(checkout)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, output + errors
    files = archived(checkout)
    assert files["gpu/build.log"] == "for 90a\n"
    assert files["gpu/report.md"] == "# figures\n"
    for step in ("check", "tests", "evaluate-bf16", "train-bf16", "tiles", "conv_train"):
        assert f"\n{step}: done in " in files["gpu/summary.txt"]
        assert f"gpu/{step}.log" in files
    assert "!!!" not in output
    assert calls(checkout, "LASFAST_CHOICE=native") == []


def test_a_check_that_fails_is_loudly_labelled_and_changes_no_measurement(checkout: Path) -> None:
    """It would change them were PyTorch's operators taken, or the check made again within another step."""
    process = start(checkout, check="exit 1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    summary = archived(checkout)["gpu/summary.txt"]
    assert "check: FAILED with status 1" in summary
    for text in (output, summary):
        assert "!!! THE CHECK OF THE KERNELS FAILED OR WAS CUT." in text
        assert "\nFAILED: check\n" in text
    for name in ("bench_evaluate", "bench_train", "bench_tiles", "pytest -m cuda", "report_gpu"):
        found = calls(checkout, name)
        assert found
        assert all(line.endswith("LASFAST_CHOICE=native") for line in found)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_its_archive(checkout: Path, number: signal.Signals) -> None:
    process = start(checkout, check="touch $CALLS.check; sleep 20")
    try:
        for _ in range(1000):
            if (checkout.parent / "calls.check").exists():
                break
            time.sleep(0.01)
        process.send_signal(number)
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode != 0
    files = archived(checkout)
    assert files["gpu/build.log"] == "for 90a\n"
    assert "build: done in " in files["gpu/summary.txt"]
    if number != signal.SIGKILL:  # after which nothing is written
        assert "check: CUT, the whole run was stopped after " in files["gpu/summary.txt"]
        assert files["gpu/check.log"] == "checking a\n"
