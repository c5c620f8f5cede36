"""CUDA's passes of a convolution on dense NHWC values against float64: on the host, and on a GPU."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lasfast.ops.sliced_conv2d_kernels import NhwcKernels, pack
from tests.ops.test_conv2d_nhwc import PASSES, STORAGE, Case, Problem, expect_close, relative_error

CASES = [  # batch, c_in, size, c_out, kernel, stride, padding
    Case(2, 3, (9, 7), 17, 3, 1, 1),  # a stem
    Case(1, 3, (11, 12), 8, 7, 2, 3),
    Case(2, 8, (7, 5), 40, 3, 1, 1),
    Case(2, 40, (5, 6), 8, 3, 2, 1),
    Case(3, 24, (4, 3), 72, 1, 1, 0),
    Case(2, 16, (5, 4), 16, 1, 2, 0),
    Case(1, 136, (3, 3), 136, 1, 1, 0),
    Case(1, 5, (8, 6), 1, 5, 1, 2),
    Case(1, 8, (6, 7), 16, 5, 2, 2),
    Case(2, 17, (5, 5), 5, 3, 1, 0),
    Case(1, 8, (7, 9), 6, 2, 3, 1),
    Case(2, 1, (4, 5), 8, 3, 1, 1),
    Case(3, 16, (1, 1), 8, 3, 1, 1),
    Case(1, 8, (1, 1), 3, 1, 1, 0),
    Case(1, 9, (4, 3), 8, 1, 1, 2),  # padding beyond the kernel
    Case(1, 8, (4, 3), 16, 1, 4, 2),  # more residues than taps or rows
]
LARGE = Case(10, 16, (15, 15), 40, 3, 1, 1)  # several tiles and parts


def shift(tensor: Tensor, by: int) -> Tensor:
    """The same values in channels_last, not aligned to 16 bytes."""
    memory = torch.empty(tensor.numel() + 8, dtype=tensor.dtype)
    n, c, h, w = tensor.shape
    view = memory[by : by + tensor.numel()].view(n, h, w, c).permute(0, 3, 1, 2)
    return view.copy_(tensor)


def run(
    module: ModuleType,
    problem: Problem,
    which: str,
    tf32: bool = False,
    grad_weight: Tensor | None = None,
    statistics: bool = False,
    device: torch.device | None = None,
    warpgroups: bool = False,
) -> list[Tensor]:
    """The pass's results, on the host again; `grad_weight`: what to write that to."""
    device = device or torch.device("cpu")
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    case, kind = problem.case, getattr(module.Pass, which)
    x, grad = problem.x.to(device), problem.grad.to(device)
    weight = torch.empty_strided(problem.weight.shape, problem.weight.stride(), dtype=problem.weight.dtype)
    weight = problem.weight if device.type == "cpu" else weight.copy_(problem.weight).to(device)
    if grad_weight is None:
        grad_weight = torch.full_like(problem.weight, torch.nan, dtype=torch.float32, device=device)
    params = module.Conv2dNhwcParams(
        case.batch, x.shape[1:], grad.shape[1:], case.kernel, case.stride, case.padding,
        (grad_weight if which == "grad_weight" else weight).stride(),
        STORAGE[x.dtype], STORAGE[weight.dtype], tf32, warpgroups,
    )  # fmt: skip
    assert module.conv2d_nhwc_why_not_cuda(params, kind) is None
    size = module.conv2d_nhwc_workspace_cuda(params, kind)
    workspace = torch.full((size + 8,), 255, dtype=torch.uint8, device=device)
    where = workspace.data_ptr() + 3, device.index or 0, stream
    first = x if which == "forward" else grad
    second = x if which == "grad_weight" else weight
    like = {"forward": grad, "grad_input": x, "grad_weight": grad_weight}[which]
    result = like if which == "grad_weight" else torch.full_like(like, torch.nan)
    moments = [torch.full((case.c_out,), torch.nan, device=device) for _ in range(2 if statistics else 0)]
    pointers = ([m.data_ptr() for m in moments] or [0, 0]) if which == "forward" else []
    entry = getattr(module, f"conv2d_nhwc_{which}_cuda")
    entry(params, first.data_ptr(), second.data_ptr(), *where, result.data_ptr(), *pointers)
    assert bool((workspace[:3] == 255).all())
    assert bool((workspace[-5:] == 255).all())
    return [one.cpu() for one in (result, *moments)]


