"""Which parts of weights an update changes, and that it changes no other."""

import copy
import random
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lasfast.nn import PACT
from lasfast.ops.sgd import SgdRule
from lasfast.supernets import LayerBuilder, ResidualNet, ShuffleNetV2
from lasfast.train import OneShotTrainer, StandaloneTrainer, TrainSettings
from lasfast.train.update import SgdUpdate, Updates, biases_and_norms, rule_of, used_parts


def masks(supernet, paths):
    layers = [layer for path in paths for layer in supernet.path(path)]
    found = {}
    names = {parameter: name for name, parameter in supernet.named_parameters()}
    for weight, parts in used_parts(dict(supernet.named_modules()), layers):
        found[names[weight]] = counts = torch.zeros(weight.shape, dtype=torch.int64)
        for part in parts:
            counts[part] += 1
    return found


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_are_what_the_paths_read_each_once(count, choice_supernet):
    rng = random.Random(0)
    paths = [choice_supernet.space.sample(rng) for _ in range(count)]
    found = masks(choice_supernet, paths)
    expected = {name: torch.zeros(one.shape) for name, one in choice_supernet.named_parameters()}
    for path in paths:
        for name, tensor in choice_supernet.extract(path).named_parameters():
            expected[name][tuple(map(slice, tensor.shape))] = 1
    for name, mask in expected.items():
        if name in found:
            assert torch.equal(found[name], mask.long()), name
        else:
            assert not mask.any(), name


def test_two_widths_of_one_weight_make_a_staircase():
    """One path reads many filters of few channels, another few filters of many."""

    def layer(channels, width):
        builder = LayerBuilder("layer", channels)
        builder.conv_bn_act("", builder.input, width, 3)
        return builder.build()

    modules = {"layer.conv": nn.Conv2d(8, 16, 3, bias=False), "layer.bn": nn.BatchNorm2d(16)}
    narrow, wide, both = layer(3, 10), layer(8, 4), layer(8, 16)
    assert {op.module for op in narrow.ops if hasattr(op, "module")} == set(modules)
    weight = modules["layer.conv"].weight
    assert dict(used_parts(modules, [narrow, wide]))[weight] == [
        (slice(0, 4), slice(8)),
        (slice(4, 10), slice(3)),
    ]
    assert dict(used_parts(modules, [narrow]))[weight] == [(slice(0, 10), slice(3))]
    assert dict(used_parts(modules, [layer(8, 4), layer(8, 10)]))[weight] == [(slice(0, 10), slice(8))]
    assert dict(used_parts(modules, [both]))[weight] == [()]
    assert dict(used_parts(modules, [narrow, wide]))[modules["layer.bn"].bias] == [(slice(0, 10),)]


OPTIMIZERS = {"sgd": "momentum", "adamw": "exp_avg", "rmsprop": "square_avg"}
"""A state of each."""


def check_that_the_rest_keeps_its_bits(supernet, optimizer):
    path = supernet.space.sample(random.Random(1))
    data = torch.randn(8, 3, 32, 32), torch.arange(8) % 7
    settings = TrainSettings(
        batch_size=4, supernet_epochs=1, weight_decay=0.1, operators="torch", optimizer=optimizer
    )
    trainer = OneShotTrainer(supernet, data, settings)
    trainer.curriculum.sampler = SimpleNamespace(draw=lambda rng: [path])
    before = {name: one.detach().clone() for name, one in supernet.named_parameters()}
    assert len(list(trainer.train(0))) == 2
    tensors, _ = trainer.state()
    used, state = masks(supernet, [path]), OPTIMIZERS[optimizer]
    for name, one in supernet.named_parameters():
        inside = used.get(name, torch.zeros(one.shape)) > 0
        assert torch.equal(one[~inside], before[name][~inside]), name
        assert (one[inside] != before[name][inside]).float().mean() > 0.9 if name in used else True, name
        assert (f"{state}.{name}" in tensors) == (name in used)
        if name in used:
            assert not tensors[f"{state}.{name}"][~inside].any()


def test_the_rest_of_a_weight_keeps_its_bits(choice_supernet):
    check_that_the_rest_keeps_its_bits(choice_supernet, "sgd")


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_the_rest_keeps_its_bits_with_optimizers_of_torch(optimizer):
    torch.manual_seed(0)
    supernet = ShuffleNetV2(num_classes=7, stem="cifar", width=0.2, search="channels", blocks="5x5")
    check_that_the_rest_keeps_its_bits(supernet, optimizer)


def torch_optimizer(network, settings):
    decayed = [one for one in network.parameters() if one not in set(biases_and_norms(network))]
    kept = [one for one in network.parameters() if one in set(biases_and_norms(network))]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0}]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(0.9, settings.beta2 or 0.999), eps=settings.eps or 1e-8)
    return torch.optim.RMSprop(groups, momentum=0.9, alpha=settings.beta2 or 0.99, eps=settings.eps or 1e-8)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize("more", [{}, {"beta2": 0.9, "eps": 1.0, "clip_norm": 0.5}])
