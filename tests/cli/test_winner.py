"""The measurement of the network that a command ends with."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lasfast.cli.winner import measure_together
from lasfast.runtime import distributed
from lasfast.train import TrainSettings


class FirstOfTwo(distributed.World):
    """A process that hears nothing of the other one."""

    size = 2


@pytest.mark.parametrize(("batch_norm", "measured"), [("global", 350), ("local", 600)])
def test_processes_share_out_what_they_have_trained_together(monkeypatch, batch_norm, measured) -> None:
    """Of 250, 250 and 100 images, the first process takes the first and the last; or it takes all."""
    monkeypatch.setattr(distributed, "world", FirstOfTwo)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(600, 1, 8, 8, generator=generator), torch.arange(600) % 10
    given = SimpleNamespace(settings=TrainSettings(batch_norm=batch_norm))
    found = measure_together(given, nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), images, (1, 2))
    assert found.images == measured
    assert found.architecture == (1, 2)
