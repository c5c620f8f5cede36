"""ARCHITECTURE.md and gpu.sh name files that exist, and the former names every folder of the package."""

import re
from pathlib import Path

from tests.test_imports import ARROWS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
TABLE = dict(re.findall(r"^\| `(\w+)/` \|[^|]*\| *([\w, ]*?) *\|$", TEXT, re.MULTILINE))
FOLDERS = {path.parent.name for path in (ROOT / "lasfast").glob("*/__init__.py")}


def test_the_files_that_it_names_exist():
    named = set(re.findall(r"`((?:lasfast|csrc|tests|benchmarks)/[\w./]*)`", TEXT))
    assert len(named) > 30
    missing = [name for name in sorted(named) if "X" not in Path(name).stem and not (ROOT / name).exists()]
    assert not missing, missing
    patterns = [name for name in named if "X" in Path(name).stem]
    assert all((ROOT / name).parent.is_dir() for name in patterns)


def test_it_has_every_folder():
    assert set(TABLE) == FOLDERS


def test_it_says_what_each_folder_imports():
    for folder, imports in TABLE.items():
        assert {*imports.split(", ")} - {""} == {*ARROWS[folder]} - {"_version"}, folder


def test_the_tests_that_a_gpu_is_to_run_exist():
    script = (ROOT / "benchmarks" / "gpu.sh").read_text(encoding="utf-8")
    named = re.findall(r"\btests/[\w./]+", script)
    assert named
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, missing
