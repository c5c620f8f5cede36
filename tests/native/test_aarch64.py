"""The CPU kernels for 64-bit ARM, compiled on this machine and run by an emulator of such processors.

The program compares each instruction set with the generic kernels. The native code that it calls needs
neither Python nor torch.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
TOOLS = ("cmake", "aarch64-linux-gnu-g++", "qemu-aarch64")
CMAKE, COMPILER, EMULATOR = (shutil.which(tool, path=PATHS) for tool in TOOLS)
MISSING = [tool for tool in TOOLS if shutil.which(tool, path=PATHS) is None]

pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"no {', no '.join(MISSING)} (in Debian and Ubuntu: cmake, g++-aarch64-linux-gnu, qemu-user)",
)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def build(directory: Path, optimize: str) -> Path:
    configured = run(
        *(CMAKE, "-S", ROOT, "-B", directory, "-DLASFAST_COMPARE=ON", f"-DLASFAST_OPTIMIZE={optimize}"),
        *("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"),
        *(f"-DCMAKE_CXX_COMPILER={COMPILER}", "-DCMAKE_BUILD_TYPE=None"),
    )
    assert configured.returncode == 0, configured.stderr
    built = run(CMAKE, "--build", directory)
    assert built.returncode == 0, built.stdout + built.stderr
    return directory / "compare_isas"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program as it compiles soonest."""
    return build(tmp_path_factory.mktemp("aarch64"), "-O0")


def compare(program: Path, processor: str, *isas: str) -> subprocess.CompletedProcess[str]:
    library = run(COMPILER, "-print-file-name=libc.so.6").stdout.strip()
    return run(EMULATOR, "-L", Path(library).resolve().parents[1], "-cpu", processor, program, *isas)


def assert_alike(done: subprocess.CompletedProcess[str], *isas: str) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^(\w+): \d{3} cases$", done.stdout, re.MULTILINE) == [*isas]


def test_a_processor_with_bf16_multiplies_pairs(program: Path) -> None:
    done = compare(program, "max", "neon_bf16")
    assert_alike(done, "neon_bf16")
    assert "supported: generic neon neon_bf16\n" in done.stdout
    assert re.search(r"^preferred: neon(_bf16)?$", done.stdout, re.MULTILINE)  # which of them was measured


def test_a_processor_without_bf16_has_neon(program: Path) -> None:
    done = compare(program, "cortex-a72", "neon")
    assert_alike(done, "neon")
    assert "supported: generic neon\npreferred: neon\n" in done.stdout
    refused = compare(program, "cortex-a72", "neon_bf16")
    assert refused.returncode == 2
    assert "neon_bf16 is not supported" in refused.stdout


@pytest.mark.slow
def test_optimized_kernels_compute_the_same(tmp_path: Path) -> None:
    assert_alike(compare(build(tmp_path, "-O3"), "max", "neon", "neon_bf16"), "neon", "neon_bf16")
