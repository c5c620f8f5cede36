"""benchmarks/gpu.sh: whatever happens, one archive says what, and no step fails for a wrong path or option.

Scripts stand in the place of Python and of CMake, but for the dry run, which runs what the steps run.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from lasfast.runtime import compiled

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
PYTHON = """#!/usr/bin/env bash
echo "$* LASFAST_CHOICE=${LASFAST_CHOICE:-}" >>"$CALLS"
case "$*" in
*describe_gpu*) echo 90a ;;
*"lasfast check"*) echo checking a; eval "${CHECK:-}" ;;
*bench_tiles*) eval "${TILES:-}" ;;
*report_gpu*) echo "# figures" ;;
esac
"""
CMAKE = """#!/usr/bin/env bash
echo "cmake $*" >>"$CALLS"
case "$*" in
*--build*) touch lasfast/_C.so ;;
*) echo "for $(grep -o "LASFAST_CUDA_ARCHS=[^ ]*" <<<"$*")" ;;
esac
"""
TOOL = """#!/usr/bin/env bash
echo "tool $(basename "$0") $*" >>"$CALLS"
case $0 in */ncu) eval "${NCU:-}" ;; esac
"""
STEPS = [
    "arch",
    "build",
    "smoke",
    "smoke-maps",
    "check",
    "memcheck",
    "racecheck",
    "synccheck",
    "tests",
    "limits",
    "tiles",
    "profile-tiles",
    "profile-others",
    "evaluate-bf16",
    "train-bf16",
    "conv_train",
]
MORE = [
    "check-maps",
    "evaluate-bf16-maps",
    "evaluate-bf16-compiled",
    "evaluate-fp32",
    "train-fp32",
    "operations",
    "evaluate-bf16-more",
    "train-bf16-compiled",
]
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("bash", "timeout", "tar", "realpath")),
    reason="needs bash and GNU coreutils",
)


def put_script(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with what the script takes along, and the stand-ins beside it."""
    root = tmp_path / "checkout"
    for name in ("tests", "benchmarks", "lasfast", "csrc"):
        (root / name).mkdir(parents=True)
    for name in ("pyproject.toml", "CMakeLists.txt", "csrc/a.cu", "lasfast/_C.old.so"):
        (root / name).touch()
    (root / "tests" / "test_a.py").write_text("@pytest.mark.cuda\n")
    shutil.copy(SCRIPT, root / "benchmarks")
    put_script(tmp_path / "bin" / "python", PYTHON)
    put_script(tmp_path / "bin" / "cmake", CMAKE)
    for tool in ("ncu", "compute-sanitizer", "nvidia-smi", "nvcc"):
        put_script(tmp_path / "bin" / tool, TOOL)
    return root


