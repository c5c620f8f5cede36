"""What tests of operators share."""

from __future__ import annotations

import pytest


@pytest.fixture(params=("generic", "avx2", "avx512", "avx512_bf16", "amx"))
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this machine and build have, which the kernels then use."""
    from lasfast.runtime import compiled

    if not compiled.available():
        pytest.skip("lasfast's compiled module is not built")
    if request.param not in compiled.load().isas_supported():
        pytest.skip(f"this machine or build has no {request.param}")
    monkeypatch.setenv("LASFAST_ISA", request.param)
    return request.param
