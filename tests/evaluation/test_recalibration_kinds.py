"""`lasfast.calibrate` on networks that are not what they look like: PyTorch's statistics, or an error."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import lasfast
from lasfast.execution.from_fx import UntraceableError, trace
from lasfast.runtime import compiled

NATIVE = compiled.available() and hasattr(compiled.load(), "schedule_calibrate")
needs_native = pytest.mark.skipif(not NATIVE, reason="the compiled module is missing")


def batches(count: int = 3, size: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, 3, size, size, generator=generator) * 2 + 1 for _ in range(count)]


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn, self.last = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.relu, self.leaky = nn.ReLU(inplace=True), nn.LeakyReLU(0.1, inplace=True)


class ShortcutBehindAnActivation(Base):
    def forward(self, x):
        x = self.stem(x)
        return self.last(self.bn(self.conv(self.relu(x))) + x)


class ReaderBeforeAnActivation(Base):
    """Of a module that is called: the norm is applied when its readers read."""

    def forward(self, x):
        x = self.stem(x)
        early = self.bn(x)
        return self.last(self.conv(self.leaky(x)) + early)


class NormThatIsChangedInPlace(Base):
    def forward(self, x):
        x = self.bn(self.stem(x))
        y = self.conv(x)
        return self.last(self.leaky(x) + y)


class SumIntoShortcut(Base):
    def forward(self, x):
        x = self.stem(x)
        y = x
        y += self.bn(self.conv(x))
        return self.last(y.relu() + x)


class ProductIntoShortcut(Base):
    def forward(self, x):
        x = self.bn(self.stem(x))
        y = x
        y *= F.adaptive_avg_pool2d(x, 1).sigmoid()
        return self.last(self.conv(x) + y)


class IdentityAndDropout(Base):
    def __init__(self) -> None:
        super().__init__()
        self.identity = nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        y = self.identity(x)
        y.relu_()
        return self.last(self.bn(self.conv(y)) + x)


class Pools(Base):
    """Functions that pool, an average that counts its padding, and dropout that does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 1, 1)

    def forward(self, x):
        x = F.max_pool2d(self.bn(self.stem(x)), 3, 1, padding=1)
        y = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1) + self.pool(x)
        return self.last(F.dropout(self.conv(y), 0.3, training=False)[:, :, :, :])


class OtherSizes(Base):
    """Modules whose output has another size than the input's divided by a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.pool, self.pad = nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(7), nn.ZeroPad2d(1)

    def forward(self, x):
        x = self.bn(self.conv(self.pad(self.pool(self.up(self.stem(x))))))
        return self.last(x)


class ShortcutThatIsReadAgain(Base):
    """The sum changes the norm's value alone, not the other operand."""

    def forward(self, x):
        x = self.stem(x)
        y = self.bn(self.conv(x))
        y += x
        return self.last(self.relu(y) + x)


NATIVELY = (
    *(ShortcutBehindAnActivation, ReaderBeforeAnActivation, NormThatIsChangedInPlace, SumIntoShortcut),
    *(ProductIntoShortcut, IdentityAndDropout, ShortcutThatIsReadAgain),
    *(Pools, OtherSizes),
)


class PartsChangedInPlace(Base):
    """A chunk is changed, and then what it is a part of is read."""

    def forward(self, x):
        x = self.stem(x)
        one, _ = x.chunk(2, 1)
        one.relu_()
        return self.last(self.bn(self.conv(x)))


class DropoutIsTheValueItself(Base):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        x = self.stem(x)
        self.dropout(x).relu_()
        return self.last(self.bn(self.conv(x)))


class OneNormTwice(Base):
    def forward(self, x):
        x = self.stem(x)
        return self.last(self.bn(x) + self.bn(self.conv(x)))


