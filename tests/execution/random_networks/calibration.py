"""Compares `lasfast.calibrate` with PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import lasfast
from tests.execution.random_networks.cases import Case
from tests.execution.random_networks.near import (
    DifferenceError,
    TorchFailsError,
    autocasts,
    check_near,
    check_unchanged,
    context,
    expecting,
    general,
    norms_of,
    perhaps_accelerated,
    plain_of,
    run,
    state_of,
    torchs_of,
    truth_of,
)

MOMENTUM = {"cumulative": None, "ema": 0.1, "batch_mean": 1.0}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _pytorch_calibrates(network: nn.Module, images: list[Tensor], convention: str) -> dict[str, list[Tensor]]:
    """Calibrate by PyTorch; return mean, variance and number of batches by norm."""
    network.eval()
    norms = norms_of(network)
    for one in norms.values():
        if one.running_mean is None:
            weight = next(network.parameters())
            for name, tensor in (("running_mean", torch.zeros), ("running_var", torch.ones)):
                setattr(one, name, tensor(one.num_features, dtype=weight.dtype))
            one.num_batches_tracked = torch.tensor(0)
            one.track_running_stats = True
        one.reset_running_stats()
        one.momentum = MOMENTUM[convention]
        one.train()
    kept: dict[str, list[Any]] = {name: [0, 0.0, 0.0] for name in norms}

    def see(name: str) -> Callable[..., None]:
        def hook(norm: nn.Module, inputs: tuple[Tensor], _: Any) -> None:
            x = inputs[0].detach()
            count, seen = x.numel() // x.shape[1], kept[name]
            images_ = len(x)
            seen[0] += images_
            seen[1] = seen[1] + norm.running_mean.detach().double() * images_
            seen[2] = seen[2] + norm.running_var.detach().double() * ((count - 1) / count) * images_

        return hook

    if convention == "batch_mean":
        for name, one in norms.items():
            one.register_forward_hook(see(name))
    before = state_of(network)
    with torch.no_grad():
        for batch in images:
            network(batch)
    after, found = state_of(network), {}
    for name, tensor in after.items():
        is_other = name.rsplit(".", 1)[-1] not in STATISTICS and isinstance(tensor, Tensor)
        if is_other and not torch.equal(tensor, before[name]):
            found[f"buffer {name}"] = [tensor.double()]
    for name, one in norms.items():
        mean, variance = one.running_mean.double(), one.running_var.double()
        if convention == "batch_mean" and kept[name][0]:
            mean, variance = kept[name][1] / kept[name][0], kept[name][2] / kept[name][0]
        found[name] = [mean, variance, one.num_batches_tracked.clone()]
    return found


def _is_used(case: Case, seed: int, name: str, images: Tensor) -> bool:
    """Return whether the outputs depend on a norm's statistics."""
    one, other = truth_of(case, seed).eval(), truth_of(case, seed).eval()
    norm = norms_of(other)[name]
    if norm.running_mean is None:
        return False
    norm.running_mean += 1.0
    norm.running_var *= 2.0
    outputs = [run(network, images)[0] for network in (one, other)]
    return any(not torch.equal(a, b) for a, b in zip(*outputs, strict=True))


def compare_calibration(case: Case, seed: int, backend: str) -> str:
    """Compare all statistics, and what else a network holds; return the backend that ran, or the refusal."""
    convention = case.conventions[backend == "torch"]
    images = case.images(seed)
    dtype = getattr(torch, case.dtype)
    truth = truth_of(case, seed)
    if convention == "batch_mean" and "elastic(" in case.program.source().lower():
        convention = "cumulative"  # no hook sees the statistics of a batch where the norm is not called
    with expecting(TorchFailsError, "calibration"):
        expected = _pytorch_calibrates(truth, [one.clone() for one in images], convention)
        with context(case):
            plain = _pytorch_calibrates(
                torchs_of(case, seed), [one.to(dtype, copy=True) for one in images], convention
            )
    ours = plain_of(case, seed)
    ours.train(seed % 2 == 0)
    before = state_of(ours)
    batches = [one.to(dtype, copy=True) for one in images]
    try:
        precision = "bf16" if autocasts(case) else "fp32"
        network = perhaps_accelerated(ours, case)
        used = lasfast.calibrate(
            network, batches, statistics=convention, backend=backend, precision=precision
        )
    except ValueError as error:
        check_unchanged("a refused network", before, ours)
        return f"refused: {general(error)}"
    except Exception as error:
        raise DifferenceError(f"calibrate raises {type(error).__name__}: {str(error)[:300]}") from error
    statistics = {
        f"{name}.{one}" if name else one
        for name, norm in ours.named_modules(remove_duplicate=False)
        if isinstance(norm, _BatchNorm)
        for one in STATISTICS
    }
    changing = [name.removeprefix("buffer ") for name in expected if name.startswith("buffer ")]
    statistics.update(changing)
    check_unchanged("calibrate", before, ours, statistics)
    after = state_of(ours)
    for name in changing:
        key = f"buffer {name}"
        check_near(
            f"{name} ({used})", case, [after[name].double()], plain.get(key, expected[key]), expected[key]
        )
    for name, one in norms_of(ours).items():
        mean, variance, batches_seen = expected[name]
        if not batches_seen and not _touched(expected[name]):
            if _is_used(case, seed, name, images[0]):
                raise DifferenceError(f"calibrate says nothing of {name}, whose statistics are used")
            continue  # a norm that nothing reads
        old_mean, old_variance = (before.get(f"{name}.{key}") for key in ("running_mean", "running_var"))
        unseen = (mean == 0) & (variance == 1)  # channels that the network leaves out
        if unseen.any() and old_mean is not None:
            kept = (one.running_mean == old_mean) & (one.running_var == old_variance) & unseen
            mean, variance = torch.where(kept, old_mean, mean), torch.where(kept, old_variance, variance)
            plain[name] = [
                torch.where(kept, a, b) for a, b in ((mean, plain[name][0]), (variance, plain[name][1]))
            ]
        spread = variance.sqrt().clamp_min(1e-4)
        for what, mine, torchs, true in (
            ("mean", one.running_mean / spread, plain[name][0] / spread, mean / spread),
            ("variance", one.running_var, plain[name][1], variance),
        ):
            check_near(
                f"{convention} {what} of {name} ({used})", case, [mine.double()], [torchs.double()], [true]
            )
    for name, one in norms_of(ours).items():
        count, true = one.num_batches_tracked, int(expected[name][2])
        if count is not None and true and int(count) != true:
            raise DifferenceError(f"{name} counts {int(count)} batches, not {true}")
    return used


def _touched(statistics: list[Tensor]) -> bool:
    mean, variance, _ = statistics
    return bool((mean != 0).any() or (variance != 1).any())
