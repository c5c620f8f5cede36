"""ARCHITECTURE.md and gpu.sh name files that exist, and the former names every folder of the package."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
FOLDERS = {path.parent.name for path in (ROOT / "lasfast").glob("*/__init__.py")}


def test_the_files_that_it_names_exist():
    named = set(re.findall(r"`((?:lasfast|csrc|tests|benchmarks)/[\w./]*)`", TEXT))
    assert len(named) > 30
    missing = [name for name in sorted(named) if "X" not in Path(name).stem and not (ROOT / name).exists()]
    assert not missing, missing
    patterns = [name for name in named if "X" in Path(name).stem]
    assert all((ROOT / name).parent.is_dir() for name in patterns)


def test_it_has_every_folder():
    table = set(re.findall(r"^\| `(\w+)/` \|", TEXT, re.M))
    assert table == FOLDERS


def test_the_tests_that_a_gpu_is_to_run_exist():
    script = (ROOT / "benchmarks" / "gpu.sh").read_text(encoding="utf-8")
    named = re.findall(r"\btests/[\w./]+", script)
    assert named
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, missing
