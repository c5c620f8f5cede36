"""`accelerate`: any torch network with fused operators, to the same results."""

from __future__ import annotations

import copy
import pickle
import re
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lasfast
from lasfast.execution.fused_call import as_contiguous, run, run_depthwise

torchvision = pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))


class Block(nn.Module):
    """What the usual blocks do: functional and module activations, in place, sums of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.shortcut = nn.Conv2d(4, 8, 1, 2, bias=False)
        self.bn3 = nn.BatchNorm2d(8)
        self.biased = nn.Conv2d(8, 6, 1)
        self.bn4 = nn.BatchNorm2d(6)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.bn3(self.shortcut(x))
        y = y.relu_()
        z = self.bn4(self.biased(y)) + self.scale  # broadcast
        return F.hardswish(z).mean((2, 3))


def fused_calls(network: nn.Module) -> int:
    return sum(node.target is run for node in network.fused_graph.nodes)


def norms(network: nn.Module) -> int:
    return sum(isinstance(one, nn.BatchNorm2d) for one in network.modules())


def assert_trains_alike(ours: nn.Module, theirs: nn.Module, x: Tensor) -> None:
    """Outputs, gradients and buffers after one step: as near to the truth, in fp64, as torch's."""
    found = {}
    for name, network in (("ours", ours), ("torch", theirs), ("truth", copy.deepcopy(theirs).double())):
        torch.manual_seed(0)
        result = network(x.to(next(network.parameters()).dtype))
        (result * torch.linspace(-1, 1, result.numel()).view_as(result)).sum().backward()
        gradients = [one.grad.flatten() for _, one in sorted(network.named_parameters())]
        buffers = [one.flatten() for _, one in sorted(network.named_buffers())]
        found[name] = [torch.cat(part).double() for part in ([result.flatten()], gradients, buffers)]
    for mine, torchs, true in zip(found["ours"], found["torch"], found["truth"], strict=True):
        assert (mine - true).norm() <= 2 * (torchs - true).norm() + 1e-3 * true.norm()


def test_every_norm_takes_in_its_neighbours(one_thread: None) -> None:
    torch.manual_seed(0)
    model = Block().train()
    theirs = copy.deepcopy(model)
    network = lasfast.accelerate(model)
    assert fused_calls(network) == 4
    left = [node.target for node in network.fused_graph.nodes if node.op in ("call_module", "call_function")]
    assert [one for one in left if one is not run] == ["biased", as_contiguous]  # mean() is a method
    assert_trains_alike(network, theirs, torch.randn(3, 4, 8, 8))


class Separable(nn.Module):
    """Depthwise convolutions without norms: biased, strided, dilated, of a subclass, called twice."""

    class Other(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    def __init__(self) -> None:
        super().__init__()
        self.biased = nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.strided = nn.Conv2d(16, 16, 5, 2, 2, groups=16, bias=False)
        self.dilated = nn.Conv2d(16, 16, 3, 2, 2, dilation=2, groups=16)
        self.reflecting = nn.Conv2d(16, 16, 3, padding=1, groups=16, padding_mode="reflect")
        self.other = self.Other(16, 16, 3, padding=1, groups=16)
        self.twice = nn.Conv2d(16, 16, 3, padding=4, dilation=4, groups=16)
        self.norm = nn.GroupNorm(1, 16)
        self.pointwise, self.last_norm = nn.Conv2d(16, 6, 1), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.biased(x)).relu_() + x
        x = self.other(self.reflecting(self.dilated(x)) + self.strided(x))
        return self.last_norm(self.pointwise(self.twice(self.twice(x)))).mean((2, 3))


def test_depthwise_convolutions_without_norms(one_thread: None) -> None:
    torch.manual_seed(0)
    model = Separable().train()
    theirs = copy.deepcopy(model)
    network = lasfast.accelerate(model)
    read = [node.args[1].target for node in network.fused_graph.nodes if node.target is run_depthwise]
    assert read == ["biased", "dilated", "strided", "twice", "twice"]
    x = torch.randn(3, 16, 12, 12)
    assert_trains_alike(network, theirs, x)
    network.eval()
    torch.testing.assert_close(network(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="channels"):  # PyTorch's own words
        network(x[:, :8])
    calls = []
    network.dilated.register_forward_hook(lambda *_: calls.append(1))
    network(x)
    assert calls == [1]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_torchvision_networks(name: str, one_thread: None) -> None:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=5).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # fp64 draws otherwise
    theirs = copy.deepcopy(model)
    network = lasfast.accelerate(model)
    assert fused_calls(network) == norms(model) > 10
    assert list(network.state_dict()) == list(model.state_dict())
    assert_trains_alike(network, theirs, torch.randn(4, 3, 64, 64))


def test_evaluation_and_frozen_norms(one_thread: None) -> None:
    torch.manual_seed(0)
    model = Block()
    network = lasfast.accelerate(model)
    x = torch.randn(2, 4, 8, 8)
    network(x)  # running statistics that are not the first
    network.eval()
    torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5)
    assert not model.training or not model.bn1.training
    network.train()
    model.bn2.eval()
    before = model.bn2.running_mean.clone()
    network(x)
    assert torch.equal(model.bn2.running_mean, before)


def test_weights_are_the_models_own() -> None:
    model = Block()
    network = lasfast.accelerate(model)
    assert all(one is dict(model.named_parameters())[name] for name, one in network.named_parameters())
    fresh = Block()
    network.load_state_dict(fresh.state_dict())
    assert all(torch.equal(one, fresh.state_dict()[name]) for name, one in model.state_dict().items())


def test_copies_and_pickles(one_thread: None) -> None:
    model = Block().eval()
    network = lasfast.accelerate(model)
    assert not network.training
    x = torch.randn(2, 4, 8, 8)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(x), network(x))
        other.bn1.weight.data.zero_()
        assert not torch.equal(other(x), network(x))


def test_autocast(one_thread: None) -> None:
    torch.manual_seed(0)
    network, model = lasfast.accelerate(Block()), Block()
    model.load_state_dict(network.state_dict())
    x = torch.randn(4, 4, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        result, expected = network(x), model(x)
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=0.05, atol=0.05)
    result.float().sum().backward()
    assert all(one.grad.dtype == torch.float32 for one in network.parameters())


def test_compile_without_graph_breaks(one_thread: None) -> None:
    torch.manual_seed(0)
    network = lasfast.accelerate(Block())
    compiled = torch.compile(copy.deepcopy(network), backend="aot_eager", fullgraph=True)
    x = torch.randn(3, 4, 8, 8)
    result, expected = compiled(x), network(x)
    torch.testing.assert_close(result, expected)
    result.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(compiled.get_parameter("conv1.weight").grad, network.conv1.weight.grad)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_rewritten() -> None:
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got a int"):
        lasfast.accelerate(3)
    with pytest.raises(ValueError, match=r"model must be traceable by torch.fx, got a Branching"):
        lasfast.accelerate(Branching())


def test_the_example_runs(one_thread: None, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    options = ["--network", "mobilenet_v3_small", "--image-size", "32", "--batch", "4", "--steps", "1"]
    monkeypatch.setattr("sys.argv", ["accelerate_torchvision.py", *options])
    path = Path(__file__).parents[2] / "examples" / "accelerate_torchvision.py"
    runpy.run_path(str(path), run_name="__main__")
    assert re.search(r"\d+\.\d\d times faster", capsys.readouterr().out)
