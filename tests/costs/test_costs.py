"""Costs against the papers' figures, and against what PyTorch counts on the extracted network."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lasfast import costs, supernets


@pytest.mark.parametrize(
    ("family", "num_classes", "size", "architecture", "flops", "params"),
    [
        # NIR, Tables 2 and 3; params are without batch norm, and cut to one decimal in the paper.
        ("MobileNetV1", 1000, 224, (2, 2, 6, 2), 568.74, 4.21),
        ("MobileNetV1", 1000, 224, (2, 3, 4, 3), 569.19, 4.80),
        ("MobileNetV1", 200, 64, (2, 2, 6, 2), 46.55, 3.39),
        ("MobileNetV1", 200, 64, (2, 5, 2, 3), 46.73, 3.58),
        ("ResNet50", 200, 64, (3, 4, 6, 3), 334.05, 23.86),
        ("ResNet50", 200, 64, (5, 6, 4, 1), 334.05, 13.42),
    ],
)
def test_figures_of_the_papers(
    family: str, num_classes: int, size: int, architecture: tuple[int, ...], flops: float, params: float
) -> None:
    with torch.device("meta"):  # costs come from records, never from weights
        supernet = getattr(supernets, family)(num_classes=num_classes, stem="imagenet")
    assert round(costs.flops(supernet, architecture, input_size=(size, size)) / 1e6, 2) == flops
    assert round(costs.params(supernet, architecture, batch_norm=False) / 1e6, 2) == params


@pytest.mark.parametrize(
    ("supernet", "architecture"),
    [
        (supernets.PlainNet((2, 2, 3), 7, image_size=16), (2, 1, 3)),
        (supernets.ResidualNet((2, 2, 3), 7, shortcut="projection"), (1, 2, 3)),
        (supernets.MobileNetV1((2, 2, 3, 2), 7, stem="cifar"), (2, 1, 3, 1)),
        (supernets.ResNet50((2, 2, 3, 2), 7), (1, 2, 2, 1)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else None,
)
def test_costs_are_what_pytorch_counts(supernet, architecture: tuple[int, ...]) -> None:
    network = supernet.extract(architecture).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.randn(1, 3, 16, 16))
    # PyTorch counts two FLOPs per multiply-add.
    assert 2 * costs.flops(supernet, architecture, (16, 16)) == counter.get_total_flops()
    assert costs.params(supernet, architecture) == sum(p.numel() for p in network.parameters())
    without = sum(
        p.numel()
        for module in network.modules()
        if not isinstance(module, torch.nn.BatchNorm2d)
        for p in module.parameters(recurse=False)
    )
    assert costs.params(supernet, architecture, batch_norm=False) == without


def test_layers_of_all_groups_cost_the_same() -> None:
    # Each group halves the size and doubles the channels, so that assignments of one depth are comparable.
    supernet = supernets.ResidualNet((6, 6, 6))
    figures = {costs.flops(supernet, a, (32, 32)) for a in [(4, 1, 1), (1, 4, 1), (1, 1, 4)]}
    assert len(figures) == 1


@pytest.mark.parametrize("size", [(32,), (0, 32), 32, ("32", 32)])
def test_a_bad_input_size_is_named(size) -> None:
    with pytest.raises((ValueError, TypeError), match="input_size"):
        costs.flops(supernets.ResidualNet((1, 1, 1)), (1, 1, 1), size)


def test_an_invalid_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="architecture"):
        costs.params(supernets.ResidualNet((1, 1, 1)), (1, 1, 2))
