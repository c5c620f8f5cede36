"""Nothing depends on PyTorch's default dtype: native code reads float32 wherever it is given a tensor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import lasfast

PACKAGE = Path(lasfast.__file__).parent
MAKERS = {"empty", "zeros", "ones", "full", "rand", "randn", "linspace", "eye", "normal"}
"""Functions of torch whose result has the default dtype unless they are told another one."""


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_every_tensor_that_is_made_has_a_dtype() -> None:
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {f"torch.{name}" for name in MAKERS}:
                assert any(keyword.arg == "dtype" for keyword in node.keywords), f"{file}:{node.lineno}"


def test_float32_networks_train_under_another_default(float64: None, one_thread: None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Hardsigmoid()).float()
    network = lasfast.accelerate(model)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float32)
    found = []
    for one in (model, network):
        model.zero_grad()
        one(images).sin().sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for ours, theirs in zip(*reversed(found), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_measurements_are_those_of_float32(float64: None, one_thread: None) -> None:
    """A supernet that was made under float32 measures the same, natively and by PyTorch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(40, 1, 8, 8, generator=generator, dtype=torch.float32)
    labels = torch.arange(40) % 5
    found = []
    for dtype in (torch.float64, torch.float32):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32)
        supernet = lasfast.supernets.ResidualNet(max_layers=(2, 2, 2), num_classes=5, in_channels=1)
        torch.set_default_dtype(dtype)
        for backend in ("auto", "torch"):
            evaluator = lasfast.Evaluator(supernet, images[:20], (images, labels), backend=backend)
            [one] = evaluator([(1, 2, 1)])
            found.append(one.loss)
    assert found[:2] == pytest.approx(found[2:], rel=1e-6)
    assert found[0] == pytest.approx(found[1], rel=1e-4)