@pytest.mark.parametrize(
    ("storage", "weight_dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
    ids=["fp32", "bf16", "bf16 weight"],
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_emulated_agrees_with_float64(
    emulated: ModuleType, case: Case, storage: torch.dtype, weight_dtype: torch.dtype
) -> None:
    layout = "channels_last" if case.c_in % 2 else "contiguous"
    problem = Problem.random(case, storage, weight_dtype, layout)
    for which in PASSES:
        expect_close(problem, which, run(emulated, problem, which)[0])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel, stride, padding = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(0, 4))
    size = tuple(draw(st.integers(max(1, kernel - 2 * padding), 12)) for _ in range(2))
    c_in, c_out = (draw(st.sampled_from((1, 3, 4, 8, 16, 17, 24, 40))) for _ in range(2))
    return Case(draw(st.integers(1, 4)), c_in, size, c_out, kernel, stride, padding)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(), storage=st.sampled_from(tuple(STORAGE)), which=st.sampled_from(PASSES))
def test_emulated_takes_any_shape(emulated: ModuleType, case: Case, storage: torch.dtype, which: str) -> None:
    problem = Problem.random(case, storage, torch.float32, "channels_last")
    expect_close(problem, which, run(emulated, problem, which)[0])


@pytest.mark.parametrize("storage", STORAGE, ids=str)
def test_emulated_values_that_are_not_aligned(emulated: ModuleType, storage: torch.dtype) -> None:
    problem = Problem.random(CASES[2], storage, torch.float32, "contiguous")
    problem.x, problem.grad = shift(problem.x, 1), shift(problem.grad, 3)
    for which in PASSES:
        expect_close(problem, which, run(emulated, problem, which)[0])


@pytest.mark.parametrize("case", [CASES[2], CASES[9], LARGE], ids=str)
def test_emulated_tf32_is_by_choice(emulated: ModuleType, case: Case) -> None:
    """Also where elements are gathered, and in several tiles and parts."""
    problem = Problem.random(case, torch.float32, torch.float32, "contiguous")
    for which in PASSES:
        (exact,), (rounded,) = run(emulated, problem, which), run(emulated, problem, which, tf32=True)
        expect_close(problem, which, exact)
        assert 1e-5 < relative_error(rounded, problem.truth(which)) < 1e-3


