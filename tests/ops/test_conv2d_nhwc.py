"""The passes of a convolution on dense NHWC values against float64, on every instruction set there is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lasfast import _native

LAST = torch.channels_last
STORAGE = {torch.float32: 0, torch.bfloat16: 1}
ISAS = ("generic", "avx2", "avx512", "amx")
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
    Case(3, 6, (4, 5), 5, 7, 1, 3),
    Case(40, 256, (2, 1), 320, 1, 1, 0),
    Case(33, 288, (2, 2), 160, 3, 1, 1),
    Case(2, 32, (40, 36), 16, 3, 1, 1),
]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return supported(request.param)


def supported(isa: str) -> str:
    if not _native.available():
        pytest.skip("lasfast's compiled module is not built")
    if isa not in _native.load().isas_supported():
        pytest.skip(f"this machine or build has no {isa}")
    return isa


@dataclass
class Problem:
    """Tensors [N, C, H, W] in channels_last; the weight is a slice of a larger one, which is NaN elsewhere."""

    case: Case
    x: Tensor
    weight: Tensor
    grad: Tensor

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
        return _native.load().Conv2dNhwcParams(
            case.batch, self.x.shape[1:], self.grad.shape[1:], case.kernel, case.stride, case.padding,
            weight.stride(), STORAGE[self.x.dtype], STORAGE[weight.dtype],
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
        module = _native.load()
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
        assert bool((workspace[:3] == 255).all()) and bool((workspace[-5:] == 255).all())
        return results

    def truth(self, which: str, dtype: torch.dtype = torch.float64) -> Tensor:
        """What PyTorch computes in `dtype`, from the weight as the values are stored."""
        case, weight = self.case, self.weight.to(self.x.dtype)
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


def expect_close(problem: Problem, which: str, result: Tensor) -> None:
    truth = problem.truth(which)
    assert result.shape == truth.shape
    error = relative_error(result, truth)
    if problem.x.dtype == torch.float32:
        assert error <= 1e-5
    elif which == "grad_weight":
        assert error <= 2e-6  # it is not rounded
    else:
        assert error <= 2 * relative_error(problem.truth(which, torch.bfloat16), truth) + 1e-4


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("weight_dtype", STORAGE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bf16_agrees_with_float64(case: Case, weight_dtype: torch.dtype, layout: str) -> None:
    problem = Problem.random(case, torch.bfloat16, weight_dtype, layout)
    for which in PASSES:
        if which == "grad_input" and case.stride == 1 and case.padding >= case.kernel:
            continue
        expect_close(problem, which, problem.run(which, supported("amx"))[0])
