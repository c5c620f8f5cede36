"""Tree evaluation against one candidate at a time, and against PyTorch's own calibration."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lasfast import supernets
from lasfast.engine import CONVENTIONS, TorchBackend
from lasfast.ir.prefix_tree import PrefixTree
from lasfast.supernets import Supernet


def architectures(supernet: Supernet) -> list[tuple[int, ...]]:
    n = supernet.space.groups
    return [*supernet.space.inherit((1,) * n), (1,) * n, supernet.space.deepest]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_tree_gives_what_each_candidate_gives_alone(
    supernet: Supernet, calibration: list[Tensor], images: Tensor, convention: str
) -> None:
    backend = TorchBackend(supernet)
    paths = [supernet.path(a) for a in architectures(supernet)]
    tree = PrefixTree(paths)
    tree_statistics = backend.calibrate(tree, calibration, convention)
    tree_logits = backend.predict(tree, tree_statistics, images)
    for path, leaf in zip(paths, tree.leaves, strict=True):
        alone = PrefixTree([path])
        statistics = backend.calibrate(alone, calibration, convention)
        for node, shared in zip(statistics, tree.node_path(leaf), strict=True):
            assert node.keys() == tree_statistics[shared].keys()
            for name, (mean, variance) in node.items():
                torch.testing.assert_close(tree_statistics[shared][name][0], mean, rtol=1e-6, atol=0)
                torch.testing.assert_close(tree_statistics[shared][name][1], variance, rtol=1e-6, atol=0)
        logits = backend.predict(alone, statistics, images)[alone.leaves[0]]
        error = (tree_logits[leaf] - logits).norm() / logits.norm()
        assert error <= 1e-6


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_conventions_equal_pytorch_on_the_extracted_network(
    supernet: Supernet, calibration: list[Tensor], convention: str
) -> None:
    architecture = architectures(supernet)[0]
    network = supernet.extract(architecture).train()
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    batch_mean: dict[str, list[tuple[int, Tensor, Tensor]]] = {name: [] for name in norms}
    for name, module in norms.items():
        module.reset_running_stats()
        module.momentum = {"cumulative": None, "ema": 0.1, "batch_mean": None}[convention]

        def record(_module, inputs, name=name) -> None:
            x = inputs[0].double()
            batch_mean[name].append((len(x), x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)))

        module.register_forward_pre_hook(record)
    with torch.no_grad():
        for batch in calibration:
            network(batch)

    tree = PrefixTree([supernet.path(architecture)])
    ours = {}
    for node in TorchBackend(supernet).calibrate(tree, calibration, convention):
        ours |= node
    assert ours.keys() == norms.keys()
    for name, module in norms.items():
        mean, variance = module.running_mean, module.running_var
        if convention == "batch_mean":  # once-for-all's AverageMeter, weighted by batch size
            total = sum(count for count, _, _ in batch_mean[name])
            mean = sum(count * one for count, one, _ in batch_mean[name]).float() / total
            variance = sum(count * one for count, _, one in batch_mean[name]).float() / total
        torch.testing.assert_close(ours[name][0], mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours[name][1], variance, rtol=1e-5, atol=1e-6)


def test_the_supernet_is_left_as_it_was(
    supernet: Supernet, calibration: list[Tensor], images: Tensor
) -> None:
    supernet.train()
    next(iter(supernet.children())).eval()
    modes = [module.training for module in supernet.modules()]
    before = copy.deepcopy(supernet.state_dict())
    tree = PrefixTree([supernet.path(supernet.space.deepest)])
    backend = TorchBackend(supernet)
    backend.predict(tree, backend.calibrate(tree, calibration, "cumulative"), images)
    assert [module.training for module in supernet.modules()] == modes
    for name, tensor in supernet.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_mode_comes_back_after_an_error(
    supernet: Supernet, calibration: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> Tensor:
        assert not supernet.training
        raise RuntimeError("in the middle")

    monkeypatch.setattr("lasfast.engine.torch_backend.run_layer", fail)
    supernet.train()
    tree = PrefixTree([supernet.path(supernet.space.deepest)])
    with pytest.raises(RuntimeError, match="in the middle"):
        TorchBackend(supernet).calibrate(tree, calibration, "cumulative")
    assert supernet.training


def test_a_batch_without_variance_is_named() -> None:
    supernet = supernets.ResidualNet((1, 1, 1), 7)
    tree = PrefixTree([supernet.path((1, 1, 1))])
    with pytest.raises(ValueError, match="one value per channel in a batch of 1 image"):
        TorchBackend(supernet).calibrate(tree, [torch.randn(1, 3, 4, 4)], "cumulative")


def test_bf16_is_near_fp32(supernet: Supernet, calibration: list[Tensor], images: Tensor) -> None:
    tree = PrefixTree([supernet.path(supernet.space.seed_architecture)])
    logits = {}
    for precision in ("fp32", "bf16"):
        backend = TorchBackend(supernet, precision)
        statistics = backend.calibrate(tree, calibration, "cumulative")
        logits[precision] = backend.predict(tree, statistics, images)[tree.leaves[0]]
    assert logits["bf16"].dtype == torch.float32
    error = (logits["bf16"] - logits["fp32"]).norm() / logits["fp32"].norm()
    assert 0 < error < 0.1
