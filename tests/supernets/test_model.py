"""Supernets of models: their networks compute what one would cut out of the model by hand."""

import random

import pytest
import torch
from torch import nn

import lasfast
from lasfast.engine import NativeBackend, TorchBackend
from lasfast.engine.native_backend import why_missing
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import from_model
from tests.supernets.elastic_networks import cut_by_hand, shaken

SHAPE = (3, 12, 12)


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def close(ours: torch.Tensor, truth: torch.Tensor) -> bool:
    return float((ours - truth).norm()) <= 1e-4 * float(truth.norm())


@pytest.mark.parametrize("seed", range(12))
def test_networks_compute_what_is_cut_out_by_hand(seed: int, one_thread: None) -> None:
    model, x = shaken(seed), images()
    supernet = from_model(model, SHAPE)
    weights = supernet.network.state_dict()
    rng = random.Random(seed)
    with torch.no_grad():
        assert close(supernet(x, supernet.full), model(x))
        for architecture in [supernet.full, *(supernet.space.sample(rng) for _ in range(3))]:
            network = supernet.extract(architecture)
            mine = cut_by_hand(seed, supernet._elastic.path(architecture), weights)
            truth = mine(x)
            assert close(supernet(x, architecture), truth)
            assert close(network(x), truth)
            assert network.state_dict().keys() == mine.state_dict().keys()
            torch.testing.assert_close(dict(network.state_dict()), dict(mine.state_dict()), rtol=0, atol=0)
