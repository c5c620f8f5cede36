"""The build: what CMake decides, and what the archives hold."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lasfast.runtime import compiled

ROOT = Path(__file__).parents[1]
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
needs_tools = pytest.mark.skipif(
    CMAKE is None or find_spec("pybind11") is None or find_spec("setuptools") is None,
    reason="needs cmake, pybind11 and setuptools in this environment (pip brings its own when it builds)",
)


def configure(build: Path, *arguments: str, nvcc: Path | None = None) -> subprocess.CompletedProcess[str]:
    import pybind11

    environment = dict(os.environ)
    environment.pop("CUDACXX", None)
    if nvcc is not None:
        environment["CUDACXX"] = str(nvcc)
    return subprocess.run(
        [
            str(CMAKE),
            *("-S", str(ROOT), "-B", str(build)),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *arguments,
        ],
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def broken_nvcc(tmp_path: Path) -> Path:
    path = tmp_path / "nvcc"
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return path


@needs_tools
def test_a_broken_cuda_compiler_leaves_the_cpu_build(tmp_path: Path, broken_nvcc: Path) -> None:
    done = configure(tmp_path / "build", nvcc=broken_nvcc)
    assert done.returncode == 0, done.stderr
    assert "lasfast: CPU only" in done.stdout


@needs_tools
def test_a_broken_cuda_compiler_is_an_error_where_cuda_is_asked_for(
    tmp_path: Path, broken_nvcc: Path
) -> None:
    done = configure(tmp_path / "build", "-DLASFAST_CUDA=ON", nvcc=broken_nvcc)
    assert done.returncode != 0
    assert "CUDA" in done.stderr


@needs_tools
@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("-DLASFAST_CUDA=maybe", "LASFAST_CUDA is 'maybe'"),
        ("-DLASFAST_CUDA_ARCHS=80;x", "LASFAST_CUDA_ARCHS has 'x'"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, option: str, text: str) -> None:
    done = configure(tmp_path / "build", option)
    assert done.returncode != 0
    assert text in done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files a build needs, copied, so that it writes nothing into the tree."""
    copy = tmp_path / "lasfast"
    skip = shutil.ignore_patterns(
        "__pycache__", "*.so", "*.egg-info", "build", "dist", ".*", "data", "runs", "tests"
    )
    shutil.copytree(ROOT, copy, ignore=skip)
    shutil.copytree(
        ROOT / "lasfast", copy / "lasfast", ignore=shutil.ignore_patterns("*.so"), dirs_exist_ok=True
    )
    return copy


@needs_tools
def test_the_source_archive_holds_what_a_build_needs(checkout: Path, tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "CMakeLists.txt",
        "setup.py",
        "pyproject.toml",
        "lasfast/runtime/compiled.py",
        "lasfast/_version.py",
    }
    needed |= {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.*")}
    assert needed <= names


@needs_tools
@pytest.mark.slow
def test_a_wheel_built_beside_a_cuda_compiler_holds_cuda_and_loads_without_a_gpu(
    checkout: Path, tmp_path: Path
) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc here")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*pip, str(checkout)], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        wheel.extractall(tmp_path / "site")
    assert sum(name.startswith("lasfast/_C.") and name.endswith(".so") for name in names) == 1
    assert not any(name.startswith(("csrc", "tests")) for name in names)
    code = "from lasfast.runtime import compiled as c; print(c.__file__, c.build_info()['cuda']['archs'])"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path / "site") in done.stdout
    assert "'80'" in done.stdout
    assert "virtual" in done.stdout


def test_the_module_links_no_library_of_torch() -> None:
    """So that one wheel fits every torch."""
    module = find_spec("lasfast._C")
    if module is None:
        pytest.skip("the module is not built")
    content = Path(str(module.origin)).read_bytes()
    assert b"libgomp.so.1\0" in content or not compiled.build_info()["openmp"]
    for library in (b"libtorch", b"libc10", b"libcudart.so"):
        assert library not in content


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
@pytest.mark.skipif(not compiled.available(), reason="the module is not built")
def test_a_search_has_one_openmp_runtime_in_its_process(tmp_path: Path) -> None:
    """By the script that checks each wheel, run on the tree."""
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "check_wheel.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    [runtime] = re.findall(r"^OpenMP: (.*)$", done.stdout, re.MULTILINE)
    assert Path(runtime).is_relative_to(Path(str(torch.__file__)).parent)
