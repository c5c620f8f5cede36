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


class CMakeBuild(build_ext):
    """Builds the one extension with CMake, straight into the place where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        """Configure, build, and check that the module is where it should be."""
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / "cmake"
        configure = [
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
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
        if not target.exists():
            raise RuntimeError(f"the build did not write {target}")


setup(ext_modules=[Extension("lasfast._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