def start(checkout: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    around = checkout.parent
    environment = os.environ | {
        "PYTHON": "python",
        "CALLS": str(around / "calls"),
        "PATH": f"{around / 'bin'}:/usr/bin:/bin",
    }
    environment.pop("LASFAST_CHOICE", None)
    command = [
        "bash",
        str(checkout / "benchmarks" / "gpu.sh"),
        *arguments,
        str(around / "out" / "gpu.tar.gz"),
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment | variables, stdout=pipe, stderr=pipe, text=True)


def run(checkout: Path, *arguments: str, status: int = 0, **variables: str) -> tuple[str, dict[str, str]]:
    """What the script says, and the files of its archive."""
    (checkout.parent / "calls").unlink(missing_ok=True)
    process = start(checkout, *arguments, **variables)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == status, output + errors
    return output, archived(checkout)


def archived(checkout: Path) -> dict[str, str]:
    """The files of the archive, which is all that the script has left."""
    out = checkout.parent / "out"
    assert [file.name for file in out.iterdir()] == ["gpu.tar.gz"]
    own = {"tests", "benchmarks", "lasfast", "csrc", "pyproject.toml", "CMakeLists.txt"}
    assert {file.name for file in checkout.iterdir()} == own
    assert [file.name for file in (checkout / "benchmarks").iterdir()] == ["gpu.sh"]
    return files_of(out / "gpu.tar.gz")


def files_of(path: Path) -> dict[str, str]:
    files = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if (file := archive.extractfile(member)) is not None:
                files[member.name] = file.read().decode()
    return files


def calls(checkout: Path, what: str) -> list[str]:
    lines = (checkout.parent / "calls").read_text().splitlines()
    return [line for line in lines if what in line]


def test_all_that_it_leaves_is_one_archive_and_its_limits_add_up(checkout: Path) -> None:
    output, files = run(checkout)
    assert files["gpu/build.log"] == "for LASFAST_CUDA_ARCHS=90a\n"
    assert {"gpu/build/_C.so", "gpu/build/sources"} <= files.keys()
    assert "gpu/build/_C.old.so" not in files
    assert files["gpu/report.md"] == "# figures\n"
    for step in STEPS:
        assert f"\n{step}: done in " in files["gpu/summary.txt"]
        assert f"gpu/{step}.log" in files
    assert "!!!" not in output
    assert calls(checkout, "LASFAST_CHOICE=native") == []
    assert (
        len(calls(checkout, "pytest -m cuda -p no:benchmark -p no:cacheprovider -n 6 tests/test_a.py")) == 1
    )
    limits = dict(re.findall(r"^(.*): done in \d+ s of (\d+)$", files["gpu/summary.txt"], re.MULTILINE))
    assert list(limits) == STEPS
    assert sum(map(int, limits.values())) == 570


def test_a_check_that_fails_is_loudly_labelled_and_changes_no_measurement(checkout: Path) -> None:
    """It would change them were PyTorch's operators taken, or the check made again within another step."""
    output, files = run(checkout, status=1, CHECK="exit 1")
    summary = files["gpu/summary.txt"]
    assert "check: FAILED with status 1" in summary
    for text in (output, summary):
        assert "!!! THE CHECK OF THE KERNELS FAILED OR WAS CUT." in text
        assert "\nFAILED: check\n" in text
    for name in ("bench_evaluate", "bench_train", "bench_tiles", "pytest -m cuda", "report_gpu"):
        found = calls(checkout, name)
        assert found
        assert all(line.endswith("LASFAST_CHOICE=native") for line in found)


def test_a_graph_that_could_not_be_recorded_is_a_failure(checkout: Path) -> None:
    _, files = run(checkout, status=1, TILES="echo a CUDA graph could not be recorded, going on")
    assert re.search(
        r"^tiles: FAILED .* since a CUDA graph could not be", files["gpu/summary.txt"], re.MULTILINE
    )
    assert "\nFAILED: tiles\n" in files["gpu/summary.txt"]


def test_tools_that_cannot_be_used_are_left_out(checkout: Path) -> None:
    _, files = run(checkout, NCU="echo ==ERROR== ERR_NVGPUCTRPERM: no permission; exit 1")
    assert "\nprofile-tiles: SKIPPED, ==ERROR== ERR_NVGPUCTRPERM: no permission\n" in files["gpu/summary.txt"]
    for tool in ("ncu", "compute-sanitizer"):
        (checkout.parent / "bin" / tool).unlink()
    _, files = run(checkout)
    for step, tool in (("profile-others", "ncu"), ("racecheck", "compute-sanitizer")):
        assert f"\n{step}: SKIPPED, there is no {tool} here\n" in files["gpu/summary.txt"]


def test_a_second_call_does_what_is_left(checkout: Path) -> None:
    run(checkout, status=1, CHECK="exit 1", TILES="exit 3")
    (checkout.parent / "bin" / "ncu").unlink()
    output, files = run(checkout, "--again")
    done = re.findall(r"^(\S+): done", output, re.MULTILINE)
    assert done == ["arch", "check", "tiles", *MORE]
    assert "SKIPPED" not in output  # what an earlier call has done needs no tool
    assert calls(checkout, "cmake") == []
    assert files["gpu/summary.txt"].count("\ntiles: ") == 2
    assert {f"gpu/{step}.log" for step in STEPS} <= files.keys()
    assert not re.search("^FAILED", output, re.MULTILINE)
    output, _ = run(checkout, "--again")
    assert re.findall(r"^(\S+): done", output, re.MULTILINE) == ["arch"]


def test_other_sources_are_built_and_checked_again(checkout: Path) -> None:
    run(checkout)
    (checkout / "csrc" / "a.cu").write_text("// mended\n")
    output, _ = run(checkout, "--again")
    assert re.findall(r"^(\S+): done", output, re.MULTILINE) == [
        "arch",
        "build",
        "smoke",
        "smoke-maps",
        "check",
        *MORE,
    ]


def test_wrong_arguments_are_refused_before_anything_is_done(checkout: Path) -> None:
    for arguments, text in (
        (["--agian"], "no option --agian"),
        (["--again"], "archive of an earlier call, got"),
    ):
        process = start(checkout, *arguments)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 2
        assert text in errors
    assert not (checkout.parent / "out").exists()
    process = start(checkout, "--help")
    assert "benchmarks/gpu.sh --again ARCHIVE" in process.communicate(timeout=300)[0]
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_its_archive(checkout: Path, number: signal.Signals) -> None:
    process = start(checkout, CHECK="touch $CALLS.check; sleep 20")
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
    assert files["gpu/build.log"] == "for LASFAST_CUDA_ARCHS=90a\n"
    assert "build: done in " in files["gpu/summary.txt"]
    if number != signal.SIGKILL:  # after which nothing is written
        assert "check: CUT, the whole run was stopped after " in files["gpu/summary.txt"]
        assert files["gpu/check.log"] == "checking a\n"


@pytest.mark.slow  # since it waits
def test_a_hang_costs_its_step_alone(checkout: Path) -> None:
    """A step that listens to no interrupt is killed, with what it has started."""
    hang = "trap '' INT; echo measured; sleep 1000 & echo $! >$CALLS.child; wait; wait"
    output, files = run(checkout, status=1, SECONDS_IN_ALL="40", TILES=hang)
    assert "tiles: CUT at its limit after" in output
    assert files["gpu/tiles.log"] == "measured\n"
    assert not Path(f"/proc/{(checkout.parent / 'calls.child').read_text().strip()}").exists()


def test_the_kernels_that_are_profiled_exist() -> None:
    names = re.search(r'--kernel-name "regex:\^\((.*?)\)\$"', SCRIPT.read_text())
    assert names is not None
    code = "\n".join(file.read_text() for file in (ROOT / "csrc" / "cuda").glob("*.cu"))
    kernels = set(re.findall(r"^LASFAST_KERNEL\(.*\)\n(\w+)\(", code, re.MULTILINE))
    assert set(names[1].split("|")) <= kernels


def dry_run(archive: Path, *arguments: str) -> tuple[list[str], dict[str, Any], str]:
    """Run every step on the CPU, with tiny sizes; return the steps done, the records, and the report."""
    pytest.importorskip("lasfast._emulated")
    if not compiled.available():
        pytest.skip("the compiled module is missing")
    # Benchmarks measure nothing where they find themselves beside others, as these tests may be.
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment = own | {"PYTHON": sys.executable}
    environment.pop("LASFAST_CHOICE", None)
    command = ["bash", str(SCRIPT), "--dry-run", *arguments, str(archive)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SKIPPED" not in done.stdout
    files = files_of(archive)
    records = {
        name.removeprefix("gpu/").removesuffix(".json"): json.loads(text)
        for name, text in files.items()
        if re.fullmatch(r"gpu/[\w-]+\.json", name)
    }
    return re.findall(r"^(\S+): done", done.stdout, re.MULTILINE), records, files["gpu/report.md"]


def test_every_step_runs_without_a_gpu(tmp_path: Path) -> None:
    """No wrong path, option or import is left to be found on a GPU that is there for minutes."""
    steps, records, report = dry_run(tmp_path / "gpu.tar.gz")
    assert steps == STEPS
    tiles = importlib.import_module("lasfast._emulated").schedule_conv_tiles_cuda()
    by_warpgroups = sum(warpgroups for *_, warpgroups in tiles)
    assert len(records["smoke"]["results"]) == 1 + by_warpgroups + 12  # passes of two shapes in two ways
    by_maps = ["mapped" in one["kernel"] for one in records["smoke-maps"]["results"]]
    assert by_maps == [False] + [True] * by_warpgroups
    assert len(records["tiles"]["operations"]["tiles"]) == 1
    assert len(records["conv_train"]["operations"]["conv_train"]) == 9
    assert list(records["train-bf16"]["workloads"]) == ["nir-residual"]
    evaluated = records["evaluate-bf16"]["workloads"]
    assert list(evaluated) == ["nir-residual", "nir-plain"]
    assert [evaluated["nir-plain"]["predicted"][way] for way in ("levels", "resident")] == [
        "levels",
        "resident",
    ]
    assert "| `nir-plain` |" in report


@pytest.mark.slow
def test_every_step_of_a_second_call_runs_without_a_gpu(tmp_path: Path) -> None:
    earlier = tmp_path / "gpu" / "summary.txt"
    earlier.parent.mkdir()
    earlier.write_text("".join(f"{step}: done in 1 s of 1\n" for step in STEPS))
    with tarfile.open(tmp_path / "gpu.tar.gz", "w:gz") as archive:
        archive.add(earlier.parent, "gpu")
    steps, records, _ = dry_run(tmp_path / "gpu.tar.gz", "--again")
    assert steps == ["arch", "build", *MORE]
    assert len(records["operations"]["operations"]) == 6
    assert [name for name in MORE if name not in ("operations", "check-maps", *records)] == []
