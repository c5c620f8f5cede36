"""What tests of operators share."""

from __future__ import annotations

import pytest

from tests.isas import ISAS


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this machine and build have, which the kernels then use."""
    from lasfast.runtime import compiled

    if not compiled.available():
        pytest.skip("lasfast's compiled module is not built")
    if request.param not in compiled.load().isas_supported():
        pytest.skip(f"this machine or build has no {request.param}")
    monkeypatch.setenv("LASFAST_ISA", request.param)
    return request.param
