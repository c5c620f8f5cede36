"""The ProxylessNAS space: its blocks, options and published networks."""

from types import MappingProxyType

import pytest
import torch
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual

from lasfast import costs
from lasfast.execution.modules import copy_leading
from lasfast.ir.layers import path_shapes
from lasfast.supernets import ProxylessNAS


class Gpu(ProxylessNAS):
    """The widths of the network that ProxylessNAS found for GPUs."""

    stem_channels = 40
    first_channels = 24
    channels = (32, 56, 112, 128, 256, 432)
    head_channels = 1728
    published = MappingProxyType(
        {
            "gpu": "k5e3-skip-skip-skip-k7e3-skip-skip-k3e3-k7e6-skip-skip-k5e3-k5e6-skip-k3e3-k5e3-"
            "k7e6-k7e6-k7e6-k5e6-k7e6"
        }
    )


@pytest.mark.parametrize(("family", "flops"), [(ProxylessNAS, 320), (Gpu, 465)])
def test_figures_of_the_paper(family: type[ProxylessNAS], flops: int) -> None:
    """Single Path One-Shot, Table 5: Proxyless-R (mobile) and Proxyless (GPU)."""
    with torch.device("meta"):  # costs read records, never weights
        supernet = family()
    (text,) = supernet.published.values()
    assert round(costs.flops(supernet, supernet.space.parse(text)) / 1e6) == flops


def test_what_is_searched() -> None:
    supernet = ProxylessNAS(7, stem="cifar", width=0.2)
    assert supernet.space.count() == 6**6 * 7**15
    names = supernet.space.names
    assert names[0] == ("k3e3", "k5e3", "k7e3", "k3e6", "k5e6", "k7e6")
    assert names[1] == ("skip", *names[0])
    assert [index for index, options in enumerate(names) if "skip" not in options] == [0, 4, 8, 12, 16, 20]


def test_options_are_ordered_by_cost() -> None:
    with torch.device("meta"):
        supernet = ProxylessNAS()
    for layer, options in enumerate(supernet.space.options):
        least = [0] * len(supernet.space.options)
        figures = [costs.flops(supernet, (*least[:layer], option, *least[layer + 1 :])) for option in options]
        assert figures == sorted(set(figures))


def test_a_skipped_block_is_no_layer() -> None:
    supernet = ProxylessNAS(7, stem="cifar", width=0.2)
    whole, less = ([1] * 21 for _ in range(2))
    less[6] = 0
    path, shorter = supernet.path(whole), supernet.path(less)
    assert [layer for layer in path if layer.name != "blocks.6.k3e3"] == list(shorter)


@pytest.mark.parametrize(("index", "channels", "out", "stride"), [(8, 8, 16, 2), (9, 16, 16, 1)])
def test_a_block_is_torchvisions(index: int, channels: int, out: int, stride: int) -> None:
    torch.manual_seed(0)
    supernet = ProxylessNAS(7, stem="cifar", width=0.2)
    text = ["k3e6"] * 21
    network = supernet.extract(supernet.space.parse("-".join(text))).train()
    theirs = InvertedResidual(channels, out, stride, 6).train()
    ours = network.get_submodule(f"blocks.{index}.k3e6")
    parts = [m for m in theirs.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    names = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3")
    for part, name in zip(parts, names, strict=True):
        copy_leading(part, ours.get_submodule(name))
    seen = {}
    ours.get_submodule("conv1").register_forward_hook(lambda _m, inputs, _o: seen.update(x=inputs[0]))
    after = network.get_submodule(f"blocks.{index + 1}.k3e6.conv1")
    after.register_forward_hook(lambda _m, inputs, _o: seen.update(y=inputs[0]))
    network(torch.randn(4, 3, 16, 16))
    torch.testing.assert_close(theirs(seen["x"]), seen["y"])


def test_kinds_have_weights_of_their_own() -> None:
    supernet = ProxylessNAS(7, stem="cifar", width=0.2)
    for kind in supernet.space.names[0]:
        kernel_size, expansion = int(kind[1]), int(kind[3])
        weight = supernet.get_parameter(f"blocks.8.{kind}.conv2.weight")
        assert weight.shape == (8 * expansion, 1, kernel_size, kernel_size)


@pytest.mark.parametrize(
    ("stem", "size", "last"), [("imagenet", 224, 7), ("tiny-imagenet", 64, 4), ("cifar", 32, 4)]
)
def test_images_of_three_sizes(stem: str, size: int, last: int) -> None:
    with torch.device("meta"):
        supernet = ProxylessNAS(stem=stem, width=0.2)
    path = supernet.path((0,) * 21)
    shapes = {layer.name: values[-1] for layer, values in path_shapes(path, (3, size, size))}
    assert shapes["last"][1:] == (last, last)
    assert shapes["classifier"] == (1000,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "resnet"}, "stem must be one of 'imagenet', 'tiny-imagenet', 'cifar', got 'resnet'"),
        ({"width": -1}, "width must be greater than 0, got -1"),
        ({"num_classes": 0}, "num_classes must be a positive int, got 0"),
    ],
)
def test_bad_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProxylessNAS(**options)
