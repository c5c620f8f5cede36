"""`lasfast.calibrate` on ordinary networks, against PyTorch's own running statistics."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lasfast
from lasfast import _native
from lasfast.supernets.trace import UntraceableError, trace

NATIVE = _native.available() and hasattr(_native.load(), "schedule_calibrate")
needs_native = pytest.mark.skipif(not NATIVE, reason="the compiled module is missing")

NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=7),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=7, width_mult=0.5),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=7, width_mult=0.5),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[request.param]()


@pytest.fixture(scope="module")
def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(count, 3, 64, 64, generator=generator) + 0.5 for count in (6, 5, 6)]


def pytorch(network: nn.Module, batches, momentum) -> dict[str, torch.Tensor]:
    """The buffers that PyTorch itself leaves, all but the BatchNorms in evaluation mode."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().reset_running_stats()
            module.momentum = momentum
    with torch.no_grad():
        for images in batches:
            network(images)
    return running(network)


def running(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in network.named_buffers() if "running" in name}


@pytest.mark.parametrize("backend", ["torch", pytest.param("auto", marks=needs_native)])
@pytest.mark.parametrize(("statistics", "momentum"), [("cumulative", None), ("ema", 0.1)])
def test_it_equals_pytorch(network, batches, statistics, momentum, backend) -> None:
    expected = pytorch(network, batches, momentum)
    ours = copy.deepcopy(network).train()
    used = lasfast.calibrate(ours, batches, statistics=statistics, backend=backend)
    squeezes = isinstance(network, torchvision.models.MobileNetV3)  # gates have no native operation yet
    assert used == ("torch" if backend == "torch" or squeezes else "native")
    for name, buffer in running(ours).items():
        # Means are judged by the spread of the values: behind a linear layer they are zero but for rounding.
        scale = expected[name.replace("running_mean", "running_var")]
        scale = scale.sqrt() if name.endswith("running_mean") else scale
        error = (buffer - expected[name]).norm() / scale.norm()
        assert error <= (1e-5 if used == "torch" else 1e-4), name
    assert all(module.training for module in ours.modules())
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, network.get_parameter(name))


def test_weights_of_batches(network, batches) -> None:
    """`batch_mean` on one batch is its mean and biased variance."""
    ours = copy.deepcopy(network)
    lasfast.calibrate(ours, batches[:1], statistics="batch_mean", backend="torch")
    expected = pytorch(network, batches[:1], None)
    first = next(name for name in expected if name.endswith("running_var"))
    count = 6 * 32 * 32
    torch.testing.assert_close(running(ours)[first], expected[first] * (count - 1) / count)


def test_a_loader_of_pairs() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=7)
    images = torch.randn(8, 3, 32, 32)
    other = copy.deepcopy(network)
    lasfast.calibrate(network, DataLoader(TensorDataset(images, torch.zeros(8)), batch_size=4))
    lasfast.calibrate(other, iter(images.split(4)))
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), other.buffers(), strict=True))


def test_any_module_at_all() -> None:
    """What cannot be traced, and BatchNorms of other dimensions and without buffers, run through torch."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)
            self.line = nn.BatchNorm1d(4, track_running_stats=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(self.conv(x))
            return self.line(y.mean((2, 3)) if float(y.detach().sum()) > -1e9 else y.amax((2, 3)))

    network = Odd()
    images = torch.randn(9, 3, 8, 8)
    assert lasfast.calibrate(network, [images]) == "torch"
    expected = network.conv(images).detach()
    torch.testing.assert_close(network.norm.running_mean, expected.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert network.line.running_mean.shape == (4,)
    with torch.no_grad():
        assert network.eval()(images).shape == (9, 4)


def test_what_cannot_be_traced_says_why() -> None:
    with pytest.raises(UntraceableError, match="'1' is a LeakyReLU, which has no record"):
        trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU()))
    with pytest.raises(UntraceableError, match="padding of '0' is"):
        trace(nn.Sequential(nn.Conv2d(3, 4, 3, padding=(1, 0))))
    norm = nn.BatchNorm2d(3)
    with pytest.raises(UntraceableError, match="more than once"):
        trace(nn.Sequential(norm, norm))


@needs_native
def test_asking_for_native_says_why_not() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU())
    with pytest.raises(ValueError, match="backend='native' cannot calibrate this network: module '2'"):
        lasfast.calibrate(network, [torch.randn(2, 3, 8, 8)], backend="native")


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        ([], ValueError, "no batch"),
        ([torch.zeros(2, 3, 8, 8, dtype=torch.uint8)], TypeError, "torch.uint8"),
        ([torch.zeros(3, 8, 8)], TypeError, r"\[N, C, H, W\], got torch.float32 \(3, 8, 8\)"),
        (3, TypeError, "got int"),
        ([torch.zeros(1, 3, 3, 3)], ValueError, "one value per channel"),
    ],
)
def test_bad_loaders_are_named_and_change_nothing(loader, error, message: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = running(network)
    with pytest.raises(error, match=message):
        lasfast.calibrate(network, loader)
    assert all(torch.equal(a, before[name]) for name, a in running(network).items())
    assert network.training


def test_a_network_without_batch_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="without any BatchNorm"):
        lasfast.calibrate(nn.Conv2d(3, 4, 3), [torch.zeros(2, 3, 8, 8)])