@pytest.mark.parametrize("storage", STORAGE, ids=str)
def test_both_thread_orders_give_the_same_bits(emulated: ModuleType, storage: torch.dtype) -> None:
    """Also with several tiles, parts of positions, and statistics."""
    problem = Problem.random(LARGE, storage, torch.float32, "contiguous")
    results = []
    for reverse in (False, True):
        emulated.set_reversed(reverse)
        results.append([run(emulated, problem, which, statistics=which == "forward") for which in PASSES])
    for which, first, second in zip(PASSES, *results, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        expect_close(problem, which, first[0])


@pytest.mark.parametrize(
    ("storage", "tf32"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]
)
@pytest.mark.parametrize("channels", [60, 72])
def test_emulated_tiles_of_many_positions_are_wide(
    emulated: ModuleType, channels: int, storage: torch.dtype, tf32: bool
) -> None:
    forward = Problem.random(Case(16, 8, (32, 32), channels, 1, 1, 0), storage, torch.float32, "contiguous")
    backward = Problem.random(Case(16, channels, (32, 32), 8, 1, 1, 0), storage, torch.float32, "contiguous")
    for which, problem in (("forward", forward), ("grad_input", backward)):
        (result,) = run(emulated, problem, which, tf32)
        if tf32:
            assert relative_error(result, problem.truth(which)) < 1e-3
        else:
            expect_close(problem, which, result)


@pytest.mark.parametrize("storage", STORAGE, ids=str)
@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[12], LARGE], ids=str)
def test_emulated_statistics(emulated: ModuleType, case: Case, storage: torch.dtype) -> None:
    """Of the sums before they are rounded; a mean far larger than the deviation cancels nothing."""
    problem = Problem.random(case, storage, torch.float32, "channels_last")
    if storage == torch.float32 and case.padding == 0:
        problem.x += 100
    y, mean, variance = run(emulated, problem, "forward", statistics=True)
    assert torch.equal(y, run(emulated, problem, "forward")[0])
    exact = problem.truth("forward").transpose(0, 1).flatten(1)
    scale = exact.std(1, correction=0)
    assert float(((mean - exact.mean(1)) / scale).abs().max()) < 1e-5
    assert float((variance / scale**2 - 1).abs().max()) < 1e-5


@pytest.mark.parametrize(
    "case",
    [
        Case(2, 8, (7, 5), 40, 3, 1, 1),
        Case(3, 40, (9, 8), 136, 3, 2, 1),
        Case(10, 72, (15, 15), 64, 1, 1, 0),  # several tiles
        Case(16, 16, (32, 32), 136, 1, 1, 0),  # wide ones
    ],
    ids=str,
)
def test_emulated_warpgroups_add_as_warps_do(emulated: ModuleType, case: Case) -> None:
    """On the stand-in, whose arithmetic is exact. Values that are not aligned are multiplied by warps."""
    emulated.noted_tiles()
    problem = Problem.random(case, torch.bfloat16, torch.float32, "contiguous")
    forward = run(emulated, problem, "forward", statistics=True, warpgroups=True)
    expected = run(emulated, problem, "forward", statistics=True)
    assert torch.equal(forward[0], expected[0])
    for moments, right in zip(forward[1:], expected[1:], strict=True):  # summed in another order
        torch.testing.assert_close(moments, right, rtol=1e-5, atol=1e-5)
    if case.c_in > 32:
        (gradient,) = run(emulated, problem, "grad_input", warpgroups=True)
        assert torch.equal(gradient, run(emulated, problem, "grad_input")[0])
    (of_weight,) = run(emulated, problem, "grad_weight", warpgroups=True)
    assert {kernel for kernel, product, *_ in emulated.noted_tiles() if product == "warpgroups"} == {
        "windows",
        "grad_weight",
    }
    assert torch.equal(of_weight, run(emulated, problem, "grad_weight")[0])
    problem.x = shift(problem.x, 1)
    assert torch.equal(run(emulated, problem, "forward", warpgroups=True)[0], expected[0])
    assert torch.equal(run(emulated, problem, "grad_weight", warpgroups=True)[0], of_weight)
    assert not any(product == "warpgroups" for _, product, *_ in emulated.noted_tiles())


