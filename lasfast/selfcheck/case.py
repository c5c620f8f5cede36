"""What is checked: a computation that lasfast does in several ways, and PyTorch does, too."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lasfast.runtime import compiled

Run = Callable[[], Sequence[Tensor]]

EXACT = 1e-4  # error allowed of float32
ROUNDING = 5e-3  # allowed beside a multiple of PyTorch's own error where values are rounded to fewer bits
TIMES = {"bf16": 2.0, "TF32": 2 / 8}
"""That multiple of PyTorch's error in bf16; TF32 has three bits more, which halve it three times."""


class DisagreementError(Exception):
    """A result is too far from PyTorch's, or its bits are others the second time."""


@dataclass(frozen=True)
class Result:
    """What came of a case: `error`, relative, is that of the worst tensor by the worst of `ways`.

    It is infinite where nothing came of it.
    """

    name: str
    ways: tuple[str, ...]
    error: float
    allowed: float
    problem: str | None
    """What is wrong, if anything is."""


@dataclass(frozen=True)
class Case:
    """Something to compute: tensors by lasfast's kernels, and the same ones by PyTorch.

    Attributes:
        name: what a person is told.
        ours: runs lasfast's kernels.
        truth: PyTorch in float32 or better.
        theirs: PyTorch in bf16, which says what rounding costs; not run for "fp32".
        precision: "fp32", "bf16" or "TF32".
        ways: the environment variables that make lasfast compute one way or another, by the way's name.
    """

    name: str
    ours: Run
    truth: Run
    theirs: Run
    precision: str
    ways: Mapping[str, Mapping[str, str]]

    def check(self) -> Result:
        """Compare: errors within bounds, and the same bits twice. What PyTorch cannot run is raised."""
        truth = self.truth()
        bounds = [EXACT] * len(truth)
        if self.precision != "fp32":
            errors = map(relative_error, self.theirs(), truth)
            bounds = [TIMES[self.precision] * error + ROUNDING for error in errors]
        way, worst, problem = "", (0.0, EXACT), None
        try:
            for name in self.ways:
                way = name
                with environment(self.ways[way]):
                    first, again = self.ours(), self.ours()
                for one, other, right, allowed in zip(first, again, truth, bounds, strict=True):
                    error = relative_error(one, right)
                    if not error / allowed <= worst[0] / worst[1]:  # also where it is not a number
                        worst = error, allowed
                    if not error <= allowed:
                        raise DisagreementError("wrong results")
                    if not torch.equal(one, other):
                        raise DisagreementError("other bits the second time")
        except torch.OutOfMemoryError:
            raise
        except DisagreementError as why:
            problem = f"{way}: {why}"
        except Exception as why:
            lines = str(why).splitlines() or [""]  # CUDA's texts have many
            problem, worst = f"{way}: {type(why).__name__}: {lines[0]}", (math.inf, worst[1])
        return Result(self.name, tuple(self.ways), *worst, problem)


def relative_error(result: Tensor, truth: Tensor) -> float:
    """||result - truth|| / ||truth||, of the same shape."""
    exact = truth.double()
    return float((result.double() - exact).norm() / exact.norm().clamp_min(1e-30))


def native_ways(cuda: bool) -> dict[str, dict[str, str]]:
    """How operators can run: by each instruction set of the processor, or on CUDA."""
    if cuda:
        return {"CUDA": {}}
    return {isa: {"LASFAST_ISA": isa} for isa in compiled.load().isas_supported()}


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, and put back what they were."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def float32_as(tf32: bool) -> Iterator[None]:
    """Let products of float32 be TF32's on CUDA, lasfast's and PyTorch's, or be exact."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
