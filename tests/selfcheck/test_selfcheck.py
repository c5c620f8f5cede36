"""The check passes where the kernels are right, and fails, naming what, where they are not."""

import ctypes
import itertools
from dataclasses import replace as replaced
from functools import partial

import pytest
import torch

from lasfast import selfcheck
from lasfast.engine import conv_tiles
from lasfast.engine.cuda_executor import CudaExecutor
from lasfast.engine.native_backend import EXECUTORS
from lasfast.ops.sliced_conv2d import known_convolution
from lasfast.runtime import compiled
from lasfast.selfcheck import tiles, training
from lasfast.selfcheck.case import element_error, environment, relative_error
from lasfast.selfcheck.evaluation import evaluation_cases
from lasfast.selfcheck.tiles import tile_cases
from lasfast.selfcheck.training import training_cases

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


class Module:
    """The compiled module with another function in the place of one."""

    def __init__(self, module, name, function):
        self._module, self._name, self._function = module, name, function

    def __getattr__(self, name):
        original = getattr(self._module, name)
        if name != self._name:
            return original
        return lambda *arguments: self._function(original, *arguments)


@pytest.fixture
def replace(monkeypatch):
    """Put a function, which is given the original and the arguments, in the place of a compiled one."""
    if not compiled.available():
        pytest.skip("the compiled module is missing")
    module = compiled.load()
    known_convolution.cache_clear()  # which keeps the module that it was made with
    yield lambda name, function: monkeypatch.setattr(compiled, "load", lambda: Module(module, name, function))
    known_convolution.cache_clear()


def checked(only=""):
    """The results of cases whose names hold a text, by name; the others do not run."""
    with environment({"LASFAST_CHOICE": "native"}):
        cases = itertools.chain(*(some(CPU) for some in (evaluation_cases, tile_cases, training_cases)))
        return {case.name: case.check() for case in cases if only in case.name}


def test_the_processors_kernels_pass():
    if not compiled.available():
        pytest.skip("the compiled module is missing")
    begun = []
    results = list(selfcheck.run(CPU, begun.append))
    assert [one.name for one in results] == begun
    assert len(results) == len(set(begun)) == 24
    assert [one for one in results if one.problem] == []
    sets = tuple(compiled.load().isas_supported())
    assert {one.ways for one in results} == {sets, ("CPU",)}
    for one in results:
        assert one.error <= one.allowed <= 0.15


def add(number, address):
    """Add to the first float that lies at an address."""
    ctypes.cast(address, ctypes.POINTER(ctypes.c_float))[0] += number


def test_one_wrong_value_of_a_prediction_is_found(replace):
    def wrong(original, *arguments):
        original(*arguments)
        add(0.01, arguments[-1])

    replace("schedule_predict", wrong)
    results = checked("ResidualNet")
    for name in ("ResidualNet, fp32", "ResidualNet of bytes, fp32"):
        assert results[name].problem == "generic: wrong results"
        assert results[name].error > results[name].allowed


def test_one_wrong_value_of_a_convolution_is_found(replace):
    def wrong(original, *arguments):
        original(*arguments)
        add(1.0, arguments[6])

    replace("depthwise_nhwc_forward_cpu", wrong)
    results = checked("conv + batch norm")
    failed = {name for name, one in results.items() if one.problem}
    assert failed == {f"depthwise conv + batch norm + sum + activation, {kind}" for kind in ("fp32", "bf16")}


def test_bits_that_change_are_found(replace):
    count = itertools.count()

    def unsteady(original, *arguments):
        rate = arguments[3] * (1 + 1e-6 * next(count))
        original(*arguments[:3], rate, *arguments[4:])

    replace("sgd_cpu", unsteady)
    results = checked("SGD")
    assert [one.problem for one in results.values()] == ["CPU: other bits the second time"] * 2
    assert all(one.error < one.allowed for one in results.values())


def test_what_cannot_be_run_ends_the_check(replace):
    def broken(original, *arguments):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more")

    replace("schedule_predict", broken)
    [result] = selfcheck.run(CPU)
    expected = "generic: RuntimeError: CUDA error: an illegal memory access was encountered"
    assert (result.problem, result.error) == (expected, float("inf"))


