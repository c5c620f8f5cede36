"""Roofs of operations: their arithmetic, the records, and the page that is made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import (
    _operation_times,
    _roof,
    _step_times,
    bench_evaluate,
    bench_train,
    record_roofline,
    report_roofline,
)
from benchmarks._roof import Level, Machine, Sum, Work
from lasfast import supernets
from lasfast.engine.native_backend import why_missing
from lasfast.engine.schedule import NONE, Kind, operation_fields, records, value_fields
from lasfast.ops.sliced_conv2d import find
from lasfast.ops.sliced_conv2d_schema import as_arguments
from lasfast.runtime import compiled

native = pytest.mark.skipif(
    why_missing(torch.device("cpu")) is not None, reason="lasfast's compiled module is not built"
)
MACHINE = Machine(
    rate=1e9,
    vector_rate=1e8,
    levels=(Level("L1", 1000, 1e9), Level("L2", 100_000, 1e8), Level("memory", None, 1e7)),
)


def test_the_roof_is_the_longer_of_two_times() -> None:
    assert MACHINE.seconds(Work(5000, 1000)) == (5e-6, 1e-6)
    assert MACHINE.roof(Work(5000, 1000)) == 5e-6
    assert MACHINE.roof(Work(5000, 1001)) == pytest.approx(1001 / 1e8)
    assert MACHINE.roof(Work(5000, 1000, held=100_001)) == pytest.approx(1e-4)
    assert [MACHINE.level(held).name for held in (1000, 1001, 100_000, 100_001)] == [
        "L1",
        "L2",
        "L2",
        "memory",
    ]
    slow = replace(MACHINE, rate=5e7)  # in the precision
    assert slow.roof(Work(5000, 1000)) == pytest.approx(5e-5)
    assert Machine.from_json(json.loads(json.dumps(MACHINE.as_json()))) == MACHINE


def test_operations_of_a_kind_add_up() -> None:
    one = Sum()
    one.add(MACHINE, Work(5000, 1000), seconds=1e-5, times=3)
    one.add(MACHINE, Work(0, 1000, held=10**6), seconds=2e-4)
    assert one == Sum(
        operations=4,
        seconds=pytest.approx(2.3e-4),
        roof=pytest.approx(1.15e-4),
        own_roof=pytest.approx(1.6e-5),
        precision_roof=pytest.approx(1.15e-4),
        by_products=pytest.approx(1.5e-5),
        products=15_000,
        bytes=4000,
    )
    one.divide(2)
    assert (one.operations, one.products) == (2, 7500)


def test_winograds_algorithm_has_fewer_products() -> None:
    assert [_roof.products_by(tile, 36 * 16) for tile in (0, 2, 4)] == [36 * 16, 16 * 16, 9 * 16]


def schedule(kind: Kind, source: tuple[int, ...], out: tuple[int, ...], **fields: int) -> Any:
    """A schedule of one operation, which has another value of the output's size beside it."""
    values = records("Value", [value_fields(*source), value_fields(*out), value_fields(*out)])
    given = {"input": 0, "output": 1, "out_channels": out[0], **fields}
    operations = records("Operation", [operation_fields(kind, **given)])
    return SimpleNamespace(values=values, operations=operations)


@native
@pytest.mark.parametrize(
    ("kind", "source", "out", "fields", "products", "size"),
    [
        # 16 channels at 8x8 to 24, 3x3, and 24 to add
        (Kind.CONV2D, (16, 8, 8), (24, 8, 8), {"kernel": 3, "padding": 1, "other": 2}, 24 * 16 * 9 * 64,
         (16 * 64 + 24 * 64 + 24 * 64, 24 * 16 * 9)),
        # of a 1x1 with a stride of 2, a quarter of the positions is read
        (Kind.CONV2D, (16, 8, 8), (24, 4, 4), {"stride": 2}, 24 * 16 * 16, (16 * 16 + 24 * 16, 24 * 16)),
        (Kind.CONV2D, (16, 8, 8), (16, 8, 8), {"kernel": 5, "padding": 2, "groups": 16}, 16 * 25 * 64,
         (2 * 16 * 64, 16 * 25)),
        (Kind.MAX_POOL, (16, 8, 8), (16, 4, 4), {"kernel": 2, "stride": 2}, 0, (16 * 64 + 16 * 16, 0)),
        (Kind.MAX_POOL, (16, 8, 8), (16, 4, 4), {"stride": 2}, 0, (2 * 16 * 16, 0)),
        (Kind.GLOBAL_POOL, (16, 8, 8), (16, 1, 1), {}, 0, (16 * 64 + 16, 0)),
        (Kind.COMBINE, (16, 8, 8), (16, 8, 8), {"other": 2}, 0, (3 * 16 * 64, 0)),
        (Kind.ARRANGE, (16, 8, 8), (24, 8, 8), {"other": 2}, 0, (2 * 24 * 64, 0)),
        (Kind.LINEAR, (16, 2, 2), (10, 1, 1), {}, 10 * 64, (64 + 10, 10 * 64)),
    ],
)  # fmt: skip
def test_what_an_operation_has_to_do(
    kind: Kind,
    source: tuple[int, ...],
    out: tuple[int, ...],
    fields: dict[str, int],
    products: int,
    size: tuple[int, int],
) -> None:
    values, weights = size
    work = _operation_times.work_of(schedule(kind, source, out, **fields), 0, images=3, itemsize=2)
    assert work == Work(3 * products, 2 * (3 * values + weights))


