"""Cases of the self-check: computations that lasfast does in several ways, and PyTorch does, too."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lasfast.runtime import compiled
from lasfast.runtime.precision import deterministic_cudnn, fp32_products_as

Run = Callable[[], Sequence[Tensor]]

EXACT = 1e-4  # the error that float32 may have
ROUNDING = 5e-3  # what values with fewer bits may err by, besides a multiple of PyTorch's own error
TIMES = {"bf16": 2.0, "TF32": 2 / 8}
"""The allowed multiple of PyTorch's error in bf16; each of TF32's three bits more halves the error."""
EXACT_ELEMENT = 1e-3  # the error that a float32 element may have, see `element_error`
ELEMENT_ROUNDING = 2**-7  # as ROUNDING, of an element: one step of bf16


class DisagreementError(Exception):
    """A result is too far from PyTorch's, or has other bits the second time."""


@dataclass(frozen=True)
class Result:
    """The result of a case.

    Attributes:
        name: the name of the case.
        ways: the names of the ways in which lasfast computed it.
        error: the relative error of the worst tensor by the worst way; infinite where the case could not run.
        allowed: the error that it may have.
        problem: what is wrong, or None.
    """

    name: str
    ways: tuple[str, ...]
    error: float
    allowed: float
    problem: str | None


@dataclass(frozen=True)
class Case:
    """Computes tensors by lasfast's kernels, and the same ones by PyTorch.

    Attributes:
        name: the name that is shown.
        ours: runs lasfast's kernels.
        truth: runs PyTorch in float32 or better.
        theirs: runs PyTorch in bf16, which says what rounding costs; it is not run for "fp32".
        precision: "fp32", "bf16" or "TF32".
        ways: the environment variables that make lasfast compute in one way or another, by the way's name.
    """

    name: str
    ours: Run
    truth: Run
    theirs: Run
    precision: str
    ways: Mapping[str, Mapping[str, str]]

    def check(self) -> Result:
        """Compare errors with their bounds, and the bits of two runs. An error of PyTorch's own is raised.

        Each tensor has a bound of its error in norm, and one of its worst element: among very many, a norm
        would hide a few that are wrong.
        """
        truth = self.truth()
        bounds = [(EXACT, EXACT_ELEMENT)] * len(truth)
        if self.precision != "fp32":
            times = TIMES[self.precision]
            bounds = [
                (
                    times * relative_error(one, right) + ROUNDING,
                    times * element_error(one, right) + ELEMENT_ROUNDING,
                )
                for one, right in zip(self.theirs(), truth, strict=True)
            ]
        way, worst, problem = "", (0.0, EXACT), None
        try:
            for name in self.ways:
                way = name
                with environment(self.ways[way]):
                    first, again = self.ours(), self.ours()
                for one, other, right, (allowed, of_element) in zip(first, again, truth, bounds, strict=True):
                    error = relative_error(one, right)
                    if not error / allowed <= worst[0] / worst[1]:  # also where it is not a number
                        worst = error, allowed
                    if not error <= allowed:
                        raise DisagreementError("wrong results")
                    if not (wrong := element_error(one, right)) <= of_element:
                        raise DisagreementError(
                            f"a wrong element, by {wrong:.1e} where {of_element:.1e} may be"
                        )
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
    """Return ||result - truth|| / ||truth||; both have the same shape."""
    exact = truth.double()
    return float((result.double() - exact).norm() / exact.norm().clamp_min(1e-30))


def element_error(result: Tensor, truth: Tensor) -> float:
    """Return the largest |result - truth| / (|truth| + root mean square of truth) of any element."""
    if not truth.numel():
        return 0.0
    exact = truth.double()
    scale = exact.abs() + exact.square().mean().sqrt().clamp_min(1e-30)
    return float(((result.double() - exact).abs() / scale).max())


def native_ways(cuda: bool) -> dict[str, dict[str, str]]:
    """Return the ways to run operators: each instruction set of the processor, or CUDA."""
    if cuda:
        return {"CUDA": {}}
    return {isa: {"LASFAST_ISA": isa} for isa in compiled.load().isas_supported()}


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the block."""
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
def multiplied_as(precision: str) -> Iterator[None]:
    """Let lasfast and PyTorch multiply fp32 on CUDA as a case of this precision is to, always alike."""
    with fp32_products_as("tf32" if precision == "TF32" else "exact"), deterministic_cudnn():
        yield
