"""The option that says where benchmarks of single operations run: `pytest benchmarks --device cuda`."""

import pytest

from benchmarks import _harness


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where operations run")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    where = request.config.getoption("--device")
    _harness.require_kernels(where)
    return where
