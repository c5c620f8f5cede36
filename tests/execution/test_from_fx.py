"""Records of traced networks: what `accelerate` and lasfast's modules make is read as what it was made of."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import lasfast
from lasfast.execution.from_fx import UntraceableError, trace
from lasfast.ir import layers
from lasfast.nn import PACT, ConvBNAct, SlicedBatchNorm2d, SlicedConv2d
from lasfast.runtime import compiled


class Residual(nn.Module):
    """Sums, activations as functions, methods and modules, in place or not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.bn1(self.conv1(x)))
        y = (self.bn2(self.conv2(y)) + y).relu()
        return self.fc(y.mean((2, 3)))


class Ours(nn.Module):
    """The same network of lasfast's own modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = ConvBNAct(3, 8), ConvBNAct(8, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.fc(self.second(y, residual=y).mean((2, 3)))


def kinds(layer: layers.Layer) -> list[tuple[str, tuple[int, ...]]]:
    return [(type(op).__name__, sources) for op, sources in layer.steps()]


def test_what_accelerate_makes_is_read_as_the_network_itself() -> None:
    network = Residual()
    plain, fused = trace(network, (3, 8, 8)), trace(lasfast.accelerate(network), (3, 8, 8))
    assert fused.ops == plain.ops


def test_conv_bn_act_is_read_as_its_parts() -> None:
    names = [getattr(op, "module", "") for op in trace(Ours(), (3, 8, 8)).ops]
    assert names == ["first.0", "first.1", "", "second.0", "second.1", "", "", "", "fc"]
    assert kinds(trace(Ours(), (3, 8, 8))) == kinds(trace(Residual(), (3, 8, 8)))


def test_a_slice_of_conv_bn_act_has_no_record() -> None:
    class Narrow(Ours):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x, 4)

    with pytest.raises(UntraceableError, match="slice of its channels"):
        trace(Narrow(), (3, 8, 8))


def test_sliced_modules_and_pact_are_read_as_what_they_stand_for() -> None:
    network = nn.Sequential(SlicedConv2d(3, 4, 3), SlicedBatchNorm2d(4), PACT(2))
    conv, norm, quantize = trace(network, (3, 8, 8)).ops
    assert (conv, norm) == (layers.Conv2d("0", 3, 4, 3, bias=True), layers.BatchNorm2d("1", 4))
    assert quantize == layers.Quantize("2", 2)


@pytest.mark.parametrize("make", [Residual, Ours, lambda: lasfast.accelerate(Residual())])
def test_they_are_calibrated(make) -> None:
    """By the kernels where those are; the statistics are those of the plain network."""
    torch.manual_seed(0)
    network, expected = make(), Residual()
    weights = copy.deepcopy(network.state_dict()).values()
    expected.load_state_dict(dict(zip(expected.state_dict(), weights, strict=True)))
    images = [torch.randn(6, 3, 8, 8) for _ in range(2)]
    used = lasfast.calibrate(network, images)
    assert used == ("native" if compiled.available() else "torch")
    lasfast.calibrate(expected, images, backend="torch")
    means = [[b for n, b in net.named_buffers() if "running" in n] for net in (network, expected)]
    assert any(one.abs().max() > 0.1 for one in means[1])
    for ours, theirs in zip(*means, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_norms_without_scale_and_shift() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    )
    assert trace(network, (3, 8, 8)).ops[1] == layers.BatchNorm2d("1", 4, affine=False)
    images, theirs = torch.randn(9, 3, 8, 8), copy.deepcopy(network)
    lasfast.calibrate(network, [images])
    lasfast.calibrate(theirs, [images], backend="torch")
    for ours, one in zip(network.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(ours, one, rtol=1e-4, atol=1e-5)