@pytest.mark.parametrize(
    ("case", "storage", "which"),
    [
        (Case(2, 8, (7, 5), 40, 3, 1, 1), torch.float32, "forward"),
        (Case(2, 8, (7, 5), 40, 3, 1, 1), torch.float32, "grad_weight"),
        (Case(2, 8, (7, 5), 44, 3, 1, 1), torch.bfloat16, "grad_weight"),
        (Case(2, 12, (7, 5), 40, 3, 1, 1), torch.bfloat16, "grad_weight"),
        (Case(2, 8, (7, 5), 40, 3, 1, 1), torch.bfloat16, "grad_input"),
        (Case(2, 8, (7, 5), 32, 3, 1, 1), torch.bfloat16, "forward"),
        (Case(2, 12, (7, 5), 40, 3, 1, 1), torch.bfloat16, "forward"),
    ],
    ids=str,
)
def test_what_warpgroups_do_not_multiply(
    emulated: ModuleType, case: Case, storage: torch.dtype, which: str
) -> None:
    sizes = (case.c_in, *case.size), (case.c_out, *case.size), 3, 1, 1, (1, 1, 1, 1), STORAGE[storage], 0
    params = emulated.Conv2dNhwcParams(case.batch, *sizes, warpgroups=True)
    why = emulated.conv2d_nhwc_why_not_cuda(params, getattr(emulated.Pass, which))
    assert "warpgroups do not multiply" in why


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16], ids=str)
def test_emulated_weight_that_is_packed_for_both_passes_at_once(
    emulated_place: ModuleType, case: Case, storage: torch.dtype
) -> None:
    """One launch does what each of them would, and they give the same bits."""
    problem = Problem.random(case, storage, torch.float32, "channels_last")
    x, weight, grad = problem.x, problem.weight, problem.grad
    kernels = NhwcKernels.of(x, weight, grad, case.stride, case.padding)

    def forward(*more: object) -> Tensor:
        return kernels.forward(x, weight, torch.full_like(grad, torch.nan), *more)

    def grad_input(*more: object) -> Tensor:
        return kernels.grad_input(grad, weight, torch.full_like(x, torch.nan), *more)

    expected = forward(), grad_input()
    emulated_place.noted_launches()
    assert kernels.takes_packed
    [packed] = pack([(kernels, weight)], ahead=False)
    assert sum(emulated_place.noted_launches().values()) == 1
    assert torch.equal(forward(None, None, packed), expected[0])
    assert torch.equal(grad_input(packed), expected[1])
    assert sum(emulated_place.noted_launches().values()) == 2


