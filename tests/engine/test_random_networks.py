"""Random networks, in which any op may read the value of any other, on every backend."""

from dataclasses import replace

import pytest
import torch

from lasfast.engine import NativeBackend, NotLowerableError, TorchBackend
from lasfast.engine.lower import lower
from lasfast.ir.layers import Opaque
from lasfast.ir.prefix_tree import PrefixTree
from tests.engine.conftest import ISAS
from tests.engine.trials import Trial, Truth

KERNELS = ["reference", *ISAS, "cuda"]


def seeds_of(kernels: str, count: int, first: int = 0) -> range:
    """Return as many seeds, which no other kernels have."""
    return range(first + KERNELS.index(kernels), first + count * len(KERNELS), len(KERNELS))


def agrees(seed: int, precision: str) -> bool:
    """Return whether a network can be compared; if so, what it gives is right, but for rounding.

    In bf16 that are logits alone: rounding may change statistics of few values much.
    """
    trial = Trial.of(seed, quantized=precision == "fp32")
    truth = Truth(trial)
    if truth.nearest < 1e-4 or (precision == "bf16" and truth.amplifies):
        return False  # rounding may take either level of a quantized value, or decide everything
    torchs = truth.errors(*trial.run(TorchBackend(trial.net, precision)))
    try:
        ours = truth.errors(*trial.run(NativeBackend(trial.net, precision)))
    except NotLowerableError:
        return False
    if precision == "fp32":
        wrong = truth.beyond_rounding(torchs, 1e-4) | truth.beyond_rounding(ours, 1e-4)
    else:
        allowed = {place: 2 * error + 0.005 for place, error in torchs.items()}
        logits = {place: error for place, error in ours.items() if place.what == "logits"}
        wrong = truth.beyond_rounding(logits, allowed)
    for place, error in sorted(wrong.items()):
        described = trial.describe(place.node)
        raise AssertionError(f"seed {seed}: {place} has a relative error of {error:.1e} in\n{described}")
    return True


def all_agree(seeds: range, precision: str = "fp32") -> None:
    compared = sum(agrees(seed, precision) for seed in seeds)
    assert compared > len(seeds) / 2


def test_random_networks_agree(kernels, one_thread) -> None:
    all_agree(seeds_of(kernels, 17))


def test_random_networks_agree_in_bf16(kernels, one_thread) -> None:
    all_agree(seeds_of(kernels, 4, 1000), "bf16")


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("precision", "count"), [("fp32", 300), ("bf16", 50)])
def test_many_random_networks_agree(kernels, one_thread, precision: str, count: int, threads: int) -> None:
    torch.set_num_threads(threads)
    all_agree(seeds_of(kernels, count, 10_000 * threads), precision)


def test_random_networks_alone_have_the_same_bits_as_together(kernels, one_thread) -> None:
    """What a path gives does not depend on the other paths of its tree."""
    if kernels == "reference":
        pytest.skip("the reference's convolutions are torch's, which promise nothing of the kind")
    for seed in seeds_of(kernels, 10):
        trial = Trial.of(seed)
        # Convolutions that torch runs promise nothing of the kind, either.
        calls = lower(trial.tree, trial.net.image_shape, calibration=False).calls
        if any(not isinstance(call.op, Opaque) or call.op.params for call in calls):
            continue
        backend = NativeBackend(trial.net, "bf16")
        statistics, logits = trial.run(backend)
        for path, leaf in zip(trial.tree.paths, trial.tree.leaves, strict=True):
            alone = replace(trial, tree=PrefixTree([path]))
            own, expected = alone.run(backend)
            nodes = [statistics[node] for node in trial.tree.node_path(leaf)]
            assert same_bits(nodes, own), f"seed {seed}:\n{trial.describe(leaf)}"
            assert torch.equal(logits[leaf], expected[alone.tree.leaves[0]]), (
                f"seed {seed}:\n{trial.describe(leaf)}"
            )


def same_bits(one: list[dict], other: list[dict]) -> bool:
    return all(
        ours.keys() == theirs.keys()
        and all(torch.equal(a, b) for name in ours for a, b in zip(ours[name], theirs[name], strict=True))
        for ours, theirs in zip(one, other, strict=True)
    )
