"""Properties of every family whose layers each take one of several options."""

import io
import json
import random
import warnings

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lasfast import costs
from lasfast.supernets import ChoiceSupernet


def sample(supernet: ChoiceSupernet) -> tuple[int, ...]:
    return supernet.space.sample(random.Random(0))


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [False, True])
def test_an_extracted_network_computes_what_the_supernet_computes(choice_supernet, training: bool) -> None:
    architecture = sample(choice_supernet)
    choice_supernet.train(training)
    network = choice_supernet.extract(architecture)
    expected = choice_supernet(images(), architecture)
    torch.testing.assert_close(network(images()), expected, rtol=0, atol=0)


def test_an_extracted_network_is_plain_torch(choice_supernet) -> None:
    network = choice_supernet.eval().extract(sample(choice_supernet))
    for module in network.modules():
        assert type(module).__module__.startswith("torch.")
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    with warnings.catch_warnings():  # pickle of GraphModule warns in some versions of torch
        warnings.simplefilter("ignore")
        loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(images()), network(images()))


def test_costs_are_what_pytorch_counts(choice_supernet) -> None:
    architecture = sample(choice_supernet)
    network = choice_supernet.extract(architecture).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images(1))
    # PyTorch counts two FLOPs per multiply-add.
    assert 2 * costs.flops(choice_supernet, architecture, (16, 16)) == counter.get_total_flops()
    assert costs.params(choice_supernet, architecture) == sum(p.numel() for p in network.parameters())


def test_only_the_path_gets_gradients(choice_supernet) -> None:
    architecture = sample(choice_supernet)
    choice_supernet.train().zero_grad()
    choice_supernet(images(), architecture).square().sum().backward()
    path = choice_supernet.path(architecture)
    named = {op.module for layer in path for op in layer.ops if hasattr(op, "module")}
    for name, parameter in choice_supernet.named_parameters():
        assert (parameter.grad is not None) == (name.rpartition(".")[0] in named), name


def test_records_are_the_same_ones_each_time(choice_supernet) -> None:
    """Costs and prefix trees look records up, which is slow for equal records that are not identical."""
    architecture = sample(choice_supernet)
    pairs = zip(choice_supernet.path(architecture), choice_supernet.path(architecture), strict=True)
    assert all(one is other for one, other in pairs)


def test_the_text_form_and_the_description(choice_supernet) -> None:
    space, architecture = choice_supernet.space, sample(choice_supernet)
    assert space.parse(space.format(architecture)) == architecture
    described = choice_supernet.describe()
    assert described["supernet"] == type(choice_supernet).__name__
    assert len(described["space"]["layers"]) == len(architecture)
    assert described == json.loads(json.dumps(described))
    assert described["stem"] == "cifar"  # weights do not show strides


def test_an_extracted_networks_weights_are_leading_slices(choice_supernet) -> None:
    network = choice_supernet.extract(sample(choice_supernet))
    shared = dict(choice_supernet.named_parameters())
    for name, weight in network.named_parameters():
        part = shared[name][tuple(slice(size) for size in weight.shape)]
        assert torch.equal(weight, part), name
