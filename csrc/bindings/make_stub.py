"""Write lasfast/_C.pyi, which says what the compiled module offers; with --check, only compare it.

The stub is made from lasfast._emulated, which has the functions of a CUDA build on every machine. What
depends on the machine, on the version of pybind11 or on the emulation is left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

STUB = Path(__file__).resolve().parents[2] / "lasfast" / "_C.pyi"
MODULE = "lasfast._emulated"
HEADER = "# ruff: noqa: N999\n# Made by csrc/bindings/make_stub.py.\n"
CHANGES = (
    # A caster's parameter takes whatever converts to a number; callers give numbers.
    (r"typing\.SupportsInt( \| typing\.SupportsIndex)?", "int"),
    (r"typing\.SupportsFloat( \| typing\.SupportsIndex)?", "float"),
    (r'typing\.Annotated\[(.*?\[\w+\]), "FixedSize\(\d+\)"\]', r"\1"),
    (r"collections\.abc\.Sequence", "Sequence"),
    (r"import collections\.abc\n", "from collections.abc import Sequence\n"),
    # Values of this machine, and what every module and every enum has.
    (r"(?m)^(\w+: [\w\[\], .]+) = .*$", r"\1"),
    (r"(?m)^__all__.*\n", ""),
    (r"from __future__ import annotations\n", ""),
    (r"(?m)^def (?:noted_|set_|try_|is_warpgroup_)\w+\(.*\n(    .*\n)*", ""),  # the stand-in's
    (r'(?m)^    """\n    Members:\n(.*\n)*?    """\n', ""),
    (r"(?m)^    __members__: .*\n", ""),
    (r"(?m)^    @typing.overload\n", ""),
    (r"(?m)^(    @property\n)?    def (?!__init__\b)\w+\(self.*\n        \.\.\.\n", ""),
    (r"(?m)^    def __init__\(self, value: int\) -> None:\n        \.\.\.\n", ""),
    # What pybind11 does not know of dicts.
    (r"(?m)^records: dict$", "records: dict[str, numpy.dtype]"),
    (r"(?m)^(\w+): dict$", r"\1: dict[str, int]"),
    (r"(?m)^import typing\n", "import numpy\nimport typing\n"),
)


def generate() -> str:
    """Return the stub's text."""
    with tempfile.TemporaryDirectory() as directory:
        tool = [sys.executable, "-m", "pybind11_stubgen", MODULE, "-o", directory]
        subprocess.run(tool, cwd=STUB.parents[1], check=True)
        text = Path(directory, *MODULE.split(".")).with_suffix(".pyi").read_text()
    for pattern, replacement in CHANGES:
        text = re.sub(pattern, replacement, text)
    for arguments in (["check", "--fix-only", "--quiet"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(STUB), "-"]
        done = subprocess.run(command, input=HEADER + text, capture_output=True, text=True, check=True)
        text = done.stdout.removeprefix(HEADER)
    return HEADER + text


if __name__ == "__main__":
    made = generate()
    if "--check" not in sys.argv:
        STUB.write_text(made)
    elif STUB.read_text() != made:
        sys.exit(f"{STUB.name} is not what the compiled module offers: run `make format`")
