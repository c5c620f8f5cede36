"""timm's networks, whose batch norms are modules with an activation: read, fused and calibrated as others."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import lasfast
from lasfast.execution.fused_call import run
from lasfast.runtime import compiled

timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
NATIVE = compiled.available() and hasattr(compiled.load(), "schedule_calibrate")


class Net(nn.Module):
    """A norm with an activation behind a convolution, one with none, and one that drops."""

    def __init__(self, activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.bn1 = timm.layers.BatchNormAct2d(8, act_layer=activation)
        self.bn2 = timm.layers.BatchNormAct2d(8, apply_act=False)
        self.bn3 = timm.layers.BatchNormAct2d(8, drop_layer=nn.Dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        return self.bn3(self.bn2(self.conv2(x)) + x)


def fused_norms(network: nn.Module) -> dict[str, str]:
    """The activation that each fused norm takes in."""
    return {node.args[2].target: node.args[4] for node in network.fused_graph.nodes if node.target is run}


@pytest.mark.parametrize(
    ("activation", "taken"), [(nn.SiLU, "swish"), (nn.ReLU, "relu"), (nn.LeakyReLU, "none")]
)
def test_norms_with_an_activation(activation: type[nn.Module], taken: str, one_thread: None) -> None:
    torch.manual_seed(0)
    model = Net(activation)
    model.bn3.drop.p = 0.0
    network = lasfast.accelerate(copy.deepcopy(model))
    assert fused_norms(network) == {"bn1": taken, "bn2": "none"}
    x = torch.randn(4, 3, 8, 8)
    for training in (True, True, False):
        results = []
        for one in (network, model):
            one.train(training).zero_grad()
            results.append(one(x))
            results[-1].square().sum().backward()
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(network.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-3)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(network.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)


def test_hooks_of_a_norm_see_its_activation(one_thread: None) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    network = lasfast.accelerate(copy.deepcopy(model))
    x = torch.randn(4, 3, 8, 8)
    for one in (model, network):
        one.bn1.register_forward_hook(lambda module, inputs, output: output.clamp(min=0) * 2)
    torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "accelerated"])
def test_calibration(kind: str, one_thread: None) -> None:
    torch.manual_seed(0)
    model = Net()
    model.bn3 = timm.layers.BatchNormAct2d(8)
    images = [torch.randn(4, 3, 8, 8) + 1 for _ in range(3)]
    truth = copy.deepcopy(model).double().eval()
    for norm in (truth.bn1, truth.bn2, truth.bn3):
        norm.momentum, norm.training = None, True
    with torch.no_grad():
        for one in images:
            truth(one.double())
    for backend in ("torch", "native") if NATIVE else ("torch",):
        network = copy.deepcopy(model)
        if kind == "accelerated":
            network = lasfast.accelerate(network)
        assert lasfast.calibrate(network, images, backend=backend) == backend
        for name in ("bn1", "bn2", "bn3"):
            ours, true = network.get_submodule(name), truth.get_submodule(name)
            torch.testing.assert_close(ours.running_mean.double(), true.running_mean, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(ours.running_var.double(), true.running_var, rtol=1e-4, atol=1e-4)
