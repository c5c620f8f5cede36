"""`accelerate` on networks that are not what they look like: it computes the same, or refuses by name."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrize, prune, spectral_norm, weight_norm

import lasfast
from lasfast.execution.fused_call import run


class Base(nn.Module):
    """A convolution and a norm, twice, with which the forwards below do what they want."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 36, 5)
        self.relu, self.leaky = nn.ReLU(inplace=True), nn.LeakyReLU(0.3, inplace=True)
        self.register_buffer("scale", torch.linspace(0.5, 2, 8).view(8, 1, 1))

    def begin(self, x: Tensor) -> Tensor:
        return self.stem_bn(self.stem(x))


class SumIntoShortcut(Base):
    def forward(self, x):
        x = self.begin(x)
        y = x
        y += self.bn(self.conv(x.tanh()))
        return y.relu() + x


class SumByMethod(Base):
    def forward(self, x):
        x = self.begin(x)
        return x.add_(self.bn(self.conv(x.tanh()))).relu() * x


class ActivationOfTheInputBetween(Base):
    """The convolution has read x before."""

    def forward(self, x):
        x = self.begin(x)
        y = self.bn(self.conv(x))
        return y + self.leaky(x)


class ShortcutThatBecomesRectified(Base):
    def forward(self, x):
        x = self.begin(x)
        return self.bn(self.conv(self.relu(x))) + x


class WrittenThroughAView(Base):
    def forward(self, x):
        x = self.begin(x)
        y = self.bn(self.conv(x))
        x[:, :3] *= 2
        x.view(len_of(x), -1)[:, ::2].add_(1)
        return y + x


class ShortcutThatIsChangedLater(Base):
    """PyTorch's sum does not need it any more."""

    def forward(self, x):
        x = self.begin(x)
        y = x * 2
        z = self.bn(self.conv(x)) + y
        y += x
        return z * y


class AContiguousAlias(Base):
    """It is x itself, as long as x is in the usual order."""

    def forward(self, x):
        x = self.begin(x)
        alias = x.contiguous()
        x.mul_(3)
        return self.bn(self.conv(alias)) + x


class WrittenBehindOurs(Base):
    """The operator of `ConvBNAct` keeps its input for gradients, copied unless it is in channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.ours = lasfast.nn.ConvBNAct(8, 8)

    def forward(self, x):
        x = self.begin(x)
        y = self.bn(self.conv(self.ours(x)))
        return y + F.relu6(x[:, :4], inplace=True).mean()


class OneNormTwice(Base):
    def forward(self, x):
        x = self.begin(x)
        y = self.bn(self.conv(x))
        z = self.bn(self.conv(x.tanh()))
        return (y + z).relu()


class ABufferOfNow(Base):
    def forward(self, x):
        return self.bn(self.conv(self.begin(x))) * self.scale.sqrt()


class AConstant(Base):
    def forward(self, x):
        return self.bn(self.conv(self.begin(x))) * torch.linspace(1, 2, 6)


class FlattenedByView(Base):
    def forward(self, x):
        x = self.bn(self.conv(self.begin(x))).relu()
        return self.fc(x.view(x.size(0), -1))


class Optional(Base):
    def forward(self, x, mask=None, *, power=1.0):
        x = self.bn(self.conv(self.begin(x)))
        return x**power if mask is None else x * mask


class TwoForwards(Base):
    """As networks with auxiliary heads and functional dropout."""

    def forward(self, x):
        x = self.bn(self.conv(self.begin(x)))
        x = x * torch.linspace(1, 2 if self.training else 3, 6)
        return torch.stack([x, x.tanh()]) if self.training else F.dropout(x, 0.5, self.training)


class Branches(Base):
    """Control flow that depends on tensors, in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Branching()

    def forward(self, x):
        return self.inner(self.bn(self.conv(self.begin(x))))


class WholeBehindWhole(Base):
    """Two modules that are called, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GoesOnFromErrors(), GoesOnFromErrors()

    def forward(self, x):
        return self.second(self.first(self.bn(self.conv(self.begin(x)))))


class ViewsBehindWhole(Base):
    """Two modules that are called and take views, of what lasfast gives and of each other's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Branching(), Branching()

    def forward(self, x):
        x = self.bn(self.conv(self.begin(x)))
        return self.second(self.first(x).view(-1, 8, 6, 6))


