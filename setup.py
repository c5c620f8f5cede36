"""Drives CMake; every flag is in CMakeLists.txt, all metadata in pyproject.toml.

Environment: LASFAST_CUDA, LASFAST_CUDA_ARCHS and LASFAST_EMULATE (see CMakeLists.txt), CMAKE_ARGS (passed
on), CMAKE_BUILD_PARALLEL_LEVEL (how many compilers at once).
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


MODULES = ["lasfast._C"]
if os.environ.get("LASFAST_EMULATE", "OFF") not in ("", "0", "OFF"):
    MODULES.append("lasfast._emulated")  # by the same build


class CMakeBuild(build_ext):
    """Builds the extension modules with CMake, straight into the place where setuptools expects them."""

    def build_extension(self, ext: Extension) -> None:
        """Build all of them with the first, and check that the module is where it should be."""
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        if ext.name == MODULES[0]:
            self.build_all(target.parent)
        if not target.exists():
            raise RuntimeError(f"the build did not write {target}")

    def build_all(self, directory: Path) -> None:
        """Configure and build."""
        import pybind11

        build = Path(self.build_temp).resolve() / "cmake"
        configure = [
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={directory}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]
        for option in ("LASFAST_CUDA", "LASFAST_CUDA_ARCHS", "LASFAST_EMULATE"):
            if os.environ.get(option):
                configure.append(f"-D{option}={os.environ[option]}")
        ninja = shutil.which("ninja")
        if ninja:
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        # --fresh: an isolated build's tools are gone when the next one looks for them where the cache says.
        subprocess.run(["cmake", "--fresh", "-S", str(ROOT), "-B", str(build), *configure], check=True)
        subprocess.run(["cmake", "--build", str(build), "--parallel"], check=True)


setup(ext_modules=[Extension(name, sources=[]) for name in MODULES], cmdclass={"build_ext": CMakeBuild})
