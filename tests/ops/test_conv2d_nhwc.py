"""The passes of a convolution on dense NHWC values against float64, on every instruction set there is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lasfast.ops.sliced_conv2d import find, known_convolution
from lasfast.runtime import autotune, compiled
from lasfast.runtime.winograd import TILES
from tests.isas import BF16_ISAS, ISAS

LAST = torch.channels_last
STORAGE = {torch.float32: 0, torch.bfloat16: 1}
PASSES = ("forward", "grad_input", "grad_weight")


@dataclass(frozen=True)
class Case:
    batch: int
    c_in: int
    size: tuple[int, int]
    c_out: int
    kernel: int
    stride: int
    padding: int


CASES = [
    Case(37, 16, (8, 8), 16, 3, 1, 1),
    Case(3, 3, (9, 11), 17, 3, 1, 1),
    Case(3, 33, (5, 7), 58, 3, 1, 0),
    Case(37, 58, (5, 7), 24, 3, 1, 2),
    Case(1, 64, (6, 5), 33, 3, 1, 1),
    Case(70, 32, (2, 2), 48, 3, 1, 1),
    Case(37, 17, (1, 1), 3, 3, 1, 1),
    Case(37, 1, (9, 4), 1, 5, 1, 2),
    Case(3, 16, (9, 8), 32, 3, 2, 1),
    Case(37, 33, (5, 7), 17, 3, 2, 0),
    Case(3, 3, (17, 19), 20, 7, 2, 3),
    Case(3, 5, (11, 8), 7, 5, 3, 1),
    Case(3, 8, (7, 9), 6, 2, 2, 0),
    Case(3, 8, (7, 9), 6, 2, 3, 1),
    Case(37, 58, (5, 7), 24, 1, 1, 0),
    Case(3, 24, (4, 4), 116, 1, 1, 0),
    Case(37, 48, (1, 1), 33, 1, 1, 0),
    Case(37, 32, (6, 5), 17, 1, 2, 0),
    Case(3, 17, (7, 4), 40, 1, 3, 0),
    Case(3, 9, (4, 3), 40, 1, 2, 2),
    Case(3, 9, (4, 3), 40, 1, 1, 2),
    Case(34, 40, (8, 9), 16, 3, 2, 1),
    Case(3, 4, (7, 9), 6, 5, 4, 3),
    Case(3, 6, (4, 5), 5, 7, 1, 3),
    Case(40, 256, (2, 1), 320, 1, 1, 0),
    Case(33, 288, (2, 2), 160, 3, 1, 1),
    Case(2, 32, (40, 36), 16, 3, 1, 1),
]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return supported(request.param)


@pytest.fixture(params=BF16_ISAS)
def bf16_isa(request: pytest.FixtureRequest) -> str:
    return supported(request.param)


@pytest.fixture(
    params=[*((isa, torch.float32) for isa in ISAS), *((isa, torch.bfloat16) for isa in BF16_ISAS)]
)
def way(request: pytest.FixtureRequest) -> tuple[str, torch.dtype]:
    """An instruction set, and values that it has passes on."""
    isa, dtype = request.param
    return supported(isa), dtype


def supported(isa: str) -> str:
    if not compiled.available():
        pytest.skip("lasfast's compiled module is not built")
    if isa not in compiled.load().isas_supported():
        pytest.skip(f"this machine or build has no {isa}")
    return isa


@dataclass
class Problem:
    """Tensors [N, C, H, W] in channels_last; the weight is a slice of one that is NaN elsewhere."""

    case: Case
    x: Tensor
    weight: Tensor
    grad: Tensor
    tile: int = 0

    @classmethod
    def random(cls, case: Case, dtype: torch.dtype, weight_dtype: torch.dtype, layout: str) -> Problem:
        generator = torch.Generator().manual_seed(case.c_in)
        size = (case.c_out + 3, case.c_in + 5, case.kernel, case.kernel)
        weight = torch.full(size, torch.nan, dtype=weight_dtype)
        if layout == "channels_last":
            weight = weight.to(memory_format=LAST)
        slice_ = weight[: case.c_out, : case.c_in]
        slice_.copy_(torch.randn(slice_.shape, generator=generator))
        x = torch.randn(case.batch, case.c_in, *case.size, generator=generator)
        x = x.to(dtype, memory_format=LAST)
        out = torch.conv2d(x.double(), slice_.double(), None, case.stride, case.padding)
        grad = torch.randn(out.shape, generator=generator).to(dtype, memory_format=LAST)
        return cls(case, x, slice_, grad)

    def params(self, weight: Tensor) -> object:
        case = self.case
        return compiled.load().Conv2dNhwcParams(
            case.batch, self.x.shape[1:], self.grad.shape[1:], case.kernel, case.stride, case.padding,
            weight.stride(), STORAGE[self.x.dtype], STORAGE[weight.dtype], tile=self.tile,
        )  # fmt: skip

    def run(
        self,
        which: str,
        isa: str,
        threads: int = 1,
        grad_weight: Tensor | None = None,
        statistics: bool = False,
    ) -> list[Tensor]:
        """The pass's results; `grad_weight`: what to write that to."""
        module = compiled.load()
        number = module.isa_names().index(isa)
        kind = getattr(module.Pass, which)
        if grad_weight is None:
            grad_weight = torch.full(self.weight.shape, torch.nan)
        params = self.params(grad_weight if which == "grad_weight" else self.weight)
        why = module.conv2d_nhwc_why_not(params, kind, number)
        if why is not None:
            raise NotImplementedError(why)
        workspace = torch.full(
            (module.conv2d_nhwc_workspace_cpu(params, kind, threads, number) + 8,), 255, dtype=torch.uint8
        )
        where = workspace.data_ptr() + 3, threads, number
        if which == "forward":
            y = torch.full_like(self.grad, torch.nan)
            moments = [torch.full((self.case.c_out,), torch.nan) for _ in range(2 if statistics else 0)]
            pointers = [m.data_ptr() for m in moments] or [0, 0]
            module.conv2d_nhwc_forward_cpu(
                params, self.x.data_ptr(), self.weight.data_ptr(), *where, y.data_ptr(), *pointers
            )
            results = [y, *moments]
        elif which == "grad_input":
            result = torch.full_like(self.x, torch.nan)
            module.conv2d_nhwc_grad_input_cpu(
                params, self.grad.data_ptr(), self.weight.data_ptr(), *where, result.data_ptr()
            )
            results = [result]
        else:
            module.conv2d_nhwc_grad_weight_cpu(
                params, self.grad.data_ptr(), self.x.data_ptr(), *where, grad_weight.data_ptr()
            )
            results = [grad_weight]
        assert bool((workspace[:3] == 255).all())
        assert bool((workspace[-5:] == 255).all())
        return results

    def truth(self, which: str, dtype: torch.dtype = torch.float64, *, rounded: bool = True) -> Tensor:
        """What PyTorch computes in `dtype`, from the weight as the values are stored, or as it is."""
        case, weight = self.case, self.weight.to(self.x.dtype) if rounded else self.weight
        x, weight, grad = (t.to(dtype, memory_format=LAST) for t in (self.x, weight, self.grad))
        if which == "forward":
            return torch.conv2d(x, weight, None, case.stride, case.padding)
        mask = [which == "grad_input", which == "grad_weight", False]
        both, no = [case.stride] * 2, [0, 0]
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, both, [case.padding] * 2, [1, 1], False, no, 1, mask
        )[mask.index(True)]


