"""`lasfast.calibrate` on ordinary networks, against PyTorch's own running statistics."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lasfast
from lasfast.execution.from_fx import UntraceableError, trace
from lasfast.execution.interpret import run_layer
from lasfast.ir import layers
from lasfast.runtime import compiled

NATIVE = compiled.available() and hasattr(compiled.load(), "schedule_calibrate")
needs_native = pytest.mark.skipif(not NATIVE, reason="the compiled module is missing")

NETWORKS = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=7),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=7, width_mult=0.5),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(num_classes=7, width_mult=0.5),
    "mobilenet_v3_large": lambda: torchvision.models.mobilenet_v3_large(num_classes=7, width_mult=0.5),
    "shufflenet_v2": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=7),
    "mnasnet": lambda: torchvision.models.mnasnet0_5(num_classes=7),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(num_classes=7),
    "regnet_y": lambda: torchvision.models.regnet_y_400mf(num_classes=7),
    "densenet121": lambda: torchvision.models.densenet121(num_classes=7),
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
    assert used == ("torch" if backend == "torch" else "native")
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


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: nn.Sequential(*2 * [nn.BatchNorm2d(3)]), "a batch norm is used more than once"),
        (lambda: nn.Sequential(nn.Conv2d(4, 3, 1)), "expects 4 channels"),
        (
            lambda: nn.Sequential(nn.MaxPool2d(2, return_indices=True)),
            r"'0' is a MaxPool2d, which makes <class 'tuple'> of \(3, 8, 8\)",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 9, padding=(4, 0))),
            "a 9x9 window with padding",
        ),
    ],
)
def test_what_cannot_be_traced_says_why(network, message: str) -> None:
    with pytest.raises(UntraceableError, match=message):
        trace(network(), (3, 8, 8))


def run_record(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a traced network's record computes, in evaluation mode."""
    layer = trace(network.eval(), tuple(x.shape[1:]))
    modules = dict(network.named_modules())
    return run_layer(layer, x, modules, lambda op, value: modules[op.module](value))


