"""Adaptation of a model's weights to its narrower versions."""

import copy

import pytest
import torch
from torch import nn

from lasfast.supernets import from_model
from lasfast.train import PRESETS, adapt, adaptation

SHAPE = (3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 24, 3), nn.ReLU()
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2))


def images(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose two classes are told apart by a few channels' means."""
    x = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 2
    return x + labels[:, None, None, None], labels


def test_small_versions_learn_with_the_model(one_thread: None) -> None:
    supernet, data = from_model(network(), SHAPE), images()
    smallest = (0,) * len(supernet.space.options)
    losses = []

    def loss(architecture: tuple[int, ...]) -> float:
        return float(nn.functional.cross_entropy(supernet(data[0], architecture), data[1]).detach())

    before = [loss(smallest), loss(supernet.full)]
    adapt(
        supernet,
        data,
        epochs=6,
        batch_size=16,
        learning_rate=0.02,
        on_progress=lambda progress: losses.append(progress.loss),
    )
    assert len(losses) == 6 * 4
    after = [loss(smallest), loss(supernet.full)]
    assert all(later < 0.7 * earlier for later, earlier in zip(after, before, strict=True))


def test_each_batch_trains_the_model_its_smallest_version_and_random_ones() -> None:
    supernet = from_model(network(), SHAPE)
    trainer = adaptation(supernet, images(), epochs=3, drawn=1)
    assert trainer.sampler.largest == supernet.full
    assert trainer.sampler.smallest == (0, 0)
    assert trainer.sampler.drawn == 1
    assert trainer.settings.supernet_epochs == 3


def test_a_preset_is_taken_at_a_tenth_of_its_rate() -> None:
    supernet, data = from_model(network(), SHAPE), images()

    def rate(*arguments, **more) -> float:
        return adaptation(supernet, data, *arguments, epochs=1, **more).settings.learning_rate

    given = PRESETS["cifar100"].replace(learning_rate=0.3)
    assert rate("cifar100") == pytest.approx(0.1 * PRESETS["cifar100"].learning_rate)
    assert (rate(given), rate("cifar100", learning_rate=0.2)) == (0.3, 0.2)


def test_the_model_keeps_its_own_weights(one_thread: None) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    adapt(from_model(model, SHAPE), images(16), epochs=1)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