def relative_error(a: Tensor, truth: Tensor) -> float:
    return float((a.double() - truth).norm() / truth.norm().clamp_min(1e-30))


def expect_close(problem: Problem, which: str, result: Tensor, *, rounded: bool = True) -> None:
    truth = problem.truth(which, rounded=rounded)
    assert result.shape == truth.shape
    error = relative_error(result, truth)
    if problem.x.dtype == torch.float32:
        assert error <= 1e-5
    elif which == "grad_weight":
        assert error <= 2e-6  # it is not rounded
    else:
        assert error <= 2 * relative_error(problem.truth(which, torch.bfloat16), truth) + 1e-4


def engine_lacks(case: Case, which: str) -> bool:
    """Whether the pass would be a convolution that is padded by its kernel's size or more."""
    return which == "forward" and case.padding >= case.kernel


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("weight_dtype", STORAGE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bf16_agrees_with_float64(case: Case, weight_dtype: torch.dtype, layout: str, bf16_isa: str) -> None:
    problem = Problem.random(case, torch.bfloat16, weight_dtype, layout)
    for which in PASSES:
        if engine_lacks(case, which):
            with pytest.raises(NotImplementedError, match="padding"):
                problem.run(which, bf16_isa)
        else:
            expect_close(problem, which, problem.run(which, bf16_isa)[0])


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_fp32_agrees_with_float64(case: Case, isa: str) -> None:
    problem = Problem.random(case, torch.float32, torch.float32, "contiguous")
    for which in PASSES:
        if not engine_lacks(case, which):
            expect_close(problem, which, problem.run(which, isa)[0])


@pytest.mark.parametrize("case", [CASES[0], CASES[4], CASES[9], CASES[14], CASES[22]], ids=str)
def test_statistics_are_of_the_sums_before_rounding(case: Case, way: tuple[str, torch.dtype]) -> None:
    isa, dtype = way
    problem = Problem.random(case, dtype, torch.float32, "channels_last")
    y, mean, variance = problem.run("forward", isa, statistics=True)
    assert torch.equal(y, problem.run("forward", isa)[0])
    exact = problem.truth("forward").transpose(0, 1).flatten(1)
    scale = exact.std(1, correction=0)
    assert float(((mean - exact.mean(1)) / scale).abs().max()) < 1e-5
    assert float((variance / scale**2 - 1).abs().max()) < 1e-5


@pytest.mark.parametrize("case", [c for c in CASES if c.batch >= 33], ids=str)
def test_same_bits_whatever_the_threads(case: Case, way: tuple[str, torch.dtype]) -> None:
    isa, dtype = way
    large = Case(4 * case.batch, case.c_in, case.size, case.c_out, case.kernel, case.stride, case.padding)
    problem = Problem.random(large, dtype, torch.float32, "contiguous")
    for which in PASSES:
        if engine_lacks(case, which):
            continue
        statistics = which == "forward"
        first, *others = (problem.run(which, isa, n, statistics=statistics) for n in (1, 2, 3))
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


TILED = [case for case in CASES if (case.kernel, case.stride) == (3, 1)]


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("case", TILED, ids=str)
def test_tiles_agree_with_float64(case: Case, tile: int, isa: str) -> None:
    problem = Problem.random(case, torch.float32, torch.float32, "contiguous")
    problem.tile = tile
    y, mean, variance = problem.run("forward", isa, statistics=True)
    expect_close(problem, "forward", y)
    exact = problem.truth("forward").transpose(0, 1).flatten(1)
    assert float(((mean - exact.mean(1)) / exact.std(1, correction=0)).abs().max()) < 1e-5
    assert float((variance / exact.var(1, correction=0) - 1).abs().max()) < 1e-5
    gradients = [problem.run(which, isa)[0] for which in ("grad_input", "grad_weight")]
    for which, gradient in zip(("grad_input", "grad_weight"), gradients, strict=True):
        expect_close(problem, which, gradient)
    again = [
        *problem.run("forward", isa, 3, statistics=True),
        *problem.run("grad_input", isa, 3),
        *problem.run("grad_weight", isa, 3),
    ]
    assert all(torch.equal(a, b) for a, b in zip((y, mean, variance, *gradients), again, strict=True))
    problem.tile = 0
    assert not torch.equal(problem.run("forward", isa)[0], y)
    assert not torch.equal(problem.run("grad_weight", isa)[0], gradients[1])


@pytest.mark.parametrize("case", [case for case in TILED if min(case.size) > 2], ids=str)
def test_tiles_of_bf16_agree_with_float64(case: Case, bf16_isa: str) -> None:
    """Pairs of bf16 values are multiplied in tiles of two; AMX has tiles of its own."""
    problem = Problem.random(case, torch.bfloat16, torch.float32, "contiguous")
    problem.tile = 2
    if bf16_isa == "amx":
        with pytest.raises(NotImplementedError, match="other products"):
            problem.run("forward", bf16_isa)
        return
    y, mean, variance = problem.run("forward", bf16_isa, statistics=True)
    gradient = problem.run("grad_input", bf16_isa)[0]
    for which, result in (("forward", y), ("grad_input", gradient)):
        expect_close(problem, which, result, rounded=False)  # a weight is rounded once it is transformed
    again = [*problem.run("forward", bf16_isa, 3, statistics=True), *problem.run("grad_input", bf16_isa, 3)]
    assert all(torch.equal(a, b) for a, b in zip((y, mean, variance, gradient), again, strict=True))
    with pytest.raises(NotImplementedError, match="in fp32 alone"):
        problem.run("grad_weight", bf16_isa)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("tile", "times"), [(2, 2), (4, 4)])
