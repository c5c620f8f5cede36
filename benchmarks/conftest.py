"""Options of the benchmarks of single operations: `pytest benchmarks --device cuda --only "3x3, 64 at"`."""

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks import _harness, record_operations


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=["cpu", "cuda"], default="cpu", help="where operations run")
    parser.addoption(
        "--only",
        action="append",
        metavar="TEXT",
        help="those whose name holds this text, or another --only's",
    )
    parser.addoption("--record", metavar="PATH", help="the short record (see record_operations.py)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record") is not None and config.getoption("benchmark_json") is None:
        raise pytest.UsageError("--record needs --benchmark-json (see record_operations.py)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    texts = config.getoption("--only")
    if texts is None:
        return
    chosen = [item for item in items if any(text in item.name for text in texts)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Sequence[Any], output_json: dict[str, Any]
) -> None:
    path = config.getoption("--record")
    if path is not None:
        _harness.write(record_operations.record(output_json["benchmarks"]), path)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    where = request.config.getoption("--device")
    _harness.require_kernels(where)
    return where
