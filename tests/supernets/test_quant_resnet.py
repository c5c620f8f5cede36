"""ResNets with bit widths to choose: the paper's figures, the effect of a choice, and shared weights.

Properties of all supernets with choices are tested in test_choice_supernets.py.
"""

import copy
import random

import pytest
import torch
from torchvision import models

from lasfast import costs
from lasfast.ir import layers
from lasfast.supernets import LayerBuilder, QuantResNet

GI = 2**30


def uniform(supernet: QuantResNet, option: str, ratio: str = "1.0") -> tuple[int, ...]:
    return supernet.space.parse("-".join([ratio, option] * (len(supernet.space.options) // 2)))


@pytest.fixture(scope="module")
def small() -> QuantResNet:
    torch.manual_seed(0)
    return QuantResNet(7, stem="cifar", width=0.125)


@pytest.mark.parametrize(
    ("depth", "figures"), [(18, (6.32, 14.21, 25.27)), (34, (13.21, 29.72, 52.83))], ids=["18", "34"]
)
def test_bit_operations_of_the_paper(depth: int, figures: tuple[float, ...]) -> None:
    """Guo et al. 2020, Table 6, has 2W2A, 3W3A and 4W4A in units of 2^30, for the residual blocks only."""
    with torch.device("meta"):
        supernet = QuantResNet(depth=depth, bits=((2, 2), (3, 3), (4, 4)))
    found = [costs.bitops(supernet, supernet.space.parse(text)) for text in supernet.published.values()]
    assert list(supernet.published) == ["2W2A", "3W3A", "4W4A"]
    assert [round(one / GI, 2) for one in found] == list(figures)


@pytest.mark.parametrize(("depth", "blocks"), [(18, 8), (34, 16)])
def test_sizes_of_the_paper(depth: int, blocks: int) -> None:
    with torch.device("meta"):
        supernet = QuantResNet(depth=depth)
        network = getattr(models, f"resnet{depth}")()
    assert supernet.space.count() == 18**blocks
    ours = costs.params(supernet, uniform(supernet, "w4a4"))
    assert ours == sum(one.numel() for one in network.parameters()) + 2 * blocks  # clipping values


def test_without_rounding_it_is_torchvisions_resnet(monkeypatch) -> None:
    """PACT without clipping and rounding is a ReLU."""
    monkeypatch.setattr("lasfast.execution.interpret.dorefa", lambda weight, bits: weight)
    monkeypatch.setattr("lasfast.execution.interpret.pact", lambda x, alpha, bits: x.relu())
    supernet = QuantResNet(7, width=1.0)
    theirs = models.resnet18(num_classes=7)
    architecture = uniform(supernet, "w2a2")
    ours = supernet.extract(architecture)
    names = [name for name, _ in theirs.named_parameters()]
    mine = [one for name, one in ours.named_parameters() if not name.endswith("alpha")]
    assert len(names) == len(mine)
    with torch.no_grad():
        for one, other in zip(mine, theirs.parameters(), strict=True):
            one.copy_(other)
        for name, one in ours.named_parameters():
            leading = supernet.get_parameter(name)[tuple(slice(size) for size in one.shape)]
            leading.copy_(one)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(
        supernet.train()(images, architecture), theirs.train()(images), rtol=1e-3, atol=1e-3
    )


def test_options_share_weights_and_have_clips_of_their_own(small: QuantResNet) -> None:
    names = {name.partition("blocks.0.")[2] for name, _ in small.named_parameters()} - {""}
    batch_norms = {f"bn{number}.{part}" for number in (1, 2) for part in ("weight", "bias")}
    clips = {f"clip{number}.a{bits}.alpha" for number in (1, 2) for bits in (2, 4)}
    assert names == {"conv1.weight", "conv2.weight"} | batch_norms | clips
    assert small.get_parameter("blocks.0.conv1.weight").shape == (12, 8, 3, 3)


def test_records_say_what_was_chosen(small: QuantResNet) -> None:
    _, block, *_ = small.path(small.space.parse("-".join(["0.5-w1a4"] + ["1.0-w2a2"] * 7)))
    convolutions = [op for op in block.ops if isinstance(op, layers.Conv2d)]
    assert [(op.weight_bits, op.out_channels) for op in convolutions] == [(1, 4), (1, 8)]
    assert [op.bits for op in block.ops if isinstance(op, layers.Quantize)] == [4, 4]
    first, *_, last = small.path(uniform(small, "w1a4"))
    others = [op for layer in (first, last) for op in layer.ops]
    assert not any(isinstance(op, layers.Quantize) or getattr(op, "weight_bits", None) for op in others)


def test_every_choice_makes_another_function_and_another_cost(small: QuantResNet) -> None:
    images = torch.randn(3, 3, 16, 16)
    seen, figures = [], set()
    for ratio in ("0.5", "1.0", "1.5"):
        for option in small.space.names[1]:
            architecture = uniform(small, option, ratio)
            assert costs.flops(small, architecture, (16, 16)) == costs.flops(
                small, uniform(small, "w1a2", ratio), (16, 16)
            )
            output = small.eval()(images, architecture)
            assert not any(torch.equal(output, other) for other in seen)
            seen.append(output)
            figures.add(costs.bitops(small, architecture, (16, 16)))
    assert len(figures) == 15  # a multiply-add counts 2, 4, 4, 8, 12 or 16


def test_values_that_are_multiplied_have_as_few_levels_as_their_bits_say(small: QuantResNet, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "lasfast.execution.interpret.F.conv2d",
        lambda x, weight, *rest, **named: seen.append((x, weight)) or convolve(x, weight, *rest, **named),
    )
    convolve = torch.conv2d
    small.train()(torch.randn(4, 3, 16, 16), uniform(small, "w3a4"))
    for x, weight in seen[1:]:
        assert len(x.unique()) <= 16
        assert len(weight.unique()) <= 8
    assert len(seen) == 1 + 16 + 3


@pytest.mark.parametrize("stem", ["cifar", "tiny-imagenet", "imagenet"])
def test_stems_fit_their_images(stem: str) -> None:
    with torch.device("meta"):
        supernet = QuantResNet(stem=stem, width=0.125)
    size = {"cifar": 32, "tiny-imagenet": 64, "imagenet": 224}[stem]
    *_, (_, shapes) = layers.path_shapes(supernet.path(uniform(supernet, "w2a2")), (3, size, size))
    assert shapes[0][1:] == ((7, 7) if stem == "imagenet" else (4, 4))


def test_training_an_extracted_network_trains_it_as_the_supernet_trains(small: QuantResNet) -> None:
    """The gradients of quantized weights and of clipping values are the same."""
    architecture = small.space.sample(random.Random(1))
    supernet = copy.deepcopy(small).train().double()
    network = supernet.extract(architecture)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    for output in (supernet(images, architecture), network(images)):
        output.square().sum().backward()
    for name, one in network.named_parameters():
        shared = supernet.get_parameter(name).grad[tuple(slice(size) for size in one.shape)]
        torch.testing.assert_close(one.grad, shared, msg=name)
    assert any(one.grad.abs() > 0 for name, one in network.named_parameters() if name.endswith("alpha"))


def test_a_fresh_network_has_weights_and_clips_of_its_own(small: QuantResNet) -> None:
    supernet = copy.deepcopy(small)
    with torch.no_grad():
        for name, one in supernet.named_parameters():
            if name.endswith("alpha"):
                one.fill_(0.7)
    architecture = uniform(supernet, "w2a4")
    inherited, fresh = (supernet.extract(architecture, fresh=one) for one in (False, True))
    clips = [float(one.get_parameter("blocks.0.clip1.a4.alpha").detach()) for one in (inherited, fresh)]
    assert clips == [pytest.approx(0.7), 3]
    weights = [one.get_parameter("blocks.0.conv1.weight") for one in (inherited, fresh)]
    assert not torch.equal(*weights)


def test_biases_and_groups_are_kept() -> None:
    """A quantized convolution keeps its bias and groups, which QuantResNet's do not have."""

    class Grouped(QuantResNet):
        def stem(self):
            block = LayerBuilder("first", 3)
            x = block.conv_bn_act("", block.input, 8, 3)
            block.conv("grouped", block.quantize("q", x, 3), 8, 3, groups=4, bias=True, weight_bits=2)
            return (block.build(),), 8

    torch.manual_seed(0)
    supernet = Grouped(7, stem="cifar", width=0.125).eval()
    architecture, images = uniform(supernet, "w4a4"), torch.randn(2, 3, 8, 8)
    expected = supernet(images, architecture)
    assert torch.equal(supernet.extract(architecture)(images), expected)
    value, run = images, supernet.layer_runner(fused=True)
    for layer in supernet.path(architecture)[:1]:
        value = run(layer, value)
    plain = supernet.layer_runner()(supernet.path(architecture)[0], images)
    torch.testing.assert_close(value, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 50}, "depth must be one of 18, 34, got 50"),
        ({"bits": ((2, 9),)}, "bits must be from 1 to 8, got 9"),
        ({"bits": ((0, 2),)}, "bits must be at least 1, got 0"),
        ({"bits": (2, 4)}, r"bits must be pairs \(weight bits, value bits\) such as \(2, 4\), got 2"),
        ({"bits": ()}, "at least one"),
        ({"stem": "mnist"}, "stem must be one of"),
        ({"width": 0}, "width must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantResNet(7, **arguments)


def test_one_clip_for_two_numbers_of_bits_is_refused() -> None:
    class Shared(QuantResNet):
        def head(self, channels):
            block = LayerBuilder("last", channels)
            x = block.quantize("q", block.quantize("q", block.input, 2), 3)
            return block.build(), *super().head(x.channels)

    with pytest.raises(ValueError, match=r"module 'last.q' is used in two ways"):
        Shared(7, stem="cifar", width=0.125)
