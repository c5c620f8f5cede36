"""Supernets of options on the native backend: every option in the tree, none left to PyTorch."""

import random

import pytest
import torch
from torch import nn

from lasfast import supernets
from lasfast.engine import NativeBackend, TorchBackend
from lasfast.engine.lower import lower
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.supernets import ChoiceSupernet


def sampled(supernet: ChoiceSupernet) -> PrefixTree:
    """Two random architectures that share their first half."""
    space, rng = supernet.space, random.Random(0)
    one, other = space.sample(rng), space.sample(rng)
    half = len(one) // 2
    return PrefixTree([supernet.path(one), supernet.path((*one[:half], *other[half:]))])


def error(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


def logits(backend, tree, calibration, images):
    return backend.predict(tree, backend.calibrate(tree, calibration, "cumulative"), images)


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("calibration", [False, True])
def test_every_option_is_native(choice_supernet, calibration: bool, cuda: bool) -> None:
    space = choice_supernet.space
    rotations = range(max(map(len, space.options)))
    paths = [
        choice_supernet.path((layer + turn) % len(options) for layer, options in enumerate(space.options))
        for turn in rotations
    ]
    schedule = lower(PrefixTree(paths), (3, 16, 16), calibration=calibration, cuda=cuda)
    assert not schedule.calls


@pytest.fixture(scope="module")
def by_torch(choice_net):
    """A function that gives the logits of PyTorch's backend, computed once for all kernels."""
    known = {}

    def run_once(tree, calibration, images, precision="fp32"):
        key = images.shape, precision
        if key not in known:
            known[key] = logits(TorchBackend(choice_net, precision), tree, calibration, images)
        return known[key]

    return run_once


def test_backends_agree(kernels, choice_net, calibration, images, by_torch) -> None:
    tree = sampled(choice_net)
    assert tree.sharing_ratio > 1
    truth = by_torch(tree, calibration, images)
    ours = logits(NativeBackend(choice_net), tree, calibration, images)
    torchs_bf16 = by_torch(tree, calibration, images, "bf16")
    ours_bf16 = logits(NativeBackend(choice_net, "bf16"), tree, calibration, images)
    for leaf in truth:
        assert error(ours[leaf], truth[leaf]) <= 1e-4
        bound = 2 * error(torchs_bf16[leaf], truth[leaf]) + 0.005
        assert 0 < error(ours_bf16[leaf], truth[leaf]) <= bound


def test_backends_agree_on_odd_sizes(kernels, choice_net, by_torch) -> None:
    tree = sampled(choice_net)
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(count, 3, 17, 11, generator=generator) for count in (9, 6)]
    images = torch.randn(3, 3, 13, 19, generator=generator)
    truth = by_torch(tree, batches, images)
    for leaf, ours in logits(NativeBackend(choice_net), tree, batches, images).items():
        assert error(ours, truth[leaf]) <= 1e-4


def test_rounding_grows_through_the_deepest_network_as_it_does_in_torch(kernels, calibration, images) -> None:
    """120 convolutions with random weights: PyTorch's own fp32 is more than 1e-4 from the truth."""
    torch.manual_seed(0)
    supernet = supernets.ShuffleNetV2(7, stem="cifar", width=0.2)
    architecture = supernet.space.parse("-".join(["xception"] * 20))
    tree = PrefixTree([supernet.path(architecture)])
    exact = supernet.extract(architecture).double().train()
    for module in exact.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the cumulative convention
    with torch.no_grad():
        for batch in calibration:
            exact(batch.double())
        truth = exact.eval()(images.double())
    torchs, ours = (
        next(iter(logits(backend, tree, calibration, images).values()))
        for backend in (TorchBackend(supernet), NativeBackend(supernet))
    )
    assert error(ours, truth) <= 2 * error(torchs, truth)