@native
@pytest.mark.parametrize("tile", [0, 2, 4])
def test_an_operation_by_winograds_algorithm_has_its_products(tile: int) -> None:
    fields = {"kernel": 3, "padding": 1, "tile": tile}
    one = schedule(Kind.CONV2D, (16, 8, 8), (24, 8, 8), **fields)
    work = _operation_times.work_of(one, 0, images=1, itemsize=4)
    assert work.products == 24 * 16 * 64 * {0: 9, 2: 4, 4: 2.25}[tile]


@native
def test_logits_and_images_are_in_fp32() -> None:
    linear = schedule(Kind.LINEAR, (16, 1, 1), (10, 1, 1), output=NONE, leaf=0)
    assert _operation_times.work_of(linear, 0, 3, 2) == Work(3 * 160, 3 * (2 * 16 + 4 * 10) + 2 * 160)
    images = schedule(Kind.INPUT, (1, 1, 1), (3, 8, 8), input=NONE)
    assert _operation_times.work_of(images, 0, 3, 2) == Work(0, 3 * 3 * 64 * (4 + 2))


@native
@pytest.mark.parametrize(
    ("kind", "channels", "fields", "name"),
    [
        (Kind.CONV2D, 16, {"kernel": 3, "padding": 1}, "3x3"),
        (Kind.CONV2D, 3, {"kernel": 3, "padding": 1}, "3x3, of images"),
        (Kind.CONV2D, 16, {"kernel": 7, "padding": 3, "groups": 16}, "depthwise 7x7"),
        (Kind.COMBINE, 16, {}, "batch norm, sum"),
    ],
)
def test_kinds_have_names(kind: Kind, channels: int, fields: dict[str, int], name: str) -> None:
    assert _operation_times.kind_of(schedule(kind, (channels, 8, 8), (channels, 8, 8), **fields), 0) == name


