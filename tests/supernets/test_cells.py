"""Stacks of cells: records, published costs, extraction, backends, and all operations at once."""

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lasfast import costs, supernets
from lasfast.engine import NativeBackend, TorchBackend
from lasfast.engine.lower import lower
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.spaces import CellSpace
from lasfast.spaces.cell import OPERATIONS
from lasfast.supernets import CellNet
from lasfast.supernets.mixed import run_mixed
from tests.conftest import shaken

SMALL = {"num_classes": 7, "cells": 3, "channels": 4}
NETS = {
    "cifar": lambda: CellNet(**SMALL),
    "tiny-imagenet": lambda: CellNet(**SMALL, stem="tiny-imagenet"),
    "imagenet": lambda: CellNet(**SMALL, stem="imagenet", space=CellSpace(2)),
    "one node": lambda: CellNet(**SMALL | {"cells": 4}, space=CellSpace(1, ["skip_connect", "sep_conv_3x3"])),
}


@pytest.fixture(scope="module", params=NETS)
def net(request):
    torch.manual_seed(0)
    return shaken(NETS[request.param]())


def images(count=4, size=32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def architectures(net: CellNet, count: int = 3) -> list[tuple[int, ...]]:
    rng = random.Random(0)
    return [net.space.sample(rng) for _ in range(count)]


@pytest.mark.parametrize(
    ("settings", "name", "size", "params", "flops"),
    [
        # Liu et al. 2019, Table 1: 3.3 M weights each. DARTS' code prints 3.349342 M for the second.
        ({"cells": 20, "channels": 36}, "darts-v2", 32, 3_349_342, 528_359_040),
        ({"cells": 20, "channels": 36}, "darts-v1", 32, 3_169_414, 500_987_520),
        # Table 3: 4.7 M weights, 574 M multiply-adds, which are more than its convolutions have.
        (
            {"cells": 14, "channels": 48, "stem": "imagenet", "num_classes": 1000},
            "darts-v2",
            224,
            4_718_752,
            529_911_552,
        ),
    ],
)
def test_published_networks_cost_what_is_printed(settings, name, size, params, flops, monkeypatch) -> None:
    monkeypatch.setattr(CellNet, "create_modules", lambda self, *paths: None)  # costs read no weights
    supernet = CellNet(**settings)
    architecture = supernet.space.parse(supernet.published[name])
    assert costs.params(supernet, architecture) == params
    assert costs.flops(supernet, architecture, (size, size)) == flops


@pytest.mark.parametrize("training", [False, True])
def test_an_extracted_network_computes_what_the_supernet_computes(net, training: bool) -> None:
    for architecture in architectures(net):
        network = net.train(training).extract(architecture)
        torch.testing.assert_close(network(images()), net(images(), architecture), rtol=0, atol=0)
        for module in network.modules():
            assert type(module).__module__.startswith("torch.")


def test_costs_are_what_pytorch_counts(net) -> None:
    for architecture in architectures(net):
        network = net.extract(architecture, fresh=True).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(images(1))
        # PyTorch counts two FLOPs per multiply-add.
        assert 2 * costs.flops(net, architecture, (32, 32)) == counter.get_total_flops()
        assert costs.params(net, architecture) == sum(p.numel() for p in network.parameters())


def test_the_normal_cell_decides_the_prefix(net) -> None:
    one, other = architectures(net, 2)
    half = len(one) // 2
    paths = net.path(one), net.path((*one[:half], *other[half:]))
    reduces = [shape.reduces for shape in net.shapes].index(True)
    shared = [a is b for a, b in zip(*paths, strict=True)]
    assert all(shared[: reduces + 1])  # the stem comes before the cells
    assert shared[reduces + 1] == (one[half:] == other[half:])


def test_every_operation_has_weights_and_gradients_of_its_own(net) -> None:
    architecture = architectures(net, 1)[0]
    net.train().zero_grad()
    net(images(), architecture).square().sum().backward()
    named = {op.module for layer in net.path(architecture) for op in layer.ops if hasattr(op, "module")}
    for name, parameter in net.named_parameters():
        assert (parameter.grad is not None) == (name.rpartition(".")[0] in named), name


@pytest.mark.parametrize("size", [16, 13])
def test_backends_agree(net, size: int) -> None:
    tree = PrefixTree([net.path(one) for one in architectures(net)])
    batches = [images(count, size) for count in (6, 5)]
    truth, ours = (
        backend.predict(tree, backend.calibrate(tree, batches, "cumulative"), images(3, size))
        for backend in (TorchBackend(net), NativeBackend(net))
    )
    for leaf in truth:
        assert (ours[leaf] - truth[leaf]).norm() <= 1e-4 * truth[leaf].norm()


@pytest.mark.parametrize("cuda", [False, True])
def test_dilated_convolutions_and_shifts_alone_are_left_to_pytorch(cuda: bool) -> None:
    net = CellNet(**SMALL)
    sep = net.space.operations.index("sep_conv_3x3")
    for operation, calls in (
        (sep, {"Pad"}),
        (net.space.operations.index("dil_conv_5x5"), {"Pad", "Conv2d"}),
    ):
        path = net.path(tuple(0 if len(names) != 7 else operation for names in net.space.names))
        for calibration in (True, False):
            schedule = lower(PrefixTree([path]), (3, 16, 16), calibration=calibration, cuda=cuda)
            assert {type(call.op).__name__ for call in schedule.calls} == calls


def test_fused_operators_compute_the_same(net) -> None:
    run, fused = net.eval().layer_runner(), net.layer_runner(fused=True)
    x = images().to(memory_format=torch.channels_last)
    for architecture in architectures(net):
        one, other = x, x
        for layer in net.path(architecture):
            one, other = run(layer, one), fused(layer, other)
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


def test_an_architecture_is_the_mixture_of_its_edges_alone() -> None:
    """With weights of 1 on an architecture's edges and 0 elsewhere, the mixture is that architecture.

    Poolings are left out, since a mixture normalises them.
    """
    space = CellSpace(3, [name for name in OPERATIONS if "pool" not in name])
    torch.manual_seed(0)
    net = CellNet(**SMALL, space=space)
    for architecture in architectures(net):
        weights = {}
        for kind, cell in zip(("normal", "reduction"), space.cells(architecture), strict=True):
            weights[kind] = torch.zeros(len(space.edges), len(space.operations) + 1)  # + 1 for `none`
            for node, edges in enumerate(cell, start=2):
                for source, operation in edges:
                    weights[kind][space.edges.index((source, node)), space.operations.index(operation)] = 1
        run = net.train().layer_runner()
        mixed = run_mixed(net, run, images(), weights)
        torch.testing.assert_close(mixed, net(images(), architecture), rtol=1e-4, atol=1e-5)


def test_weights_of_all_edges_get_gradients() -> None:
    net = CellNet(**SMALL)
    shape = len(net.space.edges), len(net.space.operations)
    weights = {kind: torch.full(shape, 1 / 7, requires_grad=True) for kind in ("normal", "reduction")}
    run_mixed(net, net.train().layer_runner(), images(), weights).square().sum().backward()
    for gradient in (one.grad for one in weights.values()):
        assert gradient is not None
        assert (gradient != 0).all()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cells": 2}, "cells must be at least 3"),
        ({"channels": 0}, "channels must be a positive int"),
        ({"stem": "plain"}, "stem must be one of"),
        ({"space": supernets.ResidualNet().space}, "space must be a CellSpace"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        CellNet(**arguments)


def test_what_differs_is_described() -> None:
    described = [NETS[name]().describe() for name in NETS]
    assert [one["stem"] for one in described[:3]] == ["cifar", "tiny-imagenet", "imagenet"]
    assert described.count(described[0]) == 1
    assert CellNet(**SMALL).published.keys() == {"darts-v1", "darts-v2"}
    assert CellNet(**SMALL, space=CellSpace(2)).published == {}
