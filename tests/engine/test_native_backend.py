"""The native backend against the torch backend: by the reference of schedules, and every instruction set."""

import copy

import pytest
import torch
from torch import Tensor

from lasfast import supernets
from lasfast.engine import CONVENTIONS, NativeBackend, TorchBackend
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.supernets import Supernet
from tests.engine.conftest import ISAS


def tree_of(supernet: Supernet) -> PrefixTree:
    n = supernet.space.groups
    seed = (1,) * n
    return PrefixTree(
        [supernet.path(a) for a in [*supernet.space.inherit(seed), seed, supernet.space.deepest]]
    )


def error(ours: Tensor, truth: Tensor) -> float:
    return float((ours - truth).norm() / truth.norm())


def run(backend, tree: PrefixTree, calibration: list[Tensor], images: Tensor, convention: str = "cumulative"):
    statistics = backend.calibrate(tree, calibration, convention)
    return statistics, backend.predict(tree, statistics, images)


def assert_same_logits(kernels: str, one: Tensor, other: Tensor) -> None:
    """The same bits; nearly so for the reference, whose convolutions are torch's and promise nothing."""
    slack = {"rtol": 1e-4, "atol": 1e-4} if kernels == "reference" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(one, other, **slack)


def assert_same_bits(one, other) -> None:
    for ours, theirs in zip(one, other, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            for a, b in zip(ours[name], theirs[name], strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.fixture(scope="module")
def by_torch(supernet):
    """A function that has PyTorch's backend run what `run` does, once for all kernels."""
    known = {}

    def run_once(calibration, images, precision: str = "fp32", convention: str = "cumulative"):
        key = images.shape, precision, convention
        if key not in known:
            backend = TorchBackend(supernet, precision)
            known[key] = run(backend, tree_of(supernet), calibration, images, convention)
        return known[key]

    return run_once


def check_fp32(supernet, calibration, images, by_torch, convention: str) -> None:
    statistics, logits = run(NativeBackend(supernet), tree_of(supernet), calibration, images, convention)
    expected_statistics, expected = by_torch(calibration, images, convention=convention)
    for ours, theirs in zip(statistics, expected_statistics, strict=True):
        assert ours.keys() == theirs.keys()
        for name, (mean, variance) in theirs.items():
            torch.testing.assert_close(ours[name][0], mean, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(ours[name][1], variance, rtol=1e-4, atol=1e-5)
    assert logits.keys() == expected.keys()
    for leaf in expected:
        assert logits[leaf].dtype == torch.float32
        assert error(logits[leaf], expected[leaf]) <= 1e-4


def test_fp32_agrees(kernels, supernet, calibration, images, by_torch) -> None:
    check_fp32(supernet, calibration, images, by_torch, "cumulative")


@pytest.mark.parametrize("kernels", ISAS[-1:], indirect=True)  # no kernel knows the convention
@pytest.mark.parametrize("convention", [one for one in CONVENTIONS if one != "cumulative"])
def test_other_conventions_agree(kernels, supernet, calibration, images, by_torch, convention: str) -> None:
    check_fp32(supernet, calibration, images, by_torch, convention)


def test_bf16_is_as_near_to_the_truth_as_pytorchs(kernels, supernet, calibration, images, by_torch) -> None:
    _, truth = by_torch(calibration, images)
    _, torchs = by_torch(calibration, images, "bf16")
    _, ours = run(NativeBackend(supernet, "bf16"), tree_of(supernet), calibration, images)
    for leaf in truth:
        assert 0 < error(ours[leaf], truth[leaf]) <= 2 * error(torchs[leaf], truth[leaf]) + 0.005


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_candidates_alone_and_together_have_the_same_bits(
    kernels, supernet, calibration, images, precision: str
) -> None:
    backend = NativeBackend(supernet, precision)
    tree = tree_of(supernet)
    statistics, logits = run(backend, tree, calibration, images)
    for path, leaf in zip(tree.paths, tree.leaves, strict=True):
        alone = PrefixTree([path])
        own, expected = run(backend, alone, calibration, images)
        assert_same_bits([statistics[node] for node in tree.node_path(leaf)], own)
        assert torch.equal(logits[leaf], expected[alone.leaves[0]])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_bits_twice_and_for_any_number_of_threads(
    kernels, supernet, calibration, images, precision: str
) -> None:
    if kernels == "reference":
        pytest.skip("the reference's convolutions are torch's, which promise nothing of the kind")
    tree = tree_of(supernet)
    backend = NativeBackend(supernet, precision)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 1) if kernels == "cuda" else (1, 2, 3):
            torch.set_num_threads(number)
            results.append(run(backend, tree, calibration, images))
    finally:
        torch.set_num_threads(threads)
    for statistics, logits in results[1:]:
        assert_same_bits(statistics, results[0][0])
        for leaf in logits:
            assert torch.equal(logits[leaf], results[0][1][leaf])


def test_an_image_has_the_same_logits_in_any_batch(kernels, supernet, calibration, images) -> None:
    tree = tree_of(supernet)
    backend = NativeBackend(supernet)
    statistics, logits = run(backend, tree, calibration, images)
    for part in (images[:1], images[2:5]):
        start = int((images == part[0]).flatten(1).all(1).nonzero()[0])
        for leaf, alone in backend.predict(tree, statistics, part).items():
            assert_same_logits(kernels, alone, logits[leaf][start : start + len(part)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_images_come_out_as_torchs_do(kernels, supernet, calibration, images, bad: float) -> None:
    tree = PrefixTree([supernet.path(supernet.space.deepest)])
    native, reference = NativeBackend(supernet), TorchBackend(supernet)
    statistics = reference.calibrate(tree, calibration, "cumulative")
    images = images.clone()
    images[2, 1, 3, 4] = bad
    expected = reference.predict(tree, statistics, images)[tree.leaves[0]]
    logits = native.predict(tree, statistics, images)[tree.leaves[0]]
    assert torch.equal(logits.isnan(), expected.isnan())
    assert logits[2].isnan().any()
    assert not logits[[0, 1, 3, 4, 5]].isnan().any()

    batches = [calibration[0], images]
    ours = native.calibrate(tree, batches, "cumulative")
    theirs = reference.calibrate(tree, batches, "cumulative")
    for one, other in zip(ours, theirs, strict=True):
        for name in other:
            for a, b in zip(one[name], other[name], strict=True):
                assert torch.equal(a.isnan(), b.isnan()), name


def test_images_of_any_size_and_layout(kernels, supernet, calibration, images) -> None:
    if isinstance(supernet, supernets.PlainNet):
        pytest.skip("its classifier fits one image size")
    tree = tree_of(supernet)
    batches = [
        calibration[0].to(memory_format=torch.channels_last),
        calibration[1][:, :, 1:, 2:],
        calibration[2].double(),
    ]
    odd = torch.randn(3, 3, 21, 13)
    statistics = NativeBackend(supernet).calibrate(tree, batches, "batch_mean")
    batches[2] = batches[2].float()
    expected = TorchBackend(supernet).calibrate(tree, batches, "batch_mean")
    truth = TorchBackend(supernet).predict(tree, expected, odd)
    for leaf, logits in NativeBackend(supernet).predict(tree, statistics, odd).items():
        assert error(logits, truth[leaf]) <= 1e-4


def test_the_supernet_is_left_as_it_was(kernels, supernet, calibration, images) -> None:
    supernet.train()
    modes = [module.training for module in supernet.modules()]
    before = copy.deepcopy(supernet.state_dict())
    run(NativeBackend(supernet), tree_of(supernet), calibration, images)
    assert [module.training for module in supernet.modules()] == modes
    for name, tensor in supernet.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_weights_are_read_anew(kernels, calibration, images) -> None:
    supernet = supernets.ResidualNet((1, 1, 1), 7)
    tree = PrefixTree([supernet.path((1, 1, 1))])
    backend = NativeBackend(supernet)
    _, before = run(backend, tree, calibration, images)
    for parameter in supernet.parameters():  # through .data: nothing counts this change
        parameter.data += 0.1 * torch.randn_like(parameter)
    _, after = run(backend, tree, calibration, images)
    _, expected = run(TorchBackend(supernet), tree, calibration, images)
    leaf = tree.leaves[0]
    assert error(after[leaf], expected[leaf]) <= 1e-4
    assert error(before[leaf], expected[leaf]) > 1e-3


def test_a_batch_without_variance_is_named(kernels) -> None:
    supernet = supernets.ResidualNet((1, 1, 1), 7)
    tree = PrefixTree([supernet.path((1, 1, 1))])
    with pytest.raises(ValueError, match="one value per channel in a batch of 1 image"):
        NativeBackend(supernet).calibrate(tree, [torch.randn(1, 3, 4, 4)], "cumulative")


@pytest.mark.parametrize("budget", [1, 100_000, 1_000_000])
def test_a_budget_changes_no_bit_and_is_kept(kernels, calibration, images, budget: int) -> None:
    supernet = supernets.ResidualNet((3, 2, 2), 7)
    tree = tree_of(supernet)
    free, tight = NativeBackend(supernet), NativeBackend(supernet, memory_budget=budget)
    statistics, expected = run(free, tree, calibration, images)
    for leaf, logits in tight.predict(tree, statistics, images).items():
        assert_same_logits(kernels, logits, expected[leaf])
    least = tight.peak_bytes(tree, (3, 16, 16), 1)
    assert tight.held_bytes <= max(budget, least)
    assert free.held_bytes >= tight.held_bytes


@pytest.mark.parametrize(
    ("size", "images"), [((32, 32), 2000), ((12, 12), 2000), ((64, 64), 500), ((224, 224), 250)]
)
def test_a_gpu_predicts_more_small_images_at_once(emulated_cuda, size: tuple[int, int], images: int) -> None:
    supernet = supernets.ResidualNet((1, 1, 1), 7)
    assert NativeBackend(supernet).usual_batch((3, *size)) == images
    assert TorchBackend(supernet).usual_batch((3, *size)) == 250
