"""The MobileNet spaces of LayerNAS against the paper's figures, and their supernet.

Properties of all supernets with choices are tested in test_choice_supernets.py, here and in tests/engine.
"""

import math
import random

import pytest
import torch

from lasfast import costs
from lasfast.engine.lower import lower
from lasfast.ir import layers
from lasfast.ir.layers import path_shapes
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.supernets import MobileNet, MobileNetDesign
from lasfast.supernets.mobilenet_designs import DESIGNS, Block, Bottleneck

IMAGE = (3, 32, 32)


def small(design: str = "60M", *, stem: str = "cifar", **options) -> MobileNet:
    """Return a narrow supernet, by default for images of 32x32."""
    torch.manual_seed(0)
    return MobileNet(design, 7, stem=stem, width=0.1, **options)


def sampled(supernet: MobileNet, count: int) -> list[tuple[int, ...]]:
    rng = random.Random(1)
    return [supernet.space.sample(rng) for _ in range(count)]


@pytest.mark.parametrize(
    ("design", "printed", "decisions"),
    # For 220M, the paper counts one bottleneck more and one block's filters less (see mobilenet_designs), and
    # no decision where there is one option. For 60M, it prints L = 16, but counts 17 decisions.
    [("60M", 5.0e20, 17), ("220M", 4.8e26 / 7 * 6 / 30 * 33, 22), ("300M", 5.3e30, 26), ("600M", 1.6e39, 31)],
)
def test_as_many_architectures_as_the_paper_counts(design: str, printed: float, decisions: int) -> None:
    space = DESIGNS[design].space()
    assert len(space.options) == decisions
    assert math.isclose(space.count(), printed, rel_tol=0.035)  # the paper prints two digits


@pytest.mark.parametrize(
    ("design", "with_gates", "millions", "tolerance"),
    [
        ("60M", True, (61, 3.7), (0.03, 0.03)),
        ("220M", True, (229, 5.1), (0.005, 0.06)),
        (
            "300M",
            False,
            (319, 3.5),
            (0.05, 0.24),
        ),  # printed weights: a head of 1,280, not 1,920
        ("300M", True, (322, 5.2), (0.05, 0.16)),
        ("600M", False, (598, 7.6), (0.04, 0.08)),
        ("600M", True, (627, 9.7), (0.08, 0.11)),
    ],
)
def test_found_networks_cost_what_the_paper_prints(
    design: str, with_gates: bool, millions: tuple[float, float], tolerance: tuple[float, float]
) -> None:
    """The figures are those of Table 2; the tolerance covers what the tables leave open."""
    supernet = MobileNet(design, 1001, squeeze_excite=with_gates)
    (architecture,) = map(supernet.space.parse, supernet.published.values())
    flops, params = costs.flops(supernet, architecture), costs.params(supernet, architecture)
    assert math.isclose(flops, millions[0] * 1e6, rel_tol=tolerance[0])
    assert math.isclose(params, millions[1] * 1e6, rel_tol=tolerance[1])


@pytest.mark.parametrize(
    ("design", "flops", "params"),
    [
        ("60M", 62_280_080, 3_280_789),
        ("220M", 228_895_568, 3_765_453),
        ("300M", 305_616_640, 4_297_557),
        ("600M", 579_212_512, 7_026_163),
    ],
)
def test_found_networks_without_gates(design: str, flops: int, params: int) -> None:
    """The figures were worked out by hand from the rows of Tables 8, 10, 12 and 14."""
    supernet = MobileNet(design, 1001)
    architecture = supernet.space.parse(supernet.published["layernas"])
    assert costs.flops(supernet, architecture) == flops
    assert costs.params(supernet, architecture, batch_norm=False) == params


def test_the_found_network_of_table_10_row_by_row() -> None:
    supernet = MobileNet("220M", 1001)
    path = supernet.path(supernet.space.parse(supernet.published["layernas"]))
    shapes = [shapes[-1] for _, shapes in path_shapes(path, (3, 224, 224))]
    filters = [16, 18, 24, 24, 56, 56, 56, 80, 80, 80, 80, 112, 112, 160, 160, 160, 960]
    sizes = [112, 112, 56, 56, 28, 28, 28, *[14] * 6, *[7] * 4]
    assert shapes[:-2] == [(channels, size, size) for channels, size in zip(filters, sizes, strict=True)]
    assert shapes[-2:] == [(1280,), (1001,)]
    depthwise = [op for layer in path for op in layer.ops if getattr(op, "groups", 1) > 1]
    assert [op.kernel_size for op in depthwise] == [3, 3, 3, 5, 5, 5, 5, 3, 3, 3, 5, 5, 7, 5, 3]
    expanded = [18, 64, 48, 80, 200, 100, 400, 200, 272, 168, 440, 576, 624, 640, 640]
    assert [op.out_channels for op in depthwise][1:] == expanded[1:]


