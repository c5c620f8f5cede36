"""Modules and code without records that do the same to each channel are narrowed with what they read."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lasfast.engine import NativeBackend, TorchBackend
from lasfast.engine.native_backend import why_missing
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.supernets import from_model

SHAPE = (3, 12, 12)


class Leaky(nn.Module):
    """Activations without records: one module that runs at two widths, and functions; pools as code."""

    def __init__(self, widths: tuple[int, int] = (16, 32)) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, widths[0], 3, padding=1), nn.Conv2d(*widths, 3, padding=1)
        self.norm = nn.BatchNorm2d(widths[1])
        self.act = nn.LeakyReLU(0.3, inplace=True)
        self.fc = nn.Linear(4 * widths[1], 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.elu(self.act(self.conv1(x)))
        sides = (0, math.ceil(x.shape[-1] / 8), 0, max(x.shape[-2] - 11, 0))
        x = F.lp_pool2d(F.pad(x, sides, "replicate"), 2, 3)
        x = self.conv2(x)
        x = torch.maximum(self.act(self.norm(x)), x)
        return self.fc(F.gelu(F.adaptive_max_pool2d(x, 2).flatten(1)))


class PerImage(Leaky):
    """The second convolution's channels are compared with the mean of all of the first one's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.conv1(x))
        x = F.softmax(self.act(self.norm(self.conv2(x))), 1)
        return self.fc(F.adaptive_max_pool2d(x, 2).flatten(1))


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def close(ours: torch.Tensor, truth: torch.Tensor) -> bool:
    return bool((ours - truth).norm() <= 1e-4 * truth.norm())


def cut_by_hand(model: Leaky, weights: dict[str, torch.Tensor], widths: tuple[int, int]) -> Leaky:
    """The network of these widths, with the leading parts of sorted weights."""
    network = type(model)(widths).eval()
    features = weights["fc.weight"].view(5, 32, 4)[:, : widths[1]].flatten(1)
    state = {**weights, "fc.weight": features}
    network.load_state_dict(
        {name: state[name][tuple(map(slice, one.shape))] for name, one in network.state_dict().items()}
    )
    return network


def test_activations_and_pools_without_records_are_narrowed(one_thread: None) -> None:
    torch.manual_seed(0)
    model, x = Leaky().eval(), images()
    supernet = from_model(model, SHAPE)
    assert supernet.space.names == (("8", "16"), ("8", "16", "24", "32"))
    weights = supernet.network.state_dict()
    with torch.no_grad():
        assert close(supernet(x, supernet.full), model(x))
        for architecture, widths in {(0, 3): (8, 32), (1, 1): (16, 16), (0, 0): (8, 8)}.items():
            truth = cut_by_hand(model, weights, widths)(x)
            assert close(supernet(x, architecture), truth)
            assert close(supernet.extract(architecture)(x), truth)


def test_backends_agree(one_thread: None) -> None:
    if why_missing(torch.device("cpu")):
        pytest.skip("the compiled module is missing")
    supernet = from_model(Leaky(), SHAPE)
    tree = PrefixTree([supernet.path(one) for one in ((0, 0), (0, 2), (1, 3))])
    truth, ours = (
        backend.predict(tree, backend.calibrate(tree, [images(8)], "cumulative"), images())
        for backend in (TorchBackend(supernet), NativeBackend(supernet))
    )
    for leaf, logits in truth.items():
        assert close(ours[leaf], logits)


def test_what_mixes_channels_keeps_them() -> None:
    supernet = from_model(PerImage(), SHAPE)
    assert supernet.space.names == (("8", "16"),)
    assert dict(supernet.fixed)["conv2 (32)"] == "code that lasfast cannot read has them"


def test_modules_below_others_keep_both(one_thread: None) -> None:
    """timm's batch norms hold their activations, which have no record here."""
    layers = pytest.importorskip("timm.layers", exc_type=(ImportError, RuntimeError))
    torch.manual_seed(0)
    norm = layers.BatchNormAct2d(16, act_layer=nn.LeakyReLU)
    nn.init.normal_(norm.weight)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    model, x = nn.Sequential(nn.Conv2d(3, 16, 3), norm, *head).eval(), images()
    supernet = from_model(model, SHAPE)
    assert supernet.space.names == (("8", "16"),)
    network = supernet.extract(supernet.full)
    assert network.state_dict().keys() == model.state_dict().keys()
    assert close(supernet(x, supernet.full), model(x))
    assert close(network(x), model(x))
    assert close(supernet.extract((0,))(x), supernet(x, (0,)))


def test_an_extracted_network_computes_sizes_of_its_own(one_thread: None) -> None:
    """What the code computes from sizes by functions of Python is a part of the graph."""
    supernet = from_model(Leaky(), SHAPE)
    network = supernet.extract((0, 0)).eval()
    called = {node.target for node in network.graph.nodes if node.op == "call_function"}
    assert math.ceil in called