class ViewsBeforeOthers(Branches):
    """A module that is called takes a view of what is read again, and might have changed it."""

    def forward(self, x):
        x = self.bn(self.conv(self.begin(x)))
        return self.inner(x) + x.flatten(1)


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if float(x.detach().sum()) > 1e9 else x.view(len(x), -1).tanh()


class Kinds(Base):
    """Its modules ask what values are, draw random numbers, count calls, and differ by mode."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(self.bn(self.conv(self.begin(x))).relu())


class AsksForTensors(nn.Module):
    def forward(self, x):
        return x * 3 if isinstance(x, Tensor) else x


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.kept = 0, []

    def forward(self, x):
        self.calls += 1
        self.kept.append(x)
        return x * self.calls


class Draws(nn.Module):
    def forward(self, x):
        return x * random.random() + torch.rand(6)


class ByMode(nn.Module):
    def forward(self, x):
        if self.training:
            x = x * 2
        return F.dropout(x, 0.0, self.training)


class GoesOnFromErrors(nn.Module):
    def forward(self, x):
        try:
            return x * 2 if x.sum() > -1e9 else x
        except Exception:
            return x * 3


class Straight(torch.autograd.Function):
    """Its gradient is not that of what it computes."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class OwnGradient(nn.Module):
    def forward(self, x):
        return Straight.apply(x - 0.5)


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        with torch.no_grad():
            y = self.conv(x)
        return x + y


class Autocasts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            y = self.conv(x)
        return x * y.mean((2, 3), keepdim=True).float()


class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, self.training, 0.1, self.eps).relu()


class PeeksAtTheNormsMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(x) if self.norm.training else self.norm(x) * 2


def len_of(x: Tensor):
    return x.size(0)


INNER = (
    GoesOnFromErrors,
    OwnGradient,
    AsksForTensors,
    Counts,
    ByMode,
    Frozen,
    Autocasts,
    NormAct,
    Branching,
    PeeksAtTheNormsMode,
)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{
        one.__name__: one
        for one in (
            *(SumIntoShortcut, SumByMethod, ActivationOfTheInputBetween, ShortcutThatBecomesRectified),
            *(
                ShortcutThatIsChangedLater,
                WrittenThroughAView,
                AContiguousAlias,
                WrittenBehindOurs,
                OneNormTwice,
                ABufferOfNow,
                AConstant,
                FlattenedByView,
            ),
            *(Optional, TwoForwards, Branches, WholeBehindWhole, ViewsBehindWhole, ViewsBeforeOthers),
        )
    },
    **{one.__name__: lambda one=one: Kinds(one(8) if one is NormAct else one()) for one in INNER},
}


WITHOUT_GRADIENTS = ("ActivationOfTheInputBetween", "WrittenThroughAView")
"""PyTorch cannot train them: what the convolution has to remember is changed."""


