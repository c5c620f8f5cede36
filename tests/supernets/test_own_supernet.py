"""The example supernet, and opaque modules in general."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import lasfast
from lasfast.cli.prefix_tree import prefix_tree_lines
from lasfast.engine.native_backend import why_missing
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import LayerBuilder, Supernet

MISSING = why_missing(torch.device("cpu"))
FILE = Path(__file__).parents[2] / "examples" / "own_supernet.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("own_supernet", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_runs(example, few_images: None, capsys: pytest.CaptureFixture[str]) -> None:
    example.main()
    lines = capsys.readouterr().out.strip().splitlines()
    assert [int(line.split()[0]) for line in lines] == [3, 4, 5]


def test_the_supernet_fits_thirty_lines() -> None:
    text = FILE.read_text().partition("class GatedNet")[2].partition("\n\n\ndef main")[0]
    assert len(text.splitlines()) <= 35


def test_opaque_modules_are_run_counted_and_extracted(example) -> None:
    torch.manual_seed(0)
    supernet = example.GatedNet((2, 2)).eval()
    network = supernet.extract((2, 1))
    x = torch.randn(2, 3, 12, 12)
    assert torch.equal(network(x), supernet(x, (2, 1)))
    assert lasfast.costs.params(supernet, (2, 1)) == sum(p.numel() for p in network.parameters())
    fresh = supernet.extract((2, 1), fresh=True)
    gates = "groups.0.0.gate.scale.weight"
    assert not torch.equal(fresh.get_parameter(gates), network.get_parameter(gates))


@pytest.fixture
def trained(example):
    torch.manual_seed(0)
    supernet = example.GatedNet((3, 2), num_classes=7).train()
    images = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    for architecture in supernet.space.enumerate():
        supernet(images, architecture)
    return supernet, images


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("budget", [None, 200_000])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_its_opaque_layers_run_within_the_native_plan(
    trained, precision: str, budget: int | None, threads: int
) -> None:
    supernet, images = trained
    validation = images.flip(0), torch.arange(24) % 7
    architectures = list(supernet.space.enumerate())

    def losses(backend: str, precision: str, **options) -> torch.Tensor:
        evaluator = lasfast.Evaluator(
            supernet, images, validation, backend, precision, calibration_batch=12, **options
        )
        assert evaluator.backend.name == ("native" if backend == "auto" else "torch")
        return torch.tensor([measurement.loss for measurement in evaluator(architectures)])

    truth = losses("torch", "fp32")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        ours = losses("auto", precision, memory_budget=budget)
    finally:
        torch.set_num_threads(before)
    bound = 1e-4 if precision == "fp32" else 0.03
    torch.testing.assert_close(ours, truth, rtol=bound, atol=bound)


def test_the_plan_says_which_ops_torch_runs(example) -> None:
    lines = dict(prefix_tree_lines(example.GatedNet((2, 2)), [(1, 2), (2, 1)], (3, 12, 12)))
    gates = [f"groups.{group}.{index} (Opaque gate)" for group, index in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert sorted(lines["run by PyTorch"].split(", ")) == gates
    assert lines["prefix tree"] == "2 architectures of GatedNet, 12x12"


def test_wrong_counts_and_missing_modules_are_named(example) -> None:
    class Wrong(example.GatedNet):
        def layer(self, group: int, index: int):
            block = LayerBuilder(f"groups.{group}.{index}", 3)
            block.opaque("gate", block.input, 3, params=1)
            return block.build()

    with pytest.raises(ValueError, match=r"module 'groups\.0\.0\.gate' of an opaque op does not exist"):
        Wrong((1, 1))

    class Miscounted(example.GatedNet):
        def layer(self, group: int, index: int):
            layer = super().layer(group, index)
            self.add_opaque(f"{layer.name}.gate", torch.nn.Linear(3, 3))
            return layer

    with pytest.raises(ValueError, match=r"must be its 12 weights, got 272"):
        Miscounted((1, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
        lambda conv: conv.register_forward_hook(lambda module, inputs, output: output * 2),
        lambda conv: parametrize.register_parametrization(conv, "weight", torch.nn.Identity()),
        lambda conv: setattr(conv, "forward", lambda x: x),
    ],
    ids=["prune", "hook", "parametrization", "forward"],
)
def test_what_nobody_would_call_is_refused_by_name(change) -> None:
    """Layers read the weights of modules, which are not called."""
    supernet = lasfast.supernets.ResidualNet(max_layers=(1, 1, 1), num_classes=3, in_channels=1)
    change(supernet.stem.conv)
    images, labels = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2] * 2)
    message = "without hooks or parametrizations .* got 'stem.conv' with some"
    with pytest.raises(ValueError, match=message):
        lasfast.Evaluator(supernet, images, (images, labels))
    with pytest.raises(ValueError, match=message):
        supernet(images, (1, 1, 1))


class InPlaceNet(Supernet):
    """An opaque module that writes to its input, which is the images, or a slice of what is read again."""

    def __init__(self, in_place: bool) -> None:
        super().__init__(LayerAssignmentSpace(1, 1), num_classes=7, in_channels=4)
        for name in ("first", "second"):
            self.add_opaque(f"block.{name}", nn.ReLU(inplace=in_place))
        self.create_modules(self.path((1,)))

    def path(self, architecture):
        block = LayerBuilder("block", 4)
        x = block.conv_bn("1", block.opaque("first", block.input, 4), 4, 3)
        half = block.opaque("second", block.channel_slice(x, 1, 2), 2)
        y = block.global_avg_pool(block.add(block.concat(half, half), x))
        block.linear("fc", y, 7)
        return (block.build(),)


def test_an_opaque_module_may_write_to_its_input() -> None:
    in_place, plain, x = InPlaceNet(True), InPlaceNet(False), torch.randn(2, 4, 5, 5)
    plain.load_state_dict(in_place.state_dict())
    before = x.clone()
    [layer] = plain.path((1,))
    for fused in (False, True):
        assert torch.equal(*(net.layer_runner(fused=fused)(layer, x) for net in (in_place, plain)))
    assert torch.equal(*(net.extract((1,))(x) for net in (in_place, plain)))
    assert torch.equal(x, before)


class TwiceNet(Supernet):
    """A module in two layers: of equal sizes, of others, or a batch norm."""

    def __init__(self, channels: int, normalises: bool) -> None:
        super().__init__(LayerAssignmentSpace(1, 1), num_classes=7, in_channels=4)
        self.channels, self.normalises = channels, normalises
        self.create_modules(self.path((1,)))

    def path(self, architecture):
        first, second = LayerBuilder("shared", 4), LayerBuilder("shared", 4)
        for block, channels in ((first, 4), (second, self.channels)):
            y = block.conv("conv", block.input, channels, 3)
            if self.normalises:
                block.batch_norm("bn", y)
        head = LayerBuilder("head", self.channels)
        head.linear("fc", head.global_avg_pool(head.input), 7)
        return (first.build(), second.build(), head.build())


def test_a_network_has_a_module_twice_in_one_way_alone() -> None:
    """Else the extracted network would not compute what the path does."""
    same, x = TwiceNet(4, False), torch.randn(2, 4, 5, 5)
    assert torch.equal(same.extract((1,))(x), same(x, (1,)))
    with pytest.raises(ValueError, match=r"layer 'shared': module 'shared\.conv' must be used in one way"):
        TwiceNet(2, False).extract((1,))
    with pytest.raises(
        ValueError, match=r"layer 'shared': module 'shared\.bn' must .* once if it is a batch norm"
    ):
        TwiceNet(4, True).extract((1,))