def test_what_a_pass_of_training_has_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.zeros(2, 16, 8, 8), torch.zeros(32, 24, 3, 3)  # of which a slice is read
    x = x.to(memory_format=torch.channels_last)
    convolution = find(*as_arguments(x, weight, 16, 24, 1, 1, 1))
    products, weights, read, out = 2 * 64 * 24 * 16 * 9, 24 * 16 * 9, 2 * 16 * 64, 2 * 24 * 64
    expected = {
        _step_times.FORWARD: Work(products, 4 * (read + out + weights)),
        _step_times.GRAD_INPUT: Work(products, 4 * (read + out + weights)),
        _step_times.GRAD_WEIGHT: Work(products, 4 * (read + out + weights)),
        _step_times.BOTH: Work(2 * products, 4 * (2 * read + out + 2 * weights)),
    }
    for which, work in expected.items():
        assert _step_times.convolution_work(convolution, which) == work
        assert _step_times.kind_of(convolution, which) == f"3x3, {which}"
    by_tiles = {"grad_input": "winograd 2x2", "grad_weight": "torch"}
    monkeypatch.setattr(convolution, "_fastest_ways", by_tiles)
    found = [_step_times.convolution_work(convolution, which).products for which in expected]
    assert found == [products, products * 4 // 9, products, 2 * products]


def test_bandwidths_are_those_of_copies() -> None:
    found = _roof.levels({"L1": 1 << 15, "L2": 1 << 20}, rounds=1)
    assert [(one.name, one.size) for one in found] == [("L1", 1 << 15), ("L2", 1 << 20), ("memory", None)]
    assert all(1e8 < one.bandwidth < 1e13 for one in found)
    assert next(iter(_roof.cache_sizes())) == "L1"


@native
def test_pytorchs_operators_are_timed_but_not_those_within_passes() -> None:
    operators = _step_times.Operators(MACHINE)
    a, b = torch.ones(4, 6), torch.ones(6, 8)
    with operators.watching():
        (a @ b).add_(1).view(-1)
    assert set(operators.sums) == {"linear", "sum of values"}
    linear = operators.sums["linear"]
    assert (linear.operations, linear.products, linear.bytes) == (1, 4 * 6 * 8, 4 * (24 + 48 + 32))
    assert operators.sums["sum of values"].bytes == 4 * 2 * 32


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small workloads, and a machine that is known."""
    net = supernets.ResidualNet
    evaluated = bench_evaluate.Workload(lambda: net((1, 1, 1)), lambda space: [(1, 1, 1)], 8, 80)
    trained = bench_train.Workload(lambda: net((2, 2, 2)), (1, 1, 1), image_size=8)
    monkeypatch.setattr(bench_evaluate, "WORKLOADS", {"small": evaluated})
    monkeypatch.setattr(bench_train, "WORKLOADS", {"small": trained})
    monkeypatch.setattr(bench_train, "BATCH", 4)
    monkeypatch.setattr(bench_train, "IMAGES", 16)
    monkeypatch.setattr(_roof, "measure", lambda precision: replace(MACHINE, rate=1e12))
    monkeypatch.setattr(record_roofline, "MOST_OF_PYTORCH", {})  # this process goes on to other tests
    monkeypatch.setenv("LASFAST_ISA", compiled.isa())
    monkeypatch.setenv("LASFAST_CHOICE", "native")


@native
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_roofs_are_recorded_and_reported(
    few: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, precision: str
) -> None:
    path, isa, threads = tmp_path / "roofline.json", compiled.isa(), torch.get_num_threads()
    monkeypatch.setattr(report_roofline, "WAYS", {(precision, isa): "the way"})
    ways = ["--precision", precision, "--isa", isa]
    try:
        for arguments in (["evaluation", "--images", "20", "--calibration", "8"], ["training"]):
            command, *more = arguments
            result = CliRunner().invoke(record_roofline.app, [command, str(path), *ways, *more])
            assert result.exit_code == 0, result.output
    finally:
        torch.set_num_threads(threads)
    record = json.loads(path.read_text())
    evaluated, trained = record["evaluation"]["small"], record["training"]["small"]
    assert 0 < evaluated["of roof"] == evaluated["roof_seconds"] / evaluated["seconds"]
    for which, count in (("calibration", 8), ("prediction", 80)):
        one = evaluated["passes"][which]
        assert 0.3 < one["sum / whole"] < 3
        stem = one["kinds"]["3x3, of images"]
        assert stem["products"] == count * 16 * 3 * 9 * 32 * 32
        assert stem["operations"] == count / one["images"]
    assert {"3x3", "linear", "global pool"} <= set(evaluated["passes"]["prediction"]["kinds"])
    assert "linear" not in evaluated["passes"]["calibration"]["kinds"]
    kinds = trained["kinds"]
    assert sum(one["seconds"] for one in kinds.values()) <= 2 * trained["seconds"]
    for which in ("forward", "gradient of weight"):  # nobody needs the gradient of images
        passes = kinds[f"3x3, of images, {which}"]
        assert passes["operations"] == 4  # one for each path
        assert passes["products"] == 4 * 4 * 16 * 3 * 9 * 8 * 8
    assert kinds["update of weights"]["operations"] == 4
    page = report_roofline.roofline([record])
    assert "### Training against its roof" in page
    assert f"| `small` | {evaluated['seconds']:.2f} | {evaluated['roof_seconds']:.2f} |" in page
    assert "- the way: 60 % of the roof; measured" in page


def test_the_page_says_where_the_rest_goes() -> None:
    def one(seconds: float, roof: float) -> dict[str, float]:
        return {"seconds": seconds, "roof": roof, "products": 0.0}

    workload = {
        "seconds": 10.0,
        "roof_seconds": 4.0,
        "of roof": 0.4,
        "outside of operations": 0.2,
        "kinds": {"1x1, forward": one(5.0, 3.0), "sum of values": one(3.0, 1.0)},
    }
    record = {
        "precision": "bf16",
        "isa": "amx",
        "machine": {"processor": "some", "torch": "2", "load_before": 0.0},
        "limits": MACHINE.as_json(),
        "evaluation": {},
        "training": {"a": workload, "b": {**workload, "of roof": 0.9}},
    }
    page = report_roofline.roofline([record])
    assert (
        "- bf16, AMX: 60 % of the roof; measured 60 %, met. Of the time beyond the roof, 33 % is in" in page
    )
    assert "| 1x1, forward | 50 % (60 %) | 50 % (60 %) | 60 % |  |" in page
    assert "| all else | 20 % | 20 % | | |" in page