def steps(network: nn.Module, x: Tensor, gradients: bool) -> list[Tensor]:
    """The outputs and gradients of two steps of training, the buffers, and an output in evaluation."""
    network.train()
    found = []
    for _ in range(2):
        network.zero_grad()
        with torch.set_grad_enabled(gradients):
            y = network(x)
        found.append(y.detach())
        if gradients:
            (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
            parameters = sorted(network.named_parameters())
            found += [one.grad for _, one in parameters if one.grad is not None]
    found += [network.get_buffer(name).clone() for name in sorted(network.state_dict()) if "running" in name]
    network.eval()
    with torch.no_grad():
        found.append(network(x).clone())
    return [one.double() for one in found]


def assert_alike(ours: nn.Module, theirs: nn.Module, gradients: bool) -> None:
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    torchs = steps(copy.deepcopy(theirs), x, gradients)
    truth = steps(copy.deepcopy(theirs).double(), x.double(), gradients)
    for mine, other, true in zip(steps(ours, x, gradients), torchs, truth, strict=True):
        assert (mine - true).norm() <= 2 * (other - true).norm() + 1e-4 * true.norm() + 1e-5


def fused_norms(network: nn.Module) -> list[str]:
    """The names of norms that are fused with something."""
    return [node.args[2].target for node in fused_nodes(network)]


def fused_nodes(network: nn.Module) -> list[fx.Node]:
    return [node for node in network.fused_graph.nodes if node.target is run]


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_computes_what_the_model_does(kind: str, one_thread: None) -> None:
    torch.manual_seed(0)
    model = NETWORKS[kind]().train()
    theirs = copy.deepcopy(model)
    network = lasfast.accelerate(model)
    assert fused_norms(network)
    assert_alike(network, theirs, gradients=kind not in WITHOUT_GRADIENTS)


class WrittenThroughFlatten(Base):
    """It is a view, or a copy if the images are in channels_last."""

    def forward(self, x):
        x = self.begin(x)
        y = self.bn(self.conv(x))
        x.flatten(1).add_(1)
        return x * 2 + y.tanh()


def test_writes_through_copies_for_either_layout_of_images(one_thread: None) -> None:
    torch.manual_seed(0)
    model = WrittenThroughFlatten().eval()
    network = lasfast.accelerate(copy.deepcopy(model))
    assert fused_norms(network)
    x = torch.randn(2, 3, 6, 6)
    results = []
    for images in (x, x.contiguous(memory_format=torch.channels_last)):
        with torch.no_grad():
            results.append(model(images))
            torch.testing.assert_close(network(images), results[-1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(*results, rtol=0.1, atol=0.1)


class WrittenBehindFlatten(Base):
    """What was flattened is read by nobody else, as in networks with a dropout in place before their head."""

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(self.begin(x))))
        x = x.flatten(1)
        x.mul_(2)
        return x.tanh()


class ReadBehindFlatten(Base):
    """What is changed is read through another view."""

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(self.begin(x))))
        y, z = x[:, 1:], x.flatten(1)
        z.mul_(2)
        return y.tanh()


@pytest.mark.parametrize(("kind", "follows"), [(WrittenBehindFlatten, False), (ReadBehindFlatten, True)])
def test_a_copy_is_made_where_somebody_could_tell(kind: type[Base], follows: bool, one_thread: None) -> None:
    """Where nobody could, the network runs fused with weights in channels_last, too."""
    torch.manual_seed(0)
    model = kind().train().to(memory_format=torch.channels_last)
    network = lasfast.accelerate(copy.deepcopy(model), torch.randn(2, 3, 6, 6))
    assert network._lasfast_is_layout_free is not follows
    for other in (network, lasfast.accelerate(copy.deepcopy(model))):
        assert_alike(other, copy.deepcopy(model), gradients=False)


class WrittenThroughContiguous(Base):
    """It is a copy where the convolution's weights are in channels_last."""

    def forward(self, x):
        x = self.stem(x)
        y = self.bn(self.conv(x.tanh()))
        x.contiguous().add_(1)
        return x * 2 + y.tanh()


class WrittenThroughContiguousOfOurs(Base):
    """It is a copy of what lasfast's operators give."""

    def __init__(self) -> None:
        super().__init__()
        self.ours = lasfast.nn.ConvBNAct(3, 8)

    def forward(self, x):
        x = self.ours(x)
        y = self.bn(self.conv(x.tanh()))
        x.contiguous().add_(1)
        return x * 2 + y.tanh()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", [WrittenThroughContiguous, WrittenThroughContiguousOfOurs])
def test_writes_through_copies_for_either_layout_of_weights(
    kind: Callable[[], nn.Module], late: bool, one_thread: None
) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    network = lasfast.accelerate(copy.deepcopy(model)) if late else None
    model.to(memory_format=torch.channels_last)
    network = lasfast.accelerate(copy.deepcopy(model)) if network is None else network
    network.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5)


class RectifiesInPlace(nn.Module):
    def forward(self, x):
        if float(x.detach().sum()) > 1e9:  # which torch.fx cannot follow
            return x
        x.relu_()
        return x * 0.5


