"""Quantized layers on the native backend: weights as they are packed, values by PyTorch in between.

A value that rounds to the next level changes what follows by much more than rounding does, and that the more
the deeper: whole networks are compared where no value is near the middle between two levels.
"""

import random
from itertools import combinations

import pytest
import torch

from lasfast import supernets
from lasfast.cli.prefix_tree import prefix_tree_lines
from lasfast.engine import NativeBackend, TorchBackend
from lasfast.engine.lower import lower
from lasfast.ir.layers import Quantize
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.ops.quantize import LEAST_ALPHA, pact
from lasfast.supernets import LayerBuilder
from tests.conftest import shaken

BATCHES = (5, 4, 7)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return shaken(supernets.QuantResNet(7, stem="cifar", width=0.125))


def two(net) -> PrefixTree:
    """Architectures that differ in bits and channels of their second half."""
    rng = random.Random(3)
    one, other = net.space.sample(rng), net.space.sample(rng)
    return PrefixTree([net.path(one), net.path((*one[:8], *other[8:]))])


def logits(backend, tree, calibration, images):
    return backend.predict(tree, backend.calibrate(tree, calibration, "cumulative"), images)


def error(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


def clear_images(net, tree, monkeypatch):
    """Images for calibration and prediction of which no value comes near the middle between two levels."""
    nearest = torch.inf

    def measured(x, alpha, bits):
        nonlocal nearest
        steps = (x * ((2**bits - 1) / alpha.clamp(min=LEAST_ALPHA))).clamp(-1, 2**bits)
        nearest = min(nearest, float((steps - steps.floor() - 0.5).abs().min()))
        return pact(x, alpha, bits)

    backend = TorchBackend(net)
    with monkeypatch.context() as patch:
        patch.setattr("lasfast.execution.interpret.pact", measured)
        for seed in range(100):
            generator = torch.Generator().manual_seed(seed)
            *calibration, images = (
                torch.randn(count, 3, 4, 4, generator=generator) for count in (*BATCHES, 4)
            )
            nearest = torch.inf
            logits(backend, tree, calibration, images)
            if nearest > 5e-5:
                return calibration, images
    raise AssertionError("no such images")


def test_whole_networks_agree(kernels, net, monkeypatch) -> None:
    tree = two(net)
    assert tree.sharing_ratio > 1
    calibration, images = clear_images(net, tree, monkeypatch)
    truth = logits(TorchBackend(net), tree, calibration, images)
    for leaf, ours in logits(NativeBackend(net), tree, calibration, images).items():
        assert error(ours, truth[leaf]) <= 1e-4


@pytest.mark.parametrize("block", [0, 2])
def test_blocks_in_bf16_are_as_near_to_the_truth_as_pytorchs(kernels, net, block: int) -> None:
    """Straight behind the first convolution; block 2 has a projection, and twice as many channels."""
    generator = torch.Generator().manual_seed(1)
    calibration = [torch.randn(count, 3, 16, 16, generator=generator) for count in BATCHES]
    images = torch.randn(6, 3, 16, 16, generator=generator)
    paths = []
    for option in ("w1a2", "w2a4", "w4a4"):
        whole = net.path(net.space.parse("-".join(["1.5", option] * 8)))
        paths.append((whole[0], whole[1 + block], *net.head(16 if block else 8)))
    tree = PrefixTree(paths)
    truth = logits(TorchBackend(net), tree, calibration, images)
    torchs = logits(TorchBackend(net, "bf16"), tree, calibration, images)
    ours = logits(NativeBackend(net, "bf16"), tree, calibration, images)
    for leaf in truth:
        assert 0 < error(ours[leaf], truth[leaf]) <= 2 * error(torchs[leaf], truth[leaf]) + 0.005
    assert error(truth[tree.leaves[0]], truth[tree.leaves[1]]) > 0.01  # of the same weights


def weights_alone(net, bits: dict[str, int | None]):
    """A path through modules that any other reads: dense, grouped, depthwise, and a slice with a bias."""
    block = LayerBuilder("weights", 3)
    y = block.conv_bn_act("1", block.input, 12, 3)
    y = block.batch_norm("bn2", block.conv("2", y, 12, 3, groups=12, weight_bits=bits["depthwise"]))
    y = block.batch_norm("bn3", block.conv("3", y, 12, 3, groups=4, weight_bits=bits["grouped"]))
    y = block.activation(block.conv("4", y, bits["width"], 3, 2, bias=True, weight_bits=bits["dense"]))
    block.batch_norm("bn5", block.conv("5", y, 8, 1, weight_bits=bits["dense"]))
    return block.build(), *net.head(8)


def test_quantized_weights_alone_agree_everywhere(kernels, net) -> None:
    """Where no value is quantized, there are no middles to be near to."""
    bits = ("dense", "grouped", "depthwise", "width")
    paths = [
        weights_alone(net, dict(zip(bits, chosen, strict=True)))
        for chosen in [(1, 2, 3, 11), (4, 1, None, 11), (None, 2, 1, 7), (2, None, 8, 7)]
    ]
    net.create_modules(*paths)
    generator = torch.Generator().manual_seed(1)
    calibration = [torch.randn(count, 3, 9, 7, generator=generator) for count in BATCHES]
    images = torch.randn(6, 3, 9, 7, generator=generator)
    tree = PrefixTree(paths)
    truth = logits(TorchBackend(net), tree, calibration, images)
    for leaf, ours in logits(NativeBackend(net), tree, calibration, images).items():
        assert error(ours, truth[leaf]) <= 1e-4
    assert min(error(truth[one], truth[other]) for one, other in combinations(tree.leaves, 2)) > 0.01


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("calibration", [False, True])
def test_what_pytorch_runs_are_the_quantizations_of_values(net, calibration: bool, cuda: bool) -> None:
    tree = two(net)
    schedule = lower(tree, (3, 16, 16), calibration=calibration, cuda=cuda)
    wanted = [op for node in tree.nodes for op in node.layer.ops if isinstance(op, Quantize)]
    assert [call.op for call in schedule.calls] == wanted


def test_the_command_line_says_so(net) -> None:
    architecture = net.space.parse("-".join(["1.0-w2a4"] * 8))
    name, text = prefix_tree_lines(net, [architecture], (3, 16, 16))[-1]
    assert name == "run by PyTorch"
    assert text.startswith("blocks.0 (Quantize clip1.a4), blocks.0 (Quantize clip2.a4), blocks.1")
