"""A network in evaluation mode as one pass: what it gives, and when it is left alone."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import lasfast
from lasfast.evaluation.one_pass import MOST_SIZES, OnePass
from lasfast.ops.sgd import Sgd, SgdRule
from lasfast.runtime import compiled

pytestmark = pytest.mark.skipif(not compiled.available(), reason="lasfast's compiled module is not built")


class Network(nn.Module):
    """A residual block, a depthwise convolution, a gate, a dropout, and a linear layer behind a norm."""

    def __init__(self, *, running: bool = True) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16, track_running_stats=running)
        self.conv, self.norm1 = nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.depthwise, self.norm2 = nn.Conv2d(16, 16, 5, 2, 2, groups=16, bias=False), nn.BatchNorm2d(16)
        self.gate, self.dropout, self.head = nn.Conv2d(16, 16, 1), nn.Dropout(0.5), nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm0(self.stem(x)))
        x = F.relu(self.norm1(self.conv(x)) + x)
        x = F.silu(self.norm2(self.depthwise(x)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head(self.dropout(x.mean((2, 3))))


def made(**options: bool) -> Network:
    torch.manual_seed(0)
    network = Network(**options)
    for norm in (network.norm1, network.norm2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.fixture
def network() -> Network:
    return made()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 9, 12, generator=torch.Generator().manual_seed(1))


def error(ours: Tensor | None, truth: Tensor) -> float:
    assert ours is not None
    assert ours.shape == truth.shape
    assert ours.dtype == truth.dtype
    return float((ours.double() - truth.double()).norm() / truth.double().norm())


@torch.no_grad()
def test_it_gives_what_the_network_does(network: Network, images: Tensor) -> None:
    one_pass = OnePass(network)
    last = images.to(memory_format=torch.channels_last)
    for batch in (images, images[:1], images.repeat(9, 1, 1, 1), last, images.flip(3)[:, :, :, ::2]):
        assert error(one_pass.run(batch), network(batch)) < 1e-5
    with torch.inference_mode():
        assert error(one_pass.run(images), network(images)) < 1e-5


@torch.no_grad()
def test_in_autocast_it_is_in_bf16(network: Network, images: Tensor) -> None:
    truth = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        theirs, ours = network(images), OnePass(network).run(images)
        assert ours is not None
        assert ours.dtype == theirs.dtype == torch.bfloat16
    assert error(ours.float(), truth) <= 2 * error(theirs.float(), truth) + 2e-3


def in_place(network: Network) -> None:
    with torch.no_grad():
        network.conv.weight.mul_(-1)


def step(make: Callable[..., torch.optim.Optimizer], **options: object) -> Callable[[Network], None]:
    def run(network: Network) -> None:
        optimizer = make(network.parameters(), lr=0.1, **options)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    return run


def ours(network: Network) -> None:
    weights = list(network.parameters())
    whole = [[tuple(slice(size) for size in weight.shape)] for weight in weights]
    Sgd(weights, None, whole, SgdRule()).update([torch.ones_like(one) for one in weights], 0.1)


def load(network: Network) -> None:
    network.load_state_dict({name: value * 2 for name, value in network.state_dict().items()})


def assign(network: Network) -> None:
    state = {name: value * 2 for name, value in network.state_dict().items()}
    network.load_state_dict(state, assign=True)


def replace(network: Network) -> None:
    network.head.bias = nn.Parameter(torch.ones(7))


def data(network: Network) -> None:
    network.conv.weight.data = network.conv.weight.data * 2


def norms(network: Network) -> None:
    network.train()
    network(torch.randn(4, 3, 9, 12))
    network.eval()


CHANGES = {
    "in place": in_place,
    "SGD": step(torch.optim.SGD),
    "SGD, foreach": step(torch.optim.SGD, foreach=True, momentum=0.9),
    "SGD, fused": step(torch.optim.SGD, fused=True),
    "Adam, fused": step(torch.optim.Adam, fused=True),
    "lasfast's SGD": ours,
    "a state dict": load,
    "an assigned state dict": assign,
    "another parameter": replace,
    "other data": data,
    "running statistics": norms,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_weights_are_seen(
    change: Callable[[Network], None], network: Network, images: Tensor
) -> None:
    one_pass = OnePass(network)
    with torch.no_grad():
        before = one_pass.run(images)
        assert before is not None
    change(network)
    with torch.no_grad():
        after = network(images)
        assert error(before, after) > 1e-3
        assert error(one_pass.run(images), after) < 1e-5


@pytest.mark.parametrize("change", ["shape", "dtype", "inference"])
def test_parameters_of_another_kind_are_left_alone(change: str, network: Network, images: Tensor) -> None:
    one_pass = OnePass(network)
    with torch.no_grad():
        assert one_pass.run(images) is not None
        if change == "shape":
            network.conv.weight = nn.Parameter(network.conv.weight[:8, :8].clone())
        elif change == "dtype":
            network.double()
        else:
            with torch.inference_mode():
                network.conv.weight = nn.Parameter(network.conv.weight.clone(), requires_grad=False)
        assert one_pass.run(images) is None


@torch.no_grad()
def test_parameters_of_a_functional_call_are_seen(network: Network, images: Tensor) -> None:
    one_pass = OnePass(network)
    one_pass.run(images)
    seen: list[Tensor | None] = []

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            seen.append(one_pass.run(x))
            return self.network(x)

    others = {"network.conv.weight": -network.conv.weight}
    theirs = torch.func.functional_call(Caller(), others, (images,))
    assert error(seen[0], theirs) < 1e-5
    assert error(one_pass.run(images), network(images)) < 1e-5


def watched(run: Callable[[], object]) -> object:
    with FlopCounterMode(display=False):
        return run()


def mapped(one_pass: OnePass, images: Tensor) -> list[object]:
    found: list[object] = []
    torch.func.vmap(lambda x: (found.append(one_pass.run(x)), x)[1])(images[None])
    return found


def test_it_leaves_others_alone(network: Network, images: Tensor) -> None:
    one_pass = OnePass(network)
    assert one_pass.run(images) is None  # gradients may be wanted
    with torch.no_grad():
        assert one_pass.run(images) is not None
        assert one_pass.run(images.double()) is None
        assert one_pass.run(images[0]) is None
        assert one_pass.run(images[:0]) is None
        assert watched(lambda: one_pass.run(images)) is None
        assert mapped(one_pass, images) == [None]
        with torch.autocast("cpu", torch.float16):
            assert one_pass.run(images) is None
        network.dropout.train()
        assert one_pass.run(images) is None
        network.dropout.eval()
        assert one_pass.run(images) is not None


@torch.no_grad()
def test_it_takes_images_of_few_sizes(network: Network) -> None:
    one_pass = OnePass(network)
    for size in range(8, 8 + MOST_SIZES):
        images = torch.randn(2, 3, size, size)
        assert error(one_pass.run(images), network(images)) < 1e-5
    assert one_pass.run(torch.randn(2, 3, 20, 20)) is None
    assert one_pass.run(torch.randn(2, 3, 8, 8)) is not None


@torch.no_grad()
def test_a_network_without_such_a_pass_is_left_alone(images: Tensor) -> None:
    without = made(running=False)
    assert OnePass(without).run(images) is None
    hooked = made()
    hooked.register_forward_hook(lambda *_: None)
    assert OnePass(hooked).run(images) is None
    assert OnePass(made().double()).run(images) is None
    assert OnePass(nn.Sequential(*list(made().children())[:2]).eval()).run(images) is None  # gives values


class Drawing(Network):
    """It draws numbers in evaluation mode, too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + F.dropout(torch.ones_like(x), training=True))


