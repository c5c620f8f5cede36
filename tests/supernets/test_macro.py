"""NAS-Bench-Macro's space: its costs, and architectures that are one network."""

import random

import pytest
import torch

from lasfast import costs
from lasfast.ir.layers import path_shapes
from lasfast.searchers import Random
from lasfast.supernets import MacroNet

KNOWN = {
    "00000000": (7_713_280, 387_882),
    "22222222": (105_660_928, 2_932_586),
    "12012010": (53_895_680, 1_183_114),
    "01002011": (41_062_912, 1_441_642),
    "22212202": (85_164_544, 1_985_514),
}
"""Multiply-adds and parameters of some networks, as the published table has them."""


@pytest.fixture(scope="module")
def supernet() -> MacroNet:
    with torch.device("meta"):  # costs read records, never weights
        return MacroNet()


@pytest.mark.parametrize("digits", KNOWN)
def test_costs_are_the_tables(supernet: MacroNet, digits: str) -> None:
    one = tuple(map(int, digits))
    found = costs.flops(supernet, one, (32, 32)), costs.params(supernet, one)
    assert found == KNOWN[digits]


def test_architectures_that_differ_in_the_places_of_identities_are_one_network(supernet: MacroNet) -> None:
    space = supernet.space
    assert space.count() == 3**8
    keys = {space.key(one) for one in space.enumerate()}
    assert len(keys) == 9 * 21 * 21  # a stage of three: any first block; two, one or no block behind it
    assert all(space.key(key) == key for key in keys)
    assert supernet.path((1, 0, 2, 0, 1, 0, 0, 2)) == supernet.path((1, 0, 2, 1, 0, 0, 2, 0))
    # The first block of a stage is no place that could be left out.
    assert space.key((0, 1, 0, 1, 2, 0, 2, 1)) == (0, 1, 0, 1, 2, 0, 2, 1)


def test_different_networks_have_different_paths(supernet: MacroNet) -> None:
    keys = {supernet.space.key(one) for one in supernet.space.enumerate()}
    assert len({supernet.path(key) for key in keys}) == len(keys)


def test_searchers_measure_each_network_once(supernet: MacroNet) -> None:
    searcher = Random(supernet.space, samples=300, seed=0)
    asked = searcher.ask()
    assert len({supernet.space.key(one) for one in asked}) == len(asked) == 300


@pytest.mark.parametrize(
    ("stem", "size", "last"), [("cifar", 32, 4), ("tiny-imagenet", 64, 4), ("imagenet", 224, 7)]
)
def test_images_of_three_sizes(stem: str, size: int, last: int) -> None:
    with torch.device("meta"):
        supernet = MacroNet(stem=stem, width=0.25)
    path = supernet.path(supernet.space.sample(random.Random(0)))
    shapes = {layer.name: values[-1] for layer, values in path_shapes(path, (3, size, size))}
    assert shapes["last"][1:] == (last, last)


def test_a_bad_stem_is_named() -> None:
    with pytest.raises(ValueError, match="stem must be one of 'cifar', 'tiny-imagenet', 'imagenet', got 'x'"):
        MacroNet(stem="x")