@pytest.mark.parametrize(
    "case", [Case(32, 64, (8, 8), 64, 3, 1, 1), Case(8, 33, (31, 30), 20, 3, 1, 0), CASES[3]], ids=str
)
def test_errors_of_weight_gradients_by_tiles_are_near_those_of_torch(
    case: Case, tile: int, times: int, threads: int, isa: str
) -> None:
    """The sums are over many tiles: over few, errors of tiles of 4 are up to six times as large."""
    problem = Problem.random(case, torch.float32, torch.float32, "channels_last")
    problem.tile = tile
    truth, theirs = (problem.truth("grad_weight", dtype) for dtype in (torch.float64, torch.float32))
    (ours,) = problem.run("grad_weight", isa, threads)
    assert relative_error(ours, truth) <= times * relative_error(theirs, truth)


@pytest.mark.parametrize(("images", "offered"), [(31, False), (32, True)])
def test_weight_gradients_by_tiles_are_sums_over_many_outputs(
    images: int, offered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def fastest(key: str, device: torch.device, ways: dict) -> str:
        asked[key.split()[1]] = set(ways)
        return "native"

    monkeypatch.setattr(autotune, "fastest", fastest)
    monkeypatch.delenv("LASFAST_CHOICE", raising=False)
    known_convolution.cache_clear()  # which may know a way
    values = torch.randn(images, 8, 8, 8).to(memory_format=LAST)
    weight = torch.randn(8, 8, 3, 3)
    convolution = find(values, weight, 8, 8, 1, 1, 1)
    convolution.grad_weight(values, values)
    convolution.grad_input(values, weight)
    known_convolution.cache_clear()
    assert (TILES.keys() <= asked["grad_weight"]) == offered
    assert TILES.keys() <= asked["grad_input"]


@pytest.mark.parametrize("tile", [2, 4])
def test_weight_gradients_by_tiles_are_cut_into_items(tile: int, isa: str) -> None:
    """They have parts of tiles, and slabs of input channels, the last of which is smaller."""
    problem = Problem.random(Case(40, 200, (17, 19), 24, 3, 1, 1), torch.float32, torch.float32, "contiguous")
    problem.tile = tile
    first, *others = (problem.run("grad_weight", isa, threads)[0] for threads in (1, 2, 3))
    expect_close(problem, "grad_weight", first)
    assert all(torch.equal(first, other) for other in others)
    whole = torch.full((30, 230, 3, 3), 7.0).to(memory_format=LAST)
    (part,) = problem.run("grad_weight", isa, grad_weight=whole[:24, :200])
    assert torch.equal(part, first)
    part.fill_(7)
    assert bool((whole == 7).all())


@pytest.mark.parametrize(
    ("case", "weight_dtype", "message"),
    [
        (Case(3, 8, (7, 9), 8, 5, 1, 2), torch.float32, "a kernel of 3"),
        (Case(3, 8, (7, 9), 8, 3, 2, 1), torch.float32, "stride 1"),
        (Case(3, 8, (7, 9), 8, 3, 1, 3), torch.float32, "a padding of 2"),
        (Case(3, 8, (7, 9), 8, 3, 1, 1), torch.bfloat16, "an fp32 weight"),
    ],
    ids=str,
)
def test_tiles_are_for_some_convolutions(case: Case, weight_dtype: torch.dtype, message: str) -> None:
    problem = Problem.random(case, torch.float32, weight_dtype, "contiguous")
    problem.tile = 4
    for which in PASSES if weight_dtype == torch.float32 else PASSES[:2]:  # gradients are fp32 in any case
        with pytest.raises(NotImplementedError, match=message):
            problem.run(which, supported("generic"))
    problem = Problem.random(CASES[0], torch.float32, torch.float32, "contiguous")
    problem.tile = 3
    with pytest.raises(NotImplementedError, match="none of 0, 2 and 4"):
        problem.run("forward", "generic")


@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST], ids=str)
def test_writes_only_the_slice_of_a_larger_gradient(
    layout: torch.memory_format, way: tuple[str, torch.dtype]
) -> None:
    isa, dtype = way
    problem = Problem.random(CASES[3], dtype, torch.float32, "contiguous")
    whole = torch.full((70, 60, 3, 3), 7.0).to(memory_format=layout)
    (part,) = problem.run("grad_weight", isa, grad_weight=whole[:24, :58])
    expect_close(problem, "grad_weight", part)
    part.fill_(7)
    assert bool((whole == 7).all())


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[8], CASES[14]], ids=str)
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_non_finite_values_stay_where_they_belong(
    case: Case, value: float, way: tuple[str, torch.dtype]
) -> None:
    """Where the definition has one there is one, and channels and images that do not see it are finite."""
    isa, dtype = way
    problem = Problem.random(case, dtype, torch.float32, "contiguous")
    problem.x[1, 2, 1, 2] = value
    problem.grad[2, 1, 1, 1] = value
    y, grad_input, grad_weight = (problem.run(which, isa)[0] for which in PASSES)
    assert torch.equal(y.isfinite(), problem.truth("forward").isfinite())
    assert not grad_input[2].isfinite().all()
    assert bool(grad_input[torch.arange(case.batch) != 2].isfinite().all())
    exact = problem.truth("grad_weight").isfinite()
    assert bool((grad_weight.isfinite() <= exact).all())
    seen = torch.zeros_like(exact)
    seen[1], seen[:, 2] = True, True
    assert bool(grad_weight[~seen].isfinite().all())