class WritesIntoItsImages(Base):
    """A module changes every other channel of the images, which the caller sees, and what is read later."""

    def __init__(self) -> None:
        super().__init__()
        self.opaque = RectifiesInPlace()

    def forward(self, x):
        y = self.begin(x)
        self.opaque(x[:, ::2])
        return y + x.mean()


def test_a_module_writes_into_a_part_of_the_images(one_thread: None) -> None:
    torch.manual_seed(0)
    model = WritesIntoItsImages().eval()
    network = lasfast.accelerate(copy.deepcopy(model))
    assert fused_norms(network)
    ours, theirs = torch.randn(2, 3, 6, 6).repeat(2, 1, 1, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(network(ours), model(theirs), rtol=1e-4, atol=1e-5)
    assert torch.equal(ours, theirs)


def test_what_is_fused_where_values_change(one_thread: None) -> None:
    """Chains end before the op that would see another state of a value."""
    network = lasfast.accelerate(ActivationOfTheInputBetween())
    assert fused_norms(network) == ["stem_bn", "bn"]
    assert "add" in str(network.fused_graph)
    assert fused_norms(lasfast.accelerate(OneNormTwice())) == ["stem_bn"]
    assert fused_norms(lasfast.accelerate(SumIntoShortcut())) == ["stem_bn", "bn"]


def double(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * 2


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


MASK = torch.eye(8)[..., None, None].expand(8, 8, 3, 3)
CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "hook": lambda model: model.conv.register_forward_hook(double),
    "pre-hook": lambda model: model.bn.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3,)),
    "hook of the model": lambda model: model.register_forward_hook(double),
    "backward hook": lambda model: model.bn.register_full_backward_hook(lambda m, i, o: (i[0] * 2,)),
    "prune": lambda model: prune.custom_from_mask(model.conv, "weight", MASK),
    "spectral_norm": lambda model: spectral_norm(model.conv),
    "weight_norm": lambda model: weight_norm(model.conv),
    "parametrization": lambda model: parametrize.register_parametrization(model.conv, "weight", Doubled()),
    "own forward": lambda model: setattr(model.bn, "forward", lambda x: x * 2),
}


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:.*spectral_norm:FutureWarning")
def test_hooks_are_called(change: str, late: bool, one_thread: None) -> None:
    """Also those that fused modules get afterwards."""
    torch.manual_seed(0)
    model = FlattenedByView()
    network = lasfast.accelerate(model) if late else None
    torch.manual_seed(2)  # of spectral_norm
    CHANGES[change](network if late and "of the model" in change else model)
    if not late:
        network = lasfast.accelerate(model)
        is_fused = {node.args[2].target: node.args[1] is not None for node in fused_nodes(network)}
        assert is_fused["stem_bn"]
        assert is_fused.get("bn", False) == (change == "hook of the model")
    assert network is not None
    x = torch.randn(4, 3, 6, 6)
    torch.manual_seed(0)
    theirs = FlattenedByView()
    torch.manual_seed(2)
    CHANGES[change](theirs)
    for training in (True, True, False):
        for one in (network, theirs):
            one.train(training)
            one.zero_grad()
        ours, wanted = network(x), theirs(x)
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4)
        ours.square().sum().backward()
        wanted.square().sum().backward()
        for name, parameter in theirs.named_parameters():
            torch.testing.assert_close(network.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-3)


def test_random_numbers_are_drawn_at_each_call(one_thread: None) -> None:
    torch.manual_seed(0)
    model = Kinds(Draws()).eval()
    network = lasfast.accelerate(model)
    x = torch.randn(4, 3, 6, 6)
    results = []
    for one in (model, model, network, network):
        if one is not results:
            random.seed(len(results) % 2)
            torch.manual_seed(len(results) % 2)
        results.append(one(x))
    assert not torch.allclose(results[0], results[1])
    torch.testing.assert_close(results[2:], results[:2], rtol=1e-4, atol=1e-5)


class Numbers(Base):
    """Sums with numbers, which are no residuals."""

    def forward(self, x):
        return (self.bn(self.conv(self.begin(x))) + x.size(0)).relu() + x.mean()


class Changing(Base):
    def __init__(self) -> None:
        super().__init__()
        self.temperature, self.block = 1.0, nn.Sequential(self.conv, self.bn)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.block(self.begin(x))) * self.temperature


