"""What a path gives, to the bit, whatever else is asked for with it: nothing is fused across layers."""

import pytest
import torch

from lasfast.engine import NativeBackend
from lasfast.engine.lower import lower
from lasfast.engine.schedule import Kind
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import LayerBuilder, Supernet
from tests.conftest import shaken

SHAPE = (3, 7, 6)
# How a layer that several others read may end, and how these may begin.
ENDS = {
    "convolution": lambda block, x: block.conv("conv", x, 8, 3),
    "norm": lambda block, x: block.conv_bn("", x, 8, 3),
    "sum": lambda block, x: block.add(block.conv("1", x, 8, 1), block.conv("2", x, 8, 1)),
    "gate": lambda block, x: block.squeeze_excite("se", block.conv("conv", x, 8, 1), 4),
    "slice": lambda block, x: block.channel_slice(block.conv("conv", x, 9, 1), 1, 8),
    "pool": lambda block, x: block.pool(block.conv("conv", x, 8, 1), "max", 2, 1),
}
BEGINNINGS = {
    "norm": lambda block, x: block.batch_norm("bn", x),
    "other norm": lambda block, x: block.activation(block.batch_norm("bn", x)),
    "activation": lambda block, x: block.activation(x, "swish"),
    "sum": lambda block, x: block.activation(block.add(x, x), "hardswish"),
    "shuffle": lambda block, x: block.channel_shuffle(x, 4),
    "nothing": lambda block, x: block.dropout(x, 0.5),
}


class SharedNet(Supernet):
    """Paths that begin with one layer, and differ in the next."""

    def __init__(self, end: str) -> None:
        super().__init__(LayerAssignmentSpace(1, 1), num_classes=5, in_channels=3)
        stem = LayerBuilder("stem", 3)
        ENDS[end](stem, stem.input)
        self.paths = []
        for name, begin in BEGINNINGS.items():
            block, head = LayerBuilder(name, 8), LayerBuilder("classifier", 8)
            begin(block, block.input)
            head.linear("fc", head.global_avg_pool(head.input), 5)
            self.paths.append((stem.build(), block.build(), head.build()))
        self.create_modules(*self.paths)

    def path(self, architecture):
        return self.paths[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("end", ENDS)
def test_alone_and_together_have_the_same_bits(kernels, one_thread, end: str, precision: str) -> None:
    if kernels == "reference":
        pytest.skip("the reference's convolutions are torch's, which promise nothing of the kind")
    torch.manual_seed(0)
    net = shaken(SharedNet(end))
    calibration, images = torch.randn(5, *SHAPE), torch.randn(3, *SHAPE)
    backend, tree = NativeBackend(net, precision), PrefixTree(net.paths)
    statistics = backend.calibrate(tree, [calibration], "cumulative")
    logits = backend.predict(tree, statistics, images)
    for path, leaf in zip(tree.paths, tree.leaves, strict=True):
        alone = PrefixTree([path])
        own = backend.calibrate(alone, [calibration], "cumulative")
        for node, expected in zip(tree.node_path(leaf), own, strict=True):
            assert statistics[node].keys() == expected.keys()
            for name in expected:
                assert all(map(torch.equal, statistics[node][name], expected[name])), (path[1].name, name)
        expected_logits = backend.predict(alone, own, images)[alone.leaves[0]]
        assert torch.equal(logits[leaf], expected_logits), path[1].name


@pytest.mark.parametrize("cuda", [False, True])
@pytest.mark.parametrize("calibration", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_the_shared_layer_is_lowered_alike(end: str, calibration: bool, cuda: bool) -> None:
    net, of_stem = SharedNet(end), []
    for paths in (*([path] for path in net.paths), net.paths):
        schedule = lower(PrefixTree(paths), SHAPE, calibration=calibration, cuda=cuda)
        operations = schedule.operations[schedule.nodes == 0]
        fields = ("kind", "output_norm", "activation", "statistics")
        found = [tuple(operation) for operation in operations[list(fields)]]
        of_stem.append([one for one in found if one[0] != Kind.INPUT])
    assert all(one == of_stem[-1] for one in of_stem if one)