def test_too_little_memory_is_no_result(replace):
    def full(original, *arguments):
        raise torch.OutOfMemoryError("as of a GPU")

    replace("schedule_predict", full)
    with pytest.raises(torch.OutOfMemoryError):
        list(selfcheck.run(CPU))


def test_values_that_are_no_numbers_are_wrong():
    nan, one = torch.tensor([torch.nan]), torch.ones(1)
    assert not relative_error(nan, one) <= 1
    with environment({}):
        case = selfcheck.Case("nan", lambda: [nan], lambda: [one], list, "fp32", {"some way": {}})
        assert case.check().problem == "some way: wrong results"


def case_of(ours, truth, theirs, precision):
    return selfcheck.Case(
        "some", lambda: [ours], lambda: [truth], lambda: [theirs], precision, {"some way": {}}
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "TF32"])
def test_one_wrong_element_among_many_is_found(precision):
    """Of which the relative error in norm says nothing."""
    truth = torch.randn(1 << 19, generator=torch.Generator().manual_seed(0))
    theirs = truth.bfloat16()
    right = truth if precision == "fp32" else theirs
    assert case_of(right, truth, theirs, precision).check().problem is None
    wrong = right.clone()
    wrong[truth.abs().argmin()] += 0.05
    result = case_of(wrong, truth, theirs, precision).check()
    assert result.error < result.allowed
    assert result.problem.startswith("some way: a wrong element, by ")


def test_no_gradient_comes_in_where_rounding_may_change_it_altogether():
    """At a kink of the activation. A few percent of the positions are near one."""
    for shape in training.DENSE:
        layer = training.Layer(shape, torch.float32, CPU, torch.channels_last)
        before = layer.grad
        after = layer.without_kinks(training.Layer.fused).grad
        share = float((after != before).float().mean())
        assert (share > 0.005) == (shape.activation in ("relu", "relu6", "hardsigmoid"))
        assert share < 0.1


def test_the_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("LASFAST_ISA", "before")
    monkeypatch.delenv("LASFAST_CHOICE")
    with environment({"LASFAST_ISA": "within", "LASFAST_CHOICE": "native"}):
        assert compiled.os.environ["LASFAST_ISA"] == "within"
    assert compiled.os.environ["LASFAST_ISA"] == "before"
    assert "LASFAST_CHOICE" not in compiled.os.environ


PRODUCTS = ("bf16", "tf32", "exact")
TILES_OF_TRAINING = {
    *itertools.product(["windows"], PRODUCTS, [128], [16, 32, 64, 128], [False, True]),
    *itertools.product(["windows"], ["warpgroups"], [128], [64, 128], [True]),
    *itertools.product(["grad_weight"], PRODUCTS, [128], [32, 64, 128], [False, True]),
    *itertools.product(["grad_weight"], ["warpgroups"], [128], [64, 128], [True]),
}
"""Kernel, product, rows and columns, and whether whole vectors are copied, of each that is compiled."""


def tiles_of_schedules(module):
    """The same of the engine's kernels, which always copy whole vectors."""
    tiles = module.schedule_conv_tiles_cuda()
    return {
        ("schedule", product, rows, columns, True)
        for product in (*PRODUCTS, "warpgroups")
        for rows, columns, warpgroups in tiles
        if warpgroups == (product == "warpgroups")
    }


def one_tap(shape):
    """The shape with a kernel of 1x1, whose tiles are the same, and take a ninth of the time."""
    return replaced(shape, weight=(*shape.weight[:2], 1, 1), padding=0)