LATER: dict[str, Callable[[nn.Module], object]] = {
    "an attribute": lambda network: setattr(network, "temperature", 3.0),
    "an attribute of a convolution": lambda network: setattr(network.stem, "padding_mode", "reflect"),
    "another activation": lambda network: setattr(network, "act", nn.GELU()),
    "a module more": lambda network: network.block.append(nn.Tanh()),
    "another norm": lambda network: network.block.__setitem__(1, nn.InstanceNorm2d(8)),
    "a bias": lambda network: network.conv.register_parameter("bias", nn.Parameter(torch.ones(8))),
    "a container's hook": lambda network: network.block.register_forward_hook(double),
    "an activation's hook": lambda network: network.act.register_forward_hook(double),
    "a container's forward": lambda network: setattr(network.block, "forward", lambda x: x * 2),
}


@pytest.mark.parametrize("change", LATER)
def test_what_changes_later_counts(change: str, one_thread: None) -> None:
    torch.manual_seed(0)
    model = Changing().eval()
    network = lasfast.accelerate(copy.deepcopy(model))
    x = torch.randn(2, 3, 6, 6)
    before = network(x)
    for one in (model, network):
        torch.manual_seed(1)
        LATER[change](one)
    torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network(x), before, rtol=1e-3, atol=1e-3)