@pytest.mark.parametrize("case", [CASES[0], CASES[16], CASES[24]], ids=str)
def test_values_may_begin_at_any_address(case: Case, way: tuple[str, torch.dtype]) -> None:
    """Without padding or strides, vectors read values in their place."""
    isa, dtype = way
    problem = Problem.random(case, dtype, torch.float32, "contiguous")
    expected = [problem.run(which, isa)[0] for which in PASSES]

    def moved(values: Tensor) -> Tensor:
        room = torch.zeros(values.numel() + 1, dtype=dtype)
        return room.as_strided(values.shape, values.stride(), 1).copy_(values)

    problem.x, problem.grad = moved(problem.x), moved(problem.grad)
    for which, result in zip(PASSES, expected, strict=True):
        assert torch.equal(problem.run(which, isa)[0], result)


def test_an_empty_batch(isa: str) -> None:
    dtype = torch.bfloat16 if isa in BF16_ISAS else torch.float32
    problem = Problem.random(Case(0, 16, (4, 4), 8, 3, 1, 1), dtype, torch.float32, "contiguous")
    assert not problem.run("grad_weight", isa)[0].any()
    assert problem.run("grad_input", isa)[0].numel() == 0
    assert problem.run("forward", isa)[0].numel() == 0


def test_what_cannot_be_run_is_said_and_not_run(isa: str) -> None:
    large = Case(3, 4, (15, 15), 4, 12, 1, 1)
    problem = Problem.random(large, torch.float32, torch.float32, "contiguous")
    for which in PASSES:
        with pytest.raises(NotImplementedError, match="kernel is too large"):
            problem.run(which, isa)
    if isa not in BF16_ISAS:
        problem = Problem.random(CASES[0], torch.bfloat16, torch.float32, "contiguous")
        for which in PASSES:
            with pytest.raises(NotImplementedError, match="avx512_bf16"):
                problem.run(which, isa)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": (16, 8, 9)}, "out_width"),
        ({"stride": 0}, "stride"),
        ({"padding": -1}, "padding"),
        ({"kernel": 0}, "kernel"),
        ({"batch": -1}, "negative"),
        ({"batch": 1 << 40}, "range"),
        ({"storage": 2}, "storage"),
        ({"weight_stride": (1 << 40, 9, 3, 1)}, "range"),
    ],
)
def test_bad_sizes_are_refused(change: dict[str, object], message: str) -> None:
    supported("generic")
    module = compiled.load()
    good = {
        "batch": 2, "input": (16, 8, 8), "output": (16, 8, 8), "kernel": 3, "stride": 1, "padding": 1,
        "weight_stride": (144, 9, 3, 1), "storage": 1, "weight": 0,
    }  # fmt: skip
    params = module.Conv2dNhwcParams(**good | change)
    for which in PASSES:
        kind = getattr(module.Pass, which)
        with pytest.raises(ValueError, match=message):
            module.conv2d_nhwc_why_not(params, kind, 0)
        assert module.conv2d_nhwc_workspace_cpu(params, kind, 1, 0) == 0
    with pytest.raises(ValueError, match=message):
        module.conv2d_nhwc_grad_input_cpu(params, 0, 0, 0, 1, 0, 0)