@pytest.mark.parametrize(
    ("stem", "size", "positions"), [("imagenet", 224, 7), ("tiny-imagenet", 64, 4), ("cifar", 32, 4)]
)
@pytest.mark.parametrize("design", DESIGNS)
def test_stems_fit_their_images(design: str, stem: str, size: int, positions: int) -> None:
    supernet = small(design, stem=stem)
    shapes = path_shapes(supernet.path(sampled(supernet, 1)[0]), (3, size, size))
    images = [shapes[-1] for _, shapes in shapes if len(shapes[-1]) == 3]
    assert images[-1][1:] == (positions, positions)


def test_a_block_shares_its_filters_and_its_shortcuts() -> None:
    supernet = MobileNet("60M")
    for architecture in sampled(supernet, 20):
        *bottlenecks, _, _, _ = supernet.path(architecture)[1:]
        ends = [layer.shapes((layer.ops[0].in_channels, 8, 8))[-1][0] for layer in bottlenecks]
        assert len(set(ends[1:3])) == len(set(ends[3:6])) == len(set(ends[6:8])) == len(set(ends[8:])) == 1
        has_shortcut = [isinstance(layer.ops[-1], layers.Add) for layer in bottlenecks]
        # The block of Table 7 that keeps its size begins with a shortcut where its filters do not change.
        assert has_shortcut == [
            *(False, False, True, False, True, True),
            *(ends[5] == ends[6], True, False, True, True),
        ]


def test_each_kernel_size_has_weights_of_its_own_and_widths_are_slices() -> None:
    supernet = small()
    text = supernet.published["layernas"]
    modules = []
    for option in ("k5e96", "k7e96", "k5e192"):
        layer = supernet.path(supernet.space.parse(text.replace("k5e96", option)))[4]
        modules.append([op.module for op in layer.ops if isinstance(op, layers.Conv2d)])
    assert not set(modules[0]) & set(modules[1])
    assert modules[0] == modules[2]
    whole = supernet.get_parameter("bottlenecks.3.k5.conv_depthwise.weight")
    assert whole.shape == (19, 1, 5, 5)
    narrow = supernet.extract(supernet.space.parse(text))
    assert torch.equal(narrow.get_parameter("bottlenecks.3.k5.conv_depthwise.weight"), whole[:10])


@pytest.mark.parametrize("calibration", [False, True])
@pytest.mark.parametrize("design", DESIGNS)
def test_lowers_without_opaque_calls(design: str, calibration: bool) -> None:
    supernet = small(design, squeeze_excite=True, activation="swish")
    tree = PrefixTree([supernet.path(architecture) for architecture in sampled(supernet, 4)])
    assert not lower(tree, IMAGE, calibration=calibration).calls


def test_a_design_of_ones_own() -> None:
    design = MobileNetDesign(
        stem=8,
        body=(
            Bottleneck((3, 5), filters=(8, 12)),
            Block((8, 16), Bottleneck((3,), (16, 24), repeats=2, stride=2)),
        ),
        features=(),
        hidden=(16,),
    )
    supernet = MobileNet(design, 3)
    assert supernet.space.count() == 4 * 2 * 4
    architecture = supernet.space.parse("k5f12-16-k3e24-k3e16-16")
    assert supernet.eval()(torch.randn(2, 3, 8, 8), architecture).shape == (2, 3)
    assert supernet.published == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MobileNet("250M"), "design must be one of '60M', '220M', '300M', '600M', got '250M'"),
        (
            lambda: MobileNet(activation="sigmoid"),
            "activation must be one of 'relu', 'relu6', 'hardswish', 'swish'",
        ),
        (lambda: MobileNet(stem="mnist"), "stem must be one of"),
        (lambda: MobileNet(width=0), "width must be greater than 0, got 0"),
        (lambda: Bottleneck((3,)), "must have kernels, and expanded or filters"),
        (lambda: Bottleneck((), (16,)), "must have kernels"),
        (lambda: Bottleneck((3,), (16, 24), (8,)), "filters must be as many as expanded, 2"),
        (lambda: Bottleneck((3,), (16, 24), repeats=0), "repeats must be a positive int, got 0"),
        (lambda: Bottleneck((3,), (24, 16)), r"expanded must be positive and rise, got \(24, 16\)"),
        (
            lambda: Block((16, 8), Bottleneck((3,), (16,))),
            r"filters must be positive and rise, got \(16, 8\)",
        ),
        (lambda: Block((8, 16)), "a block must have bottlenecks"),
    ],
)
def test_bad_arguments_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_structures_are_told_apart() -> None:
    options = [{}, {"squeeze_excite": True}, {"activation": "swish"}, {"design": "220M"}]
    supernets = [small(**one) for one in [*options, {"stem": "imagenet"}]]
    assert len({str(one.describe()) for one in supernets}) == 5
    assert supernets[0].describe() == small().describe()