@pytest.mark.parametrize("emulated", ["forward"], indirect=True)
@pytest.mark.parametrize("way", ["native", "warpgroups"])
def test_the_tiles_of_real_training_are_checked(way, emulated_place):
    """Of 64 and 128 channels, which small layers do not take. (All tiles are, in the slow test below.)"""
    shape = replaced(training.WIDE[1], input=(16, 40, 32, 32), weight=(72, 40, 1, 1), c_out=72, padding=0)
    layer = training.Layer(shape, torch.bfloat16, CPU, torch.channels_last)
    emulated_place.noted_tiles()
    known_convolution.cache_clear()
    with environment({"LASFAST_CHOICE": way}):
        ours = layer.results(partial(training.Layer.alone, layer))
    product = "bf16" if way == "native" else way
    by_tile = {one[3]: one for one in emulated_place.noted_tiles() if one[0] == "windows"}
    assert by_tile == {columns: ("windows", product, 128, columns, True) for columns in (64, 128)}
    doubles = layer.results(partial(layer.plain, training.Layer.alone), torch.float64, torch.float64)
    for one, right in zip(ours, doubles, strict=True):
        assert element_error(one, right) < 2**-6


@pytest.mark.parametrize("emulated", ["forward"], indirect=True)
@pytest.mark.parametrize(
    "names",
    [
        ["pools and gates, fp32", "pools and gates, bf16", "SGD", "tiles of"],
        [f"conv + batch norm + sum + activation, {kind}" for kind in ("fp32", "bf16")],
        pytest.param([""], marks=pytest.mark.slow),
    ],
    ids=["evaluation", "training", "all"],
)
def test_emulated_kernels_pass(names, emulated_place, monkeypatch):
    """CUDA's cases, on the host: predictions by levels and resident, and TF32; all of them in all tiles."""
    monkeypatch.setitem(EXECUTORS, "cpu", CudaExecutor)
    monkeypatch.setattr(conv_tiles, "POSITIONS", 64)
    monkeypatch.setattr(training, "WIDE", [one_tap(shape) for shape in training.WIDE])
    emulated_place.noted_tiles()
    results = {}
    for name in names:
        results |= checked(name)
    assert [one for one in results.values() if one.problem] == []
    ways = {one.ways for one in results.values()}
    assert ways <= {("levels", "resident", "resident alone"), ("CUDA",), ("CUDA", "warpgroups")}
    if "tiles of" in names or names == [""]:
        assert len([name for name in results if "tiles of" in name]) == 5 + 8 + 5
    noted = set(emulated_place.noted_tiles())
    if "tiles of" in names or names == [""]:
        assert {one for one in noted if one[0] == "schedule"} == tiles_of_schedules(emulated_place)
    if names == [""]:
        assert {one for one in noted if one[0] != "schedule"} == TILES_OF_TRAINING
        assert {one.name.rpartition(", ")[2] for one in results.values()} == {"fp32", "bf16", "TF32"}


@pytest.mark.parametrize("emulated", ["forward"], indirect=True)
def test_tensor_maps_are_checked_where_they_are_asked_for(emulated_place, monkeypatch):
    monkeypatch.setitem(EXECUTORS, "cpu", CudaExecutor)
    monkeypatch.setattr(conv_tiles, "POSITIONS", 1)
    monkeypatch.setattr(conv_tiles, "SIDE", 4)
    monkeypatch.setattr(tiles, "SIZES", (conv_tiles.Size(1, 64, 64),))
    assert not [case for case in tile_cases(CPU) if "tensor maps" in case.name]
    monkeypatch.setenv("LASFAST_TENSOR_MAPS", "1")
    emulated_place.noted_tiles()
    results = checked("by tensor maps")
    assert [one for one in results.values() if one.problem] == []
    noted = {one[2:4] for one in emulated_place.noted_tiles() if one[1] == "tensor maps"}
    assert len(results) == len(noted) == 3


@pytest.mark.parametrize("emulated", ["forward"], indirect=True)
def test_the_way_that_is_wrong_is_named(emulated_place, monkeypatch):
    def wrong(original, *arguments):
        original(*arguments)
        add(0.01, arguments[5])

    module = Module(emulated_place, "schedule_run_resident_cuda", wrong)
    monkeypatch.setattr(compiled, "load", lambda: module)
    monkeypatch.setitem(EXECUTORS, "cpu", CudaExecutor)
    [result] = checked("pools and gates, fp32").values()
    assert result.problem == "resident: wrong results"


@pytest.mark.cuda
def test_gpu_passes():
    results = list(selfcheck.run(torch.device("cuda", 0)))
    assert [one for one in results if one.problem] == []
