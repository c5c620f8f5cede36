"""Benchmarks are not run here, but each finds what it imports."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import (
    _harness,
    _optuna,
    _tuned,
    bench_conv_train,
    bench_evaluate,
    bench_tiles,
    bench_train,
    launch_kernels,
    record_cells,
    record_grain,
    record_threads,
    record_winograd,
    report_gpu,
    report_training,
    report_winograd,
)
from lasfast import supernets
from lasfast.engine import conv_tiles
from lasfast.engine.native_backend import why_missing
from lasfast.measurements.measurement import Measurement
from lasfast.runtime import compiled, gpu_check, kernels
from lasfast.runtime.gpu_check import CheckResult
from lasfast.runtime.precision import fp32_products, fp32_products_as
from lasfast.spaces import ChoiceSpace

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


def test_the_tiles_of_a_size_stand_together_those_of_warpgroups_first(emulated: ModuleType) -> None:
    shapes = emulated.schedule_conv_tiles_cuda()
    assert sorted(bench_tiles.TILES) == list(range(len(shapes)))
    by_warpgroups = [shapes[tile][2] for tile in bench_tiles.TILES]
    assert by_warpgroups == sorted(by_warpgroups, reverse=True)
    works = [(storage, size) for storage, size, _ in bench_tiles.CASES]
    ends = [work for work, following in zip(works, [*works[1:], None], strict=True) if work != following]
    assert len(ends) == len(set(works)) == 2 * len(bench_tiles.SIZES)
    assert works[0][0] == "bf16"


@pytest.mark.parametrize("emulated", ["forward"], indirect=True)
def test_every_tile_is_launched_for_tools_that_watch(
    emulated_place: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv_tiles, "SIDE", 4)
    emulated_place.noted_tiles()
    for products, stored in (("exact", "fp32"), ("tf32", "fp32"), ("exact", "bf16")):
        with fp32_products_as(products):
            launch_kernels.tiles(torch.device("cpu"), stored)
    launched = {one[1:4] for one in emulated_place.noted_tiles()}
    shapes = emulated_place.schedule_conv_tiles_cuda()
    by_warps = {
        (product, rows, columns)
        for product in ("exact", "tf32", "bf16")
        for rows, columns, warpgroups in shapes
        if not warpgroups
    }
    assert launched == by_warps | {("warpgroups", *shape[:2]) for shape in shapes if shape[2]}


@pytest.mark.parametrize("warpgroups", [False, True])
def test_passes_of_training_are_timed_by_warpgroups_too(
    emulated_place: ModuleType, monkeypatch: pytest.MonkeyPatch, warpgroups: bool
) -> None:
    monkeypatch.setattr(bench_conv_train, "IMAGES", 1)
    passes = bench_conv_train.Passes((8, 40, 6, 3, 1, 1), torch.bfloat16, "cpu")
    emulated_place.noted_tiles()
    for name in ("forward", "grad_weight"):
        passes.native(name, warpgroups=warpgroups)()
        [(_, product, *_)] = emulated_place.noted_tiles()
        assert product == ("warpgroups" if warpgroups else "bf16")


@pytest.mark.parametrize("products", ["exact", "tf32"])
def test_the_truth_is_exact_and_all_else_multiplied_alike(
    monkeypatch: pytest.MonkeyPatch, products: str
) -> None:
    """Whatever torch is set to."""
    seen: list[tuple[str, str]] = []
    original = _tuned.one_by_one

    def one_by_one(networks, calibration, images, batch, precision, convention):
        seen.append((precision, fp32_products()))
        return original(networks, calibration, images, batch, precision, convention)

    def cross_entropy(logits, labels):
        seen.append(("", fp32_products()))
        return loss(logits, labels)

    loss = F.cross_entropy
    for module in (_tuned, bench_evaluate):
        monkeypatch.setattr(module, "one_by_one", one_by_one)
    monkeypatch.setattr(F, "cross_entropy", cross_entropy)
    torch.manual_seed(0)
    supernet, path = supernets.PlainNet((1, 1, 1), 3, image_size=8), (1, 1, 1)
    network, images, labels = supernet.extract(path), torch.randn(4, 3, 8, 8), torch.arange(4) % 3
    with fp32_products_as(products):
        _tuned.check(network, network, [images], images, "fp32", "cumulative")
        assert seen == [("fp32", "exact"), ("fp32", products), ("fp32", products)]
        if compiled.available():
            seen.clear()
            bench_evaluate.compare(supernet, [path], [network], [images], images, "bf16", "cumulative")
            assert seen == [("fp32", "exact"), ("bf16", products)]
        seen.clear()
        bench_train.compare(None, supernet, (images, labels), [path], "fp32")
        assert seen == [("", "exact"), ("", products), ("", products)]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("products", ["exact", "tf32"])
def test_errors_have_the_bounds_of_what_is_rounded(products: str, device: str) -> None:
    with fp32_products_as(products):
        rounded = products == "tf32" and device == "cuda"
        assert _harness.logits_limit("fp32", device, 0.01) == (0.025 if rounded else 1e-4)
        assert _harness.logits_limit("bf16", device, 0.01) == 0.025


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose kernels failed their check."""
    failed = CheckResult(False, "case 3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(compiled, "available", lambda: True)
    monkeypatch.setattr(kernels, "_are_built_for", lambda device: True)
    monkeypatch.setattr(gpu_check, "_results", {0: failed})
    monkeypatch.setattr(gpu_check, "known", lambda device: failed)
    monkeypatch.setattr(_harness, "gather", dict)


def test_pytorchs_operators_are_not_measured_under_our_name(
    gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASFAST_CHOICE", "measure")
    _harness.require_kernels("cpu")
    with pytest.raises(RuntimeError, match="would be measured under their name: check failed: case 3"):
        _harness.require_kernels("cuda")
    monkeypatch.setenv("LASFAST_CHOICE", "native")
    _harness.require_kernels("cuda")


def test_records_say_that_kernels_failed_their_check(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASFAST_CHOICE", "native")
    failed = _harness.machine()
    assert failed["kernels"] == "check failed: case 3; measured all the same, by LASFAST_CHOICE=native"
    assert failed["fp32_products"] == "exact"
    monkeypatch.setattr(gpu_check, "known", lambda device: None)
    assert _harness.kernels_label() == "not checked; measured all the same, by LASFAST_CHOICE=native"
    monkeypatch.setattr(gpu_check, "known", lambda device: CheckResult(True))
    records = {"tiles": {"machine": failed}, "conv": {"machine": _harness.machine()}, "older": {}}
    assert report_gpu.warnings(records) == [f"**Kernels {failed['kernels']}**: tiles.\n"]


def test_the_page_says_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    assert report_gpu.known({}).count("| not yet |") == len(report_gpu.MEASURED)
    record = {
        "benchmark": "evaluate",
        "time": "2026-02-03T04:05:06+00:00",
        "precision": "bf16",
        "device": "some GPU",
        "workloads": {
            "a": {
                "seconds": {"native": [1.0], "levels": [2.0], "tuned": [3.0]},
                "times_faster_than": {"native": 1.0, "levels": 2.0, "tuned": 3.0},
                "tuned": "eager",
                "fraction_of_peak": 0.5,
            }
        },
    }
    (tmp_path / "evaluate-bf16.json").write_text(json.dumps(record))
    page = report_gpu.gpu(tmp_path)
    assert "| the speed of evaluation | `evaluate-bf16.json`, 2026-02-03 |" in page
    assert "| workload | native, s | by levels, s | times faster than tuned | tuned is | of peak |" in page
    assert "| `a` | 1.000 | 2.000 | 3.0 | eager | 50 % |" in page


def test_winograds_algorithm_is_recorded_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is slower than the direct kernels counts as these: they are taken then."""
    if why_missing(torch.device("cpu")) is not None:
        pytest.skip("lasfast's compiled module is not built")
    for name, value in {"CHANNELS": (8, 16), "SIZES": (4,), "ELEMENTS": 1}.items():
        monkeypatch.setattr(record_winograd, name, value)
    record = {"machine": _harness.machine(), "shapes": record_winograd.measure(1, largest=8)}
    (shape,) = record["shapes"].values()
    for which in report_winograd.passes_of(record["shapes"]):
        shape[which]["direct / "] |= {"winograd 2x2": 0.5, "winograd 4x4": 0.25}
    shape["calibration"]["direct / "]["winograd 4x4"] = 2.0
    shape["errors"] = {"winograd 2x2": 1e-7, "winograd 4x4": 9e-7, "torch": 2e-7}
    page = report_winograd.winograd([record])
    assert (
        "| 8 at 4x4 | 0.50 / 0.25 | 0.50 / 2.00 | 0.50 / 0.25 | 0.50 / 0.25 | 0.50 / 0.25 | 0.5 / 4.5 |"
        in page
    )
    assert "- prediction, the fastest way of each size: target 1.6x, measured 1.00x, missed." in page
    assert "- calibration, the fastest way of each size: target 1.6x, measured 2.00x, met." in page
    assert "- errors of winograd 4x4: at most 4 times PyTorch's, measured 4.5, missed." in page


def test_winograds_algorithm_is_recorded_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the ways that there are for pairs, and the passes that these have."""
    if "avx512_bf16" not in (compiled.load().isas_supported() if compiled.available() else []):
        pytest.skip("this machine or build has no avx512_bf16")
    monkeypatch.setenv("LASFAST_ISA", "avx512_bf16")
    for name, value in {"CHANNELS": (8,), "SIZES": (4,), "ELEMENTS": 1}.items():
        monkeypatch.setattr(record_winograd, name, value)
    record = {
        "precision": "bf16",
        "machine": _harness.machine(),
        "shapes": record_winograd.measure(1, 8, "bf16"),
    }
    page = report_winograd.winograd([record])
    assert "| channels | prediction | calibration | forward | grad_input | errors |" in page
    assert "- errors of winograd 2x2: at most 2 times PyTorch's" in page
    assert "4x4: at most" not in page


def test_threads_take_turns() -> None:
    counts: list[int] = []
    before = torch.get_num_threads()
    found = record_threads.timed(lambda: counts.append(torch.get_num_threads()), 2, rounds=3)
    torch.set_num_threads(before)
    assert counts == [1, 2, 1, 2, 1, 2, 2, 1, 1, 2]
    assert found["threads"] == 2
    assert set(found["seconds"]) == {"1", "2"}


def test_regions_of_threads_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists() or "libgomp" not in maps.read_text(encoding="utf-8"):
        pytest.skip("GNU's runtime of OpenMP is not in use")
    monkeypatch.setattr(record_grain, "CALLS", 3)
    monkeypatch.setattr(record_grain, "TEAMS", (1, 2))
    found = record_grain.regions()
    assert list(found) == ["1", "2", "4 after 1", "4 after 3"]
    assert min(found.values()) > 0


def test_the_page_has_the_cost_of_a_thread_that_kernels_go_by() -> None:
    code = (Path(__file__).parents[1] / "csrc/cpu/threads.h").read_text(encoding="utf-8")
    assert f"thread_ns = {report_training.THREAD_US}'000;" in code


def test_whole_searches_are_reported_with_their_winners() -> None:
    seconds = {"native": [2.0, 2.0, 2.0], "torch": [4.0, 5.0, 4.0], "joint": [1.0, 1.0, 1.0]}
    top1 = {"native": [0.5, 0.6, 0.7], "torch": [0.5, 0.61, 0.69], "joint": [0.4, 0.5, 0.6]}
    record = {
        "benchmark": "cifar10",
        "machine": {"native": {"isa": {"selected": "amx"}}},
        "seconds": seconds,
        "evaluation_seconds": seconds,
        "top1": top1,
    }
    page = report_training.searches([record])
    assert "| CIFAR-10, bf16, depth 9 | 2.0 | 4.0 | 2.00 | 2.0 and 4.0 |" in page
    assert "| CIFAR-10, bf16, depth 9, `--update joint` | 1.0 | 4.0 | 4.00 | 1.0 and 4.0 |" in page
    assert "60.0 % on average; of lasfast, +0.0 ± 0.6 points" in page
    assert "`--update joint`, -10.0 ± 0.6 points" in page


def test_searches_of_cells_are_recorded_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cells = np.array([*itertools.product(range(3), repeat=6)])
    accuracies = 50 + np.random.default_rng(0).uniform(0, 30, (2, len(cells), 3))
    sets = np.array(record_cells.SETS)
    columns = {"arch": cells, "sets": sets, "valid": accuracies[0], "test": accuracies[1]}
    np.savez(tmp_path / "cells.npz", **columns, flops=10 + cells.sum(1), raspi4=1.0 + cells[:, 0])
    few = [record_cells.PROBLEMS[0], record_cells.PROBLEMS[5]]
    monkeypatch.setattr(record_cells, "PROBLEMS", few)
    kept = ("random", "local search", record_cells.LAYERNAS)
    monkeypatch.setattr(
        record_cells, "METHODS", {name: [(60, record_cells.METHODS[name][0][1])] for name in kept}
    )
    monkeypatch.setattr(record_cells, "_problems", {})
    table, whole, pieces = (tmp_path / name for name in ("cells.npz", "whole.jsonl", "pieces.jsonl"))
    record_cells.record(table, whole, seeds=3)
    record_cells.record(table, pieces, seeds=2, only="local")
    with pieces.open("a") as file:
        file.write('{"problem": "cifar10, no')  # killed here
    record_cells.record(table, pieces, seeds=3)
    pieces.write_text(pieces.read_text() + whole.read_text())  # what two pieces have counts once
    found = []
    for runs in (whole, pieces):
        (tmp_path / "record.json").unlink(missing_ok=True)
        record_cells.summary(table, runs, tmp_path / "record.json")
        record = json.loads((tmp_path / "record.json").read_text())
        found.append({title: problem["methods"] for title, problem in record["problems"].items()})
        record_cells.page(tmp_path / "record.json", tmp_path / "page.md")
    assert [list(methods) for methods in found[0].values()] == [list(kept)] * 2
    for methods, others in zip(*(one.values() for one in found), strict=True):
        for name in kept:
            assert methods[name]["seeds"] == others[name]["seeds"] == 3
            assert methods[name]["regret"] == others[name]["regret"]
    for seeds, kept_seeds in ((4, 4), (2, 4)):  # a searcher's summary over more seeds stays
        fewer = tmp_path / f"{seeds}.jsonl"
        record_cells.record(table, fewer, seeds=seeds, only="local")
        record_cells.summary(table, fewer, tmp_path / "record.json")
        record = json.loads((tmp_path / "record.json").read_text())
        for problem in record["problems"].values():
            seeds_of = {name: one["seeds"] for name, one in problem["methods"].items()}
            assert seeds_of == {"random": 3, "local search": kept_seeds, record_cells.LAYERNAS: 3}
    record_cells.record(table, pieces, first=3, seeds=5, only="random")
    (tmp_path / "added.jsonl").write_text("".join(pieces.read_text().splitlines(keepends=True)[-4:]))
    record_cells.summary(table, tmp_path / "added.jsonl", tmp_path / "record.json")
    added = json.loads((tmp_path / "record.json").read_text())["problems"]
    (tmp_path / "record.json").unlink()
    record_cells.summary(table, pieces, tmp_path / "record.json")
    for title, problem in json.loads((tmp_path / "record.json").read_text())["problems"].items():
        joined, at_once = (one["methods"]["random"] for one in (added[title], problem))
        assert joined["seeds"] == at_once["seeds"] == 5
        for one, other in zip(joined["regret"], at_once["regret"], strict=True):
            assert one == ([None, None] if None in other else pytest.approx(other, abs=2e-4))
    page = " ".join((tmp_path / "page.md").read_text().split())
    assert "one standard error over 3 seeds. Made" in page
    assert "## cifar100, 25% of the FLOPs" in page


def test_what_optuna_proposes_beyond_a_bound_counts_as_no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for Optuna proposes all architectures in order, the first one twice."""
    space = ChoiceSpace([["a", "b", "c"]] * 2)
    proposals = iter([(0, 0), *itertools.product(range(3), repeat=2)])
    told: list[tuple[tuple[int, ...], float, float]] = []

    class Trial:
        def __init__(self) -> None:
            self.proposal, self.excess = next(proposals), float("nan")

        def suggest_categorical(self, name: str, options: list[int]) -> int:
            return self.proposal[int(name)]

        def set_constraint(self, name: str, excess: float) -> None:
            self.excess = excess

    def tell(trial: Trial, values: list[float]) -> None:
        told.append((trial.proposal, *values, trial.excess))

    stand_in = SimpleNamespace(
        logging=SimpleNamespace(set_verbosity=lambda level: None, ERROR=0),
        samplers=SimpleNamespace(TPESampler=lambda seed: None),
        create_study=lambda sampler, directions: SimpleNamespace(ask=Trial, tell=tell),
        __version__="5",
    )
    monkeypatch.setitem(sys.modules, "optuna", stand_in)
    searcher = _optuna.Optuna("TPESampler", space, 3, 0, lambda one: 1.0 + one[1], limit=2)
    asked = []
    while candidates := searcher.ask():
        (one,) = candidates
        asked.append(one)
        searcher.tell(one, Measurement(one, 0.5, 0.5, 1.0, 10))
    assert asked == [(0, 0), (0, 1), (1, 0)]
    assert told == [
        ((0, 0), 0.5, -0.5),
        ((0, 0), 0.5, -0.5),
        ((0, 1), 0.5, 0.0),
        ((0, 2), 0.0, 0.5),
        ((1, 0), 0.5, -0.5),
    ]
