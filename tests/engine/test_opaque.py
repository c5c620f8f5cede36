"""What torch runs between native operations: opaque modules, and ops without a kernel."""

import pytest
import torch
from torch import nn

from lasfast.engine import CONVENTIONS, NativeBackend, TorchBackend
from lasfast.engine.lower import lower
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.spaces import LayerAssignmentSpace
from lasfast.supernets import LayerBuilder, Supernet


class Attention(nn.Module):
    """Where a position looks is a function of all positions of its image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, 4, 1)
        self.dropout = nn.Dropout(0.9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.query(x).flatten(2)
        weight = (query.transpose(1, 2) @ query / 8).softmax(2)
        return self.dropout((x.flatten(2) @ weight.transpose(1, 2).to(x.dtype)).view(x.shape))


class MixedNet(Supernet):
    """Layers with an opaque module, a grouped convolution, a wide kernel and flattened sums; one group."""

    def __init__(self, max_layers: int = 3) -> None:
        super().__init__(LayerAssignmentSpace(1, max_layers), num_classes=7, in_channels=3)
        for index in range(max_layers):
            self.add_opaque(f"groups.0.{index}.attention", Attention(12))
        self.create_modules(self.path(self.space.deepest))

    def path(self, architecture):
        stem = LayerBuilder("stem", 3)
        stem.conv_bn_act("", stem.input, 12, 13, 2)
        layers = [stem.build()]
        for index in range(architecture[0]):
            block = LayerBuilder(f"groups.0.{index}", 12)
            y = block.conv_bn_act("1", block.input, 12, 3, groups=4)
            y = block.opaque("attention", y, 12, params=52)
            y = block.activation(block.add(block.conv_bn("2", y, 12, 3), block.input), "hardswish")
            layers.append(block.build())
        head = LayerBuilder("classifier", 12)
        y = head.flatten(head.pool(head.input, "max", 4, 4), 48)
        y = head.add(y, head.linear("wide", head.global_avg_pool(head.input), 48))
        head.linear("fc", y, 7)
        return (*layers, head.build())


@pytest.fixture(scope="module")
def mixed():
    torch.manual_seed(0)
    return MixedNet().train()


def tree_of(supernet: Supernet) -> PrefixTree:
    return PrefixTree([supernet.path(a) for a in supernet.space.enumerate()])


def error(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


def run(backend, tree, calibration, images, convention="cumulative"):
    statistics = backend.calibrate(tree, calibration, convention)
    return statistics, backend.predict(tree, statistics, images)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_fp32_agrees(kernels, mixed, calibration, images, convention: str) -> None:
    tree = tree_of(mixed)
    statistics, logits = run(NativeBackend(mixed), tree, calibration, images, convention)
    expected_statistics, expected = run(TorchBackend(mixed), tree, calibration, images, convention)
    for ours, theirs in zip(statistics, expected_statistics, strict=True):
        assert ours.keys() == theirs.keys()
        for name, (mean, variance) in theirs.items():
            torch.testing.assert_close(ours[name][0], mean, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(ours[name][1], variance, rtol=1e-4, atol=1e-5)
    for leaf in expected:
        assert error(logits[leaf], expected[leaf]) <= 1e-4
    assert mixed.get_submodule("groups.0.0.attention").training


def test_bf16_is_as_near_to_the_truth_as_pytorchs(kernels, mixed, calibration, images) -> None:
    tree = tree_of(mixed)
    _, truth = run(TorchBackend(mixed), tree, calibration, images)
    _, torchs = run(TorchBackend(mixed, "bf16"), tree, calibration, images)
    _, ours = run(NativeBackend(mixed, "bf16"), tree, calibration, images)
    for leaf in truth:
        assert 0 < error(ours[leaf], truth[leaf]) <= 2 * error(torchs[leaf], truth[leaf]) + 0.005


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("budget", [1, 100_000, None])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_budgets_and_sharing_change_nothing_but_rounding(
    kernels, mixed, calibration, precision: str, budget: int | None, threads: int
) -> None:
    """Any number of images, in passes and blocks of any size, with the other candidates or alone."""
    images = torch.randn(23, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    tree = tree_of(mixed)
    before = torch.get_num_threads()
    statistics, expected = run(NativeBackend(mixed, precision), tree, calibration, images)
    bound = 1e-5 if precision == "fp32" else 0.02
    try:
        torch.set_num_threads(threads)
        backend = NativeBackend(mixed, precision, budget)
        for paths in (tree.paths, tree.paths[1:2]):
            some = PrefixTree(list(paths))
            own, logits = run(backend, some, calibration, images)
            for path, leaf in zip(some.paths, some.leaves, strict=True):
                whole = tree.leaves[tree.paths.index(path)]
                assert error(logits[leaf], expected[whole]) <= bound
                last = own[some.node_path(leaf)[-2]]
                for name, (_, variance) in last.items():
                    theirs = statistics[tree.node_path(whole)[-2]][name][1]
                    assert error(variance, theirs) <= bound
    finally:
        torch.set_num_threads(before)


def test_a_budget_is_kept(kernels, mixed, calibration, images) -> None:
    tree = tree_of(mixed)
    budget = 60_000
    free, tight = NativeBackend(mixed), NativeBackend(mixed, memory_budget=budget)
    statistics = free.calibrate(tree, calibration, "cumulative")
    free.predict(tree, statistics, images)
    tight.predict(tree, statistics, images)
    assert tight.held_bytes <= max(budget, tight.peak_bytes(tree, (3, 16, 16), 1)) < free.held_bytes


def test_the_calls_are_those_without_a_kernel(mixed) -> None:
    schedule = lower(tree_of(mixed), (3, 16, 16), calibration=False)
    called = [(call.layer.name, type(call.op).__name__) for call in schedule.calls]
    blocks = [(f"groups.0.{index}", name) for index in range(3) for name in ("Conv2d", "Opaque")]
    assert sorted(set(called)) == [("classifier", "Add"), *blocks, ("stem", "Conv2d")]
    assert len(called) == 1 + 6 + 3


def test_a_module_that_changes_its_shape_is_named(kernels, calibration) -> None:
    supernet = MixedNet(1)
    supernet.groups.get_submodule("0.0").attention = nn.Conv2d(12, 4, 1)
    with pytest.raises(ValueError, match=r"layer 'groups.0.0': Opaque.*gave \(5, 4, 8, 8\) for 5 image"):
        NativeBackend(supernet).calibrate(tree_of(supernet), calibration, "cumulative")


class InPlaceNet(Supernet):
    """Modules that write to their input, which others read: the images, a norm's output, a slice's source."""

    def __init__(self, in_place: bool) -> None:
        super().__init__(LayerAssignmentSpace(1, 1), num_classes=7, in_channels=3)
        for name in ("images", "norm", "slice"):
            self.add_opaque(f"block.{name}", nn.ReLU(inplace=in_place))
        self.create_modules(self.path((1,)))

    def path(self, architecture):
        block = LayerBuilder("block", 3)
        x = block.add(block.opaque("images", block.input, 3), block.input)
        y = block.conv_bn("1", x, 8, 3)
        y = block.add(block.opaque("norm", y, 8), y)
        half = block.opaque("slice", block.channel_slice(y, 2, 4), 4)
        block.conv_bn("2", block.concat(y, half), 12, 1)
        head = LayerBuilder("classifier", 12)
        head.linear("fc", head.global_avg_pool(head.input), 7)
        return (block.build(), head.build())


def test_a_module_may_write_to_its_input(kernels, calibration, images) -> None:
    supernet, plain = InPlaceNet(True), InPlaceNet(False)
    plain.load_state_dict(supernet.state_dict())
    tree = tree_of(supernet)
    _, expected = run(TorchBackend(plain), tree, calibration, images)
    for backend in (TorchBackend(supernet), NativeBackend(supernet)):
        _, logits = run(backend, tree, calibration, images)
        assert error(logits[1], expected[1]) <= 1e-5
