"""Benchmarks are not run here, but each finds what it imports."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from lasfast.runtime import compiled

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem != "conftest"])
def test_it_imports(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("storage", ["fp32", "bf16"])
@pytest.mark.parametrize("calibration", [False, True])
@pytest.mark.parametrize("kind", ["dense", "depthwise", "sum"])
def test_single_operations_run_on_cuda(
    emulated: ModuleType, monkeypatch: pytest.MonkeyPatch, kind: str, calibration: bool, storage: str
) -> None:
    """What they time there computes what PyTorch's sequence does."""
    fused = importlib.import_module("benchmarks._fused")
    monkeypatch.setattr(compiled, "load", lambda: emulated)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 16, 4, 4, generator=generator)
    shape = {"dense": (16, 16, 3, 3), "depthwise": (16, 1, 3, 3), "sum": ()}[kind]
    weight = torch.randn(shape, generator=generator) if shape else None
    operation = fused.CudaFused(weight, images, storage, calibration and kind != "sum")
    operation.prepare()()
    output = operation.arena.view(2, 3, 4, 4, 16)[1].permute(0, 3, 1, 2).float()
    x = images.to(fused.STORAGES[storage]).float()
    if weight is None:
        expected = (x + x).relu()
    else:
        weight = weight if kind == "depthwise" else weight.to(fused.STORAGES[storage]).float()
        expected = F.conv2d(x.relu(), weight, padding=1, groups=16 if kind == "depthwise" else 1)
        expected = expected if calibration else expected.relu()
    bound = 1e-5 if storage == "fp32" else 2e-2
    torch.testing.assert_close(output, expected, rtol=bound, atol=bound)