class OwnTensors(Base):
    """A network with a parameter and a buffer of its own, not of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x):
        return self.bn(self.conv(self.begin(x))) * self.factor * self.scale


REPLACING: dict[str, Callable[[nn.Module, dict[str, Tensor]], object]] = {
    "assigned": lambda model, state: model.load_state_dict(state, assign=True),
    "loaded after a conversion": lambda model, state: model.double().load_state_dict(state),
    "a parameter": lambda model, state: setattr(model, "factor", nn.Parameter(state["factor"])),
    "a buffer": lambda model, state: setattr(model, "scale", state["scale"]),
    "a module": lambda model, state: setattr(model, "conv", nn.Conv2d(8, 8, 1)),
}


@pytest.mark.parametrize("given", ["the model", "the accelerated one"])
@pytest.mark.parametrize("change", REPLACING)
def test_replaced_tensors_are_replaced_in_both(change: str, given: str, one_thread: None) -> None:
    torch.manual_seed(0)
    model = OwnTensors().eval()
    network = lasfast.accelerate(model)
    state = {
        name: torch.rand_like(one) for name, one in model.state_dict().items() if one.is_floating_point()
    }
    state |= {name: one for name, one in model.state_dict().items() if name not in state}
    REPLACING[change](model if given == "the model" else network, state)
    x = torch.randn(2, 3, 6, 6).to(model.factor.dtype)
    torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5)
    assert list(network.state_dict()) == list(model.state_dict())


def test_sums_with_numbers_and_other_dtypes(one_thread: None) -> None:
    torch.manual_seed(0)
    model = Numbers()
    network = lasfast.accelerate(copy.deepcopy(model))
    assert_alike(network, model, gradients=True)
    model = SumByArgument().eval()
    network = lasfast.accelerate(copy.deepcopy(model))
    x, other = torch.randn(2, 3, 6, 6), torch.randn(2, 8, 6, 6, dtype=torch.float64)
    assert network(x, other).dtype == torch.float64
    torch.testing.assert_close(network(x, other), model(x, other), rtol=1e-4, atol=1e-5)


class SumByArgument(Base):
    def forward(self, x, other):
        return self.begin(x) + other


def test_images_of_other_channels_are_refused_as_before() -> None:
    """The operators could read a slice of the weight."""
    model = Numbers()
    network = lasfast.accelerate(copy.deepcopy(model))
    for one in (model, network):
        with pytest.raises(RuntimeError, match="to have 3 channels, but got 1"):
            one(torch.zeros(2, 1, 6, 6))


def test_second_derivatives_are_refused(one_thread: None) -> None:
    """Autograd would leave them out on the way to chosen inputs."""
    network = lasfast.accelerate(FlattenedByView())
    x = torch.randn(4, 3, 6, 6, requires_grad=True)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        torch.autograd.grad(network(x).square().sum(), x, create_graph=True)


def test_transforms(one_thread: None) -> None:
    torch.manual_seed(0)
    model = FlattenedByView().eval()
    network = lasfast.accelerate(copy.deepcopy(model))
    x = torch.randn(3, 2, 3, 6, 6)
    expected = torch.func.vmap(model)(x)
    torch.testing.assert_close(torch.func.vmap(network)(x), expected, rtol=1e-4, atol=1e-5)


def test_random_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    random.seed(0)
    lasfast.accelerate(Kinds(Draws()))
    drawn = torch.rand(1), random.random()
    torch.manual_seed(0)
    random.seed(0)
    Kinds(Draws())
    assert drawn == (torch.rand(1), random.random())


class StoresItsFeatures(Base):
    def forward(self, x):
        self.features = self.begin(x)
        return self.features.relu()


class AsksForStrides(Base):
    def forward(self, x):
        x = self.begin(x)
        return x.as_strided((4, 2), (1, 3))


class AsksForStridesByFunction(Base):
    def forward(self, x):
        return torch.as_strided(self.begin(x), (4, 2), (1, 3))


class AsksForALayout(Base):
    def forward(self, x):
        return self.begin(x).contiguous(memory_format=torch.channels_last)


class AddsUp(Base):
    """What it makes once would be changed at each call."""

    def forward(self, x):
        total = torch.zeros(4, 8, 6, 6)
        total += self.begin(x)
        return total


class ComputesWithATensor(Base):
    def __init__(self) -> None:
        super().__init__()
        self.weight = [torch.ones(8, 1, 1)]

    def forward(self, x):
        return self.begin(x) * self.weight[0].sqrt()


class AsksForGradients(Base):
    def forward(self, x):
        return self.begin(x) * (1 if torch.is_grad_enabled() else 2)


class AsksForAttributes(Base):
    def forward(self, x):
        return self.begin(x) * (2 if hasattr(x, "images") else 1)


class SetsData(Base):
    def forward(self, x):
        x = self.begin(x)
        x.data = x.data * 2
        return x


class ComputesWithParameters(Base):
    def forward(self, x):
        return self.begin(x) * sum(one.square().sum() for one in self.parameters())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (StoresItsFeatures, "in which StoresItsFeatures changes the attribute 'features'"),
        (
            AsksForStrides,
            "model must not ask how values lie in memory, got a AsksForS.*as_strided",
        ),
        (AsksForStridesByFunction, "model must not ask how values lie in memory.*as_strided"),
        (AsksForALayout, "model must not ask how values lie in memory.*contiguous"),
        (AddsUp, "model must not change a tensor that it makes, got .*add_"),
        (ComputesWithATensor, "ComputesWithATensor computes with tensors in a way that torch.fx"),
        (AsksForGradients, r"got a AsksForGradients that computes or does not .*\.py:\d+"),
        (AsksForAttributes, r"got a AsksForAttributes that computes or does not .*\.py:\d+"),
        (OwnGradient, "it calls a torch.autograd.Function, whose gradient a graph would lose"),
        (GoesOnFromErrors, "in which GoesOnFromErrors decides by values"),
        (SetsData, "it sets 'data' of a value"),
        (ComputesWithParameters, "ComputesWithParameters computes with tensors in a way that torch.fx"),
        (AsksForTensors, r"got a AsksForTensors that computes or does not .*\.py:\d+"),
        (Draws, "in which Draws draws random numbers"),
        (Frozen, "in which Frozen changes the mode of gradients or of autocast"),
        (PeeksAtTheNormsMode, r"got a PeeksAtTheNormsMode that computes or does not .*\.py:\d+"),
    ],
)
def test_a_forward_that_cannot_be_read_is_refused_and_unchanged(model: Callable, message: str) -> None:
    network = model()
    before = dict(vars(network))
    with pytest.raises(ValueError, match=message):
        lasfast.accelerate(network)
    assert vars(network) == before


def test_a_forward_of_the_models_own_is_refused() -> None:
    model = FlattenedByView()
    model.forward = lambda x: x
    with pytest.raises(ValueError, match="got a FlattenedByView with one of its own"):
        lasfast.accelerate(model)


def test_it_is_a_module_of_the_models_class() -> None:
    """State dicts move both ways, also with parameters that forward does not use; methods and hooks stay."""
    model = FlattenedByView()
    network = lasfast.accelerate(model)
    assert isinstance(network, FlattenedByView)
    model.load_state_dict(network.state_dict())
    network.load_state_dict(FlattenedByView().state_dict())
    assert list(network.state_dict()) == list(model.state_dict())
    assert network.begin.__func__ is FlattenedByView.begin
    again = lasfast.accelerate(network)
    assert type(again).__mro__[2] is FlattenedByView


def test_copies_of_what_the_code_makes(one_thread: None) -> None:
    network = lasfast.accelerate(AConstant()).eval()
    x = torch.randn(2, 3, 6, 6)
    assert not any("constant" in name for name in network.state_dict())
    copies = copy.deepcopy(network), pickle.loads(pickle.dumps(network)), copy.deepcopy(network).double()
    for other in copies:
        result = other(x.to(other.conv.weight.dtype)).float()
        torch.testing.assert_close(result, network(x), rtol=1e-4, atol=1e-5)
        assert len(list(other.buffers())) == len(list(network.buffers()))


class Clipped:
    """What takes the place of a convolution's forward, and may do anything."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.convolution = convolution

    def __call__(self, x: Tensor) -> Tensor:
        return nn.Conv2d.forward(self.convolution, x).clamp(-0.1, 0.1)