def test_optimizers_are_those_of_torch(optimizer, more):
    """A whole network gets the bits that the optimizer alone would give it."""
    settings = TrainSettings(optimizer=optimizer, weight_decay=0.1, bias_decay=False, **more)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    expected = copy.deepcopy(network)
    reference = torch_optimizer(expected, settings)
    updates = Updates(rule_of(settings), biases_and_norms(network))
    generator = torch.Generator().manual_seed(0)
    for rate in (0.1, 0.01, 0.001):
        update = updates.of("all", lambda: [(one, [()]) for one in network.parameters()])
        x = torch.randn(4, 3, 4, 4, generator=generator)
        (4 * network(x).square().sum()).backward()
        expected(x).square().sum().backward()
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(expected.parameters(), settings.clip_norm)
        for group in reference.param_groups:
            group["lr"] = rate
        reference.step()
        reference.zero_grad()
        update.run(update.take_gradients(), rate, 0.25)
        for one, other in zip(network.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
    # Where the network goes elsewhere, its optimizer follows.
    moved = network.double().float()
    update.run([torch.ones_like(one) for one in moved.parameters()], 0.1, 1.0)
    assert not any(torch.equal(*pair) for pair in zip(moved.parameters(), expected.parameters(), strict=True))


def test_a_weight_counts_its_updates_once():
    weight = nn.Parameter(torch.ones(4, 4))
    settings = TrainSettings(optimizer="adamw", weight_decay=0.5)
    updates = Updates(rule_of(settings))
    stairs = [(slice(0, 2), slice(4)), (slice(2, 3), slice(2))]
    for name, parts in (("stairs", stairs), ("corner", [(slice(0, 1), slice(1))]), ("stairs", stairs)):
        updates.of(name, lambda parts=parts: [(weight, parts)]).run([torch.ones(4, 4)], 0.1, 1.0)
    assert updates.states["step"][weight] == 3
    assert torch.equal(weight != 1, torch.tensor([[1, 1, 1, 1]] * 2 + [[1, 1, 0, 0]] + [[0] * 4]).bool())
    assert weight[0, 0] < weight[0, 1] == weight[2, 1]


def test_a_state_goes_to_its_own_optimizer():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
    network(torch.randn(2, 3, 4, 4))
    data = torch.randn(8, 3, 4, 4), torch.arange(8) % 2
    trainers = {
        optimizer: StandaloneTrainer(network, data, "small", optimizer=optimizer) for optimizer in OPTIMIZERS
    }
    with pytest.raises(ValueError, match=r"optimizer must be as the saved .*, 'adamw', got 'sgd'"):
        trainers["sgd"].load_state(*trainers["adamw"].state())
    with pytest.raises(ValueError, match=r"optimizer must be as the saved .*, 'sgd', got 'rmsprop'"):
        trainers["rmsprop"].load_state(*trainers["sgd"].state())


def test_weights_without_gradient_are_left_alone():
    supernet = ResidualNet((1, 1, 1), num_classes=3)
    frozen = next(supernet.parameters())
    frozen.requires_grad_(False)
    momenta = {}
    used = used_parts(dict(supernet.named_modules()), supernet.path((1, 1, 1)))
    update = SgdUpdate(used, momenta, SgdRule(momentum=0.9, weight_decay=0.1))
    before = {name: one.detach().clone() for name, one in supernet.named_parameters()}
    supernet(torch.randn(4, 3, 8, 8), (1, 1, 1)).sum().backward()
    update.run(update.take_gradients(), 0.1, 1.0)
    assert frozen not in momenta
    assert len(momenta) == len(before) - 1
    for name, one in supernet.named_parameters():
        assert torch.equal(one, before[name]) == (one is frozen), name
        assert one.grad is None


def test_biases_and_norms_are_told_by_module_and_name():
    network = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 3),
            "norms": nn.ModuleList([nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.RMSNorm(4)]),
            "attention": nn.MultiheadAttention(4, 2),
            "quantized": PACT(2),
        }
    )
    found = set(biases_and_norms(network))
    assert {name for name, one in network.named_parameters() if one not in found} == {
        "conv.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "quantized.alpha",
    }


@pytest.mark.parametrize("operators", ["native", "torch"])
def test_without_bias_decay_an_update_is_that_of_two_parameter_groups(operators):
    network = ResidualNet((1, 1, 1), num_classes=3).extract((1, 1, 1))
    data = torch.randn(8, 3, 8, 8), torch.arange(8) % 3
    expected = copy.deepcopy(network).train()
    settings = TrainSettings(
        batch_size=8,
        standalone_epochs=1,
        milestones=(),
        weight_decay=0.5,
        bias_decay=False,
        clip_norm=0.1,
        operators=operators,
    )
    list(StandaloneTrainer(network, data, settings).train())
    nn.functional.cross_entropy(expected(data[0]), data[1]).backward()
    nn.utils.clip_grad_norm_(expected.parameters(), 0.1)
    decayed = {name for name, one in expected.named_parameters() if one.dim() > 1}
    groups = [
        {"params": [one], "weight_decay": 0.5 * (name in decayed)}
        for name, one in expected.named_parameters()
    ]
    torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True).step()
    assert 0 < len(decayed) < len(groups)
    for (name, one), other in zip(network.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)