class Elastic(Base):
    """The first channels of a convolution and of its norm, as once-for-all has them."""

    def forward(self, x):
        norm, c, factor = self.bn, 5, 0.0
        x = self.conv(self.stem(x))[:, :c]
        if norm.training and norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
            factor = 1 / norm.num_batches_tracked.item() if norm.momentum is None else norm.momentum
        mean, var = norm.running_mean[:c], norm.running_var[:c]
        x = F.batch_norm(x, mean, var, norm.weight[:c], norm.bias[:c], norm.training, factor, norm.eps)
        return self.last(F.pad(x, (0, 0, 0, 0, 0, 3)).relu())


class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class NormOfASubclass(Base):
    def __init__(self) -> None:
        super().__init__()
        self.bn = NormAct(8)

    def forward(self, x):
        return self.last(self.bn(self.conv(self.stem(x))))


class PeeksAtTheNormsMode(Base):
    def forward(self, x):
        x = self.stem(x)
        return self.last(self.bn(x) * (3 if self.bn.training else 1))


class OtherDimensions(Base):
    def __init__(self) -> None:
        super().__init__()
        self.conv3d, self.conv1d = nn.Conv3d(1, 1, 3, padding=1), nn.Conv1d(8, 8, 1)
        self.bn, self.norm1d = nn.BatchNorm3d(1), nn.BatchNorm1d(8)

    def forward(self, x):
        x = self.stem(x)
        x = self.bn(self.conv3d(x[:, None]))[:, 0]
        return self.last(self.norm1d(self.conv1d(x.flatten(2))).view_as(x))


class Random(Base):
    """What it draws is frozen by tracing; here it makes no difference."""

    def forward(self, x):
        return self.last(self.bn(self.conv(self.stem(x))) + 0 * torch.rand(8, 1, 1))


def normalized() -> nn.Module:
    network = NormOfASubclass()
    network.bn = nn.BatchNorm2d(8)
    network.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3 + 1,))
    return network


def pruned() -> nn.Module:
    """As one resumes: build, prune at random, load the checkpoint; the weight is that of the mask before."""
    torch.manual_seed(3)
    trained, network = normalized(), normalized()
    prune.l1_unstructured(trained.conv, "weight", 0.5)
    prune.random_unstructured(network.conv, "weight", 0.5)
    network.load_state_dict(trained.state_dict())
    return network


def hooked(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        network = SumIntoShortcut()
        change(network)
        return network

    return make


def own_forward(network: nn.Module) -> None:
    conv = network.conv
    conv.forward = lambda x: F.conv2d(x.clamp(-1, 1), conv.weight, padding=1)


BY_TORCH: dict[str, Callable[[], nn.Module]] = {
    **{
        one.__name__: one
        for one in (
            *(PartsChangedInPlace, DropoutIsTheValueItself, OneNormTwice, Elastic, NormOfASubclass),
            *(PeeksAtTheNormsMode, OtherDimensions, Random),
        )
    },
    "pre-hook": normalized,
    "pruned": pruned,
    "hook of a norm": hooked(lambda one: one.bn.register_forward_hook(lambda m, i, o: o * 2)),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(SumIntoShortcut()),
    "float64": lambda: SumIntoShortcut().double(),
    "bfloat16": lambda: SumIntoShortcut().bfloat16(),
}
BY_EITHER: dict[str, Callable[[], nn.Module]] = {
    "accelerated": lambda: lasfast.accelerate(SumIntoShortcut()),
    "ConvBNAct": lambda: nn.Sequential(lasfast.nn.ConvBNAct(3, 8), lasfast.nn.ConvBNAct(8, 8, groups=8)),
    "hook of a convolution": hooked(lambda one: one.conv.register_forward_hook(lambda m, i, o: o * 3 + 1)),
    "own forward": hooked(own_forward),
    "without parameters": lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.ReLU()),
}


def norms(network: nn.Module) -> dict[str, nn.Module]:
    kinds = nn.modules.batchnorm._BatchNorm
    return {name: one for name, one in network.named_modules() if isinstance(one, kinds)}