class AConstantBefore(Base):
    def forward(self, x):
        x = self.begin(x)
        y = x * torch.linspace(1, 2, 8).view(1, -1, 1, 1).to(x.dtype)
        return self.bn(self.conv(x)) + y


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_of_what_cannot_be_read_any_more(copied: Callable, one_thread: None) -> None:
    network = lasfast.accelerate(AConstantBefore()).eval()
    network.conv.forward = Clipped(network.conv)
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(ValueError, match="must not change a tensor that it makes"):
        lasfast.accelerate(network)
    torch.testing.assert_close(copied(network)(x), network(x))


def test_other_arguments_run_the_models_forward(one_thread: None) -> None:
    model = Optional().eval()
    network = lasfast.accelerate(copy.deepcopy(model))
    x, mask = torch.randn(2, 3, 6, 6), torch.rand(2, 8, 6, 6)
    for args, kwargs in (((x,), {}), ((x, mask), {}), ((x,), {"power": 2}), ((), {"x": x})):
        torch.testing.assert_close(network(*args, **kwargs), model(*args, **kwargs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_networks_of_other_dtypes(dtype: torch.dtype, one_thread: None) -> None:
    torch.manual_seed(0)
    model = FlattenedByView().to(dtype).eval()
    network = lasfast.accelerate(copy.deepcopy(model))
    x = torch.randn(2, 3, 6, 6).to(dtype)
    result, expected = network(x), model(x)
    assert result.dtype == dtype
    torch.testing.assert_close(result, expected, rtol=0.05, atol=0.05)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_derivatives_in_forward_mode(one_thread: None) -> None:
    """The operators have none: accelerated networks are called as they are, and operators refuse."""
    torch.manual_seed(0)
    model = FlattenedByView().eval()
    network = lasfast.accelerate(copy.deepcopy(model))
    x, direction = torch.randn(2, 2, 3, 6, 6)
    expected = torch.func.jvp(model, (x,), (direction,))[1]
    torch.testing.assert_close(torch.func.jvp(network, (x,), (direction,))[1], expected, rtol=1e-4, atol=1e-4)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, direction)
        for work in (
            lambda: lasfast.ops.sliced_conv2d(dual, model.stem.weight, 3, 8),
            lambda: lasfast.ops.bn_act(dual, torch.zeros(3), torch.ones(3), training=False),
            lambda: lasfast.ops.conv_bn_act(
                dual, model.stem.weight, torch.zeros(8), torch.ones(8), training=False
            ),
        ):
            with pytest.raises(NotImplementedError, match="has no derivatives in forward mode"):
                work()