@torch.no_grad()
def test_random_numbers_go_on_as_they_were(images: Tensor) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    network = Drawing().eval()
    torch.manual_seed(3)
    assert OnePass(network).run(images) is None
    assert torch.equal(torch.rand(4), expected)


@torch.no_grad()
def test_threads_take_turns(network: Network, images: Tensor) -> None:
    """The first of them reads the network, whose modes the others see meanwhile."""
    one_pass, truth = OnePass(network), network(images)
    batches = [images + number for number in range(4)]
    truths, errors = [network(batch) for batch in batches], []

    def work(number: int) -> None:
        with torch.no_grad():
            errors.extend(error(one_pass.run(batches[number]), truths[number]) for _ in range(20))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 80
    assert max(errors) < 1e-5
    assert error(one_pass.run(images), truth) < 1e-5


@pytest.fixture
def accelerated(network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setenv("LASFAST_CHOICE", "one pass")
    return lasfast.accelerate(network, images)


def test_an_accelerated_network_takes_it_in_evaluation(
    accelerated: nn.Module, network: Network, images: Tensor
) -> None:
    assert "training: own forward, evaluation: one pass" in repr(accelerated)
    assert accelerated.fused_graph is None
    accelerated.eval()
    with torch.no_grad():
        ours = accelerated(images)
        assert not torch.equal(ours, network(images))  # another way
        for other in (accelerated, copy.deepcopy(accelerated), pickle.loads(pickle.dumps(accelerated))):
            assert torch.equal(other(images), ours)
            assert error(other(images[:, :, :8, :8]), network(images[:, :, :8, :8])) < 1e-5
    assert torch.equal(accelerated(images), network(images))  # with gradients: its own forward
    accelerated(images).sum().backward()
    assert network.conv.weight.grad is not None


def test_what_data_changes_is_seen_at_the_next_change_of_mode(
    accelerated: nn.Module, network: Network, images: Tensor
) -> None:
    """Where it changes all values of a tensor, it is seen at once."""
    with torch.no_grad():
        accelerated.eval()(images)
        network.conv.weight.data.mul_(2)
        assert error(accelerated(images), network(images)) < 1e-5
        network.conv.weight.data[3, 3, 1, 1] = 100
        assert error(accelerated(images), network(images)) > 1e-3
        assert error(accelerated.eval()(images), network(images)) < 1e-5


def test_a_hook_is_called(accelerated: nn.Module, network: Network, images: Tensor) -> None:
    called: list[bool] = []
    with torch.no_grad():
        accelerated.eval()(images)
        network.conv.register_forward_hook(lambda *_: called.append(True))
        accelerated(images)
    assert called == [True]


class Writing(Network):
    """It changes the caller's images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.add_(1))


def test_a_network_that_changes_its_images_is_not_run_so(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASFAST_CHOICE", "one pass")
    network = Writing().eval()
    accelerated, before = lasfast.accelerate(network, images), images.clone()
    with torch.no_grad():
        accelerated.eval()(images)
    assert torch.equal(images, before + 1)
