"""Weights that are packed before a pass begins, as far as the pass before of its kind packed them."""

from __future__ import annotations

from contextlib import nullcontext
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from lasfast.ops import conv_bn_act
from lasfast.ops.packing import REMEMBERED, Packings
from lasfast.supernets import ResidualNet
from lasfast.train import SupernetTrainer, TrainSettings

LAYERS = 5
CHANNELS = 8


@pytest.fixture
def network(emulated_place: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setenv("LASFAST_CHOICE", "native")
    return Network(emulated_place)


class Network:
    """Convolutions with batch norm, one after the other, on the stand-in."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)

        self.weights = [nn.Parameter(draw(CHANNELS, CHANNELS, 3, 3)) for _ in range(LAYERS)]
        self.x = draw(2, CHANNELS, 6, 6).requires_grad_()

    def run(self, weights: list[Tensor] | None = None, images: int = 2) -> tuple[int, list[Tensor]]:
        """The launches of a forward pass, and the gradients."""
        weights = list(self.weights) if weights is None else weights
        self.module.noted_launches()
        x = self.x[:images]
        for weight in weights:
            x = conv_bn_act(x, weight, None, None, padding=1, training=True)
        launches = sum(self.module.noted_launches().values())
        return launches, list(torch.autograd.grad(x.square().sum(), [self.x, *weights]))


def same(ones: list[Tensor], others: list[Tensor]) -> bool:
    return all(map(torch.equal, ones, others))


def test_the_weights_of_a_pass_that_comes_again_are_packed_by_one_launch(network: Network) -> None:
    alone, expected = network.run()
    packings = Packings()
    for launches in (alone, alone - LAYERS, alone - LAYERS):  # and one more, before what is counted
        network.module.noted_launches()
        with packings.ahead("pass"):
            before = sum(network.module.noted_launches().values())
            found, gradients = network.run()
        assert (before, found) == (int(launches < alone), launches)
        assert same(gradients, expected)


def test_a_weight_that_was_not_foreseen_is_packed_alone(network: Network) -> None:
    """Of another pass, of a batch of another size, or changed since."""
    alone, _ = network.run()
    packings = Packings()
    with packings.ahead("pass"):
        network.run()
    with packings.ahead("another"):
        assert network.run()[0] == alone
    with packings.ahead("pass"):
        found, gradients = network.run(images=1)
    assert found == alone
    assert same(gradients, network.run(images=1)[1])
    with packings.ahead("pass"):
        with torch.no_grad():
            network.weights[1].mul_(2)
        found, gradients = network.run(images=1)
    assert found == alone - LAYERS + 1
    assert same(gradients, network.run(images=1)[1])
    assert network.run()[0] == alone  # outside


def test_weights_that_do_not_live_on_are_packed_alone(network: Network) -> None:
    """As quantized ones, which are made anew in each pass."""
    alone, expected = network.run()
    packings = Packings()
    for _ in range(3):
        with packings.ahead("pass"):
            found, gradients = network.run([weight * 1 for weight in network.weights])
        assert found == alone
        assert same(gradients, expected)


def test_a_single_weight_is_packed_right_before_its_layer(network: Network) -> None:
    """Which may then begin early."""
    alone, _ = network.run(network.weights[:1])
    packings = Packings()
    for _ in range(3):
        with packings.ahead("pass"):
            assert network.run(network.weights[:1])[0] == alone


def test_passes_that_do_not_come_again_are_forgotten(network: Network) -> None:
    packings = Packings()
    for number in (0, *range(REMEMBERED), REMEMBERED):
        with packings.ahead(number):
            alone, _ = network.run(network.weights[:2])
    with packings.ahead(1):
        assert network.run(network.weights[:2])[0] == alone - 2
    with packings.ahead(0):
        assert network.run(network.weights[:2])[0] == alone


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_has_the_same_bits(network: Network, monkeypatch, precision: str) -> None:
    settings = TrainSettings(
        batch_size=4, warm_up_epochs=1, epochs_per_step=1, operators="native", precision=precision
    )
    images = torch.randn(12, 3, 8, 8), torch.arange(12) % 3
    states, launches = [], []
    for ahead in (Packings.ahead, lambda *arguments: nullcontext()):
        monkeypatch.setattr(Packings, "ahead", ahead)
        torch.manual_seed(0)
        trainer = SupernetTrainer(ResidualNet((1, 1, 1), num_classes=3), images, settings)
        network.module.noted_launches()
        list(trainer.train(0))
        launches.append(sum(network.module.noted_launches().values()))
        states.append(trainer.state()[0])
    assert launches[0] < launches[1]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
