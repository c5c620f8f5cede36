"""Benchmarks are not run here, but each finds what it imports."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem != "conftest"])
def test_it_imports(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
