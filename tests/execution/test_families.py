"""Networks as timm and torchvision make them are read, fused and calibrated, and equal PyTorch."""

from __future__ import annotations

import pytest

from benchmarks.record_families import families, make, try_network
from lasfast.runtime import compiled

pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
NATIVE = compiled.available() and hasattr(compiled.load(), "schedule_calibrate")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), families().items())
def test_families(name: str, size: int, one_thread: None) -> None:
    found = try_network(lambda: make(name), size)
    off = found["accelerate"]["off"]
    # Where rounding takes a value to the other side of a ReLU, gradients of a small layer move by percents.
    assert off.pop("gradients") <= 10, found
    assert all(value <= 1 for value in off.values()), found
    if found["norms"]:
        assert found["read"]["opaque_with_convolution"] == [], found
        assert found["calibrate"]["right"], found
        assert found["calibrate"]["backend"] == ("native" if NATIVE else "torch"), found
