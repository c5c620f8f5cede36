"""Compares what lasfast makes of a random network with what PyTorch does, in float64."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lasfast.execution.from_fx import UntraceableError, trace
from lasfast.execution.interpret import run_layer
from tests.execution.random_networks.acceleration import compare_acceleration
from tests.execution.random_networks.calibration import compare_calibration
from tests.execution.random_networks.cases import Case
from tests.execution.random_networks.near import (
    DifferenceError,
    RoundingError,
    TorchFailsError,
    check_near,
    check_unchanged,
    expecting,
    flat,
    general,
    norms_of,
    perhaps_accelerated,
    plain_of,
    run,
    state_of,
    torchs_of,
    truth_of,
)


@dataclass
class Report:
    """What came of comparisons: counts by outcome, and by check the failures of lasfast and of PyTorch."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    torch_failures: dict[str, str] = field(default_factory=dict)


def compare(case: Case, seed: int, checks: tuple[str, ...] = ()) -> Report:
    """Return what came of a case with the weights of a seed."""
    report = Report()
    default = torch.get_default_dtype()
    for check in checks or CHECKS:
        torch.set_default_dtype(getattr(torch, case.default_dtype))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcome = _CHECKS[check](case, seed)
        except TorchFailsError as error:
            outcome = f"not compared: {general(error)}"
            if not isinstance(error, RoundingError):
                report.torch_failures[check] = str(error)
        except DifferenceError as error:
            outcome = "failed"
            report.failures[check] = str(error)
        finally:
            torch.set_default_dtype(default)
        report.outcomes[f"{check}: {outcome}"] += 1
    return report


def compare_record(case: Case, seed: int) -> str:
    """Compare what the interpreter makes of a network's record, with running statistics or batch's own."""
    images, dtype = case.images(seed)[0], getattr(torch, case.dtype)
    network = perhaps_accelerated(plain_of(case, seed).eval(), case)
    before = state_of(network)
    try:
        layer = trace(network, case.shape)
    except UntraceableError as error:
        check_unchanged("an untraceable network", before, network)
        return f"refused: {general(error)}"
    except Exception as error:
        with expecting(TorchFailsError, "evaluation"):
            run(plain_of(case, seed).eval(), images.to(dtype))
        raise DifferenceError(f"trace raises {type(error).__name__}: {str(error)[:300]}") from error
    check_unchanged("trace", before, network)
    calibrates = bool(case.seed % 2)
    torchs, truth = torchs_of(case, seed).eval(), truth_of(case, seed).eval()
    for one in (torchs, truth):
        for norm in norms_of(one).values():
            norm.training = calibrates
    with expecting(TorchFailsError, "PyTorch"):
        true, plain = run(truth, images)[0], run(torchs, images.to(dtype))[0]
    modules = dict(network.named_modules())

    def batch_norm(op: Any, x: Tensor) -> Tensor:
        norm = modules[op.module]
        own = calibrates or norm.running_mean is None
        buffers = (None, None) if own else (norm.running_mean, norm.running_var)
        return F.batch_norm(x, *buffers, norm.weight, norm.bias, own, 0.0, norm.eps)

    with expecting(DifferenceError, "the record"), torch.no_grad():
        mine = flat(run_layer(layer, images.to(dtype, copy=True), modules, batch_norm))
    check_near(f"record in {'calibration' if calibrates else 'evaluation'}", case, mine, plain, true)
    return "compared"


_CHECKS: dict[str, Callable[[Case, int], str]] = {
    "calibrate auto": lambda case, seed: compare_calibration(case, seed, "auto"),
    "calibrate torch": lambda case, seed: compare_calibration(case, seed, "torch"),
    "accelerate": compare_acceleration,
    "trace": compare_record,
}
CHECKS = tuple(_CHECKS)
"""The names of the comparisons."""
