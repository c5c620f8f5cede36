"""How long a wheel takes to build, and how large it is; and how large torch's CUDA libraries are.

    python -m benchmarks.record_install off "80;90a" --output benchmarks/results/install.json

Each build is of the files that git knows, with LASFAST_CUDA=OFF or for the chips that are named. It needs
auditwheel, patchelf and the tools of a build. `--module lasfast/_C*.so` records how large the machine code is
for each chip that a module was built for, and how large the module is, alone and in a wheel. `--chips 100
120` records how large the machine code becomes for these, and nvcc's time. A record keeps what it has.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import _harness
from lasfast.runtime import compiled

ROOT = Path(__file__).parents[1]


def build(archs: str, folder: Path) -> dict[str, Any]:
    """Build and repair a wheel; return its seconds of processor time, and its sizes in bytes."""
    source = folder / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in files.decode().split("\0")[:-1]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    chips = {"LASFAST_CUDA": "OFF"} if archs == "off" else {"LASFAST_CUDA": "ON", "LASFAST_CUDA_ARCHS": archs}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*pip, str(source)], env={**os.environ, **chips}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    [wheel] = folder.glob("*.whl")
    subprocess.run([ROOT / ".ci" / "repair_wheel", wheel, folder / "repaired"], check=True)
    [repaired] = (folder / "repaired").glob("*.whl")
    with zipfile.ZipFile(repaired) as archive:
        modules = [one for one in archive.infolist() if one.filename.endswith(".so")]
    return {
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wheel": repaired.name,
        "wheel_bytes": repaired.stat().st_size,
        "libraries": {one.filename: one.file_size for one in modules},
    }


def cuda_libraries() -> dict[str, int]:
    """Return the bytes of the packages that torch brings for CUDA, by their names."""
    sizes = {}
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"]
        if re.match(r"nvidia-|cuda-|triton$", name):
            paths = (Path(str(package.locate_file(file))) for file in package.files or ())
            sizes[name] = sum(path.stat().st_size for path in paths if path.is_file())
    return sizes


def machine_code(path: Path) -> dict[str, int]:
    """Return the bytes of machine code (80) and PTX (90-virtual) for each chip in a module or a .fatbin file.

    The format is nvcc's: a header of 16 bytes (magic, version, its own size, the size of all entries), then
    the entries. Each has its kind (1 is PTX, 2 machine code), the sizes of its header and of its content, and
    the chip at byte 28.
    """
    content, sizes = path.read_bytes(), Counter[str]()
    for found in re.finditer(re.escape(b"\x50\xed\x55\xba"), content):
        _, header, size = struct.unpack_from("<HHQ", content, found.start() + 4)
        if header != 16 or size > len(content):
            continue  # these bytes are no header
        place = found.start() + header
        end = place + size
        while place < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", content, place)
            (chip,) = struct.unpack_from("<I", content, place + 28)
            sizes[f"{chip}-virtual" if kind == 1 else str(chip)] += header + size
            place += header + size
    return dict(sizes)


def compile_for(chip: str, folder: Path) -> dict[str, float]:
    """Compile the CUDA kernels for a chip, as `100`; return the bytes of its code, and processor time.

    Files that are in the folder are not compiled again.
    """
    size, seconds = 0, 0.0
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        kernels, taken = (folder / f"{source.stem}.{chip}.{suffix}" for suffix in ("fatbin", "time"))
        if not taken.exists():
            target = ["-gencode", f"arch=compute_{chip},code=sm_{chip}", "--fatbin", "-o", str(kernels)]
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            command = ["nvcc", "-std=c++17", "-O3", f"-I{ROOT / 'csrc' / 'include'}", *target, str(source)]
            subprocess.run(command, check=True)
            taken.write_text(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before))
        size += sum(machine_code(kernels).values())
        seconds += float(taken.read_text())
    return {"bytes": size, "cpu_seconds": seconds}


def main() -> None:
    """Build for each of the chips; write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archs", nargs="*", help="off, or a value of LASFAST_CUDA_ARCHS")
    parser.add_argument("--module", type=Path, help="a module, whose machine code is added up")
    parser.add_argument("--chips", nargs="*", default=(), help="chips to compile the kernels for, as 100")
    parser.add_argument("--folder", type=Path, default=Path("build/chips"), help="where these kernels go")
    parser.add_argument("--keep", type=Path, help="a folder to which the wheels are copied")
    parser.add_argument("--output", required=True)
    options = parser.parse_args()
    output = Path(options.output)
    known = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    builds, code = known.get("builds", {}), known.get("machine_code", {})
    module = known.get("module")
    if options.module is not None:
        content = options.module.read_bytes()
        module = {
            "archs": compiled.build_info()["cuda"]["archs"],
            "bytes": len(content),
            "bytes_in_wheel": len(zlib.compress(content, 6)),  # as pip and zipfile deflate
        }
        code |= {chip: {"bytes": size} for chip, size in machine_code(options.module).items()}
    options.folder.mkdir(parents=True, exist_ok=True)
    for chip in options.chips:
        code[chip] = compile_for(chip, options.folder)
    machine = _harness.machine()
    for archs in options.archs:
        with tempfile.TemporaryDirectory() as folder:
            builds[archs] = build(archs, Path(folder))
            if options.keep is not None:
                shutil.copytree(Path(folder) / "repaired", options.keep, dirs_exist_ok=True)
    libraries = cuda_libraries()
    record = {"record": "install", "machine": machine, "builds": builds, "machine_code": code}
    _harness.write({**record, "module": module, "cuda_libraries": libraries}, output)


if __name__ == "__main__":
    main()