def test_emulated_weights_that_are_packed_together(
    emulated_place: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of other sizes and types, and more than one launch takes: the bytes are those of each alone."""
    monkeypatch.setattr(torch, "empty", torch.zeros)  # what lies between them is alike, too
    weights = []
    for types in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.bfloat16,) * 2):
        for number in range(10):
            case = CASES[number % len(CASES)]
            problem = Problem.random(case, *types, "contiguous" if number % 2 else "channels_last")
            kernels = NhwcKernels.of(problem.x, problem.weight, problem.grad, case.stride, case.padding)
            weights += [(kernels, problem.weight)] * (2 if types[0] == torch.bfloat16 else 1)
    emulated_place.noted_launches()
    together = pack(weights, ahead=True)
    assert sum(emulated_place.noted_launches().values()) == 2 + 1 + 2  # 18 of them in each
    for one, packed in zip(weights, together, strict=True):
        [alone] = pack([one], ahead=False)
        for which in ("forward", "grad_input"):
            assert torch.equal(getattr(alone, which), getattr(packed, which))
        assert (alone.ahead, packed.ahead) == (False, True)


@pytest.mark.parametrize("c_out", [8, 40, 136])
def test_emulated_statistics_of_many_tiles_are_pooled_where_they_are_computed(
    emulated_place: ModuleType, c_out: int
) -> None:
    """Of more tiles than one block pools, with counters that are zero again afterwards: the same bits."""
    problem = Problem.random(
        Case(17, 8, (16, 16), c_out, 1, 1, 0), torch.bfloat16, torch.float32, "channels_last"
    )
    kernels = NhwcKernels.of(problem.x, problem.weight, problem.grad, 1, 0)
    [packed] = pack([(kernels, problem.weight)], ahead=False)
    results = []
    for order in (False, False, True):
        emulated_place.set_reversed(order)
        emulated_place.noted_launches()
        y, mean, var = torch.empty_like(problem.grad), torch.empty(c_out), torch.empty(c_out)
        kernels.forward(problem.x, problem.weight, y, mean, var, packed)
        assert sum(emulated_place.noted_launches().values()) == 1
        results.append((y, mean, var))
    emulated_place.set_reversed(False)
    for others in results[1:]:
        assert all(map(torch.equal, others, results[0]))
    exact = problem.truth("forward")
    torch.testing.assert_close(mean.double(), exact.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var.double(), exact.var((0, 2, 3), correction=0), rtol=1e-5, atol=0)


def test_emulated_writes_only_the_slice_of_a_larger_gradient(emulated: ModuleType) -> None:
    problem = Problem.random(CASES[2], torch.bfloat16, torch.float32, "contiguous")
    whole = torch.full((47, 2 * 3, 3 * 3, 12), 7.0).permute(0, 3, 1, 2)[:, :, ::2, ::3]
    (part,) = run(emulated, problem, "grad_weight", grad_weight=whole[:40, :8])
    expect_close(problem, "grad_weight", part)
    part.fill_(7)
    assert bool((whole == 7).all())


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_emulated_non_finite_values_stay_where_they_belong(emulated: ModuleType, value: float) -> None:
    problem = Problem.random(Case(3, 8, (5, 5), 16, 3, 2, 1), torch.bfloat16, torch.float32, "contiguous")
    problem.x[1, 2, 1, 2] = value
    problem.grad[2, 1, 1, 1] = value
    y, mean, variance = run(emulated, problem, "forward", statistics=True)
    assert torch.equal(y.isfinite(), problem.truth("forward").isfinite())
    assert not (mean.isfinite() | variance.isfinite())[~y.isfinite().all(3).all(2).all(0)].any()
    grad_input = run(emulated, problem, "grad_input")[0]
    assert torch.equal(grad_input.isfinite(), problem.truth("grad_input").isfinite())
    grad_weight = run(emulated, problem, "grad_weight")[0]
    assert torch.equal(grad_weight.isfinite(), problem.truth("grad_weight").isfinite())


def test_emulated_empty_batch(emulated: ModuleType) -> None:
    problem = Problem.random(Case(0, 16, (4, 4), 8, 3, 1, 1), torch.bfloat16, torch.float32, "contiguous")
    assert not run(emulated, problem, "grad_weight")[0].any()
    assert run(emulated, problem, "grad_input")[0].numel() == 0
    y, mean, variance = run(emulated, problem, "forward", statistics=True)
    assert y.numel() == 0
    assert mean.isnan().all()
    assert variance.isnan().all()


def test_bad_sizes_are_refused(emulated: ModuleType) -> None:
    good = {
        "batch": 2, "input": (16, 8, 8), "output": (16, 8, 8), "kernel": 3, "stride": 1, "padding": 1,
        "weight_stride": (144, 9, 3, 1), "storage": 1, "weight": 0,
    }  # fmt: skip
    bad = emulated.Conv2dNhwcParams(**good | {"output": (16, 8, 9)})
    large = emulated.Conv2dNhwcParams(
        **good | {"batch": 1 << 23, "input": (16, 32, 32), "output": (16, 32, 32)}
    )
    for which in PASSES:
        kind = getattr(emulated.Pass, which)
        entry = getattr(emulated, f"conv2d_nhwc_{which}_cuda")
        rest = (0, 0) if which == "forward" else ()
        with pytest.raises(ValueError, match="out_width"):
            entry(bad, 0, 0, 0, 0, 0, 0, *rest)
        assert emulated.conv2d_nhwc_workspace_cuda(bad, kind) == 0
        assert "2^31" in emulated.conv2d_nhwc_why_not_cuda(large, kind)
        with pytest.raises(RuntimeError, match="2\\^31"):
            entry(large, 0, 0, 0, 0, 0, 0, *rest)
        with pytest.raises(RuntimeError, match="no device of this number"):
            entry(emulated.Conv2dNhwcParams(**good), 0, 0, 0, 1, 0, 0, *rest)