class Unit(nn.Module):
    """A gate and a shuffle as people write them; `form` chooses how."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.conv, self.norm, self.fc = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Linear(12, 12)
        self.other = nn.Conv2d(12, 6, (1, 3), 2, groups=2)
        self.gamma = nn.Parameter(torch.linspace(0.5, 2, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        return getattr(self, self.form)(x)

    def gate_by_index(self, x):
        return self.fc(x.mean((2, 3))).sigmoid()[:, :, None, None] * x

    def gate_by_view(self, x):
        b, c, _, _ = x.size()
        gate = torch.sigmoid(self.fc(F.adaptive_avg_pool2d(x, 1).view(b, -1))).view(b, c, 1, 1)
        return torch.mul(x, gate)

    def gate_of_kept_axes(self, x):
        return x * F.hardsigmoid(x.mean([2, 3], keepdim=True))

    def shuffle_by_view(self, x):
        b, c, h, w = x.shape
        return x.view(b, 3, c // 3, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)

    def shuffle_by_reshape(self, x):
        groups = x.reshape(x.size(0), 2, 6, x.size(2), x.size(3))
        return torch.transpose(groups, 2, 1).reshape(x.shape)

    def shuffle_by_name(self, x):
        return F.channel_shuffle(x, 4)

    def chunks(self, x):
        one, two, three = x.chunk(3, dim=1)
        return torch.cat((three, one, two), dim=1)

    def uneven_splits(self, x):
        parts = torch.split(x, [2, 7, 3], 1)
        one, two, three = torch.split(x, 5, dim=1)
        return torch.cat([parts[2], two, one, three, parts[0]], 1)

    def slices(self, x):
        return torch.cat((x[:, 5:], x[:, :-8]), 1)

    def of_all_positions(self, x):
        return self.fc(torch.flatten(F.hardswish(x).mean((2, 3)), 1)) + x.flatten(2).mean(2)

    def layers_as_functions(self, x):
        x = F.conv2d(x, self.other.weight, self.other.bias, self.other.stride, 0, 1, 2)
        x = torch.cat((x, x), 1)
        return F.linear(x.mean((2, 3)), self.fc.weight, self.fc.bias) + F.linear(
            x.mean((2, 3)), self.fc.weight
        )

    def scaled_branches(self, x):
        return sum([x, 0.17 * x.tanh(), x * self.gamma.view(1, -1, 1, 1)])

    def constants(self, x):
        return x * torch.linspace(0, 1, 12).view(12, 1, 1)

    def gate_of_positions(self, x):
        small = F.avg_pool2d(x, 2, 2)
        return x * F.interpolate(small.sigmoid(), size=(x.shape[-2], x.shape[-1]), mode="nearest")

    def split_attention(self, x):
        b, c, h, w = x.shape
        x = x.reshape((b, 3, c // 3, h, w))
        gap = x.sum(dim=1).mean((2, 3), keepdim=True)
        gate = F.softmax(torch.cat((gap, gap.tanh(), -gap), 1).view(b, 1, 3, -1).transpose(1, 2), dim=1)
        return (x * gate.reshape((b, 3, c // 3, 1, 1))).sum(dim=1).contiguous()

    def attention_of_positions(self, x):
        b, _, h, w = x.shape
        q, k, v = x.reshape(b, -1, 12, h * w).transpose(-1, -2).chunk(3, dim=-1)
        return (q @ (k.transpose(-1, -2) @ v)).transpose(-1, -2).reshape(b, -1, h, w)

    def padded_by_size(self, x):
        height, width = x.size()[-2:]
        down, right = (max((math.ceil(n / 2) - 1) * 2 + 3 - n, 0) for n in (height, width))
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2), value=-1.0)
        return F.max_pool2d(x, 3, 2)

    def decides_by_size(self, x):
        if x.shape[-1] < 5 and x.device.type != "meta":
            x = F.adaptive_avg_pool2d(x, (2, max(2, x.shape[-1])))
        return x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)

    def in_place(self, x):
        x *= 0.5
        y = x.view(x.size(0), 2, 6, -1)
        y += 1
        return y.amax(1)


FORMS = [
    name for name, member in vars(Unit).items() if callable(member) and not name.startswith(("_", "forward"))
]


@pytest.mark.parametrize("form", FORMS)
def test_blocks_as_people_write_them(form: str) -> None:
    torch.manual_seed(0)
    unit = Unit(form)
    x = torch.randn(2, 3, 7, 6)
    with torch.no_grad():
        torch.testing.assert_close(run_record(unit, x), unit(x))


class Dense(nn.Module):
    """Each convolution reads all that came before (Huang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 + 2 * index, 2, 1) for index in range(4))
        self.norm = nn.BatchNorm2d(11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x]
        for conv in self.convs:
            parts.append(conv(torch.cat(parts, 1)))
        return self.norm(torch.cat(parts, 1))


def test_a_concatenation_that_grows_moves_what_is_new() -> None:
    network = Dense()
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(run_record(network, x), network(x))
    assert sum(isinstance(op, layers.Concat) for op in trace(network, (3, 4, 4)).ops) == 4


class Silent(nn.Module):
    """Control flow that fx cannot follow, and no batch norm within."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if float(x.sum()) > 1e9 else x.cumsum(3).tanh()


def mixed() -> nn.Sequential:
    """Leaf modules without a record, settings without one, a module that cannot be traced, uneven strides."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=(1, 1), dilation=(1, 1)),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(0.2),
        nn.Conv2d(6, 6, 3, groups=3, padding=2, dilation=2),
        nn.GroupNorm(2, 6),
        nn.BatchNorm2d(6),
        Silent(),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(5),
        nn.Dropout2d(0.9),
    )


@needs_native
def test_what_has_no_record_runs_through_torch_within_the_plan() -> None:
    torch.manual_seed(0)
    network = mixed()
    names = [op.module for op in trace(network, (3, 9, 8)).ops if isinstance(op, layers.Opaque)]
    assert names == ["2", "4", "6", "7", "8", "10"]
    images = [torch.randn(4, 3, 9, 8), torch.randn(5, 3, 9, 8), torch.randn(3, 3, 12, 17)]
    expected = pytorch(network, images, None)
    assert lasfast.calibrate(network, images, backend="native") == "native"
    for name, buffer in running(network).items():
        torch.testing.assert_close(buffer, expected[name], rtol=1e-4, atol=1e-5)
    assert all(module.training for module in network.modules())


@needs_native
def test_asking_for_native_says_why_not() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm3d(4))
    with pytest.raises(ValueError, match=r"cannot calibrate this network: .* module '1' is a BatchNorm3d"):
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
