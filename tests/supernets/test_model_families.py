"""Networks as timm and torchvision make them become supernets; sorting their channels changes no output."""

from __future__ import annotations

import random

import pytest
import torch

from benchmarks.record_families import families, make
from lasfast.supernets import from_model

pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), families().items())
def test_families(name: str, size: int, one_thread: None) -> None:
    model, x = make(name).eval(), torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    supernet = from_model(model, (3, size, size))
    narrower = supernet.space.sample(random.Random(0))
    with torch.no_grad():
        theirs = model(x)
        truth = model.double()(x.double())
        allowed = 2 * (theirs - truth).norm() + 1e-4 * truth.norm()
        assert (supernet(x, supernet.full) - truth).norm() <= allowed
        logits = supernet(x, narrower)
        assert (supernet.extract(narrower)(x) - logits).norm() <= 1e-3 * logits.norm()