def expected(network: nn.Module, images: list[Tensor]) -> nn.Module:
    """The network, which becomes one of float64, calibrated by PyTorch."""
    network.double().eval()
    for norm in norms(network).values():
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True
    with torch.no_grad():
        for one in images:
            network(one.double())
    return network


def assert_equal(network: nn.Module, truth: nn.Module, tolerance: float = 1e-4) -> None:
    for name, norm in norms(network).items():
        true = truth.get_submodule(name)
        error = (norm.running_mean - true.running_mean).norm() / true.running_var.sqrt().norm()
        assert error <= tolerance, name
        error = (norm.running_var - true.running_var).norm() / true.running_var.norm()
        assert error <= tolerance, name
        assert norm.num_batches_tracked == true.num_batches_tracked, name


def ready(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    network = make()
    for parameter in network.parameters():
        parameter.data.add_(0.1)
    return network


def assert_calibrates(make: Callable[[], nn.Module], backends: dict[str, str]) -> None:
    for backend, ran in backends.items():
        network, twin = ready(make), ready(make)
        dtype = next((one.dtype for one in network.parameters()), torch.float32)
        images = [one.to(dtype) for one in batches()]
        before = {name: one.clone() for name, one in network.state_dict().items()}
        truth = expected(twin, images)
        assert lasfast.calibrate(network, images, backend=backend) == ran
        assert_equal(network, truth, 1e-4 if dtype != torch.bfloat16 else 0.03)
        for name, one in network.state_dict().items():
            if "running" not in name and "tracked" not in name:
                torch.testing.assert_close(one, before[name], rtol=0, atol=0, msg=name)
        assert all(module.training for module in network.modules())
        assert not any(norm._forward_pre_hooks for norm in norms(network).values())


@needs_native
@pytest.mark.parametrize("kind", NATIVELY, ids=[kind.__name__ for kind in NATIVELY])
def test_values_that_change_in_place(kind: type[nn.Module], one_thread: None) -> None:
    assert_calibrates(kind, {"native": "native", "torch": "torch"})


@pytest.mark.parametrize("kind", BY_TORCH)
@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
def test_what_cannot_be_read_runs_as_it_is(kind: str, one_thread: None) -> None:
    assert_calibrates(BY_TORCH[kind], {"auto": "torch"})


@pytest.mark.parametrize("kind", BY_EITHER)
def test_modules_of_ours_and_modules_that_are_called(kind: str, one_thread: None) -> None:
    assert_calibrates(BY_EITHER[kind], {"torch": "torch"} | ({"native": "native"} if NATIVE else {}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_default_dtype_does_not_matter(dtype: torch.dtype, one_thread: None) -> None:
    network, images = ready(SumIntoShortcut), batches()
    truth = expected(ready(SumIntoShortcut), images)
    torch.set_default_dtype(dtype)
    try:
        for backend in ("auto", "torch"):
            lasfast.calibrate(network, images, backend=backend)
            assert_equal(network, truth)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("kind", [Elastic, SumIntoShortcut])
def test_weights_of_batches_of_several_sizes(kind: type[nn.Module], one_thread: None) -> None:
    """`batch_mean` weighs biased variances by images, whoever computes the norm."""
    torch.manual_seed(0)
    network = kind()
    images = [one[: 6 - 2 * number] for number, one in enumerate(batches())]
    parts = []
    for one in images:
        truth = expected(copy.deepcopy(network), [one]).bn
        count = len(one) * 64
        parts.append((len(one), truth.running_mean, truth.running_var * (count - 1) / count))
    total = sum(part[0] for part in parts)
    for backend in ("auto", "torch"):
        ours = copy.deepcopy(network)
        lasfast.calibrate(ours, images, statistics="batch_mean", backend=backend)
        width = 5 if kind is Elastic else 8
        for number, found in ((1, ours.bn.running_mean), (2, ours.bn.running_var)):
            mean = sum(part[0] * part[number] for part in parts) / total
            torch.testing.assert_close(found[:width].double(), mean[:width], rtol=1e-3, atol=1e-3)


class Unfollowed(Base):
    """It normalizes by running statistics that it does not update."""

    def forward(self, x):
        x = self.last(self.stem(x))
        return (x - self.bn.running_mean.view(1, -1, 1, 1)) * 2


class Unreached(Base):
    def forward(self, x):
        return self.last(self.stem(x))


class SeveralWidths(Base):
    def forward(self, x):
        x = self.stem(x)
        mean, var = self.bn.running_mean, self.bn.running_var
        F.batch_norm(x[:, :3], mean[:3], var[:3], training=True)
        return F.batch_norm(x, mean, var, training=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Unfollowed, "statistics that are used otherwise, of 'bn'"),
        (SeveralWidths, "the same channels, got 'bn' with 8 from 0 and with 3 from 0"),
        (lambda: nn.ModuleList([Base()]).append(nn.Conv2d(3, 4, 1)), "no image has reached"),
    ],
)
def test_what_cannot_be_followed_is_an_error_that_changes_nothing(make: Callable, message: str) -> None:
    network = make()
    if isinstance(network, nn.ModuleList):
        network.forward = lambda x: network[1](x)
    before = {name: one.clone() for name, one in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        lasfast.calibrate(network, batches())
    for name, one in network.state_dict().items():
        torch.testing.assert_close(one, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_norms_that_no_image_reaches_are_named_and_stay(backend: str) -> None:
    network = Unreached()
    network.bn.running_mean.fill_(7)
    with pytest.warns(UserWarning, match="no image has reached 'bn': these keep their statistics"):
        lasfast.calibrate(network, batches(), backend=backend)
    assert (network.bn.running_mean == 7).all()
    assert not (network.last.running_mean == 0).any()


class AveragesBeforeNobody(nn.Module):
    """A network whose code changes a buffer at each call, and calls no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.register_buffer("average", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.average.mul_(0.5).add_(x.mean((0, 2, 3)))
        return x


@pytest.mark.parametrize("end", ["norms", "loader"])
def test_a_network_is_as_it_was_where_an_error_ends_it(end: str) -> None:
    def loader() -> Iterator[Tensor]:
        yield torch.ones(4, 3, 2, 2)
        if end == "loader":
            raise OSError("a file is gone")

    network = AveragesBeforeNobody()
    with pytest.raises((ValueError, OSError), match=r"no image has reached|a file is gone"):
        lasfast.calibrate(network, loader())
    assert not network.average.any()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_norms_of_torchscript_are_refused_by_name() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), torch.jit.script(nn.Sequential(nn.BatchNorm2d(3))))
    with pytest.raises(ValueError, match=r"batch norms as modules of Python, got '1\.0'"):
        lasfast.calibrate(network, batches())


class ReadAmiss(Base):
    """`torch.fx` answers False; PyTorch answers True."""

    def forward(self, x):
        x = self.stem(x)
        if isinstance(x, Tensor):
            x = x * F.adaptive_avg_pool2d(x, 1)
        return self.last(self.bn(self.conv(x)))


def test_what_was_read_is_compared_before_it_is_believed(one_thread: None) -> None:
    trace(ReadAmiss(), (3, 8, 8))  # so it can be read
    assert_calibrates(ReadAmiss, {"auto": "torch"})
    if NATIVE:
        with pytest.raises(ValueError, match="what is read gives something else for 'bn'"):
            lasfast.calibrate(ReadAmiss(), batches(), backend="native")


def test_one_shot_loaders(one_thread: None) -> None:
    """An iterator gives each batch once; an exhausted one gives none."""
    network = ready(SumIntoShortcut)
    truth = expected(ready(SumIntoShortcut), batches())
    iterator = iter(batches())
    lasfast.calibrate(network, iterator)
    assert_equal(network, truth)
    with pytest.raises(ValueError, match="loader gave no batch"):
        lasfast.calibrate(network, iterator)


class Initializes(nn.Module):
    """Its scale is that of the first values that it sees; it counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.calls = None, 0

    def forward(self, x):
        self.calls += 1
        if self.scale is None:
            self.scale = x.std() + 0.1
        return x / self.scale * self.calls


class DataDependent(Base):
    def __init__(self) -> None:
        super().__init__()
        self.initializes = Initializes()

    def forward(self, x):
        return self.last(self.conv(self.initializes(self.bn(self.stem(x)))))


def test_modules_are_not_changed_by_reading_them(one_thread: None) -> None:
    assert_calibrates(DataDependent, {"torch": "torch"} | ({"auto": "native"} if NATIVE else {}))


def test_buffers_outlive_inference_mode() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    with torch.inference_mode():
        lasfast.calibrate(network, batches())
    network.eval()(batches()[0]).sum().backward()


def test_a_pruned_norm_without_statistics_gets_those_of_its_dtype() -> None:
    """Its weight is computed in each call; until then, it is that from before the network was converted."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    prune.l1_unstructured(network[1], "weight", 0.5)
    images = [one.bfloat16() for one in batches()]
    assert lasfast.calibrate(network.bfloat16(), images) == "torch"
    assert network[1].running_mean.dtype == torch.bfloat16
    whole = torch.cat([network[0](one) for one in images]).float()
    torch.testing.assert_close(network[1].running_mean.float(), whole.mean((0, 2, 3)), rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("kind", [PartsChangedInPlace, DropoutIsTheValueItself])
def test_reading_says_what_was_changed(kind: type[nn.Module]) -> None:
    with pytest.raises(UntraceableError, match=r"is read after .*relu_.* may have changed it"):
        trace(kind().eval(), (3, 8, 8))


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_a_small_last_batch_is_warned_about(backend: str, one_thread: None) -> None:
    images = [*batches(2), batches(1)[0][:2]]
    with pytest.warns(UserWarning, match="nearly equal sizes, got 2 to 6 images"):
        lasfast.calibrate(SumIntoShortcut(), images, backend=backend)
    lasfast.calibrate(SumIntoShortcut(), images, statistics="batch_mean", backend=backend)
    lasfast.calibrate(SumIntoShortcut(), [*images[:2], images[0][:3]], backend=backend)


class Crops(Base):
    """Code that cuts large images alone."""

    def forward(self, x):
        return self.last(self.conv(self.bn(self.stem(x))[:, :, :20, :20] * 0.5))


@needs_native
def test_code_that_does_otherwise_with_large_images(one_thread: None) -> None:
    networks = [Crops() for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    assert lasfast.calibrate(networks[0], [*batches(1), *batches(1, size=12)]) == "native"
    images = [*batches(1), *batches(1, size=24)]
    assert lasfast.calibrate(networks[0], images) == "torch"
    lasfast.calibrate(networks[1], images, backend="torch")
    torch.testing.assert_close(networks[0].state_dict(), networks[1].state_dict())
    with pytest.raises(ValueError, match="must have one size for backend='native'"):
        lasfast.calibrate(networks[0], images, backend="native")


@needs_native
def test_modules_of_unknown_shapes_take_images_of_one_size() -> None:
    images = [*batches(1), *batches(1, size=6)]
    network = OtherSizes()
    for backend, loader in (("native", images), ("auto", iter(images))):
        with pytest.raises(ValueError, match=r"was read for \(3, 8, 8\) and may do otherwise"):
            lasfast.calibrate(network, loader, backend=backend)
    assert (network.bn.running_mean == 0).all()
    truth = expected(copy.deepcopy(network), images)
    assert lasfast.calibrate(network, images) == "torch"
    assert_equal(network, truth)
